#!/usr/bin/env bash
# The same samples give another Ogg file at each write, by soundfile and by PyAV; only PyAV can be told not to.
#
# Versions: soundfile 0.14.0 (libsndfile 1.2.2), PyAV 18.1.0, numpy 2.4.6; Python 3.11.
# Input: 0.1 s of a tone at 48 kHz, written twice, two seconds apart, as Opus and as Vorbis by soundfile, and as Opus by
#   PyAV, without and with the muxer's `fflags=bitexact`.
# Expected: equal bytes from one encoder with equal settings, as they are for flac, mp3 and wav.
# Seen: different bytes. Each Ogg stream gets a random serial number, and with it other checksums in every page. PyAV's
#   are equal with "bitexact"; soundfile has no such option. The decoded samples are equal.
# Why it matters: a batch of speech that is resumed or made again cannot be compared by checksum, content-addressed
#   stores keep every run, and caches never hit. Compare decoded samples, or write Ogg by a muxer that can be told.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet soundfile==0.14.0 av==18.1.0 numpy==2.4.6
cat >try.py <<'PYTHON'
import io
import time

import av
import numpy as np
import soundfile

RATE = 48000
TONE = (0.3 * np.sin(2 * np.pi * 440 / RATE * np.arange(4800))).astype(np.float32)


def by_soundfile(subtype):
    file = io.BytesIO()
    soundfile.write(file, TONE, RATE, format="OGG", subtype=subtype)
    return file.getvalue()


def by_pyav(options):
    file = io.BytesIO()
    with av.open(file, "w", format="ogg", options=options) as container:
        stream = container.add_stream("libopus", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(TONE[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return file.getvalue()


WAYS = {
    "soundfile, Opus": lambda: by_soundfile("OPUS"),
    "soundfile, Vorbis": lambda: by_soundfile("VORBIS"),
    "PyAV, Opus": lambda: by_pyav({}),
    "PyAV, Opus, bitexact": lambda: by_pyav({"fflags": "bitexact"}),
}
first = {name: write() for name, write in WAYS.items()}
time.sleep(2)
for name, write in WAYS.items():
    print(f"{name}: {'equal' if write() == first[name] else 'different'}")
PYTHON
env/bin/python try.py >seen
cat seen
diff - seen <<'SEEN'
soundfile, Opus: different
soundfile, Vorbis: different
PyAV, Opus: different
PyAV, Opus, bitexact: equal
SEEN
