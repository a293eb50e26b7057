"""`FrameDecoder` against the model's own forward pass, its renewal after changes, and the cost of a step."""

import gc
import importlib.util
import threading
import weakref
from types import MethodType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CompileConfig
from transformers.integrations import hub_kernels
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from dia_hf.engine.decoder import FrameDecoder, make_frame_decoder, unsupported_reason_of
from dia_hf.modeling_dia import DiaRMSNorm
from tiny import as_inputs, random_config, random_model

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def make_model(seed, is_first_release=False, **decoder):
    config = random_config(seed)
    config.decoder_config.cross_attention_rope = is_first_release
    for name, value in decoder.items():
        setattr(config.decoder_config, name, value)
    return random_model(config, seed)


def draw_text(draw, lengths):
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return torch.randint(1, 256, mask.shape, generator=draw) * mask, mask


@given(
    seed=st.integers(0, 30),
    is_first_release=st.booleans(),
    is_guided=st.booleans(),
    samples=st.lists(st.tuples(st.integers(0, 1), st.integers(1, 6)), min_size=1, max_size=4),
    text_lengths=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    spare=st.sampled_from([0, 3]),
)
@settings(max_examples=40)
@torch.inference_mode()
def test_steps_are_the_models_own(seed, is_first_release, is_guided, samples, text_lengths, spare):
    """A wrong position, mask, head or row; rows of different lengths that leak into each other."""
    model = make_model(seed, is_first_release)
    decoder, draw, num_steps = model.config.decoder_config, torch.Generator().manual_seed(seed), 3
    text_of, prompt_lengths = (torch.tensor(column) for column in zip(*samples, strict=True))
    ids, mask = draw_text(draw, text_lengths)
    num_frames = int(prompt_lengths.max()) + num_steps - 1
    frames = torch.randint(0, decoder.vocab_size, (len(samples), num_frames, decoder.num_channels), generator=draw)

    # As the reference path has it: twice the batch, the second half with zeros for a text under the same mask.
    halves = (1, 0) if is_guided else (1,)
    expected = model(
        input_ids=torch.cat([ids[text_of] * half for half in halves]),
        attention_mask=torch.cat([mask[text_of] for _ in halves]),
        decoder_input_ids=torch.cat([frames for _ in halves]),
        use_cache=True,
    ).logits.unflatten(0, (-1, decoder.num_channels))

    network = FrameDecoder(model)
    cache = network.new_cache(len(samples), is_guided, num_frames + spare, ids.shape[1])
    network.read_text(cache, ids, mask, text_of)
    if max(prompt_lengths) > 1:
        network.read_frames(cache, frames[:, : max(prompt_lengths) - 1], is_guided)
    is_text_ragged = len({text_lengths[text] for text, _ in samples}) > 1
    num_bytes = max(text_lengths[text] for text, _ in samples)
    for step in range(num_steps):
        lengths = prompt_lengths - 1 + step
        tokens = frames[torch.arange(len(samples)), lengths]
        rows = lengths.repeat(len(halves))
        axis = torch.arange(num_frames + spare)
        if spare:
            view = (axis, ids.shape[1], True, True)
        else:
            view = (axis[: max(lengths) + 1], num_bytes, bool(min(lengths) < max(lengths)), is_text_ragged)
        logits = network.step(cache, tokens, rows, *view)
        theirs = expected[torch.arange(len(rows)), :, rows]
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, theirs, **CLOSE)


