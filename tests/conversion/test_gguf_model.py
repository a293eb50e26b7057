"""GGUF files of TTS.cpp and CrispASR, written with `gguf`: the same model and codec as of nari-labs' files."""

import json

import numpy as np
import pytest
import torch
from transformers import DacModel

from dia_hf import Dia, DiaForConditionalGeneration, DiaProcessor
from dia_hf.audio.codec import as_codec
from dia_hf.audio.dac import DacDecoder
from dia_hf.conversion import convert_checkpoint, load_checkpoint
from dia_hf.conversion.checkpoint import load_codec
from dia_hf.conversion.gguf_model import load_gguf_codec
from nari_packs import Pack
from other_formats import (
    gguf_codec,
    gguf_keys,
    gguf_views,
    random_v0_1,
    write_crispasr,
    write_crispasr_codec,
    write_gguf,
    write_nari,
    write_tts_cpp,
)
from tiny import random_batch, random_codec


@pytest.fixture(scope="module")
def codec() -> DacModel:
    return random_codec()


@pytest.fixture(scope="module")
def model_file(tmp_path_factory, codec):
    """A file of TTS.cpp with its codec, quantized; and nari-labs' file of the same values."""
    folder = tmp_path_factory.mktemp("model")
    config, tensors = random_v0_1()
    held = write_tts_cpp(folder / "dia-q8_0.gguf", config, tensors, "Q8_0", codec)
    return folder / "dia-q8_0.gguf", write_nari(folder / "nari", config, held)


def logits_of(model):
    batch = random_batch(model.config)
    batch.pop("labels")
    with torch.no_grad():
        return model(**batch).logits


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q5_0", "Q4_0", "crispasr"])
def test_the_same_logits_as_of_nari_labs_files(tmp_path, kind):
    """Gate and up were exchanged, a matrix was transposed, or blocks were dequantized in another order."""
    config, tensors = random_v0_1()
    file = tmp_path / "dia.gguf"
    held = write_crispasr(file, config, tensors) if kind == "crispasr" else write_tts_cpp(file, config, tensors, kind)
    expected, _ = load_checkpoint(write_nari(tmp_path / "nari", config, held), dtype="float32")
    model, _ = load_checkpoint(file)
    assert torch.equal(logits_of(model), logits_of(expected))
    assert model.config.to_dict() == {**expected.config.to_dict(), "_name_or_path": model.config.name_or_path}
    assert model.generation_config.to_dict() == expected.generation_config.to_dict()
    error = max(((held[name] - tensors[name]).abs() / tensors[name].abs().max()).max() for name in tensors)
    half_steps = {"F32": 0, "F16": 2**-11, "BF16": 2**-8, "Q8_0": 1 / 254, "Q5_0": 1 / 16, "Q4_0": 1 / 8}
    # Relative to the largest value, with the rounding of a block's scale to float16.
    assert error <= half_steps.get(kind, 2**-11) + (kind[0] == "Q") * 2**-11
    given, _ = load_checkpoint(write_nari(tmp_path / "given", config, tensors))
    assert torch.equal(logits_of(model), logits_of(given)) == (kind == "F32")


def test_the_original_s_own_logits(tmp_path):
    """The file and nari-labs' own were read with the same mistake, and their comparison passed."""
    pack = Pack("nari-v0.1")
    tensors = torch.load(pack.folder / "dia-v0_1.pth", weights_only=True)
    write_tts_cpp(tmp_path / "dia.gguf", json.loads((pack.folder / "config.json").read_text()), tensors)
    model, _ = load_checkpoint(tmp_path / "dia.gguf")
    pack.check_logits(model, "cond")
    pack.check_greedy(model, 0, with_prompt=True)


def test_a_file_speaks_by_itself(model_file, codec):
    """A file with model and codec needed a config, a codec or the network."""
    dia = Dia.from_pretrained(model_file[0], device="cpu")
    expected = Dia.from_pretrained(model_file[1], device="cpu", load_dac=False)
    expected.processor.audio_tokenizer = codec
    options = {"seed": 3, "max_tokens": 40, "return_codes": True}
    (waveform, codes), (other, other_codes) = (x.generate("[S1] Hello.", **options) for x in (dia, expected))
    assert torch.equal(codes, other_codes)
    np.testing.assert_allclose(waveform, other, atol=1e-6)
    assert dia.sampling_rate == 44100 and isinstance(dia.dac_model, DacDecoder)


