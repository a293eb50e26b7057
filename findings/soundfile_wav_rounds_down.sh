#!/usr/bin/env bash
# The same floats become other 16-bit samples in a wav than in a flac: libsndfile rounds them down for one, and to the
# nearest step for the other.
#
# Versions: soundfile 0.14.0 (libsndfile 1.2.2), numpy 2.4.6; Python 3.11.
# Input: 100,000 random floats in [-1, 1], and 100,000 of a thousandth of a step, both below and above 0. soundfile
#   writes them with 16 bits in each format, and reads the integers back.
# Expected: the same integers in each format, the nearest ones, and no offset on average.
# Seen: half of the samples differ. wav, w64, aiff, au and caf are rounded down, which is an offset of half a step; in
#   flac they are rounded to the nearest. Noise of a thousandth of a step is 0 in flac; in wav half of it is -1.
#   libsndfile does so for SFC_SET_CLIPPING, which soundfile always turns on; its documents say that this command is
#   about samples beyond full scale.
# Why it matters: "lossless" copies of generated speech differ by format, so that exact tests and deduplication fail;
#   and silence that a model or a filter leaves at -1e-8 is no longer 0. Round to int16 yourself before writing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet soundfile==0.14.0 numpy==2.4.6
cat >try.py <<'PYTHON'
import io

import numpy as np
import soundfile as sf


def written(samples, name):
    file = io.BytesIO()
    sf.write(file, samples, 24000, format=name, subtype="PCM_16")
    file.seek(0)
    return sf.read(file, dtype="int16")[0]


random = np.random.default_rng(0)
samples = random.uniform(-1, 1, 100_000).astype(np.float32)
exact = samples.astype(np.float64) * 2**15
nearest = np.rint(exact).clip(-(2**15), 2**15 - 1)
silence = random.uniform(-1e-3, 1e-3, 100_000).astype(np.float32) / 2**15
for name in ("FLAC", "WAV", "W64", "AIFF", "AU", "CAF"):
    loud, quiet = written(samples, name), written(silence, name)
    zeros = f"{(quiet == 0).mean():.0%}"
    print(
        f"{name}: {(loud == nearest).mean():.0%} are the nearest step, "
        f"{(loud == np.floor(exact)).mean():.0%} the one below; {(loud - exact).mean() + 0:.1f} steps on average; "
        f"of the quiet noise, {zeros} are 0"
    )
PYTHON
env/bin/python try.py 2>messages | sed 's/-0\.0 steps/0.0 steps/' | tee seen
diff seen - <<'SEEN'
FLAC: 100% are the nearest step, 50% the one below; 0.0 steps on average; of the quiet noise, 100% are 0
WAV: 50% are the nearest step, 100% the one below; -0.5 steps on average; of the quiet noise, 50% are 0
W64: 50% are the nearest step, 100% the one below; -0.5 steps on average; of the quiet noise, 50% are 0
AIFF: 50% are the nearest step, 100% the one below; -0.5 steps on average; of the quiet noise, 50% are 0
AU: 50% are the nearest step, 100% the one below; -0.5 steps on average; of the quiet noise, 50% are 0
CAF: 50% are the nearest step, 100% the one below; -0.5 steps on average; of the quiet noise, 50% are 0
SEEN
