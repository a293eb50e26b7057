#!/usr/bin/env bash
# mlx-audio does not load a quantized Dia, such as mlx-community/Dia-1.6B-4bit.
#
# Versions: mlx-audio 0.6.2, mlx 0.32.4 (CPU), numpy 2.4.6; Python 3.11, Linux.
# Input: a small Dia of mlx-audio's own class, its embeddings quantized by mlx.nn.quantize (mlx-audio's other matrices of a
#   Dia have no quantized form), saved under the names and with the `quantization` of the published checkpoints. The
#   codec, which mlx-audio downloads, is replaced by an empty module.
# Expected: mlx_audio.tts.utils.load_model loads it, as it loads the same model unquantized.
# Seen: "Received 20 parameters not in model". The loader quantizes modules whose scales are in the file, and looks for
#   them by the path from the outer class, `model.encoder.embedding`, while the file, like the model's own parameters(),
#   names them without `model.`. So nothing is quantized, and scales and biases are left over. It loads where
#   `quantization` names each module by that path.
# Why it matters: the published quantized checkpoints cannot be loaded, and the same holds for any model class that hides
#   an inner module in parameters(). Whoever writes such checkpoints has to name every module.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet "mlx[cpu]==0.32.4" numpy==2.4.6 scipy huggingface_hub tqdm tokenizers safetensors
env/bin/pip install --quiet --no-deps mlx-audio==0.6.2
cat >try.py <<'PYTHON'
import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx_audio.tts.models.dia.dia as dia
from mlx.utils import tree_flatten
from mlx_audio.tts.utils import load_model


class NoCodec(nn.Module):
    pass


dia.DAC.from_pretrained = classmethod(lambda cls, name: NoCodec())
heads = {"n_layer": 1, "n_embd": 64, "n_hidden": 64}
config = {
    "model_type": "dia",
    "version": "0.1",
    "model": {
        "encoder": {**heads, "n_head": 2, "head_dim": 16},
        "decoder": {
            **heads,
            "gqa_query_heads": 2,
            "kv_heads": 2,
            "gqa_head_dim": 16,
            "cross_query_heads": 2,
            "cross_head_dim": 16,
        },
        "src_vocab_size": 256,
        "tgt_vocab_size": 1028,
    },
    "training": {},
    "data": {"text_length": 128, "audio_length": 128},
}


def attempt(kind, model, config):
    folder = Path(kind)
    folder.mkdir()
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    (folder / "config.json").write_text(json.dumps(config))
    try:
        loaded = load_model(folder)
        print(f"{kind}: loaded, its embedding is a {type(loaded.model.encoder.embedding).__name__}")
    except ValueError as error:
        print(f"{kind}: {str(error).splitlines()[0].strip()}")


model = dia.Model(config)
attempt("unquantized", model, config)
nn.quantize(model.model, group_size=64, bits=4, class_predicate=lambda path, module: isinstance(module, nn.Embedding))
quantization = {"group_size": 64, "bits": 4}
attempt("quantized", model, {**config, "quantization": quantization})
paths = ["encoder.embedding", *(f"decoder.embeddings.{channel}" for channel in range(9))]
named = quantization | {f"model.{path}": quantization for path in paths}
attempt("quantized, each module named", model, {**config, "quantization": named})
PYTHON
env/bin/python try.py 2>messages | tee seen
diff seen - <<'SEEN'
unquantized: loaded, its embedding is a Embedding
quantized: Received 20 parameters not in model:
quantized, each module named: loaded, its embedding is a QuantizedEmbedding
SEEN
