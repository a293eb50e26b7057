#!/usr/bin/env bash
# An mp3 or ogg that is written to a file object reports success although the object's write() raised an error.
#
# Versions: soundfile 0.14.0 (libsndfile 1.2.2), numpy 2.4.6; Python 3.11.
# Input: 10 s of a tone, and a file object (io.BytesIO) whose write() raises OSError ENOSPC from its fourth call on, as an
#   upload or a full disk does.
# Expected: sf.write raises, in every format: the audio was not written.
# Seen: cffi prints "Exception ignored from cffi callback" and goes on. For wav and flac sf.write then raises an
#   AssertionError without a text; for mp3 and ogg it returns as if all had been written, and a few hundred bytes are there.
#   KeyboardInterrupt is dropped in the same way: a program that is interrupted while it encodes goes on with a cut file.
# Why it matters: speech services encode mp3 and ogg to memory or to a socket; errors and Control-C in these calls lose
#   audio without a trace. Encode to memory, hold signals back meanwhile, and write the finished bytes yourself.
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


class Full(io.BytesIO):
    num_writes = 0

    def write(self, content):
        self.num_writes += 1
        if self.num_writes > 3:
            raise OSError(28, "No space left on device")
        return super().write(content)


tone = (0.3 * np.sin(0.05 * np.arange(441000))).astype(np.float32)
for name in ("WAV", "FLAC", "MP3", "OGG"):
    file, whole = Full(), io.BytesIO()
    sf.write(whole, tone, 44100, format=name)
    try:
        sf.write(file, tone, 44100, format=name)
        outcome = "no error"
    except Exception as error:
        outcome = f"{type(error).__name__}({error})"
    written = "all" if file.getvalue() == whole.getvalue() else "not all"
    print(f"{name}: {outcome}, {written} of the file written")
PYTHON
env/bin/python try.py 2>messages | tee seen
grep -c "Exception ignored from cffi callback" messages >count
diff seen - <<'SEEN'
WAV: AssertionError(), not all of the file written
FLAC: AssertionError(), not all of the file written
MP3: no error, not all of the file written
OGG: no error, not all of the file written
SEEN
test "$(cat count)" -gt 0
