import copy
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import nn
from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
from torchao.quantization import Int8WeightOnlyConfig, quantize_
from transformers import TorchAoConfig

from conftest import REFERENCE
from dia_hf import Dia, DiaConfig, DiaForConditionalGeneration, DiaProcessor, calibration, cli, quantization
from dia_hf.audio.io import read_metadata
from dia_hf.bench import compare, record_reference
from dia_hf.engine import linear
from dia_hf.int4 import round_for_inputs, round_weights
from dia_hf.quantization import SCHEMES, check_scheme, quantize_model
from dia_hf.tokenization_dia import DiaTokenizer
from tiny import random_model

EVERY_FRAME = {
    f"{block}_attention.{name}_proj" for block, names in (("self", "qkvo"), ("cross", "qo")) for name in names
} | {"mlp.gate_up_proj", "mlp.down_proj"}


def load(checkpoint, **options):
    return DiaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.bfloat16, **options).eval()


def smooth_model():
    """Make a model whose attention is as soft as a trained one's: small errors stay small, and can be measured."""
    config = DiaConfig(
        encoder_config={
            "num_hidden_layers": 2,
            "hidden_size": 64,
            "num_key_value_heads": 2,
            "num_attention_heads": 2,
            "head_dim": 32,
            "intermediate_size": 128,
        },
        decoder_config={
            "num_hidden_layers": 3,
            "hidden_size": 128,
            "num_key_value_heads": 2,
            "num_attention_heads": 4,
            "head_dim": 32,
            "cross_num_key_value_heads": 4,
            "cross_num_attention_heads": 4,
            "cross_head_dim": 32,
            "cross_hidden_size": 64,
            "intermediate_size": 256,
        },
    )
    model = random_model(config, scale=1.0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "proj" in name or "dense" in name:
                parameter.mul_(parameter.shape[1] ** -0.5)
            if "q_proj" in name:  # 32^-1/2, where other models divide attention logits by it
                parameter.mul_(32**-0.5)
    return model


def random_inputs(config, num_frames=30):
    generator = torch.Generator().manual_seed(3)
    decoder = config.decoder_config
    shape = (2, num_frames, decoder.num_channels)
    return {
        "input_ids": torch.randint(1, 200, (2, 20), generator=generator),
        "decoder_input_ids": torch.randint(0, decoder.eos_token_id, shape, generator=generator),
    }


def quantized_names(model):
    return {name for name, parameter in model.named_parameters() if type(parameter) is not nn.Parameter}


@torch.no_grad()
def logits_of(model, inputs):
    return model(**inputs).logits.float()


def distance(one, other):
    return float((one - other).norm() / other.norm())


@torch.no_grad()
def dense(model):
    """Make the model in float32 that has the quantized weights' values."""
    weights = {}
    for name, parameter in model.named_parameters():
        if type(parameter) is nn.Parameter:
            weights[name] = parameter.float()
        else:
            layer = model.get_submodule(name.removesuffix(".weight"))
            weights[name] = layer(torch.eye(layer.in_features, dtype=torch.bfloat16)).T.float()
    twin = DiaForConditionalGeneration(model.config).eval()
    twin.load_state_dict(weights)
    return twin


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_what_is_read_for_every_frame_is_quantized_and_nothing_else(checkpoint, scheme):
    """A quantized head or text encoder costs accuracy and saves no time."""
    model = quantize_model(load(checkpoint), scheme)
    assert quantized_names(model) == {
        f"model.decoder.layers.{index}.{name}.weight"
        for index in range(model.config.decoder_config.num_hidden_layers)
        for name in EVERY_FRAME
    }
    assert all(parameter.dtype == torch.bfloat16 for parameter in model.parameters())


@pytest.mark.parametrize(("scheme", "worst"), [("int8", 0.05), ("int4", 0.3)])
def test_logits_stay_near(scheme, worst):
    """Fewer bits than stated, or scales of other weights, give noise with attention at scale 1.0."""
    model, inputs = smooth_model(), random_inputs(smooth_model().config)
    reference = logits_of(model, inputs)
    quantized = quantize_model(model.to(torch.bfloat16), scheme)
    assert distance(logits_of(quantized, inputs), reference) < worst
    # The kernels' error beyond that of the quantized weights is no more than bfloat16's rounding.
    assert distance(logits_of(quantized, inputs), logits_of(dense(quantized), inputs)) < 0.05


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_many_rows_are_as_few(monkeypatch, scheme):
    """Prompts use another kernel than single frames; both must give the same model."""
    quantized = quantize_model(smooth_model().to(torch.bfloat16), scheme)
    inputs = random_inputs(quantized.config)
    few = logits_of(quantized, {name: value[:, :8] for name, value in inputs.items()})
    monkeypatch.setattr(linear, "_INT8_ROWS", 0)
    monkeypatch.setattr(linear, "_INT4_ROWS", 0)
    many = logits_of(quantized, {name: value[:, :8] for name, value in inputs.items()})
    assert distance(many, few) < 0.05


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_generate(checkpoint, scheme, processor):
    """A quantized model computed logits, and failed in `generate`."""
    model = quantize_model(load(checkpoint), scheme)
    inputs = processor(text=["[S1] Hello.", "[S2] Hi, how are you?"], return_tensors="pt")
    codes = [model.generate(**inputs, max_new_tokens=24, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert codes[0].shape == (2, 25, 9)
    assert torch.equal(*codes)


def test_int8_is_saved_and_loaded(tmp_path):
    """A saved folder could not be loaded, or held other weights."""
    model, inputs = quantize_model(smooth_model().to(torch.bfloat16), "int8"), random_inputs(smooth_model().config)
    model.save_pretrained(tmp_path)
    loaded = DiaForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert quantized_names(loaded) == quantized_names(model)
    assert loaded.dtype == torch.bfloat16
    for name in quantized_names(model):
        mine, theirs = model.get_parameter(name), loaded.get_parameter(name)
        assert torch.equal(mine.qdata, theirs.qdata)
        assert torch.equal(mine.scale, theirs.scale)
    assert distance(logits_of(loaded, inputs), logits_of(model, inputs)) < 0.05


def test_a_saved_int8_model_speaks(checkpoint, tmp_path):
    """`Dia` reported the quantized tensors of a checkpoint as missing."""
    quantize_model(load(checkpoint), "int8").save_pretrained(tmp_path)
    DiaProcessor.from_pretrained(checkpoint).save_pretrained(tmp_path)
    dia = Dia.from_pretrained(tmp_path, device="cpu")
    assert dia.generate("[S1] Hello.", seed=1, max_seconds=0.2).size > 0
    with pytest.raises(ValueError, match="quantized already"):
        Dia.from_pretrained(tmp_path, device="cpu", quantization="int8")


def test_int4_of_a_cpu_is_not_saved(checkpoint, tmp_path):
    """Weights packed for this CPU were saved to a file that another CPU reads as noise."""
    model = quantize_model(load(checkpoint), "int4")
    with pytest.raises(ValueError, match="cannot be saved; save the model before"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_transformers_own_way(checkpoint, tmp_path, processor):
    """`quantization_config` quantized the head, or transformers' quantizer did not support the model."""
    model = load(checkpoint, quantization_config=TorchAoConfig(Int8WeightOnlyConfig()))
    names = quantized_names(model)
    assert "logits_dense.weight" not in names
    assert {f"model.decoder.layers.0.{name}.weight" for name in EVERY_FRAME} <= names
    assert not any("embed" in name or "norm" in name for name in names)
    inputs = processor(text=["[S1] Hello."], return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=20).shape == (1, 21, 9)
    model.save_pretrained(tmp_path)
    assert quantized_names(DiaForConditionalGeneration.from_pretrained(tmp_path)) == names


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_dia(checkpoint, scheme):
    """`Dia` quantized in the checkpoint's float32, where the kernels are ten times slower, or ignored the seed."""
    dia = Dia.from_pretrained(checkpoint, device="cpu", quantization=scheme)
    assert dia.model.dtype == torch.bfloat16
    assert len(quantized_names(dia.model)) > 0
    first, second = (dia.generate("[S1] Hello.", seed=7, max_seconds=0.2) for _ in range(2))
    assert first.size > 0
    assert (first == second).all()


def test_files_of_nari_labs():
    """`from_local` ignored `quantization`, which `from_pretrained` obeys."""
    folder = REFERENCE / "nari-0626"
    files = folder / "config.json", folder / "model.safetensors"
    dia = Dia.from_local(*files, device="cpu", load_dac=False, quantization="int8")
    assert len(quantized_names(dia.model)) > 0


def test_command(tmp_path):
    """A file made with quantized weights but no record of it cannot be reproduced."""
    output = tmp_path / "out.wav"
    command = ["generate", "[S1] Hello.", "--output", str(output), "--quantize", "int8", "--max-seconds", "0.1"]
    assert cli.main([*command, "--device", "cpu"]) == 0
    assert read_metadata(output)["arguments"]["quantize"] == "int8"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("int3", "cpu"), "'int3' is unknown; use 'int8' or 'int4' or 'fp8'"),
        (("fp8", "cpu"), "no 'fp8' on 'cpu'; use 'int8' or 'int4'"),
        (("int8", "mps"), "no 'int8' on 'mps'; use the device 'cpu' or 'cuda'"),
        (("int8", "cpu", torch.float32), "`compute_dtype` is torch.float32.*leave it out, or use 'bfloat16'"),
        (("int4", "cuda", torch.float16), "`compute_dtype` is torch.float16"),
    ],
)
def test_what_cannot_be_had(arguments, message):
    """A model was loaded for minutes before the error, or the error named no alternative."""
    with pytest.raises(ValueError, match=message):
        check_scheme(*arguments)


def test_every_scheme_has_its_words_in_torchao():
    """torchao renamed a class that a scheme for a GPU needs, which no test without a GPU detected."""
    for scheme, devices in SCHEMES.items():
        for device in devices:
            assert check_scheme(scheme, device) == torch.bfloat16


def test_without_torchao(monkeypatch):
    """A missing torchao caused a traceback that does not say what to install."""
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ImportError, match=r'pip install "dia-hf\[quantize\]"'):
        Dia.from_pretrained("nowhere", device="cpu", quantization="int8")


