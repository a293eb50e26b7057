"""Errors for missing checkpoints; the servers of these tests are local."""

import socket
import time

import pytest
from huggingface_hub import constants

from conftest import REFERENCE
from dia_hf import Dia, DiaForConditionalGeneration, DiaProcessor, hub
from dia_hf.conversion import convert_checkpoint
from dia_hf.hub import check_model
from other_formats import random_v0_1, write_nari, write_tts_cpp


@pytest.mark.parametrize("name", ["./a", "../a", "/a/b", "~/a", "a/b/c", "./a/b", "a b", "a\\b", ""])
def test_a_path_is_never_asked_of_the_hub(monkeypatch, name, tmp_path):
    """`./model` and `../model`, mistyped, were taken for Hub ids, with a wait for the network."""
    monkeypatch.setattr(hub, "_ask_hub", lambda: pytest.fail("it was asked"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for load in (hub.check_model, Dia.from_pretrained, DiaProcessor.from_pretrained):
        with pytest.raises(FileNotFoundError, match="there is no folder or file"):
            load(name)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint|no folder"):
        convert_checkpoint(name or "/nowhere", tmp_path / "dest")
    assert not (tmp_path / "dest").exists()


@pytest.mark.parametrize("kind", ["refuses", "is silent"])
def test_a_hub_that_cannot_be_reached(monkeypatch, kind):
    """Without a network, the error for a missing file took a minute."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if kind == "refuses":
            server.close()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        start = time.monotonic()
        with pytest.raises(OSError, match="the Hub cannot be reached at http://127") as caught:
            hub.check_model("no-such-owner/no-such-model")
    assert time.monotonic() - start < 4
    assert "\n" not in str(caught.value)


def test_offline(monkeypatch):
    """The error named a missing file instead of the network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="HF_HUB_OFFLINE"):
        Dia.from_pretrained("no-such-owner/no-such-model")


def test_a_codec_that_cannot_be_downloaded(tmp_path):
    """A converted checkpoint without a codec waited half a minute for the Hub, and the error named no codec."""
    report = convert_checkpoint(REFERENCE / "nari-0626", tmp_path / "dia")
    assert report.endswith(
        "It has no codec, and loads that of descript from the Hub; `codec` (`--codec`) puts one inside."
    )
    with pytest.raises(OSError, match=r"has no codec inside, and names 'descript/dac_44khz'.*`--codec`"):
        DiaProcessor.from_pretrained(tmp_path / "dia")


def test_what_is_there_is_taken(tmp_path, monkeypatch):
    """A local folder with the name of a Hub id was not used."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "model").mkdir(parents=True)
    hub.check_model("owner/model")
    assert hub.looks_like_path("owner/model") and not hub.looks_like_path("owner/other")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("config.json", "[" * 10**5, "nested too deeply"),
        ("audio_tokenizer/config.json", '{"a":' * 100 + "1" + "}" * 100, "nested too deeply"),
        ("generation_config.json", "[]", r"holds \[\]; expected an object"),
        ("generation_config.json", '{"max_length": "x"}', "the field `max_length` is 'x'; expected a whole number"),
        ("preprocessor_config.json", '{"padding_value": {}}', "the field `padding_value` is {}; expected a number"),
        ("processor_config.json", '{"feature_extractor": true}', "the field `feature_extractor` is True"),
    ],
)
def test_a_damaged_file_of_a_checkpoint(tmp_path, name, content, match):
    """Each reader of transformers raised an error of its own, which did not name the file."""
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(content)
    with pytest.raises(ValueError, match=match) as refused:
        check_model(tmp_path)
    assert str(file) in str(refused.value) and len(str(refused.value)) < 500


@pytest.mark.parametrize("kind", ["0626", "v0.1", "file", "gguf", "gguf file"])
@pytest.mark.parametrize("part", [DiaForConditionalGeneration, DiaProcessor])
def test_parts_of_another_layout(tmp_path, kind, part):
    """A folder of nari-labs was an error of mismatched tensors or of a missing codec, which named no way to load it."""
    config, tensors = random_v0_1()
    weights = write_nari(tmp_path / "nari", config, tensors)
    (tmp_path / "gguf").mkdir()
    write_tts_cpp(tmp_path / "gguf" / "dia.gguf", config, tensors)
    sources = {"0626": REFERENCE / "nari-0626", "v0.1": weights.parent, "file": weights, "gguf": tmp_path / "gguf"}
    source = sources.get(kind, tmp_path / "gguf" / "dia.gguf")
    with pytest.raises(
        ValueError, match=r"`Dia\.from_pretrained` or `dia_hf\.conversion\.load_checkpoint`, or convert it"
    ):
        part.from_pretrained(source)
    Dia.from_pretrained(source, device="cpu", load_dac=False)
