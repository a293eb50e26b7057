import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.nn.utils import parametrizations
from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, PerGroup, quantize_

from dia_hf.engine import linear
from dia_hf.engine.linear import QuantizedLinear, fused_linear

INT8 = Int8WeightOnlyConfig(set_inductor_config=False)
INT4 = PrototypeInt4WeightOnlyConfig(group_size=32, set_inductor_config=False)
BFLOAT16 = {"rtol": 2**-6, "atol": 2**-6}  # outputs are of the order of 1


def make_layers(sizes, width, dtype=torch.float32, config=None, seed=0):
    torch.manual_seed(seed)
    layers = nn.ModuleList(nn.Linear(width, size, bias=False) for size in sizes).to(dtype)
    if config is not None:
        quantize_(layers, config)
    return layers


def make_states(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def one_by_one(layers, states):
    return torch.cat([layer(states) for layer in layers], dim=-1)


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    width=st.integers(1, 40),
    shape=st.sampled_from([(1,), (3,), (2, 5), (17,)]),
    pack=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
@settings(max_examples=50)
def test_dense_layers(sizes, width, shape, pack, dtype):
    """Outputs in another order or shape for uneven sizes."""
    layers, states = make_layers(sizes, width, dtype), make_states(*shape, width, dtype=dtype)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else BFLOAT16
    output = fused_linear(layers, pack=pack)(states)
    torch.testing.assert_close(output, one_by_one(layers, states), **tolerance)


def test_one_dense_layer_is_no_copy():
    """A copy of each single layer doubles the memory of the model."""
    (layer,) = make_layers([8], 4)
    multiply = fused_linear([layer])
    with torch.no_grad():
        layer.weight.zero_()
    assert not multiply(make_states(2, 4)).any()


def test_packed_weights_take_any_layout():
    """The packed kernel received a transposed input, as attention returns it."""
    layers = make_layers([64], 32, torch.bfloat16)
    states = make_states(32, 3, dtype=torch.bfloat16).T
    torch.testing.assert_close(fused_linear(layers, pack=True)(states), one_by_one(layers, states), **BFLOAT16)


def test_dense_layers_compile():
    """A graph break in every layer of a compiled step."""
    layers, states = make_layers([8, 4], 16), make_states(2, 16)
    multiply = torch.compile(fused_linear(layers), fullgraph=True, backend="eager")
    torch.testing.assert_close(multiply(states), one_by_one(layers, states))


@given(
    config=st.sampled_from([INT8, INT4]),
    sizes=st.lists(st.sampled_from([16, 32, 48, 64, 128, 192]), min_size=1, max_size=3),
    width=st.sampled_from([32, 96, 128]),
    shape=st.sampled_from([(1,), (2, 5), (16,), (17,), (256,), (3, 100)]),
)
@settings(max_examples=60)
def test_quantized_layers(config, sizes, width, shape):
    """Packed blocks that overlap the next layer, scales in another order, or a wrong path for many rows."""
    layers = make_layers(sizes, width, torch.bfloat16, config)
    states = make_states(*shape, width, dtype=torch.bfloat16)
    torch.testing.assert_close(fused_linear(layers)(states), one_by_one(layers, states), **BFLOAT16)


@pytest.mark.parametrize(
    ("config", "owner", "kernel"),
    [(INT8, torch, "_weight_int8pack_mm"), (INT4, torch.ops.aten, "_weight_int4pack_mm_for_cpu")],
)
def test_quantized_layers_are_one_call_of_the_kernel(monkeypatch, config, owner, kernel):
    """If torchao renames its classes, nothing is recognized, and decoding is ten times slower."""
    layers, calls = make_layers([64, 64], 32, torch.bfloat16, config), []
    compute = getattr(owner, kernel)
    monkeypatch.setattr(owner, kernel, lambda *args: calls.append(len(args[0])) or compute(*args))
    states = make_states(2, 1, 32, dtype=torch.bfloat16)
    fused_linear(layers)(states)
    assert calls == [2]
    for layer in layers:
        QuantizedLinear(layer.weight)(states)
    assert calls == [2, 2, 2]


@pytest.mark.parametrize("num_rows", [1, 16, 17, 256, 257])
@pytest.mark.parametrize("config", [INT8, INT4])
def test_a_layer_of_its_own(config, num_rows):
    """`QuantizedLinear` called as a module must return what torchao's layer returns."""
    (layer,) = make_layers([128], 96, torch.bfloat16, config)
    own = QuantizedLinear(layer.weight)
    assert list(own.state_dict()) == ["weight"]
    assert (own.in_features, own.out_features) == (96, 128)
    states = make_states(num_rows, 96, dtype=torch.bfloat16)
    torch.testing.assert_close(own(states), layer(states), **BFLOAT16)


def test_a_layer_of_its_own_given_float32():
    """The bfloat16 kernel raises on float32, which an autocast that ends too early passes."""
    (layer,) = make_layers([128], 96, torch.bfloat16, INT8)
    states = make_states(3, 96)
    assert torch.equal(QuantizedLinear(layer.weight)(states), layer(states))


@pytest.mark.skipif(linear.int4_block() is None, reason="this CPU packs int4 in a way of its own")
@pytest.mark.parametrize(("size", "slice_size"), [(128, 2**22), (320, 2**13)])
def test_many_rows_of_int4(monkeypatch, size, slice_size):
    """Weights unpacked in another order than the kernel's, or chunks that overlap."""
    monkeypatch.setattr(linear, "_CHUNK", slice_size)
    (layer,) = make_layers([size], 64, torch.bfloat16, INT4)
    dense = layer(torch.eye(64, dtype=torch.bfloat16)).T
    monkeypatch.setattr(linear, "_INT4_ROWS", 0)
    torch.testing.assert_close(fused_linear([layer])(torch.eye(64, dtype=torch.bfloat16)).T, dense, **BFLOAT16)


def hooked(layers):
    layers[0].register_forward_hook(lambda module, args, output: output + 1)


def prehooked(layers):
    layers[1].register_forward_pre_hook(lambda module, args: (args[0] * 2,))


def replaced(layers):
    forward = layers[0].forward
    layers[0].forward = lambda states: forward(states) - 1  # as accelerate does


def parametrized(layers):
    parametrizations.weight_norm(layers[0])


def biased(layers):
    layers[1].bias = nn.Parameter(torch.ones(layers[1].out_features, dtype=torch.bfloat16))


def adapted(layers):
    inject_adapter_in_model(LoraConfig(target_modules=["0"], r=2, init_lora_weights=False), layers)


def mixed(layers):
    quantize_(layers[1], INT8)


def grouped(layers):
    quantize_(layers, Int8WeightOnlyConfig(granularity=PerGroup(16), set_inductor_config=False))


def dynamic(layers):
    quantize_(layers, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(
    "change", [hooked, prehooked, replaced, parametrized, biased, adapted, mixed, grouped, dynamic]
)
@torch.no_grad()
def test_anything_else_is_called_as_it_is(change, pack):
    """An adapter, hook or other quantizer was ignored by fused weights."""
    layers = make_layers([16, 32], 32, torch.bfloat16)
    states = make_states(3, 32, dtype=torch.bfloat16)
    change(layers)
    assert torch.equal(fused_linear(layers, pack=pack)(states), one_by_one(layers, states))
    assert torch.equal(fused_linear([layers[0]], pack=pack)(states), layers[0](states))


def test_a_width_that_the_int8_kernel_does_not_take():
    """The kernel reads beyond the end of a row of 24 weights, and the process crashes."""
    layers, states = make_layers([16], 24, torch.bfloat16, INT8), make_states(2, 24, dtype=torch.bfloat16)
    assert torch.equal(fused_linear(layers)(states), one_by_one(layers, states))
    assert torch.equal(QuantizedLinear(layers[0].weight)(states), one_by_one(layers, states))


def test_quantized_layers_of_float32():
    """The float32 kernels are ten times slower than the dense layer and must not be chosen."""
    layers, states = make_layers([16, 16], 32, torch.float32, INT8), make_states(2, 32)
    assert torch.equal(fused_linear(layers)(states), one_by_one(layers, states))
