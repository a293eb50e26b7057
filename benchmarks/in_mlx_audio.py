"""Whether mlx-audio loads what `dia-hf convert --to mlx` writes, and computes the same logits.

    python3 -m venv ENV
    ENV/bin/pip install "mlx[cpu]" numpy scipy huggingface_hub tqdm tokenizers safetensors
    ENV/bin/pip install --no-deps mlx-audio
    python benchmarks/in_mlx_audio.py ENV/bin/python

The model is a small one of random weights. mlx-audio loads it by its own `load_model`, strictly, with an empty module
in the place of the codec, which it would download. Both compute the logits of the same codes, step by step, with the
text and without; this package with the weights that it reads back.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

STEPS = 24


def run(folder: Path) -> None:
    """Load a checkpoint with mlx-audio, and write the logits of its codes."""
    import mlx.core as mx
    import mlx.nn as nn
    import mlx_audio.tts.models.dia.dia as dia
    from mlx_audio.lm.models.cache import KVCache
    from mlx_audio.tts.utils import load_model

    class NoCodec(nn.Module):
        pass

    dia.DAC.from_pretrained = classmethod(lambda cls, name: NoCodec())
    loaded = load_model(folder)
    ids, codes = (mx.array(np.load(folder / f"{name}.npy")) for name in ("ids", "codes"))
    network, size = loaded.model, ids.shape[1]
    positions = mx.broadcast_to(mx.arange(size)[None], ids.shape)
    mask = mx.ones((2, 1, size, size), dtype=mx.bool_)
    encoded = network.encoder(x_ids=ids, src_positions=positions, deterministic=True, attn_mask=mask)
    cross = network.decoder.precompute_cross_attention_kv(encoded, positions)
    own = [KVCache() for _ in range(network.decoder.num_layers)]
    logits = [
        network.decoder.decode_step(
            mx.broadcast_to(codes[:, step : step + 1], (2, 1, 9)),
            mx.full((2, 1), step),
            encoded,
            None,
            mask[:, :, :1],
            own,
            cross,
        )[:, 0]
        for step in range(codes.shape[1])
    ]
    np.save(folder / "logits.npy", np.array(mx.stack(logits, axis=1).astype(mx.float32)))


def compare(python: str, source: Path, folder: Path, bits: int | None) -> dict:
    """Write a checkpoint, and compare the logits of both."""
    import torch

    from dia_hf.conversion import convert_checkpoint, load_checkpoint

    convert_checkpoint(source, folder, to="mlx", bits=bits, verbose=False)
    model, _ = load_checkpoint(folder)
    generator = torch.Generator().manual_seed(0)
    # mlx-audio takes 0 for padding; without the text, all are 0 under the same mask.
    ids = torch.randint(1, 200, (1, 20), generator=generator)
    ids = torch.cat([torch.zeros_like(ids), ids])
    codes = torch.randint(0, 1028, (1, STEPS, 9), generator=generator)
    np.save(folder / "ids.npy", ids.numpy().astype(np.int32))
    np.save(folder / "codes.npy", codes.numpy().astype(np.int32))
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([python, __file__, "--run", str(folder)], check=True, capture_output=True, env=own)
    theirs = np.load(folder / "logits.npy")
    with torch.no_grad():
        logits = model(ids, attention_mask=torch.ones_like(ids), decoder_input_ids=codes.expand(2, -1, -1)).logits
    ours = logits.unflatten(0, (2, 9)).transpose(1, 2).numpy()
    return {
        "bits": bits,
        "largest_logit": round(float(np.abs(ours).max()), 1),
        "largest_difference": float(np.abs(ours - theirs).max()),
    }


def main(python: str) -> None:
    """Print a line of JSON for each number of bits."""
    import torch

    from dia_hf import DiaConfig, DiaForConditionalGeneration

    heads = {"num_attention_heads": 4, "head_dim": 16, "hidden_size": 64, "intermediate_size": 96}
    config = DiaConfig(
        encoder_config={**heads, "num_hidden_layers": 2, "num_key_value_heads": 4},
        decoder_config={
            **heads,
            "num_hidden_layers": 3,
            "num_key_value_heads": 2,
            "cross_num_attention_heads": 4,
            "cross_num_key_value_heads": 4,
            "cross_head_dim": 16,
            "cross_hidden_size": 64,
            "cross_attention_rope": True,
        },
    )
    torch.manual_seed(0)
    model = DiaForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(Path(place) / "source")
        for bits in (None, 4, 6, 8):
            result = compare(python, Path(place) / "source", Path(place) / f"dia-{bits}", bits)
            print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1] == "--run":
        run(Path(sys.argv[2]))
    else:
        main(sys.argv[1])
