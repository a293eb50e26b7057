#!/usr/bin/env bash
# A streaming Audio output of Gradio scales every chunk of float samples to full scale, each by its own peak.
#
# Versions: gradio 6.31.0, numpy 2.4.6; Python 3.11.
# Input: 100 ms chunks of one tone with peaks of 0.8, 0.1 and 0.001, as a generator would yield them, `(24000, chunk)`;
#   as float32, and as the int16 of the same samples. The component is `gr.Audio(streaming=True)`.
# Expected: the same level from both, since it is one stream.
# Seen: float chunks all leave with a peak of 32767. Those of int16 keep theirs. The documentation has a note that NumPy
#   audio "will be normalized by its peak value to avoid distortion or clipping"; that it happens in a stream, a chunk at
#   a time and with chunks that do not clip, is not said. A warning names only the conversion to 16 bits.
# Why it matters: speech models return float32. Streamed, pauses and breaths become as loud as the words, and the level
#   jumps at every chunk. Yield int16 samples, or bytes of a wav; or play the samples in the page itself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export GRADIO_ANALYTICS_ENABLED=False GRADIO_TEMP_DIR="$folder"
python3 -m venv env
env/bin/pip install --quiet gradio==6.31.0 numpy==2.4.6
cat >try.py <<'PYTHON'
import warnings
import wave

import gradio as gr
import numpy as np

warnings.simplefilter("ignore")
RATE = 24000
output = gr.Audio(streaming=True)


def peak(chunk):
    """Return the peak of a chunk as it leaves the component."""
    with wave.open(output.postprocess((RATE, chunk)).path) as file:
        return np.abs(np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16).astype(int)).max()


tone = np.sin(2 * np.pi * 200 * np.arange(RATE // 10) / RATE)
for level in (0.8, 0.1, 0.001):
    as_float, as_int16 = (level * tone).astype(np.float32), (level * 32767 * tone).astype(np.int16)
    print(f"{level}: float32 {peak(as_float)}, int16 {peak(as_int16)}")
PYTHON
env/bin/python try.py >seen
cat seen
diff - seen <<'SEEN'
0.8: float32 32767, int16 26213
0.1: float32 32767, int16 3276
0.001: float32 32767, int16 32
SEEN
