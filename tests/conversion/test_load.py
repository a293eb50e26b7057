"""Loading of a checkpoint of any layout: the same model as by `convert_checkpoint` and `from_pretrained`."""

import json
import shutil
import weakref

import pytest
import torch

from conftest import REFERENCE
from dia_hf import MINIATURE, DiaForConditionalGeneration, DiaProcessor
from dia_hf.conversion import convert_checkpoint, load_checkpoint
from dia_hf.conversion import load as load_module
from dia_hf.conversion.weights import Weights
from nari_packs import Pack
from tiny import assert_same_model

DESCRIPT = REFERENCE / "descript-dac" / "weights.pth"


@pytest.mark.parametrize("dtype", [None, "float32", torch.bfloat16])
@pytest.mark.parametrize(
    "name",
    ["nari-0626", "nari-0626 as .bin", "nari-v0.1", "huggingface", "huggingface in shards of bfloat16"],
)
def test_loaded_as_if_converted(sources, tmp_path, name, dtype):
    """A loaded model lacked the generation config, the dtype or `eval()` of the converted one."""
    model, processor = load_checkpoint(sources[name], dtype=dtype, codec=DESCRIPT)
    told = None if dtype is None else str(dtype).removeprefix("torch.")
    convert_checkpoint(sources[name], tmp_path / "d", dtype=told, codec=DESCRIPT)
    assert_same_model(model, DiaForConditionalGeneration.from_pretrained(tmp_path / "d"))
    assert model.name_or_path == str(sources[name]), "PEFT writes this name into its adapters"
    assert not list(model.buffers()), "nothing that the weights do not fill"

    converted = DiaProcessor.from_pretrained(tmp_path / "d")
    text, wave = ["[S1] Hé! [S2] Oh."], torch.randn(2000, generator=torch.Generator().manual_seed(0))
    inputs = [p(text, wave, sampling_rate=44100) for p in (processor, converted)]
    assert inputs[0].keys() == inputs[1].keys()
    assert all(torch.equal(inputs[0][key], inputs[1][key]) for key in inputs[0])
    assert processor.feature_extractor.to_dict() == converted.feature_extractor.to_dict()
    assert processor.tokenizer.model_max_length == converted.tokenizer.model_max_length


@pytest.mark.parametrize("name", ["nari-0626", "nari-v0.1"])
def test_the_originals_own_numbers(sources, name):
    """Loading and converting made the same mistake, so their comparison passed."""
    pack, (model, _) = Pack(name), load_checkpoint(sources[name])
    pack.check_logits(model, "cond")
    pack.check_greedy(model, 0, with_prompt=True)


def test_a_loaded_model_can_be_saved(sources, tmp_path):
    """A model that was loaded from another layout could not be saved."""
    model, processor = load_checkpoint(sources["nari-v0.1"], codec=DESCRIPT)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert_same_model(DiaForConditionalGeneration.from_pretrained(tmp_path), model)
    assert DiaProcessor.from_pretrained(tmp_path).codec.num_codebooks == 9


def test_no_codec_unless_given(sources):
    """A codec was loaded or downloaded although only codes were requested."""
    for source in (sources["nari-0626"], MINIATURE):
        _, processor = load_checkpoint(source)
        assert processor.audio_tokenizer is None
        assert processor("[S1] Hi.")["input_ids"].shape == (1, 5)


def test_a_config_elsewhere(sources, tmp_path):
    """nari-labs' `from_local` takes two paths: the config beside the weights, of another model, was read instead."""
    weights, config = tmp_path / "weights" / "dia.pth", tmp_path / "settings" / "mine.json"
    weights.parent.mkdir()
    config.parent.mkdir()
    shutil.copy(sources["nari-v0.1"], weights)
    (weights.parent / "config.json").write_text("not to be read")
    shutil.copy(REFERENCE / "nari-v0.1" / "config.json", config)
    model, _ = load_checkpoint(weights, config)
    assert_same_model(model, load_checkpoint(sources["nari-v0.1"])[0])

    values = json.loads(config.read_text())
    values["model"]["decoder"]["n_layer"] = 4
    config.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"dia.pth: the tensor 'decoder.layers.3\S+ required by mine.json is missing"):
        load_checkpoint(weights, config)
    with pytest.raises(FileNotFoundError, match=r"no config at .*nowhere\.json"):
        load_checkpoint(weights, tmp_path / "nowhere.json")


def test_weights_are_in_memory_once(sources, monkeypatch):
    """A source, or a first copy, kept whole beside the model needs twice the memory."""
    read, make_tensor = Weights.read, load_module.make_tensor
    alive, most, made = [], [], set()

    def watched_read(self, name):
        tensor = read(self, name)
        alive[:] = [reference for reference in alive if reference() is not None] + [weakref.ref(tensor)]
        most.append(len(alive))
        return tensor

    def watched_make_tensor(*args):
        tensor = make_tensor(*args)
        made.add(tensor.data_ptr())
        return tensor

    monkeypatch.setattr(Weights, "read", watched_read)
    monkeypatch.setattr(load_module, "make_tensor", watched_make_tensor)
    for name, num_sources in (("nari-0626", 9), ("huggingface", 1)):
        most.clear()
        model, _ = load_checkpoint(sources[name])
        assert max(most) == num_sources, "the channels' embeddings make one tensor"
        assert {parameter.data_ptr() for parameter in model.parameters()} <= made