def test_voice_prompts_need_the_encoder(model_file, codec, tmp_path):
    """A prompt was encoded by random weights, or the error was about a missing attribute."""
    dia = Dia.from_pretrained(model_file[0], device="cpu")
    wave = (np.zeros(9000, dtype=np.float32), 44100)
    with pytest.raises(ValueError, match=r"can only decode.*`--codec`"):
        dia.generate("[S1] Hello. [S1] Yes.", audio_prompt=wave, max_tokens=60)
    codec.save_pretrained(tmp_path / "dac")
    whole = Dia.from_pretrained(model_file[0], device="cpu", codec=tmp_path / "dac")
    assert len(whole.generate("[S1] Hello. [S1] Yes.", audio_prompt=wave, seed=1, max_tokens=60))
    codes = torch.randint(0, 1024, (20, 9), generator=torch.Generator().manual_seed(0))
    assert len(dia.generate("[S1] Hello. [S1] Yes.", audio_prompt=codes, seed=1, max_tokens=60)), "codes need none"


def test_a_converted_file(model_file, codec, tmp_path):
    """The codec of a converted file was lost, or loaded with a random encoder; the card did not tell of either."""
    report = convert_checkpoint(model_file[0], tmp_path / "dest", dtype="bfloat16")
    assert "gguf-tts.cpp -> huggingface, bfloat16" in report
    model = DiaForConditionalGeneration.from_pretrained(tmp_path / "dest")
    expected, _ = load_checkpoint(model_file[1], dtype="bfloat16")
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), expected.parameters(), strict=True))
    processor = DiaProcessor.from_pretrained(tmp_path / "dest")
    codes = torch.randint(0, 1024, (20, 9))
    torch.testing.assert_close(processor.codec.decode([codes])[0], as_codec(codec).decode([codes])[0])
    with pytest.raises(ValueError, match="can only decode"):
        processor("[S1] Hello.", [np.zeros(9000, dtype=np.float32)], sampling_rate=44100)
    card = (tmp_path / "dest" / "README.md").read_text("utf-8")
    for words in ("dia-q8_0.gguf", "tensors Q8_0", "without its encoder", "first one (v0.1)"):
        assert words in card
    assert str(tmp_path) not in card


def test_a_codec_of_crispasr(codec, tmp_path):
    """A codec in a file of its own was refused, or had to be named although it lies beside the model."""
    config, tensors = random_v0_1()
    write_crispasr(tmp_path / "dia-1.6b-f16.gguf", config, tensors)
    write_crispasr_codec(tmp_path / "dac-44khz.gguf", codec)
    half = DacModel(codec.config).eval()
    half.load_state_dict(
        {name: tensor.half().float() if tensor.ndim > 1 else tensor for name, tensor in codec.state_dict().items()}
    )
    codes = torch.randint(0, 1024, (20, 9))
    expected = as_codec(half).decode([codes])[0]
    for source in (tmp_path, tmp_path / "dia-1.6b-f16.gguf"):
        dia = Dia.from_pretrained(source, device="cpu")
        assert torch.equal(dia.processor.codec.decode([codes])[0], expected)
    convert_checkpoint(tmp_path / "dac-44khz.gguf", tmp_path / "dac")
    assert torch.equal(as_codec(load_codec(tmp_path / "dac")).decode([codes])[0], expected)
    assert as_codec(load_codec(tmp_path / "dac")).fingerprint == as_codec(half).fingerprint
    with pytest.raises(ValueError, match=r"is a codec, not a Dia; give it as `codec`"):
        load_checkpoint(tmp_path / "dac-44khz.gguf")