@given(
    seed=st.integers(0, 30),
    is_first_release=st.booleans(),
    is_guided=st.booleans(),
    prompt_lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    use_native=st.booleans(),
)
@settings(max_examples=40)
@torch.inference_mode()
def test_recorded_weights_are_the_models_own(seed, is_first_release, is_guided, prompt_lengths, use_native):
    """Weights of another head, layer, row, frame or byte; those of masked bytes, which eager attention has as 0."""
    model = make_model(seed, is_first_release)
    config, draw = model.config.decoder_config, torch.Generator().manual_seed(seed)
    lengths, num_samples, num_steps = torch.tensor(prompt_lengths), len(prompt_lengths), 3
    text_lengths = torch.randint(1, 9, (num_samples,), generator=draw).tolist()
    ids, mask = draw_text(draw, text_lengths)
    num_frames = max(prompt_lengths) + num_steps - 1
    frames = torch.randint(0, config.vocab_size, (num_samples, num_frames, config.num_channels), generator=draw)
    every = [
        (layer, head) for layer in range(config.num_hidden_layers) for head in range(config.cross_num_attention_heads)
    ]
    heads = tuple(every[place] for place in torch.randperm(len(every), generator=draw)[:3])

    network = FrameDecoder(model, use_native=use_native)
    cache = network.new_cache(num_samples, is_guided, num_frames + 2, ids.shape[1], heads)
    network.read_text(cache, ids, mask, torch.arange(num_samples))
    if max(prompt_lengths) > 1:
        network.read_frames(cache, frames[:, : max(prompt_lengths) - 1], is_guided)
    for step in range(num_steps):
        places = lengths - 1 + step
        axis, rows = torch.arange(num_frames + 2), places.repeat(2 if is_guided else 1)
        network.step(cache, frames[torch.arange(num_samples), places], rows, axis, max(text_lengths), True, True)

    model.set_attn_implementation("eager")
    output = model(input_ids=ids, attention_mask=mask, decoder_input_ids=frames, output_attentions=True)
    for sample, length in enumerate(prompt_lengths):
        for place, (layer, head) in enumerate(heads):
            theirs = output.cross_attentions[layer][sample, head, : length - 1 + num_steps]
            torch.testing.assert_close(cache.attention[sample, : len(theirs), place], theirs, **CLOSE)


@pytest.mark.parametrize("is_first_release", [False, True])
@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_the_unconditional_branch_is_constant(seed, is_first_release):
    """The constant unconditional branch is valid only if all zero bytes are encoded to one vector."""
    model = make_model(seed, is_first_release)
    ids, mask = draw_text(torch.Generator().manual_seed(seed), [1, 6, 9])
    network = FrameDecoder(model)
    states = model.model.encoder(input_ids=0 * ids, attention_mask=mask).last_hidden_state
    kept = states[mask.bool()]
    torch.testing.assert_close(kept, network._constant_text_state().expand_as(kept), **CLOSE)

    seen = []
    for layer in model.model.decoder.layers:
        layer.cross_attention.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    frames = torch.randint(0, 9, (3, 5, model.config.decoder_config.num_channels))
    model(input_ids=0 * ids, attention_mask=mask, decoder_input_ids=frames)
    for output, layer in zip(seen, network.layers, strict=True):
        torch.testing.assert_close(output, layer.cross_constant.expand_as(output), **CLOSE)


@torch.inference_mode()
def test_copied_rows_continue():
    """A sample that moved to another slot continued with another's keys, text or length."""
    model = make_model(0)
    network, draw, num_channels = FrameDecoder(model), torch.Generator().manual_seed(0), 9
    ids, mask = draw_text(draw, [7, 4, 7])
    cache = network.new_cache(3, True, 6, 7)
    network.read_text(cache, ids, mask, torch.arange(3))
    network.read_frames(cache, torch.randint(0, 60, (3, 4, num_channels), generator=draw), True)
    tokens = torch.randint(0, 60, (3, num_channels), generator=draw)
    expected = network.step(cache, tokens, torch.full((6,), 4), torch.arange(5), 7, False, True)

    samples, rows = torch.tensor([2, 1]), torch.tensor([2, 1, 5, 4])
    fewer = cache.select(rows, samples)
    view = (torch.arange(5), 7, False, True)
    logits = network.step(fewer, tokens[samples], torch.full((4,), 4), *view)
    torch.testing.assert_close(logits, expected[rows], **CLOSE)
    larger = network.new_cache(4, True, 9, 12)
    for values in (*larger.keys, *larger.text_values):
        values.fill_(3.0)
    larger.text_mask.fill_(True)
    larger.copy_rows(fewer, torch.tensor([3, 0, 7, 4]), torch.tensor([3, 0]))
    tokens = tokens[torch.tensor([1, 0, 0, 2])]
    logits = network.step(larger, tokens, torch.full((8,), 4), torch.arange(5), 12, False, True)
    torch.testing.assert_close(logits[[3, 0, 7, 4]], expected[rows], **CLOSE)


