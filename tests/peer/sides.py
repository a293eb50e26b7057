"""The classes under test: transformers' own Dia (the control) or ours, by the environment variable DIA_PEER."""

import importlib
import os

from transformers import DacConfig, DacModel

SIDE = os.environ["DIA_PEER"]
_dia = importlib.import_module({"ours": "dia_hf", "theirs": "transformers"}[SIDE])
DiaConfig, DiaModel = _dia.DiaConfig, _dia.DiaModel
DiaFeatureExtractor, DiaTokenizer = _dia.DiaFeatureExtractor, _dia.DiaTokenizer
DiaForConditionalGeneration, DiaProcessor = _dia.DiaForConditionalGeneration, _dia.DiaProcessor

CHANNELS, CODES = 3, 40
EOS, PAD, BOS = CODES, CODES + 1, CODES + 2
DELAYS = [0, 2, 4]


def small_config(**decoder_fields) -> DiaConfig:
    """A model of two layers, as the common tests require, with its own codes."""
    heads = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "head_dim": 8}
    return DiaConfig(
        encoder_config={**heads, "num_key_value_heads": 4, "intermediate_size": 37, "max_position_embeddings": 64},
        decoder_config={
            **heads,
            "num_key_value_heads": 2,
            "intermediate_size": 37,
            "max_position_embeddings": 64,
            "cross_num_attention_heads": 4,
            "cross_num_key_value_heads": 4,
            "cross_head_dim": 8,
            "cross_hidden_size": 32,
            "vocab_size": CODES + 4,
            "num_channels": CHANNELS,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
            "bos_token_id": BOS,
            **decoder_fields,
        },
        delay_pattern=DELAYS,
    )


def small_codec() -> DacModel:
    """A codec of random weights with the published frame: 9 codebooks, 512 samples."""
    return DacModel(DacConfig(encoder_hidden_size=4, decoder_hidden_size=32, sampling_rate=44100)).eval()
