"""Generation of the sentences of an evaluation: in batches, or with several voices or in several chunks as dialogues.

Each sentence has its own seed, so that results do not depend on the batch. Called by `evaluate.py`.

Legend: N samples, T frames, C codebooks.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..speech import Dia, SpeechWarning
from ..speech.voices import Voice
from .sentences import Sentence, load_clip
from .speakers import split_turns

__all__ = ["Speech", "VoiceStore", "speak"]

Voices = Voice | Mapping[str, Voice] | None


@dataclass(frozen=True, eq=False)
class Speech:
    """Generated speech.

    Args:
        codes (`torch.Tensor` of shape `[T, C]`, *optional*): Codes; `None` for a dialogue.
        waveform (`np.ndarray` of shape `[N]`): Samples.
        ended (`bool`): Whether the speech ended before its limit.
    """

    codes: torch.Tensor | None
    waveform: np.ndarray
    ended: bool


class VoiceStore:
    """Voices to generate with, encoded once: those of the sentences' prompts, and those for all of them.

    Args:
        dia (`Dia`): Model and processor with the codec.
        voices (`Voice` or `Mapping[str, Voice]`, *optional*): For all sentences, as for `Dia.dialogue`; the prompts of
            a sentence replace them.
    """

    def __init__(self, dia: Dia, voices: Voices = None) -> None:
        self._processor = dia.processor
        self._codec = dia.processor.codec
        self._shared = voices
        self._encoded: dict[tuple[str, str], Voice] = {}

    def find(self, sentence: Sentence) -> Voices:
        """Return the voices of a sentence; a prompt without transcript is none.

        Raises:
            ValueError: If a prompt cannot be a voice; see `Voice.from_audio`.
        """
        own = {
            speaker: self._encode(prompt.audio, prompt.text)
            for speaker, prompt in sentence.prompts.items()
            if prompt.text is not None
        }
        if not own:
            return self._shared
        return {**(self._shared if isinstance(self._shared, Mapping) else {}), **own}

    def _encode(self, audio: Any, text: str) -> Voice:
        key = (audio, text) if isinstance(audio, str) else None
        if key is not None and key in self._encoded:
            return self._encoded[key]
        samples, rate = load_clip(audio)
        voice = Voice.from_audio({"array": samples, "sampling_rate": rate}, text, self._processor)
        if key is not None:
            self._encoded[key] = voice
        return voice

    def recordings(self, first_speaker: str) -> dict[str, np.ndarray]:
        """Return the shared voices as samples `[N]` at the codec's rate, by speaker tag.

        Args:
            first_speaker (`str`): Speaker of a single voice without tags. One of several speakers is left out, because
                its turns cannot be told apart.
        """
        shared = self._shared
        if isinstance(shared, Voice):
            if len(shared.speakers) > 1:
                return {}
            shared = {shared.speakers[0] if shared.speakers else first_speaker: shared}
        return {tag: self._codec.decode([voice.codes])[0].numpy() for tag, voice in (shared or {}).items()}


def speak(
    dia: Dia,
    sentences: Sequence[Sentence],
    voices: Sequence[Voices],
    seeds: Sequence[int],
    options: Mapping[str, Any],
    num_frames: int,
) -> list[Speech]:
    """Generate sentences, each with its own seed; implausible speech is a result here, not a warning.

    Args:
        dia (`Dia`): Model and processor with the codec.
        sentences (`Sequence[Sentence]`): A batch.
        voices (`Sequence[Voice | Mapping[str, Voice] | None]`): Of each sentence.
        seeds (`Sequence[int]`): Of each sentence.
        options (`Mapping`): Sampling parameters and `max_seconds`, as `Dia.generate` takes them.
        num_frames (`int`): Frames of `max_seconds`: at so many a sentence is cut.
    """
    found: dict[int, Speech] = {}
    single = [_single_voice(sentence, own) for sentence, own in zip(sentences, voices, strict=True)]
    fitting = [
        place
        for place, (sentence, own, one) in enumerate(zip(sentences, voices, single, strict=True))
        if (own is None or one is not None) and _fits(dia, sentence.text, one)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpeechWarning)
        if fitting:
            given = [single[place] for place in fitting]
            waveforms, codes = dia.generate(
                [sentences[place].text for place in fitting],
                voice=given if any(voice is not None for voice in given) else None,
                seed=[seeds[place] for place in fitting],
                return_codes=True,
                **options,
            )
            for place, waveform, frames in zip(fitting, waveforms, codes, strict=True):
                found[place] = Speech(frames, waveform, len(frames) < num_frames)
        for place, sentence in enumerate(sentences):
            if place not in found:
                dialogue = dia.dialogue(sentence.text, voices=voices[place], seed=seeds[place], **options)
                waveform = dialogue.generate()
                is_cut = dialogue.max_frames is not None and sum(dialogue.num_frames) >= dialogue.max_frames
                ended = not is_cut and all(frames < dialogue.most_frames for frames in dialogue.num_frames)
                found[place] = Speech(None, waveform, ended)
    return [found[place] for place in range(len(sentences))]


def _single_voice(sentence: Sentence, voices: Voices) -> Voice | None:
    """Return the voice of a sentence that one call of the model can speak in its voices."""
    if voices is None or isinstance(voices, Voice):
        return voices
    speakers = list(dict.fromkeys(turn.speaker for turn in split_turns(sentence.text)))
    if len(speakers) != 1:
        return None
    return voices.get(speakers[0])


def _fits(dia: Dia, text: str, voice: Voice | None) -> bool:
    """Whether a text and the transcript of its voice fit into one call of the model."""
    tokenizer = dia.processor.tokenizer
    num_ids = tokenizer.count_ids(text) + (0 if voice is None else tokenizer.count_ids(voice.transcript) + 2)
    return num_ids <= tokenizer.model_max_length
