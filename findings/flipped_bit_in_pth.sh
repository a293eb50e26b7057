#!/usr/bin/env bash
# Version: torch 2.13.0, CPU.
#
# torch.save writes a zip archive, and a zip archive holds a CRC-32 of each of its members. One bit of a tensor's bytes
# is changed, as a bad disk or an interrupted copy does it.
#
# Expected: torch.load refuses the file, as any other reader of zip archives does.
# Seen: torch.load returns the changed weights without a word, mapped into memory or not; zipfile.testzip names the
#   damaged member.
#
# Why it matters for speech software: descript's codec, nari-labs' first Dia, and the optimizer's state of a training run
# are .pth files of gigabytes. A changed exponent is a click, noise, or a run that goes wrong hours later.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/flip.py" <<'PY'
import pathlib
import sys
import zipfile

import torch

file = pathlib.Path(sys.argv[1], "weights.pth")
weights = torch.ones(1000)
torch.save({"weight": weights}, file)
content = bytearray(file.read_bytes())
place = content.find(weights.numpy().tobytes())
content[place + 4 * 500 + 3] ^= 0b00000100  # of the exponent: 1.0 becomes 2**-8
file.write_bytes(content)
for mmap in (False, True):
    loaded = torch.load(file, weights_only=True, mmap=mmap)["weight"]
    print(f"torch.load(mmap={mmap}): {loaded[499].item()}, {loaded[500].item()}, {loaded[501].item()}")
print("zipfile:", zipfile.ZipFile(file).testzip())
PY
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6 2>/dev/null
"$folder/env/bin/python" "$folder/flip.py" "$folder" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
torch.load(mmap=False): 1.0, 0.00390625, 1.0
torch.load(mmap=True): 1.0, 0.00390625, 1.0
zipfile: weights/data/0
SEEN
