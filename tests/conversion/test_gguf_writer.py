"""GGUF files of TTS.cpp, read by the `gguf` package alone."""

import shutil

import gguf
import pytest
import torch
from safetensors.torch import load_file
from transformers import DacModel

from conftest import REFERENCE
from dia_hf import MINIATURE, DiaConfig
from dia_hf.conversion import convert_checkpoint
from dia_hf.conversion.gguf_writer import check_tts_cpp, find_limits
from dia_hf.conversion.tts_cpp import codec_rules, tts_cpp_rules

LAYOUT = {"to": "gguf-tts.cpp", "verbose": False}
# As TTS.cpp's loader asks for them, with the values of the model in the fixture.
KEYS = {
    "dia.attn_head_size": 16,
    "dia.eos_token_id": 1024,
    "dia.bos_token_id": 1026,
    "dia.pad_token_id": 1025,
    "dia.max_delay": 15,
    "dia.cfg_scale": 3.0,
    "dia.encoder.max_context_length": 128,
    "dia.encoder.attn_heads": 4,
    "dia.encoder.layers": 2,
    "dia.decoder.hidden_size": 64,
    "dia.decoder.layers": 3,
    "dia.decoder.output_heads": 9,
    "dia.decoder.attn_heads": 4,
    "dia.decoder.query_heads": 2,
    "dia.decoder.output_vocab_size": 1028,
    "dia.decoder.audio_vocab_size": 1024,
    "dia.decoder.max_generation_size": 256,
    "dac.up_scaling_factor": 512,
    "dac.up_sampling_factor": 512,
    "dac.dac_layer_stride_0": 8,
    "dac.dac_layer_stride_3": 2,
    "dac.dac_layer_padding_0": 4,
    "dac.dac_layer_padding_3": 1,
    "audio.bos_token_id": 1026,
    "audio.eos_token_id": 1024,
}


def write(source, dest, **options):
    convert_checkpoint(source, dest, **LAYOUT, **options)
    return gguf.GGUFReader(dest / "model.gguf")


def values_of(tensor):
    """Return a tensor's values in torch's order."""
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    return torch.from_numpy(values.copy()).reshape(*(int(size) for size in tensor.shape[::-1]))


def test_keys(v0_1, tmp_path):
    """TTS.cpp takes its own default, without a word, for a key that is missing or of another type."""
    reader = write(v0_1, tmp_path / "made")
    assert reader.fields["general.architecture"].contents() == "dia"
    for key, value in KEYS.items():
        field = reader.fields[key]
        assert field.contents() == value, key
        assert field.types == [gguf.GGUFValueType.UINT32 if isinstance(value, int) else gguf.GGUFValueType.FLOAT32]


@pytest.mark.parametrize("source", ["huggingface", "nari-v0.1"])
def test_float32_is_exact(v0_1, v0_1_config, tmp_path, source):
    """A matrix was transposed or halved in another order, from one of the layouts that are read."""
    given = v0_1
    if source == "nari-v0.1":
        given = tmp_path / "theirs"
        convert_checkpoint(v0_1, given, to="nari-v0.1", verbose=False)
    reader = write(given, tmp_path / "made", codec=v0_1 / "audio_tokenizer")
    found = {tensor.name: tensor for tensor in reader.tensors}
    model, codec = load_file(v0_1 / "model.safetensors"), DacModel.from_pretrained(v0_1 / "audio_tokenizer")
    rules = [*tts_cpp_rules(v0_1_config), *codec_rules(codec.config)]
    assert set(found) == {name for rule in rules for name in rule.sources}
    for rule in rules:
        ours = rule.to_ours([values_of(found[name]) for name in rule.sources])
        assert torch.equal(ours, (model | codec.state_dict())[rule.name]), rule.name


@pytest.mark.parametrize(("options", "kind"), [({"dtype": "float16"}, "F16"), ({"bits": 8}, "Q8_0")])
def test_types(v0_1, tmp_path, options, kind):
    """Norms, heads or the codec were quantized, which TTS.cpp does not compute, or the large weights were not."""
    exact = {tensor.name: values_of(tensor) for tensor in write(v0_1, tmp_path / "exact").tensors}
    reader = write(v0_1, tmp_path / "made", **options)
    for tensor in reader.tensors:
        is_kept = tensor.name.endswith("norm") or tensor.name.startswith(("audio_encoder.", "dia.decoder.heads."))
        assert tensor.tensor_type.name == ("F32" if is_kept else kind), tensor.name
        wanted = exact[tensor.name]
        if is_kept:
            assert torch.equal(values_of(tensor), wanted)
        elif kind == "F16":
            assert torch.equal(values_of(tensor), wanted.half().float())
        else:  # half of a step of a block's 127, and the scale's own rounding to float16
            step = wanted.unflatten(-1, (-1, 32)).abs().amax(-1, keepdim=True) / 127
            error = (values_of(tensor) - wanted).unflatten(-1, (-1, 32)).abs()
            assert (error <= step * (0.5 + 127 * 2**-11) + 1e-7).all(), tensor.name
    assert (tmp_path / "made" / "model.gguf").stat().st_size < (tmp_path / "exact" / "model.gguf").stat().st_size