def with_float32(model):
    return model.float()


def with_adapters(model):
    inject_adapter_in_model(LoraConfig(target_modules=["down_proj"], r=2), model)
    return model


def with_odd_sizes(model):
    model.model.decoder.layers[1].mlp.down_proj = nn.Linear(40, 48, bias=False).bfloat16()
    return model


def quantized(model):
    return quantize_model(model, "int8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_float32, "`dtype` is torch.float32, but quantized weights are multiplied with bfloat16"),
        (with_adapters, "down_proj is a peft.*Linear, not a plain nn.Linear; quantize before adding adapters"),
        (
            with_odd_sizes,
            "layers.1.mlp.down_proj maps 40 to 48, but int4 needs inputs in multiples of 32 and outputs in .* 16",
        ),
        (quantized, "quantized already"),
    ],
)
def test_models_that_cannot_be_quantized(checkpoint, change, message):
    """An error after half of the model was quantized; or a layer skipped silently, as torchao does for odd sizes."""
    model = change(load(checkpoint))
    before = quantized_names(model)
    with pytest.raises(ValueError, match=message):
        quantize_model(model, "int4")
    assert quantized_names(model) == before


def spy_on_moments(monkeypatch, change=lambda moments: None):
    """Record the moments of the calibration, and change them."""
    seen = []

    def spy(*arguments):
        for moments in calibration.input_moments(*arguments):
            change(moments)
            seen.append({name: tensor.clone() for name, tensor in moments.items()})
            yield moments

    monkeypatch.setattr(quantization, "input_moments", spy)
    return seen


