#!/usr/bin/env bash
# After soundfile's flush() a second of Opus is still unwritten, or two of Vorbis.
#
# Versions: soundfile 0.14.0 (libsndfile 1.2.2), PyAV 18.1.0, numpy 2.4.6; Python 3.11.
# Input: three seconds of a sweep at 48 kHz, written in chunks of 100 ms to a file object, with a flush() after each.
#   What the object has got so far is decoded by libav.
# Expected: all but what the codec itself holds back, less than 0.1 s: the documents of flush() promise that it makes
#   sure that all changes are actually written.
# Seen: so for wav, flac and mp3. An Ogg stream is written in pages, which for Opus are a second long, and for Vorbis as
#   long as it takes to fill them; flush() does not end the page. For the first second the file has headers only.
# Why it matters: it is the Opus encoder that Python programs for speech have anyway. A stream made with it begins a
#   second late and comes in bursts; a recording that is flushed for safety loses up to a second in a crash. Mux with
#   libav, and a page for each packet.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet soundfile==0.14.0 av==18.1.0 numpy==2.4.6
cat >try.py <<'PYTHON'
import io

import av
import numpy as np
import soundfile as sf

RATE, CHUNK = 48000, 4800


def num_decodable(content):
    num_samples = 0
    try:
        with av.open(io.BytesIO(content)) as container:
            for frame in container.decode(audio=0):
                num_samples += frame.samples
    except av.FFmpegError:  # the end of what is there
        pass
    return num_samples


sweep = (0.3 * np.sin(np.cumsum(np.linspace(0.01, 0.3, 3 * RATE)))).astype(np.float32)
for name, subtype in (
    ("WAV", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("MP3", "MPEG_LAYER_III"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
):
    content, missing = io.BytesIO(), []
    with sf.SoundFile(content, "w", RATE, 1, format=name, subtype=subtype) as sound:
        for end in range(CHUNK, len(sweep) + 1, CHUNK):
            sound.write(sweep[end - CHUNK : end])
            sound.flush()
            missing.append((end - num_decodable(content.getvalue())) / RATE)
    print(f"{name} {subtype}: at most {max(missing):.1f} s unwritten after a flush, {missing[0]:.2f} s after the first")
PYTHON
env/bin/python try.py 2>messages | tee seen
diff seen - <<'SEEN'
WAV PCM_16: at most 0.0 s unwritten after a flush, 0.00 s after the first
FLAC PCM_16: at most 0.1 s unwritten after a flush, 0.01 s after the first
MP3 MPEG_LAYER_III: at most 0.1 s unwritten after a flush, 0.05 s after the first
OGG VORBIS: at most 2.3 s unwritten after a flush, 0.10 s after the first
OGG OPUS: at most 1.0 s unwritten after a flush, 0.10 s after the first
SEEN