@pytest.mark.parametrize(("bits", "kind"), [(5, "Q5_0"), (4, "Q4_0")])
def test_fewer_bits(v0_1, tmp_path, bits, kind):
    """A number of bits was written as another type."""
    reader = write(v0_1, tmp_path / "made", bits=bits)
    assert {tensor.tensor_type.name for tensor in reader.tensors} == {kind, "F32"}
    assert reader.fields["general.file_type"].contents() == gguf.LlamaFileType[f"MOSTLY_{kind}"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": 6}, r"is 6; .* 8 \(Q8_0\), 5 \(Q5_0\) and 4 bits \(Q4_0\)"),
        ({"dtype": "bfloat16"}, "no bfloat16; .* float32 or float16"),
    ],
)
def test_types_that_do_not_exist(v0_1, tmp_path, options, words):
    """A type that no file of TTS.cpp has was replaced by another."""
    with pytest.raises(ValueError, match=words):
        write(v0_1, tmp_path / "made", **options)
    assert not list(tmp_path.iterdir())


def test_a_model_of_0626(tmp_path):
    """The model of 2025-06 was written for code that rotates its cross-attention: noise in the place of speech."""
    with pytest.raises(ValueError, match=r"cross_attention_rope` is false.*changes every logit"):
        write(MINIATURE, tmp_path / "made")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"delay_pattern": [0, 1, 2, 3, 4, 5, 6, 7, 8]}, "delay_pattern"),
        ({"decoder_config": {"norm_eps": 1e-6}}, "norm_eps"),
        ({"encoder_config": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}}, "rope_theta"),
        ({"encoder_config": {"num_key_value_heads": 2}}, "num_key_value_heads"),
        ({"decoder_config": {"cross_head_dim": 32}}, "widths"),
        ({"decoder_config": {"hidden_act": "gelu"}}, "hidden_act"),
    ],
)
def test_settings_that_are_fixed_in_tts_cpp(v0_1_config, change, word):
    """A setting that no key of the format holds was dropped, and the file computes another model."""
    codec = DacModel.from_pretrained(REFERENCE / "transformers-4.53" / "dac_44khz").config
    check_tts_cpp(v0_1_config, codec)
    values = v0_1_config.to_dict()
    for name, value in change.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    with pytest.raises(ValueError, match=word):
        check_tts_cpp(DiaConfig.from_dict(values), codec)


def test_sizes_that_are_fixed_in_tts_cpp(v0_1, v0_1_config, tmp_path):
    """TTS.cpp stops at a file of another width, and nothing had said so."""
    published = {"cross_attention_rope": True}
    assert find_limits(DiaConfig(decoder_config=published)) == []
    (limit,) = find_limits(v0_1_config)
    assert "64, and not 1024" in limit
    write(v0_1, tmp_path / "made")
    assert limit in (tmp_path / "made" / "README.md").read_text("utf-8")


def test_without_a_codec(v0_1, tmp_path):
    """A file without the codec's decoder was written, which TTS.cpp cannot open."""
    source = tmp_path / "source"
    shutil.copytree(v0_1, source)
    shutil.rmtree(source / "audio_tokenizer")
    with pytest.raises(ValueError, match="--codec"):
        write(source, tmp_path / "made")


def test_rows_that_are_no_multiple_of_a_block(v0_1_config, tmp_path):
    """A remainder of a row was dropped, or the error came in the middle of the file."""
    with pytest.raises(ValueError, match=r"rows of 24 values, and Q4_0 needs a multiple of 32"):
        write(odd_source(tmp_path), tmp_path / "made", bits=4)
    assert not (tmp_path / "made").exists()


def odd_source(tmp_path):
    """Return a checkpoint whose widths are 24, otherwise as TTS.cpp computes it."""
    from dia_hf import DiaForConditionalGeneration

    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "hidden_size": 24}
    cross = {"cross_num_attention_heads": 2, "cross_num_key_value_heads": 2, "cross_head_dim": 16}
    config = DiaConfig(
        encoder_config={**heads, "num_hidden_layers": 1, "intermediate_size": 32},
        decoder_config={
            **heads,
            **cross,
            "num_hidden_layers": 1,
            "intermediate_size": 32,
            "cross_hidden_size": 24,
            "cross_attention_rope": True,
        },
    )
    DiaForConditionalGeneration(config).save_pretrained(tmp_path / "odd")
    shutil.copytree(REFERENCE / "transformers-4.53" / "dac_44khz", tmp_path / "odd" / "audio_tokenizer")
    return tmp_path / "odd"


def test_a_full_disk(v0_1, tmp_path, monkeypatch):
    """The package's own writer reports "1024 requested and 0 written" in place of a full disk."""
    import errno

    from dia_hf.conversion import gguf_writer

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gguf_writer, "make_tensor", fail)
    with pytest.raises(OSError, match="the disk is full"):
        write(v0_1, tmp_path / "made")
    assert not list(tmp_path.iterdir())
