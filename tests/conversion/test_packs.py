"""Every published layout, converted by the script alone, computes the same as its original."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor, DacModel
from transformers.models.dia import DiaForConditionalGeneration as TheirModel

import tiny
from conftest import REFERENCE
from dia_hf import DiaForConditionalGeneration, DiaProcessor
from dia_hf.audio.dac import DacCodec
from dia_hf.conversion import convert_checkpoint
from nari_packs import Pack

ROOT = Path(__file__).parent.parent.parent
DESCRIPT = REFERENCE / "descript-dac" / "weights.pth"
PACKS = ["nari-0626", "nari-v0.1"]


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Convert both packs with the script, move the results, and return their folders."""
    places = {}
    for name in PACKS:
        folder = tmp_path_factory.mktemp(name)
        script = [sys.executable, str(ROOT / "scripts" / "convert_checkpoint.py")]
        source = REFERENCE / name
        if name == "nari-v0.1":
            source = source / "dia-v0_1.pth"
        subprocess.run([*script, str(source), str(folder / "made"), "--codec", str(DESCRIPT)], check=True)
        places[name] = shutil.move(folder / "made", folder / "moved")
    return places


@pytest.fixture(scope="module", params=PACKS)
def pack(request):
    return Pack(request.param)


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request, pack, converted):
    return DiaForConditionalGeneration.from_pretrained(converted[pack.name], attn_implementation=request.param)


@pytest.mark.parametrize("branch", ["cond", "uncond"])
def test_encoder_and_logits(pack, model, branch):
    """A transposed square matrix, or v0.1 read as 0626, gives plausible logits of another model."""
    pack.check_logits(model, branch)


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("with_prompt", [False, True])
@pytest.mark.parametrize("text", range(3))
def test_greedy_codes(pack, model, text, with_prompt, cache):
    """v0.1 samples from the guided logits and scales EOS: its converted config did not state it, or was ignored."""
    pack.check_greedy(model, text, with_prompt, cache_implementation=cache)


def test_a_batch_of_v0_1_gives_what_its_members_give_alone(converted):
    """With rotary cross-attention absolute positions matter: a left-padded row must count from its first token."""
    model = DiaForConditionalGeneration.from_pretrained(converted["nari-v0.1"])
    processor = AutoProcessor.from_pretrained(converted["nari-v0.1"])
    texts = ["[S1] Hello there, how are you?", "[S2] Yes."]
    wave = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    options = {"do_sample": False, "max_new_tokens": 50}
    inputs = processor(texts, [wave, None], sampling_rate=44100)
    together = processor.batch_decode(
        model.generate(**inputs, **options), processor.get_audio_prompt_len(inputs["decoder_attention_mask"])
    )
    for text, clip, expected in zip(texts, [wave, None], together, strict=True):
        alone = processor(text, None if clip is None else [clip], sampling_rate=44100)
        codes = model.generate(**alone, **options)
        waves = processor.batch_decode(codes, processor.get_audio_prompt_len(alone["decoder_attention_mask"]))
        assert torch.equal(waves[0], expected)


def test_the_codec_inside_is_descripts(converted):
    """The converted DAC weights, weight normalization folded in, encode or decode unlike descript's package."""
    codec = AutoProcessor.from_pretrained(converted["nari-0626"]).codec
    expected = load_file(REFERENCE / "descript-dac" / "expected.safetensors")
    for index in range(4):
        assert torch.equal(codec.encode([expected[f"wave_{index}"]])[0].T, expected[f"codes_{index}"])
        audio = codec.decode([expected[f"codes_{index}"].T])[0]
        torch.testing.assert_close(audio, expected[f"decoded_{index}"], rtol=0, atol=1e-4)


def test_descripts_file_by_itself(tmp_path):
    """A codec that was converted alone could not be loaded by `DacModel` and `--codec`."""
    script = [sys.executable, str(ROOT / "scripts" / "convert_checkpoint.py")]
    subprocess.run([*script, str(DESCRIPT), str(tmp_path / "dac")], check=True)
    codec = DacCodec(DacModel.from_pretrained(tmp_path / "dac"))
    expected = load_file(REFERENCE / "descript-dac" / "expected.safetensors")
    assert torch.equal(codec.encode([expected["wave_1"]])[0].T, expected["codes_1"])
    with pytest.raises(ValueError, match="leave out `--codec`"):
        convert_checkpoint(DESCRIPT, tmp_path / "x", codec=DESCRIPT)
    assert "descript -> DacModel" in convert_checkpoint(DESCRIPT, tmp_path / "x", dry_run=True)
    assert [path.name for path in tmp_path.iterdir()] == ["dac"]


