"""Checkpoints of every layout, for tests of several files."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from conftest import REFERENCE
from dia_hf import DiaConfig, DiaForConditionalGeneration
from dia_hf.conversion import convert_checkpoint
from dia_hf.conversion.nari import generation_config_for


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """One checkpoint of each layout and kind of file, by name."""
    pickled, sharded = tmp_path_factory.mktemp("pickled"), tmp_path_factory.mktemp("sharded")
    weights = load_file(REFERENCE / "nari-0626" / "model.safetensors")
    # As `torch.save(dict(model.named_parameters()))` does.
    torch.save({name: torch.nn.Parameter(tensor) for name, tensor in weights.items()}, pickled / "pytorch_model.bin")
    shutil.copy(REFERENCE / "nari-0626" / "config.json", pickled)
    convert_checkpoint(REFERENCE / "transformers-4.53", sharded, dtype="bfloat16", max_shard_size="300KB")
    return {
        "nari-0626": REFERENCE / "nari-0626" / "model.safetensors",
        "nari-0626 as .bin": pickled,
        "nari-v0.1": REFERENCE / "nari-v0.1" / "dia-v0_1.pth",
        "huggingface": REFERENCE / "transformers-4.53",
        "huggingface in shards of bfloat16": sharded,
    }


@pytest.fixture(scope="session")
def v0_1_config():
    """A v0.1 model in the proportions that TTS.cpp takes for granted, with rows for blocks of 32 and groups of 64."""
    heads = {"num_attention_heads": 4, "head_dim": 16, "hidden_size": 64, "intermediate_size": 96}
    return DiaConfig(
        encoder_config={**heads, "num_hidden_layers": 2, "num_key_value_heads": 4, "max_position_embeddings": 128},
        decoder_config={
            **heads,
            "num_hidden_layers": 3,
            "num_key_value_heads": 2,
            "cross_num_attention_heads": 4,
            "cross_num_key_value_heads": 4,
            "cross_head_dim": 16,
            "cross_hidden_size": 64,
            "cross_attention_rope": True,
            "max_position_embeddings": 256,
        },
    )


@pytest.fixture(scope="session")
def v0_1(tmp_path_factory, v0_1_config):
    """A checkpoint of such a model, of random weights, with a codec inside."""
    folder = tmp_path_factory.mktemp("v0_1")
    torch.manual_seed(0)
    model = DiaForConditionalGeneration(DiaConfig.from_dict(v0_1_config.to_dict()))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    model.generation_config = generation_config_for(v0_1_config)
    model.save_pretrained(folder)
    shutil.copytree(REFERENCE / "transformers-4.53" / "dac_44khz", folder / "audio_tokenizer")
    return folder
