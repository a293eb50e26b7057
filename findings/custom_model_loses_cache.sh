#!/usr/bin/env bash
# Versions: transformers 5.24.0 (released 2026-11-21) against 5.23.0, torch 2.13.0, CPU.
#
# A network of one's own (a PreTrainedModel with GenerationMixin) takes its cache as `past_key_values`, and further
# arguments as **kwargs, as transformers' own did until 5.23.
#
# Expected: generate() gives the same greedy tokens with and without a cache, as on 5.23; or it raises.
# Seen on 5.24: generate() hands the cache over as `cache`, which **kwargs swallows. Each step after the first sees
#   only its own token, and the tokens are others. The one sign is a log line about a deprecated name, printed for the
#   network's output; there is no warning that the cache was lost.
#
# Why it matters for speech software: speech models are often such networks outside the library. Their output turns from
# speech to noise with an upgrade that nothing in the metadata forbids, and no exception tells why.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/model.py" <<'PY'
import torch
import transformers
from torch import nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class Config(PreTrainedConfig):
    model_type = "one_layer"
    vocab_size: int = 40
    hidden_size: int = 32
    num_hidden_layers: int = 1
    num_attention_heads: int = 1
    num_key_value_heads: int = 1


class Model(PreTrainedModel, GenerationMixin):
    config_class = Config

    def __init__(self, config):
        super().__init__(config)
        self.embed, self.head = nn.Embedding(40, 32), nn.Linear(32, 40)
        self.key, self.value = nn.Linear(32, 32), nn.Linear(32, 32)
        self.post_init()

    def forward(self, input_ids, past_key_values=None, **kwargs):
        states = self.embed(input_ids)
        key, value = self.key(states)[:, None], self.value(states)[:, None]
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, 0)
        new, seen = states.shape[1], key.shape[2]
        mask = torch.ones(new, seen).tril(seen - new).bool()
        attended = nn.functional.scaled_dot_product_attention(states[:, None], key, value, attn_mask=mask)[:, 0]
        return CausalLMOutputWithPast(logits=self.head(states + attended), past_key_values=past_key_values)


torch.manual_seed(0)
model = Model(Config()).eval()
for parameter in model.parameters():
    nn.init.normal_(parameter, std=0.7)
prompt = torch.tensor([[3, 7, 9, 21]])
with_cache, without = (
    model.generate(prompt, max_new_tokens=10, do_sample=False, use_cache=use_cache, pad_token_id=0)[0, 4:].tolist()
    for use_cache in (True, False)
)
print(f"transformers {transformers.__version__}: tokens with and without a cache are the same: {with_cache == without}")
PY
for version in 5.23.0 5.24.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6 "transformers==$version" 2>/dev/null
    "$folder/$version/bin/python" "$folder/model.py" 2>/dev/null
done | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
transformers 5.23.0: tokens with and without a cache are the same: True
transformers 5.24.0: tokens with and without a cache are the same: False
SEEN
