"""Whether TTS.cpp computes what a checkpoint computes that was written for it: logits of each step, and samples.

    benchmarks/tts_cpp/build.sh FOLDER
    python benchmarks/tts_cpp.py FOLDER

The model is a small one of random weights, in the proportions that TTS.cpp takes for granted. TTS.cpp generates
greedily, and this package computes the logits for the tokens that TTS.cpp fed to itself, with the weights that are read
back from the GGUF file: what remains is how both compute.

Two things that TTS.cpp does otherwise are kept out. It feeds channel c from step c + 1 on, whatever the delay pattern;
so its own inputs are compared, not whole generations. And its cross-attention attends to the padding behind a text; so
the text is as long as the model's longest.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch
from transformers import DacConfig, DacModel

from dia_hf import DiaConfig, DiaForConditionalGeneration
from dia_hf.audio.codec import as_codec
from dia_hf.conversion import convert_checkpoint, load_checkpoint
from dia_hf.conversion.nari import generation_config_for

TEXT = "[S1] One two three four five six seven eight nine ten. [S2] Yes."
NUM_BYTES = len(TEXT) - 2 * len("S1]")
STEPS, DELAYS = 80, [0, 8, 9, 10, 11, 12, 13, 14, 15]
TYPES = {"F32": {}, "F16": {"dtype": "float16"}, "Q8_0": {"bits": 8}, "Q5_0": {"bits": 5}, "Q4_0": {"bits": 4}}


def make_checkpoint(folder: Path) -> None:
    """Write a small v0.1 model and codec with random weights; their scale keeps distances between the best logits."""
    heads = {"num_attention_heads": 4, "head_dim": 16, "intermediate_size": 96}
    config = DiaConfig(
        encoder_config={
            **heads,
            "hidden_size": 1024,
            "num_hidden_layers": 2,
            "num_key_value_heads": 4,
            "max_position_embeddings": NUM_BYTES,
        },
        decoder_config={
            **heads,
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "num_key_value_heads": 2,
            "cross_num_attention_heads": 4,
            "cross_num_key_value_heads": 4,
            "cross_head_dim": 16,
            "cross_hidden_size": 1024,
            "cross_attention_rope": True,
            "max_position_embeddings": 256,
        },
    )
    torch.manual_seed(0)
    model = DiaForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if "norm" in name:
                parameter.copy_(1 + 0.1 * noise)
            else:
                parameter.copy_(noise * (0.3 if "embed" in name else parameter.shape[-1] ** -0.5))
    model.generation_config = generation_config_for(config)
    model.save_pretrained(folder)
    codec = DacModel(DacConfig(sampling_rate=44100, encoder_hidden_size=4, decoder_hidden_size=48))
    codec.save_pretrained(folder / "audio_tokenizer")


def compare(program: Path, source: Path, folder: Path, options: dict) -> dict:
    """Write a GGUF file, let TTS.cpp speak, and compare its logits and samples."""
    convert_checkpoint(source, folder, to="gguf-tts.cpp", verbose=False, **options)
    dump, sound = folder / "dump", folder / "sound.wav"
    command = [program, "--model-path", folder / "model.gguf", "--prompt", TEXT, "--save-path", sound]
    command += ["--topk", "1", "--max-tokens", str(STEPS), "--n-threads", "2"]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "DIA_DUMP": str(dump)})

    tokens = np.fromfile(f"{dump}.tokens", dtype=np.uint32).reshape(-1, 9).astype(np.int64)
    theirs = np.fromfile(dump, dtype=np.float32).reshape(-1, 9, 1028)
    inputs = np.full_like(tokens, 1026)
    for step in range(1, len(tokens)):
        inputs[step, :step] = tokens[step - 1, :step]
    model, processor = load_checkpoint(folder, dtype="float32")
    ids = processor(TEXT)["input_ids"]
    options = {"attention_mask": torch.ones_like(ids), "decoder_input_ids": torch.from_numpy(inputs)[None]}
    with torch.no_grad():
        cond, uncond = (model(text, **options).logits for text in (ids, torch.zeros_like(ids)))
    ours = (cond + 3 * (cond - uncond)).unflatten(0, (1, 9))[0].transpose(0, 1).numpy()
    # After an end of speech, and near the limit, it puts ends and padding into its inputs.
    ends = np.flatnonzero(tokens[:, 0] == 1024)
    number = min([STEPS - max(DELAYS) - 1, *(ends[:1] + 1)])
    ours, theirs, chosen = ours[:number], theirs[:number], tokens[:number]

    frames = np.stack([tokens[delay : len(tokens) - max(DELAYS) + delay, c] for c, delay in enumerate(DELAYS)], axis=1)
    frames = frames[(frames < 1024).all(1)]
    waveform = as_codec(DacModel.from_pretrained(source / "audio_tokenizer")).decode([torch.from_numpy(frames)])[0]
    samples, _ = soundfile.read(sound, dtype="float32")
    return {
        "steps": int(number),
        "largest_logit": round(float(np.abs(ours).max()), 1),
        "largest_difference": float(np.abs(ours - theirs).max()),
        "relative_rms": float(np.sqrt(((ours - theirs) ** 2).mean() / (ours**2).mean())),
        "same_choice": round(float((ours.argmax(-1) == chosen).mean()), 4),
        "samples": len(samples),
        "sample_steps_apart": round(float(np.abs(waveform.numpy() - samples).max()) * 32768, 2)
        if len(samples) == len(waveform)
        else None,
    }


def main(folder: str) -> None:
    """Print a line of JSON for each type."""
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "source"
        make_checkpoint(source)
        for kind, options in TYPES.items():
            result = compare(Path(folder) / "tts-cli", source, Path(place) / kind, options)
            print(json.dumps({"type": kind, **result}))


if __name__ == "__main__":
    main(sys.argv[1])
