"""Times of words in the stream of one call: `Dia.stream` with `return_timestamps`.

Legend: B texts, T frames, S text bytes.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from transformers import BatchFeature, PreTrainedTokenizerBase

from ..generation import attend_to_text
from ..generation.spoken_path import SpokenWeights, audio_lag
from .live_timeline import LiveTimeline, Unit

__all__ = ["StreamTimes", "texts_of"]


def texts_of(tokenizer: PreTrainedTokenizerBase, inputs: BatchFeature) -> list[str]:
    """Return the texts that the model reads.

    Args:
        tokenizer (`DiaTokenizer`): The tokenizer.
        inputs (`BatchFeature`): Inputs of the model, with `input_ids` of shape `[B, S]`.
    """
    return [tokenizer.decode(ids[ids != tokenizer.pad_token_id]) for ids in inputs["input_ids"]]


class StreamTimes:
    """Times of the texts of one call that is streamed.

    Args:
        model (`DiaForConditionalGeneration`): The model.
        processor (`DiaProcessor`): Its processor, with the codec.
        text (`str` or `Sequence[str]`): The text, or B of them.
        inputs (`BatchFeature`): Inputs of the model.
        heads (`Sequence[Sequence[int]]`): The alignment heads.
        unit (`str`): "word" or "char".
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        text: str | Sequence[str],
        inputs: BatchFeature,
        heads: Sequence[Sequence[int]],
        unit: Unit,
    ) -> None:
        self._model, self._inputs, self._heads = model, inputs, heads
        self._reads = texts_of(processor.tokenizer, inputs)
        self._hop_length: int = processor.codec.hop_length
        lag, tokenizer = audio_lag(model.config, processor.codec), processor.tokenizer
        options: dict[str, Any] = {"unit": unit, "language_tokens": tokenizer.language_tokens}
        tags, frame_rate = tokenizer.speaker_tokens, processor.codec.frame_rate
        self._timelines = [
            LiveTimeline(one, tags, frame_rate, lag, **options) for one in ([text] if isinstance(text, str) else text)
        ]

    def begin(self, has_given: bool) -> None:
        """Begin the chunk of each text.

        Args:
            has_given (`bool`): Whether transcripts of prompts are in the texts. Their words have no time, but the
                weights at the frames of the prompts are needed to find those after them.
        """
        for index, (timeline, read) in enumerate(zip(self._timelines, self._reads, strict=True)):
            mask, given = self._inputs["decoder_attention_mask"][index].bool(), None
            num_given = self._model.config.frames_for_steps(int(mask.sum()))
            if has_given and num_given > 0:
                ids = self._inputs["input_ids"][index : index + 1]
                frames = self._inputs["decoder_input_ids"][index : index + 1, mask]
                given = attend_to_text(self._model, ids, frames, self._heads)[0, :num_given].mean(1).cpu()
            timeline.begin(read, timeline.script, given)

    def add(
        self, chunks: Generator[list[np.ndarray], None, None], alignment: SpokenWeights, is_list: bool
    ) -> Iterator[tuple[Any, Any]]:
        """Yield the audio of each text, and the words or characters that end in it.

        Args:
            chunks (`Generator`): Chunks of B waveforms.
            alignment (`SpokenWeights`): The weights, of the streamer.
            is_list (`bool`): Whether to yield lists; otherwise those of the only text.
        """
        num_frames = [0] * len(self._timelines)
        with closing(chunks):
            for parts in chunks:
                times = []
                for index, (part, timeline) in enumerate(zip(parts, self._timelines, strict=True)):
                    timeline.extend(alignment.take(index))
                    if alignment.has_ended(index):
                        timeline.end()
                    num_frames[index] += len(part) // self._hop_length
                    times.append(timeline.take(num_frames[index]))
                yield (parts, times) if is_list else (parts[0], times[0])
