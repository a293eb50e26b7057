"""The C++ operator for steps against PyTorch's operators, on each instruction set that this processor has."""

import copy
import ctypes
import pickle
import threading
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
from torchao.quantization import Int8WeightOnlyConfig, quantize_

from dia_hf import native
from dia_hf.bench import make_config, make_model
from dia_hf.engine.decoder import FrameDecoder, make_frame_decoder
from dia_hf.engine.linear import QuantizedLinear
from dia_hf.native import VARIANTS
from dia_hf.quantization import quantize_model
from tiny import random_config, random_model

if native.library() is None:
    pytest.skip(f"there is no C++ operator: {native.unavailable_reason()}", allow_module_level=True)

EXTENSIONS = native._extensions_of_this_processor()
USABLE = [name for name in VARIANTS if EXTENSIONS.issuperset(VARIANTS[name])]
INT8 = Int8WeightOnlyConfig(set_inductor_config=False)
INT4 = PrototypeInt4WeightOnlyConfig(group_size=32, set_inductor_config=False)


@pytest.fixture(params=USABLE)
def variant(request, monkeypatch):
    """The library of each instruction set in turn."""
    with using(request.param, monkeypatch):
        yield request.param


@contextmanager
def using(name, monkeypatch):
    monkeypatch.setenv("DIA_HF_NATIVE", name)
    native._loaded.cache_clear()
    assert native.variant_name() == name
    try:
        yield
    finally:
        monkeypatch.undo()
        native._loaded.cache_clear()


def both(model):
    oracle, operator = FrameDecoder(model), FrameDecoder(model, use_native=True)
    assert operator.native is not None, operator.not_native_because
    return oracle, operator


def logits_of(network, samples, num_steps=3, is_guided=True, seed=0):
    """Logits `[steps, R, C, V]` after prompts and texts of different lengths."""
    config, draw = network.config, torch.Generator().manual_seed(seed)
    num_samples, longest, num_bytes = (
        len(samples),
        max(prompt for prompt, _ in samples),
        max(text for _, text in samples),
    )
    ids = torch.randint(1, 256, (num_samples, num_bytes), generator=draw)
    mask = (torch.arange(num_bytes) < torch.tensor([text for _, text in samples])[:, None]).long()
    shape = (num_samples, longest + num_steps, config.num_channels)
    frames = torch.randint(0, config.vocab_size, shape, generator=draw)
    cache = network.new_cache(num_samples, is_guided, longest + num_steps + 2, num_bytes)
    network.read_text(cache, ids, mask, torch.arange(num_samples))
    if longest > 1:
        network.read_frames(cache, frames[:, : longest - 1], is_guided)
    results = []
    for step in range(num_steps):
        lengths = torch.tensor([prompt for prompt, _ in samples]) - 1 + step
        tokens = frames[torch.arange(num_samples), lengths]
        axis = torch.arange(longest + num_steps)
        rows = lengths.repeat(2 if is_guided else 1)
        results.append(network.step(cache, tokens, rows, axis, num_bytes, True, True))
    return torch.stack(results)


def distance(left, right):
    return float((left - right).norm() / right.norm())


@given(
    seed=st.integers(0, 40),
    is_first_release=st.booleans(),
    is_guided=st.booleans(),
    samples=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 40)), min_size=1, max_size=6),
)
@settings(max_examples=60)
@torch.inference_mode()
def test_steps_are_those_of_pytorch(seed, is_first_release, is_guided, samples):
    """A wrong head, position, mask, tail of a row or of a vector: for heads and layers of any width."""
    config = random_config(seed)
    config.decoder_config.cross_attention_rope = is_first_release
    oracle, operator = both(random_model(config, seed))
    expected = logits_of(oracle, samples, is_guided=is_guided, seed=seed)
    torch.testing.assert_close(
        logits_of(operator, samples, is_guided=is_guided, seed=seed), expected, rtol=1e-4, atol=1e-4
    )


