"""Training with voice prompts: clips preceded by another clip of the same speaker, as in voice cloning.

Voice cloning conditions generation on a recording with its transcript. A model trained only on single clips learns to
continue in the prompt's voice less well. Delay and labels are the collator's; called by users and `finetune`.

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
from ..speech.script import parse_part, render, split_prefix
from .collator import ClipChance

if TYPE_CHECKING:
    import datasets

__all__ = ["VoicePrompts", "add_voice_prompts"]


class VoicePrompts(Dataset):
    """Prepared clips, some of which are preceded by a voice prompt; made by `add_voice_prompts`.

    Map-style dataset with the length and order of the prepared dataset, readable by worker processes.
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
        """Set the epoch that determines the prompts, in worker processes too."""
        self.chance.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a clip with the columns of the prepared dataset and `prompt_frames` (0 without a prompt)."""
        index = range(len(self))[index]  # negative indices and IndexError, as in a list
        clip = {**self.dataset[index], "prompt_frames": 0}
        prompt_index = self._choose(index, clip)
        if prompt_index is None:
            return clip
        prompt = self.dataset[prompt_index]
        text = self._join(prompt["text"].strip(), clip["text"].strip())
        codes = np.concatenate([np.asarray(prompt["codes"]), np.asarray(clip["codes"])])
        if len(codes) > self.max_frames or len(self.tokenizer.tokenize(text)) > self.tokenizer.model_max_length:
            return clip
        seconds = clip["seconds"] + prompt["seconds"]
        return {**clip, "text": text, "codes": codes, "seconds": seconds, "prompt_frames": len(prompt["codes"])}

    def _join(self, prompt: str, text: str) -> str:
        """Join two texts as in voice cloning, where the tag of the language stands at the beginning alone."""
        speakers, languages = self.tokenizer.speaker_tokens, self.tokenizer.language_tokens
        if not split_prefix(f"{prompt} {text}", languages)[0] and not split_prefix(text, languages)[0]:
            return f"{prompt} {text}"
        prefix, spoken = split_prefix(text, languages)
        return render(parse_part(prompt, speakers, languages, prefix), prefix=prefix) + f" {spoken.strip()}"

    def _choose(self, index: int, clip: dict[str, Any]) -> int | None:
        """Return the index of a clip's prompt, or `None` for no prompt."""
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
        # Prompts after the clip itself come first, then those before it.
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
    """Precede clips of a prepared dataset by another clip of the same speaker as a voice prompt.

    Texts, with their tags, are joined by a space, the tag of the clip's language at the beginning, and codes are
    concatenated, the prompt first; `prompt_frames` tells `DiaDataCollator` where the loss begins. Prompts depend on
    seed, epoch (`set_epoch`; before the first call, on torch's global generator) and the clip's `id`, and differ
    between epochs.

    A clip gets no prompt if its speaker is unknown or has no other suitable clip, or if both together exceed the
    model's limits of text or frames. Evaluate on the prepared dataset itself: prompts would only add noise.

    Args:
        dataset (`datasets.Dataset`): Prepared clips with `id`, `text`, `codes`, `seconds` and, unless
            `single_speaker`, `speaker`.
        processor (`DiaProcessor`): Processor that defines the limits of text and frames.
        probability (`float`): Fraction of the clips that get a prompt, among those that can have one.
        seed (`int`, defaults to 0): Random seed.
        min_seconds (`float`, defaults to 5.0): Minimum duration of a prompt; a speaker's shorter clips are used only if
            there is no longer one.
        max_seconds (`float`, defaults to 10.0): Maximum duration of a prompt.
        max_frames (`int`, *optional*): Maximum length of a clip with its prompt; by default the model's limit. Give the
            collator's `max_frames`, if set, so that no clip is cut because of its prompt.
        single_speaker (`bool`, defaults to `False`): Whether all clips of a dataset without speaker names have the same
            speaker.

    Returns:
        `VoicePrompts`: Map-style dataset with the same clips in the same order.

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
        raise ValueError(f"`probability` is {probability}; it must be between 0 and 1.")
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
            f"`single_speaker=True`, but the dataset names {len(named)} speakers ({min(named)!r}, …); leave it out, or "
            "remove the column 'speaker'."
        )
    if not single_speaker and not named:
        raise ValueError(
            "no clip names its speaker, so that clips of the same speaker are unknown; add the column 'speaker', or "
            "pass `single_speaker=True`."
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
            f"{max_seconds} s; raise `max_seconds`, or leave out voice prompts."
        )
    num_frames = _num_frames_of_shortest(plain, speakers, seconds, {**shorter, **usual})
    if num_frames > (max_frames or longest):
        limit = f"`max_frames` ({max_frames}); raise it" if max_frames else f"Dia reads ({longest}); add shorter ones"
        raise ValueError(
            f"none of the {len(dataset)} clips can have a voice prompt: the shortest with its shortest prompt has "
            f"{num_frames} frames, more than {limit}, or leave out voice prompts."
        )
    return VoicePrompts(dataset, processor, probability, seed, max_frames or longest, (usual, shorter))


def _num_frames_of_shortest(
    dataset: datasets.Dataset,
    speakers: Sequence[str | None],
    seconds: Sequence[float],
    prompts: Mapping[str | None, Sequence[int]],
) -> int:
    """Return the number of frames of the shortest clip with its shortest prompt; only their codes are read."""
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