def test_int4_is_the_nearer_one_to_float32():
    """A search that minimizes something else than the error is worse than rounding to the nearest of 16 steps."""
    model = smooth_model().to(torch.bfloat16)
    weights = {name: tensor.float() for name, tensor in model.state_dict().items()}
    config = PrototypeInt4WeightOnlyConfig(group_size=32, set_inductor_config=False)
    theirs = copy.deepcopy(model)
    quantize_(theirs.model.decoder, config, lambda module, name: name.endswith("mlp.down_proj"))
    mine = quantize_model(model, "int4")
    name = "model.decoder.layers.1.mlp.down_proj.weight"
    errors = [distance(dense(one).get_parameter(name), weights[name]) for one in (mine, theirs)]
    assert errors[0] < 0.97 * errors[1]


def test_calibrated_int4_is_nearer_to_float32(monkeypatch):
    """Compensation with the inputs of another layer, or with errors of the wrong sign, is worse than none."""
    reference = smooth_model()
    plain = quantize_model(smooth_model().to(torch.bfloat16), "int4")
    seen = spy_on_moments(monkeypatch)
    calibrated = quantize_model(smooth_model().to(torch.bfloat16), "int4", calibrate=True)
    texts = ["[S1] She sells old books near the station.", "[S1] Nobody told me that it closes at four today."]
    encoded = DiaTokenizer()(texts, padding=True, return_tensors="pt")
    inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    recorded = record_reference(reference, inputs, 96, do_sample=True, seed=1)
    mine, other = (compare(recorded, one, inputs).guided.relative_rms for one in (calibrated, plain))
    assert mine < 0.8 * other
    # Each layer's error on its own inputs: tr(E M Eᵀ) is the squared error of its outputs.
    originals = smooth_model().to(torch.bfloat16).float().state_dict()
    values = [dense(one).state_dict() for one in (calibrated, plain)]
    assert len(seen) == 3
    ratios = []
    for index, moments in enumerate(seen):
        for source, names in calibration.INPUTS.items():
            for name in (f"model.decoder.layers.{index}.{name}.weight" for name in names):
                errors = [one[name] - originals[name] for one in values]
                mine, other = (float((error @ moments[source] * error).sum()) for error in errors)
                ratios.append(mine / other)
    assert max(ratios) < 0.97
    assert min(ratios) < 0.5  # the others' inputs are hardly correlated in a random model


