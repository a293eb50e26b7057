#!/usr/bin/env bash
# safetensors writes other bytes each time: the entries of the metadata come in a random order.
#
# Versions: safetensors 0.8.0, numpy 2.4.6; Python 3.11.
# Input: one tensor and four entries of metadata, saved twenty times in one process; and the same with one entry.
# Expected: the same bytes, as the order of tensors is fixed by the format's writer (by dtype and name).
# Seen: more than ten different files of twenty. With one entry, or none, all are equal. The metadata is a hash map of
#   Rust, whose order is drawn anew for each map.
# Why it matters: voices, adapters and checkpoints with more than one entry ("format" and one of your own) have another
#   hash after each save. Caches by content, `--skip-existing` by checksum, reproducible builds and deduplicating stores
#   take them for changed. Compare tensors and metadata instead of files, or put everything into one entry, as JSON.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet safetensors==0.8.0 numpy==2.4.6
cat >try.py <<'PYTHON'
import numpy as np
from safetensors.numpy import save

codes = {"codes": np.arange(9, dtype=np.int16)}
four = {"codec": "dac", "format": "pt", "sampling_rate": "44100", "transcript": "[S1] Hello."}
for metadata in (four, {"format": "pt"}):
    number = len({save(codes, metadata=metadata) for _ in range(20)})
    print(f"{len(metadata)} entries: {'one file' if number == 1 else 'more than ten files' if number > 10 else number}")
PYTHON
env/bin/python try.py >seen
cat seen
diff - seen <<'SEEN'
4 entries: more than ten files
1 entries: one file
SEEN
