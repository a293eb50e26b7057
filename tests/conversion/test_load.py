"""A checkpoint of any layout, straight into a model: what `convert_checkpoint` and `from_pretrained` give together."""

import json
import shutil
import weakref
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import REFERENCE
from dia_hf import MINIATURE, Dia, DiaForConditionalGeneration, DiaProcessor
from dia_hf.conversion import checkpoint as checkpoint_module
from dia_hf.conversion import convert_checkpoint, load_checkpoint, load_descript_codec
from dia_hf.conversion import load as load_module
from dia_hf.conversion import weights as weights_module
from dia_hf.conversion.weights import Weights
from nari_packs import Pack

DESCRIPT = REFERENCE / "descript-dac" / "weights.pth"


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


def assert_same_model(loaded, expected):
    assert list(loaded.state_dict()) == list(expected.state_dict())
    for (name, ours), theirs in zip(loaded.state_dict().items(), expected.state_dict().values(), strict=True):
        assert ours.dtype == theirs.dtype, name
        assert torch.equal(ours, theirs), name
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in loaded.parameters())
    configs = [model.config.to_dict() for model in (loaded, expected)]
    assert [config.pop("_name_or_path") for config in configs] == [loaded.name_or_path, expected.name_or_path]
    assert configs[0] == configs[1]
    assert loaded.generation_config.to_dict() == expected.generation_config.to_dict()
    assert loaded.training == expected.training


@pytest.mark.parametrize("dtype", [None, "float32", torch.bfloat16])
@pytest.mark.parametrize(
    "name",
    ["nari-0626", "nari-0626 as .bin", "nari-v0.1", "huggingface", "huggingface in shards of bfloat16"],
)
def test_loaded_as_if_converted(sources, tmp_path, name, dtype):
    """Two ways to one model, of which one forgets the generation config, the dtype or `eval()`."""
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
    """Loading and converting could agree on the same mistake."""
    pack, (model, _) = Pack(name), load_checkpoint(sources[name])
    pack.check_logits(model, "cond")
    pack.check_greedy(model, 0, with_prompt=True)


def test_a_loaded_model_can_be_saved(sources, tmp_path):
    """A model that is not from a folder of its own must still become one."""
    model, processor = load_checkpoint(sources["nari-v0.1"], codec=DESCRIPT)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert_same_model(DiaForConditionalGeneration.from_pretrained(tmp_path), model)
    assert DiaProcessor.from_pretrained(tmp_path).codec.num_codebooks == 9


def test_no_codec_unless_given(sources):
    """Whoever wants codes only should wait for no codec, and download none."""
    for source in (sources["nari-0626"], MINIATURE):
        _, processor = load_checkpoint(source)
        assert processor.audio_tokenizer is None
        assert processor("[S1] Hi.")["input_ids"].shape == (1, 5)


def test_a_config_elsewhere(sources, tmp_path):
    """nari-labs' `from_local` takes two paths: the config beside the weights, another model's, was read instead."""
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


def test_a_pickle_is_mapped_now_and_then(sources, monkeypatch):
    """Mapped once, it counts whole beside the model; mapped for each tensor, a codec took 6 seconds to load."""
    mapped, load_state_dict = [], weights_module._load_state_dict

    def watched(file):
        mapped.append(file)
        return load_state_dict(file)

    monkeypatch.setattr(weights_module, "_load_state_dict", watched)
    expected, _ = load_checkpoint(sources["nari-v0.1"])
    assert len(mapped) == 2, "to list it, and to read it"
    monkeypatch.setattr(weights_module, "_BYTES_PER_MAPPING", 500_000)
    model, _ = load_checkpoint(sources["nari-v0.1"])
    assert len(mapped) == 2 + 1 + 3, "to list it, and for each half megabyte of 2 MB, rounded up to whole tensors"
    assert_same_model(model, expected)


