"""Table of TTS.cpp's names."""

import math

import torch
from transformers import DacConfig, DacModel

from conftest import REFERENCE
from dia_hf import DiaConfig, DiaForConditionalGeneration
from dia_hf.conversion.tts_cpp import codec_rules, tts_cpp_rules

# As TTS.cpp's loader asks for them, of a published file.
SHAPES = {
    "dia.encoder.embedding": (256, 1024),
    "dia.encoder.norm": (1024,),
    "dia.encoder.layers.11.q_proj": (2048, 1024),
    "dia.encoder.layers.11.o_proj": (1024, 2048),
    "dia.encoder.layers.11.post_sa_norm": (1024,),
    "dia.encoder.layers.11.gate": (4096, 1024),
    "dia.encoder.layers.11.wo": (1024, 4096),
    "dia.decoder.embeddings.8": (1028, 2048),
    "dia.decoder.heads.8": (1028, 2048),
    "dia.decoder.norm": (2048,),
    "dia.decoder.layers.17.self_k_proj": (512, 2048),
    "dia.decoder.layers.17.cross_k_proj": (2048, 1024),
    "dia.decoder.layers.17.pre_ca_norm": (2048,),
    "dia.decoder.layers.17.up": (8192, 2048),
    "dia.decoder.layers.17.wo": (2048, 8192),
}


def test_names_and_shapes_of_the_published_size():
    """TTS.cpp aborts at a name that it does not know, and leaves a tensor that it does not find uninitialized."""
    config = DiaConfig()
    theirs = {name: rule.shape for rule in tts_cpp_rules(config) for name in rule.sources}
    assert {name: theirs[name] for name in SHAPES} == SHAPES
    assert len(theirs) == 2 + 12 * 9 + 2 * 9 + 1 + 18 * 14
    with torch.device("meta"):
        model = DiaForConditionalGeneration(config)
    assert {rule.name: rule.our_shape for rule in tts_cpp_rules(config)} == {
        name: tuple(parameter.shape) for name, parameter in model.named_parameters()
    }
    assert sum(map(math.prod, theirs.values())) == model.num_parameters()


def test_gate_and_up_are_the_halves_of_the_fused_projection():
    """Gate and up projection were exchanged: the model computes something else, without any error."""
    config = DiaConfig.from_pretrained(REFERENCE / "transformers-4.53")
    (rule,) = (rule for rule in tts_cpp_rules(config) if rule.name.endswith("decoder.layers.1.mlp.gate_up_proj.weight"))
    fused = torch.randn(rule.our_shape)
    gate, up = rule.to_theirs(fused)
    assert rule.sources == ("dia.decoder.layers.1.gate", "dia.decoder.layers.1.up")
    assert torch.equal(torch.cat([gate, up]), fused)
    assert torch.equal(rule.to_ours([gate, up]), fused)


def test_the_codec_s_decoder_is_complete():
    """A layer of the codec was left out, or named as another."""
    config = DacConfig()
    with torch.device("meta"):
        state = DacModel(config).state_dict()
    rules = codec_rules(config)
    wanted = {name for name in state if not name.startswith("encoder.") and ".in_proj." not in name}
    assert {rule.name for rule in rules} == wanted
    theirs = {rule.sources[0]: rule.shape for rule in rules}
    assert len(theirs) == len(rules)
    assert theirs["audio_encoder.initial.weight"] == (1536, 1024, 7)
    assert theirs["audio_encoder.decoder_block.4.final.weight"] == (192, 96, 4)
    assert theirs["audio_encoder.decoder_block.4.residual_unit.2.res.final.weight"] == (96, 96, 1)
    assert theirs["audio_encoder.final.alpha"] == (1, 96, 1)
    assert theirs["audio_encoder.quantizer.quantizers.8.codebook.weight"] == (1024, 8)
    assert theirs["audio_encoder.quantizer.quantizers.8.out_proj.weight"] == (1024, 8, 1)
