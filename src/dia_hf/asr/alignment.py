"""Forced alignment of a text that is known with a recording, by pocketsphinx: the time of each of its words.

It knows nothing of the model that spoke, so that the speech of two systems is cut at the same places. American English,
of pocketsphinx's dictionary; a word that it lacks has no time.

Legend: N samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .._extras import import_extra
from ..audio.io import resample
from .pronunciations import PronunciationDictionary

__all__ = ["Aligner"]

_FRAMES_PER_SECOND = 100


class Aligner:
    """Forced alignment with pocketsphinx.

    Args:
        pronunciations (`Mapping[str, str]`, *optional*): Pronunciations in ARPAbet without stress, of words that the
            dictionary lacks or has otherwise: `{"dia": "D IY AH"}`.

    Raises:
        ValueError: If a pronunciation has unknown phones.
        ImportError: If pocketsphinx is missing: `pip install "dia-hf[evaluate]"`.

    Example:
    ```python
    >>> import numpy as np
    >>> from dia_hf.asr.alignment import Aligner
    >>> Aligner().align(["hello", "zorg"], np.zeros(16000, np.float32), 16000)
    [None, None]

    ```
    """

    sampling_rate = 16000

    def __init__(self, pronunciations: Mapping[str, str] | None = None) -> None:
        pocketsphinx = import_extra("pocketsphinx")
        self._dictionary = PronunciationDictionary(pronunciations)
        # With `bestpath` the last word is lost in 1 of 20 texts: the best path over the lattice may end before it.
        self._decoder = pocketsphinx.Decoder(
            lm=None, dict=None, samprate=self.sampling_rate, loglevel="FATAL", bestpath=False
        )
        self._names: dict[str, str | None] = {}  # of words that the decoder has; `None` for one without pronunciation

    def align(self, words: Sequence[str], waveform: np.ndarray, sampling_rate: int) -> list[tuple[float, float] | None]:
        """Find the times of words that are said in this order.

        Args:
            words (`Sequence[str]`): Single words, with apostrophes; see `dia_hf.asr.wer.spelled_words`.
            waveform (`np.ndarray` of shape `[N]`): Samples, float32 in [-1, 1].
            sampling_rate (`int`): In hertz.

        Returns:
            `list[tuple[float, float] | None]`: Beginning and end of each word in seconds; `None` for a word without
            pronunciation, and for all if the audio is too short for them.
        """
        known = [place for place, word in enumerate(words) if self.knows(word)]
        times: list[tuple[float, float] | None] = [None] * len(words)
        samples = resample(np.asarray(waveform, dtype=np.float32), sampling_rate, self.sampling_rate)
        if not known or not samples.any():
            return times
        sound = np.rint(samples.clip(-1, 1) * 32767).astype("<i2")
        decoder, end = self._decoder, len(samples) / self.sampling_rate
        decoder.set_align_text(" ".join(str(self._names[words[place]]) for place in known))
        decoder.reinit_feat()  # reset the noise estimate, which would carry over from the previous call
        decoder.start_utt()
        decoder.process_raw(sound.tobytes(), full_utt=True)
        decoder.end_utt()
        if decoder.hyp() is None:
            return times
        found = [segment for segment in decoder.seg() if not segment.word.startswith(("<", "[", "+"))]
        for place, segment in zip(known, found, strict=False):
            stop = (segment.end_frame + 1) / _FRAMES_PER_SECOND
            times[place] = (segment.start_frame / _FRAMES_PER_SECOND, min(stop, end))
        return times

    def knows(self, word: str) -> bool:
        """Return whether a word has a pronunciation."""
        if word not in self._names:
            self._names[word] = None
            # Names of its own: a dictionary by spelling would not tell "well" from "we'll".
            name = f"w{len(self._names)}"
            for number, phones in enumerate(self._dictionary.find(word), start=1):
                self._decoder.add_word(name if number == 1 else f"{name}({number})", phones, False)
                self._names[word] = name
        return self._names[word] is not None