def test_unknown_dtype(sources):
    """An integer dtype would have emptied the weights."""
    for dtype in ("int8", torch.int64, "auto"):
        with pytest.raises(ValueError, match=r"`dtype` is .*use one of float32, bfloat16, float16"):
            load_checkpoint(sources["nari-0626"], dtype=dtype)


def test_a_mistyped_weight_file_is_not_looked_up(monkeypatch):
    """`weights/dia.pth` has the form of a name on the Hub; the error spoke of repositories and passwords."""
    monkeypatch.setattr(checkpoint_module, "snapshot_download", lambda *args, **kwargs: pytest.fail("looked up"))
    for path in ("weights/dia-v0_1.pth", "weights/model.safetensors", "nowhere"):
        with pytest.raises(FileNotFoundError, match=f"there is no checkpoint at '{path}'"):
            load_checkpoint(path)


WRAPPED = {
    "model": lambda state: {"model": state, "optimizer": {}, "epoch": 1},
    "model_state_dict": lambda state: {"model_state_dict": state},
    "compiled": lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
    "parallel": lambda state: {"state_dict": {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}},
}


@pytest.mark.parametrize("how", [*WRAPPED, "compiled safetensors"])
def test_what_training_scripts_save(tmp_path, how):
    """Weights under `model`, or behind the prefixes of `torch.compile` and `DataParallel`, were none of a Dia."""
    state = torch.load(REFERENCE / "nari-v0.1" / "dia-v0_1.pth", weights_only=True)
    if how == "compiled safetensors":
        file = tmp_path / "model.safetensors"
        save_file(WRAPPED["compiled"](state), file)
    else:
        file = tmp_path / "model.pth"
        torch.save(WRAPPED[how](state), file)
    config = REFERENCE / "nari-v0.1" / "config.json"
    expected = load_checkpoint(REFERENCE / "nari-v0.1" / "dia-v0_1.pth", config)[0].state_dict()
    loaded = load_checkpoint(file, config)[0].state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("tensor", "word"),
    [
        (torch.zeros(3, 3).to_sparse(), "sparse"),
        (torch.zeros(3, dtype=torch.complex64), "complex"),
        (torch.zeros(3, device="meta"), "meta"),
    ],
)
def test_tensors_that_are_no_weights(tmp_path, tensor, word):
    """Sparse, complex and empty tensors failed inside torch, or lost their imaginary part without a word."""
    torch.save({"decoder.norm.weight": tensor}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=rf"model\.pth: 'decoder\.norm\.weight' is not a dense tensor .*{word}"):
        Weights([tmp_path / "model.pth"])


def test_a_tensor_given_twice(tmp_path):
    """The later one would win."""
    torch.save({"a": torch.zeros(1), "module.a": torch.ones(1)}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"contains 'a' twice, once as 'module\.a'"):
        Weights([tmp_path / "model.pth"])


@pytest.mark.parametrize(
    "content", ["null", "[]", "{", *(f'{{"weight_map": {value}}}' for value in ("null", "[]", "{}", '{"a": 1}'))]
)
def test_a_damaged_index(tmp_path, content):
    """An index of nothing was a checkpoint of nothing, or an AttributeError."""
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json .*`weight_map`"):
        load_checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json .*`weight_map`"):
        Dia.from_pretrained(tmp_path)


@pytest.mark.parametrize("link", ["nowhere", "model.safetensors"])
def test_links_that_lead_nowhere(tmp_path, link):
    """A link to a file that was deleted is as good as none."""
    shutil.copy(REFERENCE / "nari-0626" / "config.json", tmp_path)
    (tmp_path / "model.safetensors").symlink_to(link)
    with pytest.raises(ValueError, match="has no weights"):
        load_checkpoint(tmp_path)


