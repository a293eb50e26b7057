"""Prepared clips, text and codes, to batches with labels.

Puts beginning and end of speech around a clip's codes and the delay upon them, so that what the network learns is step
by step what generation will ask of it. Knows nothing of audio or of the network; called by `Trainer`'s data loader, in
its worker processes.

Legend: B clips (rows, where they are packed), S text bytes, T frames of input, D the largest delay, C channels.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from ..delay_pattern import apply_delay
from ..loss import IGNORE_INDEX
from ..processing_dia import DiaProcessor

__all__ = ["ClipChance", "DiaDataCollator"]

_NO_EPOCH = -1


class ClipChance:
    """Chance that depends on the clip and the epoch alone, so that a resumed run decides as the first one would have.

    Before `set_epoch` was called, numbers come from torch's global generator instead. The epoch lies in shared memory:
    the worker processes of a data loader see it change.

    Args:
        seed (`int`, defaults to 0): Another seed, other numbers.

    Example:
    ```python
    >>> from dia_hf.training.collator import ClipChance
    >>> chance = ClipChance(seed=1)
    >>> chance.set_epoch(0)
    >>> chance.draw("lottery", "clip-7") == chance.draw("lottery", "clip-7") != chance.draw("lottery", "clip-8")
    True

    ```
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = int(seed)
        self._epoch = torch.tensor(_NO_EPOCH).share_memory_()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._epoch.share_memory_()  # which a copy has lost, but a worker process has not

    def set_epoch(self, epoch: int) -> None:
        """Draw by this epoch from now on, in all processes."""
        self._epoch.fill_(int(epoch))

    def draw(self, purpose: str, clip_id: str) -> float:
        """Draw a number, 0 or more and less than 1; for each purpose another."""
        epoch = int(self._epoch)
        if epoch == _NO_EPOCH:
            return float(torch.rand(()))
        key = repr((self.seed, epoch, purpose, clip_id)).encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(key, digest_size=6).digest(), "big") / 2**48


