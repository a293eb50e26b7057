"""Plausibility of generated audio for its text: not empty, silent, much too short or long, or cut at a limit.

Compares the duration of samples, added one after the other, with an estimate; does not recognize words. Called by `Dia`
and `Dialogue`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from ..audio.effects import trim_silence
from .script import estimate_seconds, parse_script

__all__ = [
    "SpeechCheck",
    "SpeechStats",
    "SpeechWarning",
    "estimate_text",
    "find_doubt",
    "tell",
]

# In shares of the estimate, and seconds. Speech has fewer than 30 characters a second. The seconds are for pauses, and
# for short words or quiet ends: 218 utterances of the miniature, of 1 to 25 words, take 1.0 to 1.9 times the estimate
# where that is above 1 s, and 0.2 to 0.6 s more than it below; a quarter of a second of that is silence.
_SHORTEST, _LESS = 0.5, 0.15
_LONGEST, _MORE = 3.0, 2.0
_SHORTEST_WORD = 0.05  # seconds; the miniature's "a", its shortest, sounds for 0.12


class SpeechWarning(UserWarning):
    """Generated audio is implausible for its text."""


class SpeechStats:
    """Duration of audio that is added in parts, and of its part without silence.

    Args:
        sampling_rate (`int`): In hertz.
    """

    def __init__(self, sampling_rate: int) -> None:
        self.sampling_rate = sampling_rate
        self.seconds = 0.0
        self.sounding = 0.0

    def add(self, samples: np.ndarray) -> None:
        """Add the next samples, `[N]`."""
        self.seconds += len(samples) / self.sampling_rate
        finite = np.nan_to_num(samples)  # `write_audio` refuses other samples
        self.sounding += len(trim_silence(finite, self.sampling_rate, keep=0)) / self.sampling_rate


def estimate_text(text: str, speaker_tokens: Sequence[str]) -> float:
    """Return the sum of `estimate_seconds` over the turns of a text with speaker tags."""
    return sum(estimate_seconds(turn.text) for turn in parse_script(text, speaker_tokens))


def find_doubt(heard: SpeechStats, expected: float, prompt: float = 0.0, cut_at: str | None = None) -> str | None:
    """Describe why audio is implausible for a text.

    It is implausible if it is empty; silent (below -50 dBFS throughout); cut at a limit; without silence shorter than
    half of the estimate (30 characters a second) less 0.15 s; or longer than three times the estimate plus 2 s. Slow
    speakers, pauses, and numbers in digits are within these limits.

    Args:
        heard (`SpeechStats`): Measured audio.
        expected (`float`): Seconds by `estimate_seconds`.
        prompt (`float`, defaults to 0.0): Seconds of a recording whose transcript is an unknown part of the text; 1.5
            times as much is subtracted from the estimate for the lower limit.
        cut_at (`str`, *optional*): Name of the limit that cut the audio.

    Returns:
        `str`, *optional*: Description; `None` if the audio is plausible.

    Example:
    ```python
    >>> import numpy as np
    >>> from dia_hf.speech.doubts import SpeechStats, find_doubt
    >>> heard = SpeechStats(16000)
    >>> heard.add(np.zeros(16000, dtype=np.float32))
    >>> find_doubt(heard, expected=2.0)
    'the sound of 1.0 s is silent'

    ```
    """
    estimate = f"about {expected:.1f} s are expected for its text"
    if heard.seconds == 0:
        return f"the sound is empty; {estimate}"
    if heard.sounding == 0:
        return f"the sound of {heard.seconds:.1f} s is silent"
    if cut_at is not None:
        return f"the sound is cut at {cut_at}, after {heard.seconds:.1f} s; {estimate}"
    if heard.sounding < max(_SHORTEST * (expected - 1.5 * prompt) - _LESS, _SHORTEST_WORD):
        return f"the sound is {heard.sounding:.1f} s long without its silence; {estimate}: words are missing"
    if heard.seconds > _LONGEST * expected + _MORE:
        return f"the sound is {heard.seconds:.1f} s long; {estimate}: it contains something else"
    return None


class SpeechCheck:
    """Check of the audio of one or more texts.

    Args:
        expected (`Sequence[float]`): Expected seconds of each text.
        prompts (`Sequence[float]`): Seconds of each prompt whose transcript is part of the text; see `find_doubt`.
        sampling_rate (`int`): Of the audio, in hertz.
        max_frames (`int`): Frames of a text at which it is cut.
        limit (`str`): Name of the limit that cuts there.
        frame_rate (`float`): Frames a second.
    """

    def __init__(
        self,
        expected: Sequence[float],
        prompts: Sequence[float],
        sampling_rate: int,
        max_frames: int,
        limit: str,
        frame_rate: float,
    ) -> None:
        self.expected, self.prompts = expected, prompts
        self.max_frames, self.limit, self.frame_rate = max_frames, limit, frame_rate
        self._stats = [SpeechStats(sampling_rate) for _ in expected]

    def add(self, parts: Sequence[np.ndarray]) -> None:
        """Add the next samples of each text, `[N_i]`."""
        for stats, part in zip(self._stats, parts, strict=True):
            stats.add(part)

    def warn(self, stacklevel: int) -> None:
        """Warn once, with a `SpeechWarning`, if the audio of a text is implausible."""
        doubts = []
        for index, (stats, expected, prompt) in enumerate(zip(self._stats, self.expected, self.prompts, strict=True)):
            is_cut = round(stats.seconds * self.frame_rate) >= self.max_frames
            if (doubt := find_doubt(stats, expected, prompt, self.limit if is_cut else None)) is not None:
                doubts.append(doubt if len(self._stats) == 1 else f"text {index}: {doubt}")
        tell(doubts, stacklevel + 1)


def tell(doubts: Sequence[str], stacklevel: int) -> None:
    """Warn once of all implausible audio; at most three descriptions are listed."""
    if doubts:
        more = f"; and {len(doubts) - 3} more" if len(doubts) > 3 else ""
        warnings.warn(f"{'; '.join(doubts[:3])}{more}.", SpeechWarning, stacklevel=stacklevel + 1)
