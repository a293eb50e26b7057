"""Speech recognizers with a common interface.

Two kinds: pocketsphinx with a closed vocabulary, which is small, works offline and is deterministic; and any recognizer
of transformers' pipeline. Used by `speech/` for transcripts, by `training/` during a run, and by `evaluation/`.

Legend: N samples.
"""

from __future__ import annotations

import math
import os
import tempfile
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .._extras import import_extra
from ..audio.io import resample
from ..hub import check_model
from .wer import words_of

__all__ = [
    "POCKETSPHINX",
    "Recognizer",
    "load_recognizer",
]

POCKETSPHINX = "pocketsphinx"
"""Name of pocketsphinx for `load_recognizer`."""

_DICTIONARY = "en-us/cmudict-en-us.dict"


class Recognizer(Protocol):
    """Interface of a speech recognizer.

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
            recognizes `words` in any order, each equally likely, and no others; or folder or Hub id of a model for
            transformers' pipeline "automatic-speech-recognition", such as "openai/whisper-small".
        words (`Sequence[str]`, *optional*): Vocabulary of pocketsphinx, such as `vocabulary_of(texts)`.
        pronunciations (`Mapping[str, str]`, *optional*): Pronunciations in ARPAbet without stress:
            `{"dia": "D IY AH"}`. They replace those of pocketsphinx's dictionary, which has those of other words.
        device (`str`, `int` or `torch.device`, defaults to `"cpu"`): Device of a transformers model; pocketsphinx
            runs on the CPU.

    Returns:
        `Recognizer`: Its transcripts depend on the audio alone, not on earlier calls.

    Raises:
        ValueError: If there are no words for pocketsphinx, one is not a single word, is not in its dictionary, or has a
            pronunciation of unknown phones; or if there are words for another.
        ImportError: If pocketsphinx is missing: `pip install "dia-hf[evaluate]"`.
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
    check_model(asr)
    return _Pipeline(asr, device)


class _Pipeline:
    """Recognizer of transformers' pipeline."""

    def __init__(self, asr: str | os.PathLike, device: Any) -> None:
        from transformers import pipeline

        self._recognize = pipeline("automatic-speech-recognition", model=str(asr), device=device)
        # The pipeline resamples only with torchaudio, so audio is resampled before.
        self.sampling_rate: int = self._recognize.feature_extractor.sampling_rate

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """See `Recognizer`."""
        if len(waveform) == 0:
            return ""
        return self._recognize(resample(waveform, sampling_rate, self.sampling_rate))["text"].strip()


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
        known = _read_dictionary(pocketsphinx.get_model_path(_DICTIONARY))
        vocabulary = _pronounce(words, pronunciations, known)
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


def _read_dictionary(path: str) -> dict[str, list[str]]:
    """Read a dictionary: a word a line, then its phones; further pronunciations as "word(2)"."""
    known: dict[str, list[str]] = {}
    for line in Path(path).read_text("utf-8").splitlines():
        word, _, phones = line.partition(" ")
        known.setdefault(word.partition("(")[0], []).append(phones.strip())
    return known


def _pronounce(
    words: Sequence[str], pronunciations: Mapping[str, str], known: Mapping[str, list[str]]
) -> dict[str, list[str]]:
    """Return all pronunciations of each word, keyed by its form in `words_of`."""
    phones = {phone for ways in known.values() for way in ways for phone in way.split()}
    given = {_single_word(word): " ".join(way.split()) for word, way in pronunciations.items()}
    for word, way in given.items():
        unknown = [phone for phone in way.split() if phone not in phones]
        if unknown or not way:
            which = f", in which {', '.join(map(repr, unknown))} is no phone" if unknown else ""
            raise ValueError(
                f"the pronunciation of {word!r} is {way!r}{which}; write it with {' '.join(sorted(phones))}."
            )
    plain: dict[str, list[str]] = {}  # words may be given without their apostrophe
    for word, ways in known.items():
        if "'" in word:
            plain.setdefault(word.replace("'", ""), []).extend(ways)
    vocabulary: dict[str, dict[str, None]] = {}
    missing: list[str] = []
    for spelled in words:
        word = _single_word(spelled)
        own = unicodedata.normalize("NFKC", spelled).casefold().replace("’", "'")
        found = [given[word]] if word in given else known.get(own) or known.get(word) or plain.get(word)
        if found is None:
            missing.append(word)
        else:
            vocabulary.setdefault(word, {}).update(dict.fromkeys(found))
    if missing:
        listed = ", ".join(map(repr, dict.fromkeys(missing)))
        raise ValueError(
            f"pocketsphinx's dictionary does not have {listed}; say how each is pronounced, in ARPAbet: "
            "`pronunciations={'dia': 'D IY AH'}` (--vocabulary: a line `dia D IY AH`)."
        )
    return {word: list(ways) for word, ways in vocabulary.items()}


def _single_word(spelled: str) -> str:
    words = words_of(spelled)
    if len(words) != 1:
        listed = f": {', '.join(words)}" if words else ""
        raise ValueError(f"{spelled!r} is no single word; it has {len(words)} words{listed}.")
    return words[0]