def quantized(model, scheme):
    if scheme is None:
        return model
    if scheme == "both":  # int4 in the layers, int8 in the head
        model = quantize_model(model, "int4")
        quantize_(model.logits_dense, INT8)
        model.logits_dense = QuantizedLinear(model.logits_dense.weight)
        return model
    return quantize_model(model, scheme)


@pytest.fixture(scope="module")
def models():
    config = make_config("mid")
    made = {(torch.float32, None): make_model(config)}
    for scheme in (None, "int8", "int4", "both"):
        made[torch.bfloat16, scheme] = quantized(make_model(config, dtype=torch.bfloat16), scheme)
    return made


@pytest.mark.parametrize("num_samples", [1, 2, 5])
@pytest.mark.parametrize(
    ("dtype", "scheme", "limit"),
    [
        (torch.float32, None, 1e-6),
        (torch.bfloat16, None, 0.02),
        (torch.bfloat16, "int8", 0.02),
        (torch.bfloat16, "int4", 0.025),
        (torch.bfloat16, "both", 0.025),
    ],
)
@torch.inference_mode()
def test_every_kind_of_weights(models, variant, dtype, scheme, limit, num_samples):
    """A wrong nibble, scale, zero or order of outputs on one instruction set alone."""
    oracle, operator = both(models[dtype, scheme])
    samples = [(3 + 17 * index, 9 + 20 * index) for index in range(num_samples)]
    assert distance(logits_of(operator, samples), logits_of(oracle, samples)) < limit


@pytest.mark.parametrize("scheme", [None, "int8", "int4"])
@torch.inference_mode()
def test_as_close_to_float32_as_pytorch(models, scheme):
    """Inputs rounded too coarsely: the operator's error was larger than that of PyTorch's kernels."""
    samples = [(5, 30), (20, 60)]
    exact = FrameDecoder(models[torch.float32, None]) if scheme is None else FrameDecoder(dequantized(models, scheme))
    expected = logits_of(exact, samples)
    oracle, operator = both(models[torch.bfloat16, scheme])
    error, theirs = (distance(logits_of(network, samples), expected) for network in (operator, oracle))
    # PyTorch's int4 kernel for AVX2 multiplies inputs in bfloat16, that for AVX-512 is less exact.
    assert error < (1.1 if scheme == "int4" else 1.05) * theirs, (error, theirs)


def dequantized(models, scheme):
    """The quantized weights in float32."""
    model = make_model(make_config("mid"), dtype=torch.bfloat16).float()
    for name, module in models[torch.bfloat16, scheme].named_modules():
        if isinstance(module, QuantizedLinear):
            identity = torch.eye(module.in_features, dtype=torch.bfloat16)
            weight = torch.cat([module(part).T.float() for part in identity.split(1)], dim=1)
            model.get_submodule(name).weight.data = weight
    return model


@pytest.mark.parametrize("scheme", [None, "int8", "int4"])
@torch.inference_mode()
def test_a_row_does_not_depend_on_the_batch(models, variant, scheme):
    """A sample alone and the same sample among others took different paths through the kernels."""
    samples = [(4, 12), (9, 30), (17, 7), (2, 25), (30, 18)]
    dtypes = [torch.bfloat16] if scheme else [torch.bfloat16, torch.float32]
    for dtype in dtypes:
        network = FrameDecoder(models[dtype, scheme], use_native=True)
        state = prepared(network, samples)
        together = network.step(*state)
        for index in range(len(samples)):
            rows = torch.tensor([index, index + len(samples)])
            cache, tokens, lengths, *view = state
            chosen = torch.tensor([index])
            alone = network.step(cache.select(rows, chosen), tokens[chosen], lengths[rows], *view)
            assert torch.equal(alone, together[rows])


