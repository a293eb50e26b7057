#!/usr/bin/env bash
# Versions: transformers 5.23.0 against 5.24.0 (where it is mended), torch 2.13.0, CPU.
#
# A model is in training mode with gradient checkpointing on, and generate() is called, as a callback does that wants to
# hear or read how training goes. The model has no dropout, so the mode should change nothing; generate() runs without
# gradients, so nothing is checkpointed.
#
# Expected: the same greedy tokens as with checkpointing off.
# Seen on 5.23: other tokens. Each layer sets its cache to None whenever the model trains with checkpointing, gradients
#   or not, while generate() goes on passing the last token alone. It logs that it leaves the cache out, once, and not
#   that what comes is wrong. 5.24 asks whether gradients are on, and gives the same tokens.
#
# Why it matters for speech software: samples are rendered every few hundred steps to judge a fine-tune by ear, and
# checkpointing is on to make long audio fit. The samples are noise while the model is fine.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/model.py" <<'PY'
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, initializer_range=0.5)).train()
model.generation_config.eos_token_id = None
prompt, options = torch.tensor([[3, 7, 9]]), {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
before = model.generate(prompt, **options)
model.gradient_checkpointing_enable()
same = torch.equal(before, model.generate(prompt, **options))
print(f"transformers {transformers.__version__}: the same tokens with checkpointing: {same}")
PY
for version in 5.23.0 5.24.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6 "transformers==$version" 2>/dev/null
    "$folder/$version/bin/python" "$folder/model.py" 2>/dev/null
done | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
transformers 5.23.0: the same tokens with checkpointing: False
transformers 5.24.0: the same tokens with checkpointing: True
SEEN
