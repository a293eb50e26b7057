#!/usr/bin/env bash
# Versions: transformers 5.24.0, torch 2.13.0, CPU.
#
# A Whisper is made from a config, as for training from scratch, and its generation config is given what word timestamps
# need: `alignment_heads`, the same field that OpenAI's checkpoints have. Then it is saved and loaded.
#
# Expected: the loaded generation config has the heads, as the saved file has them.
# Seen: they are in the file, and are gone after loading, without a warning; fields that transformers itself defines, such as
#   `max_length`, stay. A config that was made for a model is marked `_from_model_config`, the mark is saved, and what has
#   the mark is loaded without the fields that are not in transformers' own list. After `_from_model_config = False` they
#   stay.
#
# Why it matters for speech software: heads for word times, languages, tokens of tasks and other fields of speech models are
# such fields. A checkpoint that was trained from scratch loses them, and word timestamps fail only where it is used.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.24.0 2>/dev/null
"$folder/venv/bin/python" - "$folder" 2>/dev/null <<'PY' | tee "$folder/seen"
import json
import sys
from pathlib import Path

from transformers import WhisperConfig, WhisperForConditionalGeneration

small = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 60, "num_mel_bins": 8}
special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
layers = {"encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
for mark in (None, False):
    model = WhisperForConditionalGeneration(WhisperConfig(**small, **special, **layers))
    model.generation_config.alignment_heads = [[1, 0], [1, 1]]
    model.generation_config.max_length = 77
    if mark is not None:
        model.generation_config._from_model_config = mark
    folder = Path(sys.argv[1], str(mark))
    model.save_pretrained(folder)
    saved = json.loads((folder / "generation_config.json").read_text())
    loaded = WhisperForConditionalGeneration.from_pretrained(folder).generation_config
    print(f"mark in the file: {saved.get('_from_model_config')}")
    for name in ("max_length", "alignment_heads"):
        print(f"  {name}: saved {saved.get(name)}, loaded {getattr(loaded, name, None)}")
PY
diff "$folder/seen" - <<'SEEN'
mark in the file: True
  max_length: saved 77, loaded 77
  alignment_heads: saved [[1, 0], [1, 1]], loaded None
mark in the file: False
  max_length: saved 77, loaded 77
  alignment_heads: saved [[1, 0], [1, 1]], loaded [[1, 0], [1, 1]]
SEEN
