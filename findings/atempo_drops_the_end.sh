#!/usr/bin/env bash
# FFmpeg's filter atempo leaves out the end of what it is given, and all of it if that is short.
#
# Versions: PyAV 18.1.0 (libavfilter 11.14, of FFmpeg 8), numpy 2.4.6; Python 3.11.
# Input: 20 ms of a tone; and 1.1 s of a tone of 150 Hz whose last 20 ms are one of 3 kHz, as the burst of a final "t".
#   Each goes through the filter at once, followed by the end of the stream. Below 0.5 two filters are chained.
# Expected: N / speed samples, within a few milliseconds, and the whole high tone in them.
# Seen: no output at all for the 20 ms. The slowed word lacks 33 ms at speed 0.5 and 100 ms at 0.25, and with them half
#   and three quarters of the high tone's energy. The filter drops what does not fill its last window, of which its
#   documents say nothing. With half a second of silence after the word, cut off again, the length is right, and two
#   thirds are there.
# Why it matters: a server that makes `speed` with this filter, sentence by sentence, slows words down for learners and
#   takes their last consonants; a filter for each chunk of one codec frame gives nothing. Use one graph for the whole
#   stream, pad it at its end, and count the samples.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet av==18.1.0 numpy==2.4.6
cat >try.py <<'PYTHON'
from fractions import Fraction

import av
import numpy as np

RATE = 24000


def changed(samples, filters):
    graph = av.filter.Graph()
    nodes = [graph.add_abuffer(format="flt", sample_rate=RATE, layout="mono", time_base=Fraction(1, RATE))]
    nodes += [graph.add("atempo", str(speed)) for speed in filters] + [graph.add("abuffersink")]
    for node, following in zip(nodes, nodes[1:]):
        node.link_to(following)
    graph.configure()
    frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
    graph.push(frame)
    graph.push(None)
    parts = [np.zeros(0, dtype=np.float32)]
    while True:
        try:
            parts.append(graph.pull().to_ndarray()[0])
        except (BlockingIOError, EOFError):
            return np.concatenate(parts)


def high_energy(samples):
    frequencies = np.fft.rfftfreq(len(samples), 1 / RATE)
    return (np.abs(np.fft.rfft(samples))[frequencies > 2000] ** 2).sum() / len(samples)


def tone(frequency, num_samples):
    return (0.3 * np.sin(2 * np.pi * frequency / RATE * np.arange(num_samples))).astype(np.float32)


short = tone(150, RATE // 50)
word = np.concatenate([tone(150, RATE * 108 // 100), tone(3000, RATE // 50)])
silence = np.zeros(RATE // 2, dtype=np.float32)
print(f"20 ms at speed 1.25: {len(changed(short, [1.25]))} samples")
for filters in ([0.5], [0.5, 0.5]):
    speed = np.prod(filters)
    num_samples = round(len(word) / speed)
    alone, padded = changed(word, filters), changed(np.concatenate([word, silence]), filters)[:num_samples]
    print(f"20 ms at speed {speed:g}: {len(changed(short, filters))} samples")
    for name, output in (("alone", alone), ("padded", padded)):
        missing, energy = num_samples - len(output), high_energy(output) * speed / high_energy(word)
        print(f"word at speed {speed:g}, {name}: {1000 * missing / RATE:.0f} ms missing; {energy:.0%} of the high tone")
PYTHON
env/bin/python try.py 2>messages | tee seen
diff seen - <<'SEEN'
20 ms at speed 1.25: 0 samples
20 ms at speed 0.5: 0 samples
word at speed 0.5, alone: 33 ms missing; 50% of the high tone
word at speed 0.5, padded: 0 ms missing; 68% of the high tone
20 ms at speed 0.25: 0 samples
word at speed 0.25, alone: 100 ms missing; 25% of the high tone
word at speed 0.25, padded: 0 ms missing; 61% of the high tone
SEEN
