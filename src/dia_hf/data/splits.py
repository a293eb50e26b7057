"""Splits: groups of clips that evaluation and training must not share, such as all clips of a speaker.

Knows nothing of files; called by `dia_hf.training`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["SPLIT_UNITS", "group_clips"]

SPLIT_UNITS = ("clip", "speaker", "session")
"""Units that a split can keep together."""


def group_clips(clips: Mapping[str, Sequence[Any]], unit: str) -> list[str]:
    """Return the group of each clip: clips of one group belong to one split.

    Speakers who are in one dialogue are in one group, with all that either of them is in. The group has the name of its
    first member, so that more clips of the same speakers do not change it.

    Args:
        clips (`Mapping[str, Sequence]`): Columns of a prepared dataset: `id`, `speaker`, `speakers`, `session`.
        unit (`str`): One of `SPLIT_UNITS`. A clip without a session is a session of its own.

    Raises:
        ValueError: If a clip has no speaker and `unit` is "speaker", or `unit` is unknown.

    Example:
    ```python
    >>> from dia_hf.data.splits import group_clips
    >>> clips = {"id": ["1", "2", "3"], "speakers": [["anna", "ben"], ["carl"], ["ben"]]}
    >>> group_clips(clips, "speaker")
    ['anna', 'carl', 'anna']

    ```
    """
    ids = [str(clip_id) for clip_id in clips["id"]]
    if unit not in SPLIT_UNITS:
        raise ValueError(f"the unit of a split is {unit!r}; it must be one of {', '.join(map(repr, SPLIT_UNITS))}.")
    if unit == "clip":
        return ids
    missing: list[Any] = [None] * len(ids)
    if unit == "session":
        sessions = clips.get("session", missing)
        return [clip_id if name is None else f"session {name}" for clip_id, name in zip(ids, sessions, strict=True)]
    several, single = clips.get("speakers", missing), clips.get("speaker", missing)
    names = [list(many or ()) or ([] if one is None else [one]) for many, one in zip(several, single, strict=True)]
    if number := sum(not of_clip for of_clip in names):
        raise ValueError(
            f"{number} of {len(ids)} clips have no speaker, so that they cannot be split by speaker; prepare them with "
            "a speaker column, or split by session or clip."
        )
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    for first, *others in names:
        for other in others:
            one, two = sorted((find(first), find(other)))
            leader[two] = one
    return [find(of_clip[0]) for of_clip in names]
