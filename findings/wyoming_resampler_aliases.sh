#!/usr/bin/env bash
# Wyoming's AudioChunkConverter resamples without a low-pass: consonants fold down into the range of vowels.
#
# Versions: wyoming 1.10.2, numpy 2.4.6; Python 3.11 (on 3.13 and later, the package's own copy of audioop).
# Input: one second of 44.1 kHz, 16 bits, mono, in chunks of 20 ms, through `AudioChunkConverter(rate=16000)`, which has
#   a state for streams. The sound is a tone of 10 kHz at half of full scale, where an "s" has its energy. 16 kHz can
#   hold 8 kHz.
# Expected: silence, or nearly; a resampler removes what the new rate cannot hold.
# Seen: a tone of 6 kHz (16 - 10) of nearly the same level. audioop.ratecv interpolates linearly between samples, and
#   nothing before it filters. Going up it leaves images above the old rate's half in the same way.
# Why it matters: voices of 44.1 and 48 kHz are converted by this class for satellites and speakers of 16 or 22.05 kHz,
#   and recordings for recognizers. "s" and "sh" get a harsh whistle that was not in the voice, which recognizers
#   hear, too. Send the rate that the other side plays, resampled by a library that filters, such as soxr.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet wyoming==1.10.2 numpy==2.4.6
cat >try.py <<'PYTHON'
import warnings

warnings.simplefilter("ignore")  # audioop is deprecated
import numpy as np
from wyoming.audio import AudioChunk, AudioChunkConverter

OLD, NEW = 44100, 16000


def converted(samples):
    converter, parts = AudioChunkConverter(rate=NEW), []
    for part in np.split(samples, 50):
        chunk = AudioChunk(rate=OLD, width=2, channels=1, audio=part.astype("<i2").tobytes())
        parts.append(np.frombuffer(converter.convert(chunk).audio, dtype="<i2"))
    return np.concatenate(parts).astype(float)


for frequency in (1000, 10000):
    heard = converted(16384 * np.sin(2 * np.pi * frequency * np.arange(OLD) / OLD))
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard))))
    loudest = round(spectrum.argmax() * NEW / len(heard) / 100) * 100
    level = np.sqrt(2 * np.mean(heard**2)) / 16384
    print(f"{frequency} Hz in: {loudest} Hz out, at {level:.0%} of its level")
PYTHON
env/bin/python try.py >seen
cat seen
diff - seen <<'SEEN'
1000 Hz in: 1000 Hz out, at 100% of its level
10000 Hz in: 6000 Hz out, at 85% of its level
SEEN
