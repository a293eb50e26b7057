#!/usr/bin/env bash
# soxr adds noise to 16-bit audio, also to silence, also at equal rates; and it is another noise for other chunk sizes.
#
# Versions: soxr 1.1.0, numpy 2.4.6; Python 3.11.
# Input: a second of zeros, and a second of a tone, as int16 and as float32: whole, and in chunks of 10 and 100 ms.
# Expected: zeros stay zeros. A stream gives the samples of the whole, whatever its chunks, as it does for float32.
# Seen: a quarter of the zeros become 1 or -1, also "from" 24 kHz to 24 kHz. Of the tone's samples more than a third
#   differ between the whole and its chunks, by up to two steps. libsoxr dithers its 16-bit output, and how a stream is
#   cut changes the noise. soxr's docstrings do not mention it, and there is no argument to turn it off. float32 is not
#   dithered.
# Why it matters: 16-bit PCM is what voice agents resample, from 44.1 to 24 or 8 kHz. Pauses are no longer digital
#   silence for gates and lossless codecs, and tests that hold a stream against the whole fail. Resample floats, and
#   round once, at the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet soxr==1.1.0 numpy==2.4.6
cat >try.py <<'PYTHON'
import numpy as np
import soxr


def streamed(samples, size):
    resampler = soxr.ResampleStream(44100, 24000, 1, dtype=samples.dtype.name)
    places = range(0, len(samples), size)
    parts = [resampler.resample_chunk(samples[i : i + size], last=i == places[-1]) for i in places]
    return np.concatenate(parts)


tone = 8000 * np.sin(0.03 * np.arange(44100))
for dtype in ("int16", "float32"):
    zeros = np.zeros(44100, dtype=dtype)
    for rate, target in ((44100, 24000), (24000, 24000)):
        changed = soxr.resample(zeros, rate, target)
        extent = f"{changed.min():g} to {changed.max():g}"
        print(f"{dtype}, zeros, {rate} to {target} Hz: {extent}, not 0: {(changed != 0).mean():.0%}")
    whole = soxr.resample(tone.astype(dtype), 44100, 24000)
    for size in (441, 4410):
        difference = np.abs(streamed(tone.astype(dtype), size).astype(float) - whole)
        are_many = (difference > 0.01).mean() > 1 / 3
        print(f"{dtype}, tone, chunks of {size}: more than a third differ: {are_many}, by up to {difference.max():.0f}")
PYTHON
env/bin/python try.py 2>messages | tee seen
diff seen - <<'SEEN'
int16, zeros, 44100 to 24000 Hz: -1 to 1, not 0: 23%
int16, zeros, 24000 to 24000 Hz: -1 to 1, not 0: 23%
int16, tone, chunks of 441: more than a third differ: True, by up to 2
int16, tone, chunks of 4410: more than a third differ: True, by up to 2
float32, zeros, 44100 to 24000 Hz: 0 to 0, not 0: 0%
float32, zeros, 24000 to 24000 Hz: 0 to 0, not 0: 0%
float32, tone, chunks of 441: more than a third differ: False, by up to 0
float32, tone, chunks of 4410: more than a third differ: False, by up to 0
SEEN
