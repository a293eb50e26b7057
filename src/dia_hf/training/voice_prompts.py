"""Clips that begin with another clip of the same speaker, as generation in a given voice does.

Who speaks with a voice prompt gives the model a recording with its transcript, and lets it go on in that voice. A model
that was never shown two recordings in one clip learns this less well. Knows nothing of the delay or of labels, which
are the collator's; called by users and by `finetune`.

Legend: T frames, C channels.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import Dataset

from ..processing_dia import DiaProcessor
from .collator import ClipChance

if TYPE_CHECKING:
    import datasets

__all__ = ["VoicePrompts", "add_voice_prompts"]


class VoicePrompts(Dataset):
    """Prepared clips, some of which are preceded by a voice prompt; made by `add_voice_prompts`.

    Map-style: as long as the prepared dataset, in its order, and to be read by worker processes.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        processor: DiaProcessor,
        probability: float,
        seed: int,
        max_frames: int,
        pools: Sequence[Mapping[str | None, Sequence[int]]],
    ) -> None:
        self.dataset = dataset
        self.tokenizer = processor.tokenizer
        self.probability = probability
        self.max_frames = max_frames
        self.chance = ClipChance(seed)
        self._pools = pools

    def set_epoch(self, epoch: int) -> None:
        """Choose the prompts by this epoch from now on, in worker processes too."""
        self.chance.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a clip with the columns of the prepared dataset and `prompt_frames` (0 for a clip alone)."""
        index = range(len(self))[index]  # counts from the end, and raises beyond it, as a list does
        clip = {**self.dataset[index], "prompt_frames": 0}
        prompt_index = self._choose(index, clip)
        if prompt_index is None:
            return clip
        prompt = self.dataset[prompt_index]
        text = f"{prompt['text'].strip()} {clip['text'].strip()}"
        codes = np.concatenate([np.asarray(prompt["codes"]), np.asarray(clip["codes"])])
        if len(codes) > self.max_frames or len(self.tokenizer.tokenize(text)) > self.tokenizer.model_max_length:
            return clip
        seconds = clip["seconds"] + prompt["seconds"]
        return {**clip, "text": text, "codes": codes, "seconds": seconds, "prompt_frames": len(prompt["codes"])}

    def _choose(self, index: int, clip: dict[str, Any]) -> int | None:
        """Draw the clip that goes before this one, if any does."""
        for pool in self._pools:
            prompts = pool.get(clip.get("speaker"), [])
            place = bisect_left(prompts, index)
            is_prompt = place < len(prompts) and prompts[place] == index
            num_others = len(prompts) - is_prompt
            if num_others:
                break
        else:
            return None
        if self.chance.draw("has a voice prompt", str(clip["id"])) >= self.probability:
            return None
        # Those behind the clip itself come first, and then those before it.
        chosen = place + is_prompt + int(num_others * self.chance.draw("which voice prompt", str(clip["id"])))
        return prompts[chosen % len(prompts)]


def add_voice_prompts(
    dataset: datasets.Dataset,
    processor: DiaProcessor,
    probability: float,
    seed: int = 0,
    *,
    min_seconds: float = 5.0,
    max_seconds: float = 10.0,
    max_frames: int | None = None,
    single_speaker: bool = False,
) -> VoicePrompts:
    """Let clips of a prepared dataset be preceded by another clip of the same speaker as a voice prompt.

    Texts are joined by a space, the prompt's first, with their tags; codes are joined, and `prompt_frames` tells
    `DiaDataCollator` where learning begins. Whether a clip has a prompt, and which, depends on seed, epoch
    (`set_epoch`; before that, on torch's global generator) and the clip's `id`, so that each epoch shows others.

    A clip stays alone if its speaker is unknown or has no other clip to be a prompt, or if the two together were longer
    than the model reads, in text or in frames. Evaluate on the prepared dataset itself: there, prompts only add noise.

    Args:
        dataset (`datasets.Dataset`): Prepared clips with `id`, `text`, `codes`, `seconds` and, unless
            `single_speaker`, `speaker`.
        processor (`DiaProcessor`): For the limits of text and frames.
        probability (`float`): Share of the clips, of those that can have a prompt, that have one.
        seed (`int`, defaults to 0): Another seed, other prompts.
        min_seconds (`float`, defaults to 5.0): A speaker's shorter clips are prompts only where there is no longer one.
        max_seconds (`float`, defaults to 10.0): Longer clips are never prompts.
        max_frames (`int`, *optional*): Longest clip with its prompt; what the model reads unless given. Give the
            collator's `max_frames`, where it has one, so that no clip is cut because of its prompt.
        single_speaker (`bool`, defaults to `False`): Whether all clips of a dataset that names no speaker are of one.

    Returns:
        `VoicePrompts`: A map-style dataset of as many clips in the same order.

    Raises:
        ValueError: If columns are missing, an argument is out of range, no clip at all can have a prompt, or
            `single_speaker` and the speakers named contradict each other.

    Example:
    ```python
    >>> import datasets
    >>> import numpy as np
    >>> from dia_hf import MINIATURE, DiaProcessor
    >>> from dia_hf.training.voice_prompts import add_voice_prompts
    >>> codes = np.zeros((431, 9), dtype=np.int16)
    >>> clips = [
    ...     {"id": "1", "text": "[S1] Hello.", "codes": codes, "seconds": 5.0, "speaker": "anna"},
    ...     {"id": "2", "text": "[S1] Hi!", "codes": codes, "seconds": 5.0, "speaker": "anna"},
    ... ]
    >>> prompted = add_voice_prompts(datasets.Dataset.from_list(clips), DiaProcessor.from_pretrained(MINIATURE), 1.0)
    >>> prompted[0]["text"], prompted[0]["prompt_frames"]
    ('[S1] Hi! [S1] Hello.', 431)

    ```
    """
    missing = [name for name in ("id", "text", "codes", "seconds") if name not in dataset.column_names]
    if missing:
        raise ValueError(
            f"the dataset has no column {' and no column '.join(map(repr, missing))}, but "
            f"{', '.join(map(repr, dataset.column_names))}; `dia-hf prepare` makes them."
        )
    if not 0 <= probability <= 1:
        raise ValueError(f"`probability` is {probability}; it is a share of the clips, 0 to 1.")
    if not 0 <= min_seconds <= max_seconds:
        raise ValueError(
            f"`min_seconds` is {min_seconds} and `max_seconds` {max_seconds}; give 0 or more, the smaller first."
        )
    longest = processor.config.max_training_frames
    if max_frames is not None and not 1 <= max_frames <= longest:
        raise ValueError(f"`max_frames` is {max_frames}; Dia reads 1 to {longest} frames, their delay and end aside.")

    plain = dataset.with_format(None)
    speakers = plain["speaker"][:] if "speaker" in dataset.column_names else [None] * len(dataset)
    named = {speaker for speaker in speakers if speaker is not None}
    if single_speaker and named:
        raise ValueError(
            f"`single_speaker=True`, but the dataset names {len(named)} ({min(named)!r}, …); leave it out, or remove "
            "the column 'speaker'."
        )
    if not single_speaker and not named:
        raise ValueError(
            "no clip names its speaker, so that no other is sure to be of the same one; give the names in the column "
            "'speaker', or say `single_speaker=True`."
        )
    usual: dict[str | None, list[int]] = {}
    shorter: dict[str | None, list[int]] = {}
    seconds = plain["seconds"][:]
    for index, (speaker, duration) in enumerate(zip(speakers, seconds, strict=True)):
        if duration <= max_seconds and (single_speaker or speaker is not None):
            (usual if duration >= min_seconds else shorter).setdefault(speaker, []).append(index)
    num_clips = Counter(speakers)
    if all(num_clips[speaker] == 1 for speaker in [*usual, *shorter]):
        raise ValueError(
            f"none of the {len(dataset)} clips can have a voice prompt: no speaker has two, of which one lasts at most "
            f"{max_seconds} s; raise `max_seconds`, or do without voice prompts."
        )
    num_frames = _num_frames_of_shortest(plain, speakers, seconds, {**shorter, **usual})
    if num_frames > (max_frames or longest):
        limit = f"`max_frames` ({max_frames}); raise it" if max_frames else f"Dia reads ({longest}); add shorter ones"
        raise ValueError(
            f"none of the {len(dataset)} clips can have a voice prompt: the shortest with its shortest prompt has "
            f"{num_frames} frames, more than {limit}, or do without voice prompts."
        )
    return VoicePrompts(dataset, processor, probability, seed, max_frames or longest, (usual, shorter))


def _num_frames_of_shortest(
    dataset: datasets.Dataset,
    speakers: Sequence[str | None],
    seconds: Sequence[float],
    prompts: Mapping[str | None, Sequence[int]],
) -> int:
    """Count the frames of the shortest clip and prompt of a speaker; codes are only read of these two."""
    clips: dict[str | None, list[int]] = {}
    for index in sorted(range(len(seconds)), key=seconds.__getitem__):
        if speakers[index] in prompts:
            clips.setdefault(speakers[index], []).append(index)
    pairs = []
    for speaker, indices in prompts.items():
        prompt = min(indices, key=seconds.__getitem__)
        pairs += [(prompt, clip) for clip in clips[speaker][:2] if clip != prompt]
    shortest = min(pairs, key=lambda pair: seconds[pair[0]] + seconds[pair[1]])
    return sum(len(dataset[index]["codes"]) for index in shortest)