def test_a_converted_checkpoint_is_complete(converted):
    """A converted folder that was moved needed the network or further options to generate."""
    for place in converted.values():
        processor = AutoProcessor.from_pretrained(place)
        model = DiaForConditionalGeneration.from_pretrained(place)
        codes = model.generate(**processor(["[S1] Hi."]), max_new_tokens=24)
        assert processor.batch_decode(codes)[0].ndim == 1
        assert processor.tokenizer.model_max_length == 256, "the source's own limit"


def test_settings_of_the_originals_generate(converted):
    """The original's defaults are in its code and not in its files; without them v0.1 is sampled like 0626."""
    settings = {
        name: json.loads((Path(place) / "generation_config.json").read_text()) for name, place in converted.items()
    }
    assert (settings["nari-0626"]["temperature"], settings["nari-0626"]["top_k"]) == (1.2, 45)
    assert (settings["nari-v0.1"]["temperature"], settings["nari-v0.1"]["top_k"]) == (1.3, 35)
    assert settings["nari-v0.1"]["sample_from_guided"] is True
    assert settings["nari-v0.1"]["eos_logit_scale"] == 0.8


def test_the_way_back_bit_for_bit(converted, tmp_path):
    """A tensor was rounded or lost in the conversion, which the way back shows."""
    convert_checkpoint(converted["nari-0626"], tmp_path / "back", to="nari-0626")
    original = load_file(REFERENCE / "nari-0626" / "model.safetensors")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == original.keys()
    assert all(back[name].dtype == original[name].dtype and torch.equal(back[name], original[name]) for name in back)
    configs = [
        json.loads((folder / "config.json").read_text()) for folder in (REFERENCE / "nari-0626", tmp_path / "back")
    ]
    assert configs[0].pop("transformers_version")
    assert configs[0] == configs[1]


def test_v0_1_has_no_way_to_0626(converted, tmp_path):
    """v0.1 written as 0626 would be read as another model."""
    with pytest.raises(ValueError, match=r"v0\.1 model"):
        convert_checkpoint(converted["nari-v0.1"], tmp_path / "back", to="nari-0626")
    assert not list(tmp_path.iterdir())


def test_transformers_own_dia_computes_the_same(converted, tmp_path):
    """transformers' own Dia could not read the converted files, or its files could not be converted."""
    ours = DiaForConditionalGeneration.from_pretrained(converted["nari-0626"])
    batch = tiny.random_batch(ours.config)
    expected = ours(**batch).logits
    theirs = TheirModel.from_pretrained(converted["nari-0626"])
    torch.testing.assert_close(theirs(**batch).logits, expected, rtol=1e-4, atol=1e-4)
    theirs.save_pretrained(tmp_path / "theirs")
    convert_checkpoint(tmp_path / "theirs", tmp_path / "again", codec=DESCRIPT)
    again = DiaForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert torch.equal(again(**batch).logits, expected)
    assert again.generation_config.top_k == 45


def test_a_published_checkpoint_becomes_self_contained(tmp_path):
    """The Hugging Face layout, in half precision and in shards, could not be completed by its codec."""
    source = REFERENCE / "transformers-4.53"
    convert_checkpoint(source, tmp_path / "d", codec=source / "dac_44khz", dtype="bfloat16", max_shard_size="300KB")
    assert len(list((tmp_path / "d").glob("model-*-of-*.safetensors"))) > 2
    model = DiaForConditionalGeneration.from_pretrained(tmp_path / "d")
    assert model.dtype == torch.bfloat16
    original = DiaForConditionalGeneration.from_pretrained(source, dtype=torch.bfloat16)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), original.parameters(), strict=True))
    assert DiaProcessor.from_pretrained(tmp_path / "d").codec.num_codebooks == 9
    # and once more, from the shards, with its codec
    convert_checkpoint(tmp_path / "d", tmp_path / "e")
    assert DiaProcessor.from_pretrained(tmp_path / "e").codec.num_codebooks == 9


def test_saving_v0_1_warns(converted, tmp_path, caplog):
    """transformers' own Dia reads a v0.1 file without an error, as another model."""
    import logging

    model = DiaForConditionalGeneration.from_pretrained(converted["nari-v0.1"])
    from transformers.utils import logging as their_logging

    their_logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        model.save_pretrained(tmp_path)
    their_logging.disable_propagation()
    assert "v0.1 model" in caplog.text


def test_the_model_card(converted):
    """A converted folder did not state its source and how it was converted."""
    cards = {name: (Path(place) / "README.md").read_text("utf-8") for name, place in converted.items()}
    for name, card in cards.items():
        assert f"| layout of the source | {name} |" in card
        assert "| dtype | float32 |" in card
        assert "SHA-256" in card
        assert "DiaForConditionalGeneration.from_pretrained" in card
    assert "v0.1 model" in cards["nari-v0.1"]
    assert "v0.1 model" not in cards["nari-0626"]