def test_the_text_of_calibration(monkeypatch):
    """`calibrate=[...]` was read as True, and the model spoke other texts."""
    model, moments = smooth_model().to(torch.bfloat16), []
    for texts in (True, ["[S1] One text."], ["[S1] Another."]):
        seen = spy_on_moments(monkeypatch)
        quantize_model(copy.deepcopy(model), "int4", calibrate=texts)
        moments.append(seen[0]["mlp.down_proj"])
    assert float(moments[0].trace()) > 4 * float(moments[1].trace())
    assert not torch.equal(moments[1], moments[2])


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("calibrate", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_interrupted(monkeypatch, calibrate, error):
    """Control-C left a model of which half was quantized, or with hooks of the calibration."""
    model, calls = smooth_model().to(torch.bfloat16), []
    before = weights_of(model)

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == 8:
            raise error
        return (round_for_inputs if calibrate else round_weights)(*arguments)

    monkeypatch.setattr(quantization, "round_for_inputs" if calibrate else "round_weights", stop)
    with pytest.raises(error):
        quantize_model(model, "int4", calibrate=calibrate)
    assert len(calls) == 8
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(type(parameter) is nn.Parameter for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    monkeypatch.undo()
    assert len(quantized_names(quantize_model(model, "int4"))) == 24


def test_inputs_that_are_not_finite(monkeypatch):
    """An overflow in calibration ended in torch's error of a matrix, or in a model of noise."""
    model = smooth_model().to(torch.bfloat16)
    spy_on_moments(monkeypatch, lambda moments: moments["mlp.gate_up_proj"].fill_(float("nan")))
    with pytest.raises(ValueError, match=r"decoder.layers.0.mlp.gate_up_proj: the second moments .* are not finite"):
        quantize_model(model, "int4", calibrate=True)
    assert not quantized_names(model)


@pytest.mark.parametrize(
    ("scheme", "calibrate", "message"),
    [
        ("int8", True, "`calibrate` is for 'int4' on a CPU alone"),
        ("int4", [], "give True, or a list of texts"),
        ("int4", "[S1] Hello.", "give True, or a list of texts"),
    ],
)
def test_what_cannot_be_calibrated(checkpoint, scheme, calibrate, message):
    """A string was read as a list of letters, or `calibrate` was ignored."""
    model = load(checkpoint)
    with pytest.raises(ValueError, match=message):
        quantize_model(model, scheme, calibrate)
    assert not quantized_names(model)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mapped pages are dropped on Linux alone")
def test_pages_of_the_checkpoint_are_dropped(tmp_path):
    """Of a mapped checkpoint, what had been read stayed in memory beside the quantized weights."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(tmp_path)], capture_output=True, text=True).stdout.strip()
    if kind == "tmpfs":
        pytest.skip("files of a tmpfs are in memory anyway")
    expected = torch.randn(2**22).bfloat16()
    save_file({"weight": expected}, tmp_path / "model.safetensors")
    weight = load_file(tmp_path / "model.safetensors")["weight"]

    def resident():
        with open("/proc/self/smaps", encoding="utf-8") as file:
            mapping = file.read().split(str(tmp_path / "model.safetensors"))[1]
        return int(mapping.split("Rss:")[1].split()[0])

    assert torch.equal(weight, expected)
    assert resident() > 8000
    quantization._page_out(weight)
    assert resident() < 100
    assert torch.equal(weight, expected)
    quantization._page_out(expected)  # not mapped: nothing happens
    assert torch.equal(weight, expected)


def test_int8_some_rows_at_a_time(monkeypatch):
    """Rows that are quantized together with others, or a part of the layer that is lost."""
    config = quantization._config("int8", torch.device("cpu"))
    weight = torch.randn(70, 48, generator=torch.Generator().manual_seed(0)).bfloat16()
    whole = quantization._quantized_by_torchao(weight, config)
    monkeypatch.setattr(quantization, "_CHUNK", 48 * 32)
    parts = quantization._int8_by_torchao(weight, config)
    assert torch.equal(parts.qdata, whole.qdata)
    assert torch.equal(parts.scale, whole.scale)
    assert parts.block_size == whole.block_size
    assert torch.equal(parts.dequantize(), whole.dequantize())