def broken(kind: str, keys: dict, rows: list) -> str:
    """Damage a file's content, and return a part of the error."""
    names = [name for name, _, _ in rows]
    if kind == "missing key":
        del keys["dia.decoder.layers"]
        return "lacks 'dia.decoder.layers'"
    if kind == "key of another kind":
        keys["dia.decoder.layers"] = 2.0
        return "`dia.decoder.layers` is 2.0; expected a number above 0"
    if kind == "too many layers":
        keys["dia.decoder.layers"] = 3
        return r"dia.decoder.layers.2\S+ required by dia.gguf is missing"
    if kind == "a billion layers":
        keys["dia.decoder.layers"] = 10**9
        return "`num_hidden_layers` is 1000000000; it must be at most"
    if kind == "no heads":
        keys["dia.encoder.attn_heads"] = 0
        return "`dia.encoder.attn_heads` is 0"
    if kind == "huge heads":
        keys["dia.attn_head_size"] = 2**30
        return "dia.gguf"
    if kind == "another delay":
        keys["dia.max_delay"] = 16
        return "a largest delay of 16; no key tells the delays between"
    if kind == "missing tensor":
        del rows[names.index("dia.decoder.layers.1.cross_q_proj")]
        return "dia.decoder.layers.1.cross_q_proj' required by dia.gguf is missing"
    if kind == "missing tensor of the sizes":
        del rows[names.index("dia.encoder.norm")]
        return "lacks 'dia.encoder.norm'"
    if kind == "another shape":
        at = names.index("dia.decoder.layers.1.self_k_proj")
        rows[at] = (rows[at][0], rows[at][1][:32], "F32")
        return r"has the shape \[32, 64\], but dia.gguf requires \[64, 64\]"
    if kind == "an extra tensor":
        rows.append(("dia.decoder.bonus", torch.zeros(4), "F32"))
        return "1 tensors unknown to dia.gguf, such as 'dia.decoder.bonus'"
    rows[:] = [("blk.0.attn_q.weight", torch.zeros(4, 4), "F32")]
    return r"is not a Dia of TTS.cpp or CrispASR; its tensors are named blk.0"


KINDS = ["missing key", "key of another kind", "too many layers", "a billion layers", "no heads", "huge heads"]
KINDS += ["another delay", "missing tensor", "missing tensor of the sizes", "another shape", "an extra tensor", "other"]


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_contradict_themselves(tmp_path, kind):
    """A file without a tensor was loaded with random weights, or a huge number was allocated."""
    config, tensors = random_v0_1()
    write_tts_cpp(tmp_path / "whole.gguf", config, tensors)
    keys, rows = gguf_keys(config), [(name, matrix, "F32") for name, matrix in gguf_views(tensors)]
    message = broken(kind, keys, rows)
    write_gguf(tmp_path / "dia.gguf", "dia", keys, rows)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "dia.gguf")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("stride", "codec requires"),
        ("strides", "are not those of a codec"),
        ("missing", "of the codec is missing"),
        ("shape", "has the shape"),
    ],
)
def test_codecs_that_contradict_themselves(codec, tmp_path, kind, message):
    """A stride of two billion was allocated, or a layer of the codec was left random."""
    rows = [(name, tensor, "F32") for name, tensor in gguf_codec(codec)]
    keys = {f"dac.dac_layer_stride_{index}": stride for index, stride in enumerate(codec.config.upsampling_ratios)}
    if kind == "stride":
        keys["dac.dac_layer_stride_1"] = 2**30
    elif kind == "strides":
        keys = {}
    elif kind == "missing":
        rows = [row for row in rows if row[0] != "audio_encoder.decoder_block.3.final.alpha"]
    else:
        rows = [
            (name, tensor[..., :3] if name == "audio_encoder.initial.weight" else tensor, k) for name, tensor, k in rows
        ]
    write_gguf(tmp_path / "dac.gguf", "dac", keys, rows)
    with pytest.raises(ValueError, match=message):
        load_gguf_codec(tmp_path / "dac.gguf")


def test_a_config_beside_is_not_read(tmp_path, model_file):
    """The config.json of another model in the same folder was taken for the file's."""
    file = tmp_path / "dia.gguf"
    file.write_bytes(model_file[0].read_bytes())
    for name in ("config.json", "generation_config.json", "tokenizer_config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text("not to be read")
    load_checkpoint(file)
    with pytest.raises(ValueError, match=r"dia\.gguf holds its own config; leave out .*config\.json"):
        load_checkpoint(file, tmp_path / "config.json")