@pytest.mark.parametrize("is_guided", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_of_a_sample(is_guided, dtype):
    """A wrong memory estimate admits a batch that does not fit."""
    network = FrameDecoder(make_model(0).to(dtype))
    cache = network.new_cache(1, is_guided, 50, 30)
    tensors = [*cache.keys, *cache.values, *cache.text_keys, *cache.text_values]
    assert network.bytes_of_sample(50, 30, is_guided) == sum(tensor.nbytes for tensor in tensors)


# --- how old a network may be ---


def by_optimizer(model):
    weight = model.model.decoder.layers[0].mlp.down_proj.weight
    weight.grad = weight.detach().clone()
    torch.optim.SGD([weight], lr=3.0).step()


def by_data_in_place(model):
    model.model.decoder.layers[0].self_attention.k_proj.weight.data.add_(0.5)


def by_data(model):
    weight = model.model.decoder.layers[0].mlp.down_proj.weight
    weight.data = weight.data * 2


def by_state_dict(model):
    model.load_state_dict({name: value + 0.25 for name, value in model.state_dict().items()})


def in_the_encoder(model):
    with torch.no_grad():
        model.model.encoder.layers[0].mlp.down_proj.weight.mul_(1.5)


def by_another_module(model):
    layer = model.model.decoder.layers[0].self_attention
    layer.v_proj = nn.Linear(layer.v_proj.in_features, layer.v_proj.out_features, bias=False, dtype=model.dtype)


def by_another_activation(model):
    model.model.decoder.layers[0].mlp.activation = nn.Tanh()


def by_another_norm(model):
    model.model.decoder.layers[0].pre_mlp_norm.eps = 1e4


def in_one_place(model):
    with torch.no_grad():
        model.model.decoder.layers[0].mlp.gate_up_proj.weight[1, 3] += 50


def in_half_of_the_data(model):
    rows = model.model.decoder.embeddings.embed.weight.data
    rows[len(rows) // 2 :] *= -2


CHANGES = [
    in_one_place,
    in_half_of_the_data,
    by_optimizer,
    by_data_in_place,
    by_data,
    by_state_dict,
    in_the_encoder,
    by_another_module,
    by_another_activation,
    by_another_norm,
]
GREEDY = {"do_sample": False, "guidance_scale": 3.0, "top_k": 5, "max_new_tokens": 30}


def assert_fast_is_reference(model, seed=0, use_fast_path=True, **options):
    config = model.config
    draw = torch.Generator().manual_seed(seed)
    decoder = config.decoder_config
    prompts = [torch.randint(0, 10, (length, decoder.num_channels), generator=draw) for length in (0, 3)]
    inputs = as_inputs(config, [b"Hello.", b"Who?"], prompts)
    fast = model.generate(**inputs, **GREEDY, use_fast_path=use_fast_path, **options)
    slow = model.generate(**inputs, **GREEDY, use_fast_path=False)
    assert torch.equal(fast, slow)
    return fast


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_weights_that_have_changed_are_prepared_anew(change):
    """After a training step, or a merged adapter, the fast path used stale weights."""
    model = make_model(3).double()
    before = assert_fast_is_reference(model)
    change(model)
    assert not torch.equal(assert_fast_is_reference(model, use_fast_path=None), before)


@pytest.mark.parametrize("change", CHANGES[:8], ids=lambda change: change.__name__)
def test_a_network_is_as_old_as_its_weights(change):
    """A change with little trace was detected only because something else changed with it."""
    model = make_model(3)
    with torch.no_grad():
        network = make_frame_decoder(model)
        assert make_frame_decoder(model) is network
    change(model)
    with torch.no_grad():
        assert make_frame_decoder(model) is not network
        assert make_frame_decoder(model) is make_frame_decoder(model)


def test_a_weight_in_another_layout():
    """A transposed weight, as in some checkpoints, that is changed through `.data` was not detected."""
    model = make_model(3).double()
    weight = model.model.decoder.layers[0].self_attention.q_proj.weight
    weight.data = weight.data.t().contiguous().t()
    before = assert_fast_is_reference(model)
    weight.data.mul_(-3)
    assert not torch.equal(assert_fast_is_reference(model), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_within_a_larger_tensor(dtype):
    """A weight at an odd offset, as optimizers with flat buffers leave it, cannot be read as integers."""
    model = make_model(3).to(dtype)
    weight = model.logits_dense.weight
    flat = torch.zeros(weight.numel() + 1, dtype=dtype)
    flat[1:] = weight.data.flatten()
    weight.data = flat[1:].view(weight.shape)
    with torch.no_grad():
        network = make_frame_decoder(model)
        flat[5:] += 1
        assert make_frame_decoder(model) is not network


def by_hook(module, call):
    module.register_forward_hook(lambda module, args, output: -output)


def by_forward(module, call):
    module.forward = lambda states: -call(states)


@pytest.mark.parametrize("change", [by_hook, by_forward], ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", ["logits_dense", "model.decoder.layers.0.mlp", "model.decoder.layers.0.mlp.down_proj"])
def test_what_is_put_before_a_module_later(change, name):
    """A hook or a replaced forward that is added after the first call was never called."""
    model = make_model(3).double()
    before = assert_fast_is_reference(model)
    module = model.get_submodule(name)
    change(module, module.forward)
    assert not torch.equal(assert_fast_is_reference(model, use_fast_path=None), before)


@torch.no_grad()
def test_a_call_changes_no_weights():
    """Weights packed and fused again in every call cost seconds in a model of 1.6 billion."""
    model = make_model(3)
    network = make_frame_decoder(model)
    assert_fast_is_reference(model)
    model.train().eval()
    model.requires_grad_(False)
    assert make_frame_decoder(model) is network


@torch.no_grad()
def test_another_dtype_is_another_network():
    """A model cast to bfloat16 computed with float32 copies."""
    model = make_model(3)
    make_frame_decoder(model)
    assert make_frame_decoder(model.to(torch.bfloat16)).dtype == torch.bfloat16


@torch.no_grad()
def test_a_network_goes_with_its_model():
    """Copies of the weights of every loaded model stayed in memory."""
    model = make_model(3)
    assert_fast_is_reference(model)
    network = weakref.ref(make_frame_decoder(model))
    del model
    gc.collect()
    assert network() is None


def test_old_copies_are_freed_before_new_ones_are_made(monkeypatch):
    """Two copies of the weights were held at a time, where one fits."""
    model = make_model(3)
    with torch.no_grad():
        old = weakref.ref(make_frame_decoder(model))
        model.logits_dense.weight.mul_(2)
        prepare, seen = FrameDecoder.__init__, []

        def watched(self, *args, **kwargs):
            gc.collect()
            seen.append(old())
            prepare(self, *args, **kwargs)

        monkeypatch.setattr(FrameDecoder, "__init__", watched)
        make_frame_decoder(model)
    assert seen == [None]


def test_threads_share_a_network():
    """Two concurrent first calls prepared the weights twice, in twice the memory."""
    model, got = make_model(3), []
    start = threading.Barrier(4)

    def run():
        start.wait()
        with torch.no_grad():
            got.append(make_frame_decoder(model))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4
    assert len(set(map(id, got))) == 1


def adapted(model, *targets):
    config = LoraConfig(target_modules=list(targets), r=2, init_lora_weights=False)
    torch.manual_seed(0)
    return get_peft_model(model, config)


ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@pytest.mark.parametrize(
    "targets",
    [ATTENTION, ("gate_up_proj", "down_proj"), ("logits_dense",), ("v_proj",), ("embed",), ("embedding",)],
    ids="-".join,
)
def test_adapters_count(targets):
    """An adapter applied on the reference path and not on the fast path."""
    model = make_model(3).double()
    plain = assert_fast_is_reference(model)
    adapted_model = adapted(model, *targets)
    with_adapter = assert_fast_is_reference(model)
    assert not torch.equal(with_adapter, plain)
    adapted_model.merge_adapter()
    assert torch.equal(assert_fast_is_reference(model), with_adapter)
    adapted_model.unmerge_adapter()
    assert_fast_is_reference(model)
    assert torch.equal(assert_fast_is_reference(adapted_model.unload()), plain)


@pytest.mark.parametrize("targets", [ATTENTION, ("gate_up_proj", "down_proj")], ids="-".join)
@pytest.mark.parametrize("compile_config", [None, CompileConfig(backend="eager")], ids=["as it is", "compiled"])
def test_adapters_that_are_switched_off_and_on(targets, compile_config):
    """Adapters are switched without a change of weights, and stale or compiled copies were used."""
    model, options = make_model(3).double(), {"compile_config": compile_config}
    plain = assert_fast_is_reference(model)
    adapted_model = adapted(model, *targets)
    with_adapter = assert_fast_is_reference(model, **options)
    with adapted_model.disable_adapter():
        assert torch.equal(assert_fast_is_reference(model, **options), plain)
    adapted_model.add_adapter("other", LoraConfig(target_modules=list(targets), r=2, init_lora_weights=False))
    adapted_model.set_adapter("other")
    assert not torch.equal(assert_fast_is_reference(model, **options), with_adapter)
    adapted_model.set_adapter("default")
    assert torch.equal(assert_fast_is_reference(model, **options), with_adapter)


# --- attention kernels and kernels of the Hub ---


@pytest.fixture
def counted_kernel():
    """A registered attention kernel that counts its calls; the registry is as before afterwards."""
    calls = []

    def counting_attention(*args, **kwargs):
        calls.append(1)
        return sdpa_attention_forward(*args, **kwargs)

    before = dict(ALL_ATTENTION_FUNCTIONS._local_mapping)
    ALL_ATTENTION_FUNCTIONS.register("counting_attention", counting_attention)
    yield calls, counting_attention
    ALL_ATTENTION_FUNCTIONS._local_mapping.clear()
    ALL_ATTENTION_FUNCTIONS._local_mapping.update(before)
    del type(ALL_ATTENTION_FUNCTIONS)._global_mapping["counting_attention"]


@torch.no_grad()
def test_a_registered_attention_kernel_is_called(counted_kernel):
    """`attn_implementation` had no effect on `generate()`: the fast path called PyTorch's kernel instead."""
    calls, _ = counted_kernel
    model = make_model(3).double()
    model.set_attn_implementation("counting_attention")
    layers, encoder_layers = len(model.model.decoder.layers), len(model.model.encoder.layers)
    codes = assert_fast_is_reference(model, use_fast_path=None)
    num_steps = codes.shape[1] - 4  # the prompt has a beginning and three frames
    # Two calls, in each the encoder's layers once, and for each step self- and cross-attention.
    assert len(calls) >= 2 * (encoder_layers + 2 * layers * (num_steps - 1))
    with pytest.raises(ValueError, match="`attn_implementation` is 'counting_attention'"):
        assert_fast_is_reference(model)


@torch.no_grad()
def test_an_attention_kernel_in_the_place_of_sdpa_is_called(counted_kernel):
    """A function registered under the name of a kernel that the fast path implements is another kernel."""
    calls, kernel = counted_kernel
    model = make_model(3).double()
    assert_fast_is_reference(model)
    ALL_ATTENTION_FUNCTIONS["sdpa"] = kernel
    assert_fast_is_reference(model, use_fast_path=None)
    assert calls
    with pytest.raises(ValueError, match="`attn_implementation` is 'sdpa'"):
        assert_fast_is_reference(model)


def test_eager_attention_is_obeyed(monkeypatch):
    """A user who avoids PyTorch's kernel by "eager" got that kernel."""
    model = make_model(3).double()
    model.set_attn_implementation("eager")
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *args, **kwargs: pytest.fail("called"))
    assert_fast_is_reference(model, use_fast_path=None)


def test_another_kernel_of_the_encoder_alone(counted_kernel):
    """The fast path calls the encoder as a module, which uses its own kernel."""
    calls, _ = counted_kernel
    model = make_model(3).double()
    model.set_attn_implementation({"encoder_config": "counting_attention"})
    assert_fast_is_reference(model)
    assert calls


@pytest.mark.parametrize("change", [by_hook, by_forward], ids=lambda change: change.__name__)
def test_what_is_put_before_the_encoder_later(change):
    """The unconditional text's state is computed once for a model; a hook on the encoder changes it."""
    model = make_model(3).double()
    before = assert_fast_is_reference(model)
    norm = model.model.encoder.norm
    change(norm, norm.forward)
    assert not torch.equal(assert_fast_is_reference(model), before)


def hub_kernel(calls):
    """A layer like those of the Hub: no constructor, no state, the module's weight and `variance_epsilon`."""

    class KernelRMSNorm(nn.Module):
        def forward(self, hidden_states):
            calls.append(1)
            return -F.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)

    return KernelRMSNorm


def test_kernels_of_the_hub_run_on_both_paths(monkeypatch):
    """`use_kernels=True` replaced nothing, without a warning, and `model.use_kernels` was True."""
    model = make_model(3).double()
    plain = assert_fast_is_reference(model)
    calls = []

    def kernelize(model, mode=None):
        """As the package `kernels` does for marked layers: a kernel, or for want of one the layer's own function."""
        for module in model.modules():
            if getattr(type(module), "kernel_layer_name", None) == "RMSNorm":
                module.forward = MethodType(hub_kernel(calls).forward, module)
            elif module in (layer.mlp.activation for layer in model.model.decoder.layers):
                module.forward = MethodType(type(module).forward, module)
        model._use_kernels = True

    monkeypatch.setattr("transformers.modeling_utils.kernelize", kernelize)
    monkeypatch.setattr("transformers.modeling_utils.is_kernels_available", lambda: True)
    monkeypatch.setattr(hub_kernels, "register_kernel_mapping_transformers", lambda: None, raising=False)
    # Without the package `kernels`, transformers' decorator marks nothing.
    monkeypatch.setattr(DiaRMSNorm, "kernel_layer_name", "RMSNorm", raising=False)
    model.use_kernels = True
    changed = assert_fast_is_reference(model)  # with `use_fast_path=True`
    assert not torch.equal(changed, plain)
    num_norms = sum(isinstance(module, nn.RMSNorm) for module in model.modules())
    assert num_norms == 2 * len(model.model.encoder.layers) + 3 * len(model.model.decoder.layers) + 2
    assert len(calls) > 2 * num_norms


def test_norms_are_marked_for_the_hub(monkeypatch):
    """transformers' decorator finds a layer by its name; under another name nothing is replaced."""
    marked = []
    monkeypatch.setattr(
        "transformers.integrations.use_kernel_forward_from_hub", lambda name: lambda kind: marked.append(name) or kind
    )
    spec = importlib.util.find_spec("dia_hf.modeling_dia")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert marked == ["RMSNorm"]


# --- what cannot be taken apart ---


def with_hook(model):
    model.model.decoder.layers[0].mlp.register_forward_hook(lambda *args: None)


def with_pre_hook(model):
    model.register_forward_pre_hook(lambda *args: None)


def with_accelerate(model):
    model.model._hf_hook = object()


def with_two_dtypes(model):
    for module in model.modules():
        if isinstance(module, nn.RMSNorm):
            module.to(torch.float64)


def with_two_devices(model):
    model.logits_dense.to("meta")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_hook, "a DiaMLP has a hook"),
        (with_pre_hook, "a DiaForConditionalGeneration has a hook"),
        (with_accelerate, "a DiaModel has a hook"),
        (with_two_dtypes, r"several dtypes \(torch.float32, torch.float64\)"),
        (with_two_devices, "several devices"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_taken_apart(change, reason):
    """A model that the fast path cannot prepare is given to the reference path, with a readable reason."""
    model = make_model(3)
    assert unsupported_reason_of(model) is None
    change(model)
    with pytest.raises(ValueError, match=f"`use_fast_path` is True, but .*{reason}"):
        model.generate(torch.ones(1, 3, dtype=torch.long), use_fast_path=True, max_new_tokens=20)


def test_autocast_is_left_to_the_reference_path():
    """Fused weights under autocast compute in another dtype than the caches'."""
    model = make_model(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert unsupported_reason_of(model) == "autocast is on"
        model.generate(torch.ones(1, 3, dtype=torch.long), max_new_tokens=20)
    assert unsupported_reason_of(model) is None


# --- what a step costs ---


class Operators(TorchDispatchMode):
    """Record of each operator, the sizes of its outputs, and whether an input is as large as a cache."""

    def __init__(self, cache):
        super().__init__()
        tensors = [*cache.keys, *cache.values, *cache.text_keys, *cache.text_values, cache.text_mask]
        self.caches = {tensor.untyped_storage().data_ptr(): tensor.numel() for tensor in tensors}
        self.made = []
        self.given_a_whole_cache = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [one for one in args if isinstance(one, torch.Tensor)]
        for one in tensors:
            if one.numel() == self.caches.get(one.untyped_storage().data_ptr()):
                self.given_a_whole_cache.add(func.overloadpacket.__name__)
        old = {one.untyped_storage().data_ptr() for one in tensors}
        results = result if isinstance(result, (tuple, list)) else [result]
        new = [one for one in results if isinstance(one, torch.Tensor) and one.untyped_storage().data_ptr() not in old]
        self.made += [(func.overloadpacket.__name__, one.numel()) for one in new]
        return result


def step_in_a_cache_of(network, capacity, num_frames, watch):
    """Run a step that reads `num_frames` frames and bytes of a larger cache, under `watch(cache)`."""
    cache = network.new_cache(2, True, capacity, capacity)
    cache.text_mask[..., :num_frames] = True
    tokens = torch.zeros(2, network.config.num_channels, dtype=torch.long)
    lengths = torch.tensor([num_frames - 1, num_frames - 2] * 2)
    view = (torch.arange(num_frames), num_frames, True, True)
    network.step(cache, tokens, lengths, *view)
    with watch(cache) as seen:
        network.step(cache, tokens, lengths, *view)
    return seen


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_a_step_costs_what_it_sees(seed, dtype):
    """Caches copied whole, or keys repeated for each query head, double the time of a step."""
    heads = {"num_attention_heads": 12, "num_key_value_heads": 2, "head_dim": 8}
    cross = {"cross_num_attention_heads": 12, "cross_num_key_value_heads": 2, "cross_head_dim": 8}
    network = FrameDecoder(make_model(seed, bool(seed % 2), **heads, **cross).to(dtype))
    short, long = (step_in_a_cache_of(network, capacity, 200, Operators) for capacity in (300, 3000))
    assert short.made == long.made
    assert max(size for _, size in short.made) < 4 * 2 * 200 * 8  # the keys that the rows of a layer see
    views = {"slice", "alias", "detach", "view", "transpose", "unsqueeze", "expand", "select", "as_strided"}
    assert short.given_a_whole_cache <= {"index_put_", *views}


@torch.inference_mode()
def test_a_prompt_is_read_no_further_than_it_is_needed():
    """The last layer's attention and feed-forward were computed for prompt frames, and not used."""
    network = FrameDecoder(make_model(3))
    cache = network.new_cache(1, True, 5, 3)
    network.layers[-1].self_out = network.layers[-1].down = None
    network.read_frames(cache, torch.zeros(1, 4, network.config.num_channels, dtype=torch.long), True)
    assert all(keys[:, :, :4].any() for keys in (*cache.keys, *cache.values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_no_kernel_copies_a_cache(dtype):
    """`scatter_` on a CPU in half precision copies its whole target, which no operator shows."""
    network = FrameDecoder(make_model(0).to(dtype))
    allocated = []
    for capacity in (64, 4096):
        seen = step_in_a_cache_of(
            network, capacity, 20, lambda cache: profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        )
        events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
        allocated.append(sum(event.nbytes() for event in events if event.nbytes() > 0))
    assert allocated[0] > 0
    assert allocated[1] == allocated[0]
