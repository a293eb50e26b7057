#!/usr/bin/env bash
# soundfile cannot read a flac whose encoder did not know the length beforehand; read in blocks, its last one is lost.
#
# Versions: soundfile 0.14.0 (libsndfile 1.2.2), PyAV 18.1.0 (FFmpeg 8), numpy 2.4.6; Python 3.11.
# Input: one second of a tone as flac, which FFmpeg writes to something that cannot seek, as each streaming server does.
#   The field for the number of samples is 0, for which the format's specification, RFC 9639, has the meaning "unknown".
# Expected: sf.read returns the 44,100 samples, as other decoders do; a read of a block that meets the end returns what
#   is left, as in all other formats.
# Seen: the file is said to have 2**63 - 1 frames, and sf.read raises "array is too big". A read that meets the end
#   raises "psf_fseek() failed", also if it did read samples. These are not returned: with blocks of 10,000 the last
#   4,100 are lost, with blocks that are longer than the file all of them.
# Why it matters: flac is the one lossless format of the speech API's that is smaller than wav, and what a client saves
#   of such a stream is unreadable for librosa, and for each data pipeline that stands on soundfile. Decode with libav;
#   or let the server set the length where it knows it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet soundfile==0.14.0 av==18.1.0 numpy==2.4.6
cat >try.py <<'PYTHON'
from fractions import Fraction

import av
import numpy as np
import soundfile as sf


class Stream:
    def __init__(self, file):
        self.write = file.write


tone = (10000 * np.sin(0.05 * np.arange(44100))).astype(np.int16)
with open("tone.flac", "wb") as file, av.open(Stream(file), "w", format="flac") as container:
    stream = container.add_stream("flac", rate=44100, layout="mono")
    stream.codec_context.format = "s16"
    frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 44100, 0, Fraction(1, 44100)
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))

with av.open("tone.flac") as container:
    decoded = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
print(f"PyAV: {len(decoded)} samples, equal: {np.array_equal(decoded, tone)}")
print(f"sf.info: 2**63 - 1 frames: {sf.info('tone.flac').frames == 2**63 - 1}")
try:
    print(f"sf.read: {len(sf.read('tone.flac')[0])} samples")
except Exception as error:
    print(f"sf.read: {type(error).__name__}({str(error).split(';')[0]})")
for size in (4410, 10000, 50000):
    num_samples = 0
    with sf.SoundFile("tone.flac") as sound:
        try:
            while len(block := sound.read(size, dtype="int16")):
                num_samples += len(block)
            end = "no error"
        except Exception as error:
            end = f"{type(error).__name__}({error})"
    print(f"blocks of {size}: {num_samples} samples, {end}")
PYTHON
env/bin/python try.py 2>messages | tee seen
diff seen - <<'SEEN'
PyAV: 44100 samples, equal: True
sf.info: 2**63 - 1 frames: True
sf.read: ValueError(array is too big)
blocks of 4410: 39690 samples, LibsndfileError(Internal psf_fseek() failed.)
blocks of 10000: 40000 samples, LibsndfileError(Internal psf_fseek() failed.)
blocks of 50000: 0 samples, LibsndfileError(Internal psf_fseek() failed.)
SEEN
