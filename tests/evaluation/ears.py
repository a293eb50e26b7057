"""A recognizer for tests, whose answers are known beforehand."""

from collections.abc import Iterator


class Ears:
    """Hears what it is told to, one text a clip and again from the first; notes the clips and their rates."""

    sampling_rate = 16000

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        self.clips: list = []
        self.rates: list[int] = []

    def transcribe(self, waveform, sampling_rate) -> str:
        self.clips.append(waveform)
        self.rates.append(sampling_rate)
        return self.texts[(len(self.clips) - 1) % len(self.texts)]

    def __iter__(self) -> Iterator:
        return iter(self.clips)