class DiaDataCollator:
    """Make batches for training from clips of text and codes.

    A clip is framed by beginning (^) and end ($) of speech and delayed; each label is the next position's token. The
    codes a, b with the delay pattern [0, 1, 3]; `.` is padding, `-` no label (-100):

                    inputs           labels           labels with           inputs and labels with
                                                      `prompt_frames=1`     `max_frames=1`

        channel 0   ^ a b $ . .      a b $ - - -      - b $ - - -           ^ a b $      a - - -
        channel 1   ^ ^ a b $ .      - a b $ - -      - - b $ - -           ^ ^ a b      - a - -
        channel 2   ^ ^ ^ ^ a b      - - - a b $      - - - - b $           ^ ^ ^ ^      - - - a

    So each channel ends where it ends in generation, none loses a code, and all have equally many labels.

    Text dropout replaces the whole text of a clip by padding under its own mask, which is what the unconditional
    branch of guidance reads. It is decided clip by clip: after `set_epoch`, by seed, epoch and the clip's `id` (without
    one, by its text and codes), whatever the batch, process or order; before that, by torch's global generator.

    Code noise shows the model, clip by clip, up to a share of codes that are not the clip's, while the labels stay: it
    learns to go on from a slip of its own, which a model that has only ever seen what is right does not (scheduled
    sampling's reason; Bengio et al., 2015).

    Args:
        processor (`DiaProcessor`): For the tokenizer, the token ids and the delay pattern.
        text_dropout (`float`, defaults to 0.15): Share of the clips whose text is dropped.
        max_frames (`int`, *optional*): Of a longer clip the first so many frames are learned, and no end.
        frames_per_row (`int`, *optional*): Packs clips into rows of at most so many frames of input (a whole clip has
            its frames + 1 + D), first-fit decreasing; a longer clip has a row to itself. Texts are packed alike.
        seed (`int`, defaults to 0): Of text dropout and code noise.
        code_noise (`float`, defaults to 0.0): Of each clip a share of codes, drawn between 0 and this, is shown as
            other codes. Beginnings, ends and padding stay.

    Raises:
        ValueError: If an argument is out of range.

    Example:
    ```python
    >>> import torch
    >>> from dia_hf import MINIATURE, DiaProcessor
    >>> from dia_hf.training.collator import DiaDataCollator
    >>> collator = DiaDataCollator(DiaProcessor.from_pretrained(MINIATURE))
    >>> batch = collator([{"text": "[S1] Hello.", "codes": torch.randint(0, 1024, (20, 9))}])
    >>> {name: tuple(tensor.shape) for name, tensor in batch.items() if name.startswith(("decoder_input", "labels"))}
    {'decoder_input_ids': (1, 36, 9), 'labels': (1, 36, 9)}
    >>> (batch["labels"] != -100).sum(dim=1).tolist()
    [[21, 21, 21, 21, 21, 21, 21, 21, 21]]

    ```
    """

    def __init__(
        self,
        processor: DiaProcessor,
        text_dropout: float = 0.15,
        max_frames: int | None = None,
        frames_per_row: int | None = None,
        seed: int = 0,
        code_noise: float = 0.0,
    ) -> None:
        for name, share in (("text_dropout", text_dropout), ("code_noise", code_noise)):
            if not 0 <= share <= 1:
                of = "clips" if name == "text_dropout" else "codes"
                raise ValueError(f"`{name}` is {share}; it is a share of the {of}, 0 to 1.")
        for name, value in (("max_frames", max_frames), ("frames_per_row", frames_per_row)):
            if value is not None and value < 1:
                raise ValueError(f"`{name}` is {value}; give 1 or more frames, or None.")
        # Not the processor itself, whose codec would be sent to every worker process; and a config of its own, as
        # `Trainer` writes to a model's.
        self.tokenizer, self.config = processor.tokenizer, copy.deepcopy(processor.config)
        self.text_dropout = text_dropout
        self.code_noise = code_noise
        self.max_frames = max_frames
        self.frames_per_row = frames_per_row
        self.chance = ClipChance(seed)

    def set_epoch(self, epoch: int) -> None:
        """Draw dropout and noise by this epoch from now on, in worker processes too; `DiaTrainer` calls it."""
        self.chance.set_epoch(epoch)

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Make a batch.

        Args:
            features (`Sequence[Mapping]`): Clips, each with `text` (`str`), `codes` (`[frames, C]`, integers in time,
                without special tokens; list, array or tensor) and, *optional*, `id` (`str`) and `prompt_frames`
                (`int`): so many frames at the beginning are given, as a voice prompt is, and not learned.

        Returns:
            `dict` of int64 tensors, padded on the right: `input_ids` and `attention_mask` (`[B, S]`),
            `decoder_input_ids` (`[B, T, C]`, delayed), `decoder_attention_mask` (`[B, T]`, 1 = keep) and `labels`
            (`[B, T, C]`, -100 where no token counts); if rows are packed also `sequence_ids` (`[B, S]`) and
            `decoder_sequence_ids` (`[B, T]`), the clip's number within its row from 1, 0 for padding.

        Raises:
            ValueError: If columns are missing, or a clip is empty, has other codes or more text or frames than the
                model reads, or nothing to learn; the error names the clip.
        """
        clips = [self._read_clip(index, feature) for index, feature in enumerate(features)]
        if not clips:
            raise ValueError("the batch is empty; give one clip or more.")
        rows = [
            self._join([clips[clip] for clip in row])
            for row in self._pack([len(clip["decoder_input_ids"]) for clip in clips])
        ]
        padding = {
            "input_ids": self.tokenizer.pad_token_id,
            "decoder_input_ids": self.config.decoder_config.pad_token_id,
            "labels": IGNORE_INDEX,
        }
        return {
            name: pad_sequence([row[name] for row in rows], batch_first=True, padding_value=padding.get(name, 0))
            for name in rows[0]
        }

    def _read_clip(self, index: int, feature: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Make the tensors of one clip, without the batch's dimension."""
        missing = [name for name in ("text", "codes") if name not in feature]
        if missing:
            raise ValueError(
                f"the clips have no column {' and no column '.join(map(repr, missing))}, but "
                f"{', '.join(map(repr, feature)) or 'none at all'}; `dia-hf prepare` makes the columns 'text' and "
                "'codes', and `TrainingArguments(remove_unused_columns=False)` leaves them in."
            )
        clip_id = None if feature.get("id") is None else str(feature["id"])
        try:
            text, codes = feature["text"], self._check_codes(np.asarray(feature["codes"]))
            input_ids = self._encode(text)
            if self._drops_text(clip_id, text, codes):
                input_ids = torch.full_like(input_ids, self.tokenizer.pad_token_id)
            decoder_inputs = self._delay(codes, int(feature.get("prompt_frames") or 0))
            self._add_noise(decoder_inputs["decoder_input_ids"], clip_id, text, codes)
        except ValueError as error:
            raise ValueError(
                f"clip {f'{index} of the batch' if clip_id is None else repr(clip_id)}: {error}"
            ) from error
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), **decoder_inputs}

    def _drops_text(self, clip_id: str | None, text: str, codes: torch.Tensor) -> bool:
        if self.text_dropout == 0:
            return False
        return self.chance.draw("text dropout", _name_clip(clip_id, text, codes)) < self.text_dropout

    def _add_noise(self, inputs: torch.Tensor, clip_id: str | None, text: str, codes: torch.Tensor) -> None:
        """Put other codes in the place of some of a clip's inputs `[T, C]`, in place."""
        if self.code_noise == 0:
            return
        name, num_codes = _name_clip(clip_id, text, codes), self.config.decoder_config.eos_token_id
        share = self.code_noise * self.chance.draw("code noise", name)
        generator = torch.Generator().manual_seed(int(2**48 * self.chance.draw("codes", name)))
        is_wrong = (torch.rand(inputs.shape, generator=generator) < share) & (inputs < num_codes)
        others = torch.randint(num_codes, inputs.shape, generator=generator)
        inputs[is_wrong] = others[is_wrong]

    def _encode(self, text: Any) -> torch.Tensor:
        """Encode a clip's text: `[S]`."""
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"`text` is {text!r}; give the transcript, such as '[S1] Hello.'.")
        return torch.tensor(self.tokenizer(text)["input_ids"])

    def _check_codes(self, codes: np.ndarray) -> torch.Tensor:
        """Make sure that a clip has codes of the model, int64 `[frames, C]`."""
        decoder = self.config.decoder_config
        if codes.ndim != 2 or codes.shape[1] != decoder.num_channels or codes.dtype.kind not in "iu" or not len(codes):
            raise ValueError(
                f"`codes` are {codes.dtype} of the shape {codes.shape}; expected integers [frames, "
                f"{decoder.num_channels}], 1 frame or more."
            )
        if not 0 <= codes.min() <= codes.max() < decoder.eos_token_id:
            raise ValueError(
                f"`codes` range from {codes.min()} to {codes.max()}; expected 0 to {decoder.eos_token_id - 1}, without "
                "special tokens or delay."
            )
        return torch.from_numpy(codes.astype(np.int64))

    def _delay(self, codes: torch.Tensor, num_given: int) -> dict[str, torch.Tensor]:
        """Frame a clip's codes, delay them, and cut inputs and labels from the same frames."""
        decoder, delays = self.config.decoder_config, self.config.delay_pattern
        num_frames = len(codes) if self.max_frames is None else min(len(codes), self.max_frames)
        num_learned = num_frames + (num_frames == len(codes))  # the end is one frame more
        if not 0 <= num_given < num_frames:
            raise ValueError(
                f"`prompt_frames` is {num_given} of {num_frames} frames, which leaves nothing to learn; give 0 to "
                f"{num_frames - 1}{'.' if num_frames == len(codes) else ', or raise `max_frames`.'}"
            )
        length, positions = num_learned + self.config.max_delay, decoder.max_position_embeddings
        if length > positions:
            raise ValueError(
                f"{num_learned} frames with their delay take {length} positions, but Dia has {positions}; shorten the "
                f"clip, or pass a `max_frames` of at most {self.config.max_training_frames}."
            )
        frames = torch.cat(
            [
                torch.full((1, decoder.num_channels), decoder.bos_token_id),
                codes,
                torch.full((1, decoder.num_channels), decoder.eos_token_id),
            ]
        )
        delayed = apply_delay(frames[None], delays, decoder.bos_token_id, decoder.pad_token_id)[0]
        # The frame in time, from 0, that each position of each channel is to predict.
        predicted = torch.arange(length)[:, None] - torch.tensor(delays)
        is_ignored = (predicted < num_given) | (predicted >= num_learned)
        return {
            "decoder_input_ids": delayed[:length],
            "decoder_attention_mask": torch.ones(length, dtype=torch.long),
            "labels": delayed[1 : length + 1].masked_fill(is_ignored, IGNORE_INDEX),
        }

    def _join(self, clips: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Put clips into one row, and number their positions where rows are packed."""
        row = {name: torch.cat([clip[name] for clip in clips]) for name in clips[0]}
        if self.frames_per_row is not None:
            for name in ("", "decoder_"):
                masks = [clip[f"{name}attention_mask"] for clip in clips]
                row[f"{name}sequence_ids"] = torch.cat([number * mask for number, mask in enumerate(masks, start=1)])
        return row

    def _pack(self, lengths: Sequence[int]) -> list[list[int]]:
        """Share out clips of these lengths among rows, first-fit decreasing; return each row's clips."""
        if self.frames_per_row is None:
            return [[clip] for clip in range(len(lengths))]
        rows: list[list[int]] = []
        room: list[int] = []
        for clip in sorted(range(len(lengths)), key=lambda clip: -lengths[clip]):
            row = next((row for row, free in enumerate(room) if lengths[clip] <= free), len(rows))
            if row == len(rows):
                rows.append([])
                room.append(self.frames_per_row)
            rows[row].append(clip)
            room[row] -= lengths[clip]
        return rows


def _name_clip(clip_id: str | None, text: str, codes: torch.Tensor) -> str:
    """Return what a clip's chances are drawn by."""
    return clip_id if clip_id is not None else hashlib.blake2b(text.encode() + codes.numpy().tobytes()).hexdigest()
