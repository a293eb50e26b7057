"""Judging one sentence: the recognizer's transcript, turns and voices, quality and timing of each of its sources.

Knows nothing of models; called by `evaluate.py`. Legend: N samples, D dimensions.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..asr.alignment import Aligner
from ..asr.recognizers import HeardWord, Recognizer, recognize
from ..asr.wer import NORMALIZERS, align_words, word_errors
from .judges import QualityJudge, SpeakerModel
from .metrics import Measure
from .results import SourceReport
from .speakers import (
    ScriptTurn,
    attribute,
    count_cpwer,
    measure_speakers,
    split_turns,
    voices_of_turns,
    words_by_transcript,
)
from .timing import measure_timing

__all__ = ["Clip", "Judge"]

_SHORTEST_TURN = 0.1  # seconds of audio that have a voice


@dataclass(frozen=True, eq=False)
class Clip:
    """Audio to judge.

    Args:
        waveform (`np.ndarray` of shape `[N]`): Samples, float32 in [-1, 1].
        sampling_rate (`int`): In hertz.
        file (`Any`, *optional*): Its file; ignored unless it is a path.
    """

    waveform: np.ndarray
    sampling_rate: int
    file: Any = None

    @property
    def is_silent(self) -> bool:
        """Whether it has no sample other than 0."""
        return not self.waveform.any()


@dataclass(frozen=True, eq=False)
class Judge:
    """Judges of speech, applied to all sources of a sentence.

    Args:
        recognizer (`Recognizer`): Speech recognizer.
        speaker_model (`SpeakerModel`, *optional*): For attribution, cpWER and speaker similarity.
        quality (`QualityJudge`, *optional*): For DNSMOS.
        aligner (`Aligner`, *optional*): Forced alignment, which cuts the turns for `speaker_model`. Where it lacks all
            words of a turn, or is not given, the times of the recognizer's words are used if it has some.
        normalizer (`str`, *optional*): Name in `NORMALIZERS`; by default that of the recognizer, or "words".

    Raises:
        ValueError: If there is no such normalizer.
        ImportError: If the package of the normalizer, or jiwer, is missing.
    """

    recognizer: Recognizer
    speaker_model: SpeakerModel | None = None
    quality: QualityJudge | None = None
    aligner: Aligner | None = None
    normalizer: str | None = None
    _embedded: dict[str | bytes, np.ndarray] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.normalizer is None:
            object.__setattr__(self, "normalizer", getattr(self.recognizer, "normalizer", "words"))
        if self.normalizer not in NORMALIZERS:
            raise ValueError(f"`normalizer` is {self.normalizer!r}; give one of {', '.join(NORMALIZERS)}.")
        word_errors("one", "one", NORMALIZERS[self.normalizer])  # a missing package shows before the work

    def judge(
        self, text: str, clips: Mapping[str, Clip | None], prompts: Mapping[str, Clip]
    ) -> dict[str, SourceReport]:
        """Judge the sources of one sentence.

        Args:
            text (`str`): Its text, with speaker tags.
            clips (`Mapping[str, Clip | None]`): Audio of each of `SOURCES` that there is.
            prompts (`Mapping[str, Clip]`): Voice prompt of each speaker that has one.
        """
        turns = split_turns(text)
        found: dict[str, SourceReport] = {}
        embeddings: dict[str, list[np.ndarray | None] | None] = {}
        for source, clip in clips.items():
            if clip is not None:
                found[source], spans = self._listen(text, turns, clip)
                embeddings[source] = None if spans is None else self._embed_turns(spans, clip)
        if self.speaker_model is None:
            return found
        speakers = {turn.speaker for turn in turns}
        prompted = {speaker: self._embed_prompt(clip) for speaker, clip in prompts.items() if not clip.is_silent}
        for source, report in list(found.items()):
            if (own := embeddings[source]) is None:
                continue
            voices: dict[str, np.ndarray] | None = None
            if speakers <= set(prompted):
                voices = prompted
            elif source != "reference" and (others := embeddings.get("reference")) is not None:
                voices = voices_of_turns(turns, others)
                voices = voices if speakers <= set(voices) else None
            measures = {**report.measures, **measure_speakers(turns, own, voices)}
            chosen = attribute(turns, own, voices)
            if chosen is not None and len(speakers) > 1 and "attribution" in measures:
                # A turn that cannot be compared with others of its speaker is believed to be its own.
                labels = [
                    turn.speaker if one is None and embedding is not None else one
                    for turn, one, embedding in zip(turns, chosen, own, strict=True)
                ]
                measures["cpwer"] = count_cpwer(turns, labels, report.text, NORMALIZERS[str(self.normalizer)])
            found[source] = replace(report, measures=measures)
        return found

    def _listen(
        self, text: str, turns: list[ScriptTurn], clip: Clip
    ) -> tuple[SourceReport, list[tuple[float, float] | None] | None]:
        """Judge what needs no voices, and find the beginning and end of each turn."""
        normalize = NORMALIZERS[str(self.normalizer)]
        timed: list[HeardWord] | None = None
        if self.speaker_model is None:
            heard = self.recognizer.transcribe(clip.waveform, clip.sampling_rate)
        else:
            heard, timed = recognize(self.recognizer, clip.waveform, clip.sampling_rate)
        measures = measure_timing(clip.waveform, clip.sampling_rate, sum(len(turn.words) for turn in turns))
        if said := normalize(text):
            measures["truncated"] = Measure(float(align_words(said, normalize(heard))[-1][1] is None))
        if self.quality is not None and not clip.is_silent:
            measures |= self.quality.measure(clip.waveform, clip.sampling_rate)
        words, spans = None, None
        if self.speaker_model is not None and (times := self._align(turns, timed, clip)) is not None:
            owners = [place for place, turn in enumerate(turns) for _ in turn.words]
            spoken = [word for turn in turns for word in turn.words]
            found = [
                (owner, HeardWord(word, *time, turns[owner].speaker))
                for owner, word, time in zip(owners, spoken, times, strict=True)
                if time is not None
            ]
            words = [word for _, word in found]
            spans = [_span([word for owner, word in found if owner == place]) for place in range(len(turns))]
        if len(turns) == 1:  # all of it
            spans = [(0.0, len(clip.waveform) / clip.sampling_rate)]
        report = SourceReport(
            text=heard,
            errors=word_errors(text, heard, normalize),
            seconds=len(clip.waveform) / clip.sampling_rate,
            file=os.fspath(clip.file) if isinstance(clip.file, str | os.PathLike) else None,
            words=words,
            measures=measures,
        )
        return report, spans

    def _align(
        self, turns: list[ScriptTurn], timed: list[HeardWord] | None, clip: Clip
    ) -> list[tuple[float, float] | None] | None:
        """Return the times of all words of the turns; `None` if nothing can align them."""
        words = [word for turn in turns for word in turn.words]
        aligner = self.aligner
        if aligner is not None and all(any(aligner.knows(word) for word in turn.words) for turn in turns):
            return aligner.align(words, clip.waveform, clip.sampling_rate)
        return None if timed is None else words_by_transcript(words, timed)

    def _embed_turns(self, spans: list[tuple[float, float] | None], clip: Clip) -> list[np.ndarray | None]:
        """Return the embedding `[D]` of each turn; `None` for one without audio."""
        if self.speaker_model is None:
            return [None] * len(spans)
        rate, embeddings = clip.sampling_rate, []
        for span in spans:
            piece = clip.waveform[:0] if span is None else clip.waveform[round(span[0] * rate) : round(span[1] * rate)]
            is_heard = len(piece) >= _SHORTEST_TURN * rate and piece.any()
            embeddings.append(self.speaker_model.embed(piece, rate) if is_heard else None)
        return embeddings

    def _embed_prompt(self, clip: Clip) -> np.ndarray:
        """Embed a prompt, once for all sentences if it is a file."""
        assert self.speaker_model is not None
        if not isinstance(clip.file, str | os.PathLike):
            return self.speaker_model.embed(clip.waveform, clip.sampling_rate)
        key = os.fspath(clip.file)
        if key not in self._embedded:
            self._embedded[key] = self.speaker_model.embed(clip.waveform, clip.sampling_rate)
        return self._embedded[key]


def _span(words: list[HeardWord]) -> tuple[float, float] | None:
    """Return the beginning and end of words; `None` without any."""
    return (min(word.start for word in words), max(word.end for word in words)) if words else None