def test_descript_tensors_that_contradict_each_other(tmp_path):
    """Lengths of another shape than their directions went into the kernel that folds them."""
    content = torch.load(REFERENCE / "descript-dac" / "weights.pth", weights_only=True)
    for name, shape in (("encoder.block.0.weight_g", (3, 1, 1)), ("encoder.block.0.weight_v", (1,)),
                        ("decoder.model.0.bias", ())):  # fmt: skip
        state = {**content["state_dict"], name: torch.zeros(shape)}
        torch.save({"state_dict": state, "metadata": content["metadata"]}, tmp_path / "codec.pth")
        with pytest.raises(ValueError, match=rf"codec\.pth: '{name}' has the shape"):
            load_descript_codec(tmp_path / "codec.pth")


def test_a_pickle_with_wrong_instructions(tmp_path):
    """Whatever its instructions ran into was shown, such as an IndexError."""
    file = tmp_path / "model.pth"
    torch.save({"x": torch.zeros(2)}, file, _use_new_zipfile_serialization=False)
    content = bytearray(file.read_bytes())
    content[2:4] = b"u."  # sets items of a dictionary that is not there
    file.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"model.pth (cannot be read|is refused)"):
        Weights([file])


@pytest.mark.parametrize("format", ["zip", "zip without sums", "before torch 1.6"])
@pytest.mark.parametrize("is_flipped", [True, False])
def test_a_flipped_bit_in_a_pickle(tmp_path, format, is_flipped):
    """`torch.load` does not look at the sums of its files: one damaged weight was converted, and spoken from."""
    file, dest = tmp_path / "model.pth", tmp_path / "dest"
    shutil.copy(REFERENCE / "nari-0626" / "config.json", tmp_path)
    weights = load_file(REFERENCE / "nari-0626" / "model.safetensors")
    is_summed = format == "zip"
    torch.serialization.set_crc32_options(is_summed)
    try:
        torch.save(weights, file, _use_new_zipfile_serialization=format != "before torch 1.6")
    finally:
        torch.serialization.set_crc32_options(True)
    name = "decoder.logits_dense.weight"
    if is_flipped:
        content = bytearray(file.read_bytes())
        content[content.index(weights[name].numpy().tobytes()[:64]) + 3] ^= 1
        file.write_bytes(bytes(content))
        assert not torch.equal(torch.load(file, weights_only=True)[name], weights[name])
    if is_flipped and is_summed:
        for use in (load_checkpoint, lambda source: convert_checkpoint(source, dest, dry_run=True)):
            with pytest.raises(ValueError, match=r"model\.pth is damaged: 'model/data/\d+' inside it differs"):
                use(file)
    else:
        convert_checkpoint(file, dest)
        load_checkpoint(file)


def test_a_flipped_bit_in_a_codec(tmp_path):
    """A codec of which one weight was damaged was put inside a checkpoint; each file is read for it once."""
    file = tmp_path / "codec.pth"
    content = torch.load(DESCRIPT, weights_only=True)
    torch.save(content, file)
    direction = content["state_dict"]["decoder.model.0.weight_v"].numpy().tobytes()
    damaged = bytearray(file.read_bytes())
    damaged[damaged.index(direction) + len(direction) // 2] ^= 16
    file.write_bytes(bytes(damaged))
    message = r"codec\.pth is damaged: 'codec/data/\d+' inside it differs from its CRC-32 sum"
    with pytest.raises(ValueError, match=message):
        load_descript_codec(file)
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(file, tmp_path / "dac")
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(REFERENCE / "nari-0626", tmp_path / "dest", codec=file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codec.pth"]


def test_sums_are_looked_at_once_per_file(tmp_path, monkeypatch):
    """Each conversion read its weights and its codec several times for their sums."""
    source = REFERENCE / "nari-v0.1" / "dia-v0_1.pth"
    checked = []
    original = zipfile.ZipFile.testzip
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda self: checked.append(self.filename) or original(self))
    convert_checkpoint(source, tmp_path / "dest", codec=DESCRIPT)
    assert sorted(checked) == sorted(map(str, (source, DESCRIPT)))
    checked.clear()
    convert_checkpoint(DESCRIPT, tmp_path / "dac")
    assert checked == [str(DESCRIPT)]