def prepared(network, samples):
    """Arguments of a step whose cache holds random keys and values."""
    config, draw = network.config, torch.Generator().manual_seed(5)
    num_bytes, num_frames = max(text for _, text in samples), max(prompt for prompt, _ in samples) + 1
    cache = network.new_cache(len(samples), True, num_frames, num_bytes)
    for tensor in (*cache.keys, *cache.values, *cache.text_keys, *cache.text_values):
        tensor.copy_(torch.randn(tensor.shape, generator=draw))
    cache.text_mask.copy_(
        (torch.arange(num_bytes) < torch.tensor([text for _, text in samples])[:, None])[:, None, None]
    )
    tokens = torch.randint(0, config.vocab_size, (len(samples), config.num_channels), generator=draw)
    lengths = torch.tensor([prompt for prompt, _ in samples] * 2)
    return cache, tokens, lengths, torch.arange(num_frames), num_bytes, True, True


@pytest.mark.parametrize("threads", [1, 2, 7])
@torch.inference_mode()
def test_any_number_of_threads(models, threads):
    """A chunk computed twice, or by nobody, with more threads than chunks or cores."""
    network = FrameDecoder(models[torch.bfloat16, "int8"], use_native=True)
    state = prepared(network, [(40, 50), (3, 9)])
    before = torch.get_num_threads()
    expected = network.step(*state)
    try:
        torch.set_num_threads(threads)
        for _ in range(20):
            assert torch.equal(network.step(*state), expected)
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def test_callers_at_the_same_time(models):
    """Memory of a step that two calls share."""
    network = FrameDecoder(models[torch.float32, None], use_native=True)
    states = [prepared(network, [(10 + index, 20)]) for index in range(4)]
    expected = [network.step(*state) for state in states]
    wrong = []

    def run(state, wanted):
        with torch.inference_mode():
            for _ in range(25):
                if not torch.equal(network.step(*state), wanted):
                    wrong.append(state)

    threads = [threading.Thread(target=run, args=pair) for pair in zip(states, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("scheme", [None, "int8", "int4"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@torch.inference_mode()
def test_broken_values_stay_visible(models, scheme, value):
    """Integers have no NaN: a broken model made noise instead of the error that names it."""
    dtype = torch.bfloat16
    network = FrameDecoder(models[dtype, scheme], use_native=True)
    cache, tokens, lengths, *view = prepared(network, [(4, 12), (9, 30)])
    cache.values[0][1, :, 2] = value
    logits = network.step(cache, tokens, lengths, *view)
    assert logits[1].isnan().all()
    assert logits[[0, 2, 3]].isfinite().all()


def test_inputs_of_any_size():
    """Outliers of a trained model's hidden states beyond the range of the integers."""
    config = make_config("mid")
    for scheme in ("int8", "int4"):
        model = make_model(config, dtype=torch.bfloat16)
        model.model.decoder.layers[0].pre_mlp_norm.weight[3] = 3000.0
        model.model.decoder.layers[1].pre_sa_norm.weight[:2] = -200.0
        oracle, operator = both(quantize_model(model, scheme))
        with torch.inference_mode():
            samples = [(5, 30), (20, 60)]
            assert distance(logits_of(operator, samples), logits_of(oracle, samples)) < 0.03


@pytest.mark.parametrize("token", [-1, 67, 2**40])
@torch.inference_mode()
def test_a_token_outside_the_vocabulary(token):
    """A wrong token in a prompt read memory that is not the embedding's."""
    config = random_config(3)
    network = FrameDecoder(random_model(config, 3), use_native=True)
    cache, tokens, lengths, *view = prepared(network, [(4, 12), (9, 30)])
    tokens[1, -1] = token
    with pytest.raises(IndexError, match=f"0 to {config.decoder_config.vocab_size - 1}"):
        network.step(cache, tokens, lengths, *view)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@torch.inference_mode()
def test_another_default_dtype(models, dtype):
    """Logits of the size of the default dtype, into which float32 was written."""
    network = FrameDecoder(models[torch.float32, None], use_native=True)
    state = prepared(network, [(4, 12)])
    expected = network.step(*state)
    try:
        torch.set_default_dtype(dtype)
        assert torch.equal(network.step(*state), expected)
    finally:
        torch.set_default_dtype(torch.float32)


class Doubled(nn.Linear):
    def forward(self, states):
        return 2 * super().forward(states)


def as_double(model):
    model.double()


def in_half(model):
    model.half()


def by_a_hook(model):
    model.model.decoder.layers[0].mlp.down_proj.register_forward_hook(lambda module, args, output: 2 * output)


def by_another_class(model):
    layer = model.model.decoder.layers[1].self_attention
    layer.o_proj = Doubled(layer.o_proj.in_features, layer.o_proj.out_features, bias=False)


def by_a_bias(model):
    head = model.logits_dense
    head.bias = nn.Parameter(torch.ones(head.out_features))


def by_an_activation(model):
    model.model.decoder.layers[0].mlp.activation = nn.GELU()


def by_an_epsilon(model):
    model.model.decoder.layers[0].pre_mlp_norm.eps = 0.5


class DoubledNorm(nn.RMSNorm):
    def forward(self, states):
        return 2 * super().forward(states)


def by_another_norm(model):
    norm = model.model.decoder.layers[0].pre_sa_norm
    model.model.decoder.layers[0].pre_sa_norm = nn.LayerNorm(norm.weight.shape, eps=norm.eps)


def by_a_norm_of_another_class(model):
    norm = model.model.decoder.norm
    model.model.decoder.norm = DoubledNorm(norm.weight.shape, eps=norm.eps)


def by_the_forward_of_an_activation(model):
    model.model.decoder.layers[0].mlp.activation.forward = lambda states: 2 * states


def by_a_quantized_embedding(model):
    embedding = model.bfloat16().model.decoder.embeddings.embed
    quantize_(model, INT8, filter_fn=lambda module, name: module is embedding)


def by_an_embedding_with_a_largest_norm(model):
    model.model.decoder.embeddings.embed.max_norm = 0.1


def by_sparse_weights(model):
    head = model.logits_dense
    head.weight = nn.Parameter(head.weight.detach().to_sparse_csr(), requires_grad=False)


def by_a_norm(model):
    norm = model.model.decoder.norm
    norm.forward = lambda states: 2 * states


CHANGES = [as_double, in_half, by_a_hook, by_another_class, by_a_bias, by_an_activation, by_an_epsilon, by_a_norm]
CHANGES += [by_another_norm, by_a_norm_of_another_class, by_the_forward_of_an_activation, by_a_quantized_embedding]
CHANGES += [by_an_embedding_with_a_largest_norm, by_sparse_weights]


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@torch.no_grad()
def test_what_the_operator_does_not_compute(change):
    """A changed part of a model that the operator computed as if it were the usual one."""
    model = make_model(make_config("toy"))
    change(model)
    network = FrameDecoder(model, use_native=True)
    assert network.native is None
    assert network.not_native_because


@torch.no_grad()
def test_no_copy_of_the_weights(models):
    """The operator reads the weights where they are; copies double the memory of the model."""
    for model in models.values():
        network = FrameDecoder(model, pack=True, use_native=True)
        there = {parameter.untyped_storage().data_ptr() for parameter in model.parameters() if is_dense(parameter)}
        for module in model.modules():
            if isinstance(module, QuantizedLinear):
                scales = (
                    module.weight.scale_and_zero if hasattr(module.weight, "scale_and_zero") else module.weight.scale
                )
                there |= {tensor.untyped_storage().data_ptr() for tensor in (module.weight.qdata, scales)}
        copied = [tensor for tensor in network.native._kept if tensor.untyped_storage().data_ptr() not in there]
        assert max(tensor.numel() for tensor in copied) <= network.rotary.numel()


def is_dense(parameter):
    return type(parameter) in (torch.Tensor, nn.Parameter)


def stepped():
    """A model, its network, the arguments of a step, and its logits."""
    model = make_model(make_config("toy"))
    network = make_frame_decoder(model)
    assert network.native is not None
    state = prepared(network, [(4, 12)])
    return model, network, state, network.step(*state)


@torch.no_grad()
def test_replaced_weights_stay_until_the_call_ends():
    """Memory of weights that were replaced during a call was read after it was freed."""
    model, network, state, expected = stepped()
    for parameter in model.parameters():
        parameter.data = torch.full_like(parameter, float("nan"))
    assert torch.equal(network.step(*state), expected)
    assert make_frame_decoder(model) is not network


@torch.no_grad()
def test_weights_moved_to_shared_memory():
    """`share_memory`, also by sending a model to a process, frees the memory of the same tensors: it was read after."""
    model, _, state, expected = stepped()
    model.share_memory()
    moved = make_frame_decoder(model)
    there = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    head = moved.native._decoder.head
    assert head.data in there
    assert torch.equal(moved.step(*state), expected)


@torch.inference_mode()
def test_int4_weights_in_the_layout_of_another_instruction_set(models, variant, monkeypatch):
    """PyTorch held to AVX2 packs blocks of 32 outputs, fewer than an AVX-512 operator computes: it computed nothing."""
    monkeypatch.setattr("dia_hf.engine.native.int4_block", lambda: 32)
    network = FrameDecoder(models[torch.bfloat16, "int4"], use_native=True)
    assert (network.native is not None) == (variant == "avx2")


@pytest.mark.parametrize("length", [-1, 13, 2**40])
@torch.inference_mode()
def test_a_frame_beyond_the_cache(variant, length):
    """A frame was written behind the memory of the cache."""
    network = FrameDecoder(make_model(make_config("toy")), use_native=True)
    cache, tokens, lengths, *view = prepared(network, [(4, 12), (12, 30)])
    assert cache.keys[0].shape[2] == 13
    lengths[2] = length
    with pytest.raises(IndexError, match="0 to 12"):
        network.step(cache, tokens, lengths, *view)


@torch.inference_mode()
def test_a_text_of_which_nothing_is_kept(variant):
    """A mask of zeros made NaN of a row that has finite logits by PyTorch's operators."""
    oracle, operator = both(make_model(make_config("toy")))
    cache, *rest = prepared(oracle, [(4, 12), (9, 30)])
    cache.text_mask[0] = False
    expected = oracle.step(cache, *rest)
    assert expected.isfinite().all()
    torch.testing.assert_close(operator.step(cache, *rest), expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_copy_of_a_cache_has_its_own_addresses():
    """A copy after a step was refused, for the pointers in it."""
    network = FrameDecoder(make_model(make_config("toy")), use_native=True)
    cache, *rest = prepared(network, [(4, 12)])
    expected = network.step(cache, *rest)
    for other in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        cache.keys[0].fill_(7)
        assert torch.equal(network.step(other, *rest), expected)


@torch.no_grad()
def test_weights_with_a_pending_sign():
    """The values of a tensor whose negation PyTorch has put off were read without it."""
    model = make_model(make_config("toy"))
    model.logits_dense.weight = nn.Parameter(torch._neg_view(model.logits_dense.weight.detach()))
    oracle, operator = both(model)
    expected = logits_of(oracle, [(4, 12)])
    torch.testing.assert_close(logits_of(operator, [(4, 12)]), expected, rtol=1e-4, atol=1e-4)


def test_structures_have_the_size_that_the_library_expects():
    """A field added on one side alone shifts all that follow."""
    from dia_hf.engine import native as structures

    library = native.library()
    library.dia_size_of.restype = ctypes.c_int64
    for index, name in enumerate(("_Matrix", "_Layer", "_Decoder", "_Cache", "_Step")):
        assert ctypes.sizeof(getattr(structures, name)) == library.dia_size_of(index)
    library.dia_size_of_sampling.restype = ctypes.c_int64
    for index, name in enumerate(("_Spec", "_State")):
        assert ctypes.sizeof(getattr(structures, name)) == library.dia_size_of_sampling(index)
