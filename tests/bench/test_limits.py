"""Bytes that a step must read, counted in another way, and bandwidth."""

import pytest
import torch

from dia_hf import DiaConfig, DiaForConditionalGeneration
from dia_hf._compat import CACHE_NAME
from dia_hf.bench import make_config, make_model, random_inputs, reduce_precision
from dia_hf.bench.limits import cache_bytes, read_bandwidth, weight_bytes


def step_with_cache(model, inputs, num_frames):
    """Decode some frames, then one more; return the cache before it, and the modules that it called."""
    frames = torch.zeros(len(inputs["input_ids"]), num_frames, 9, dtype=torch.long)
    first = model(input_ids=inputs["input_ids"], decoder_input_ids=frames, use_cache=True)
    called, cache = [], first[CACHE_NAME]
    sizes = [
        [sum(t.numel() * t.element_size() for t in (layer.keys, layer.values)) for layer in part.layers]
        for part in (cache.self_attention_cache, cache.cross_attention_cache)
    ]
    hooks = [
        module.register_forward_hook(lambda module, *_: called.append(module))
        for module in model.modules()
        if isinstance(module, (torch.nn.Linear, torch.nn.RMSNorm))
    ]
    encoder_outputs = (first.encoder_last_hidden_state,)
    model(encoder_outputs=encoder_outputs, decoder_input_ids=frames[:, :1], cache=cache, use_cache=True)
    for hook in hooks:
        hook.remove()
    return sizes, called


@pytest.mark.parametrize("size", ["toy", "mid"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_are_those_of_the_modules_that_a_step_calls(size, dtype):
    """A limit counted too low or too high makes every share of it wrong."""
    config = make_config(size)
    model, inputs = make_model(config, dtype=dtype), random_inputs(config, 3, 20)
    (own, cross), called = step_with_cache(model, inputs, num_frames=7)
    assert weight_bytes(model) == sum(m.weight.numel() * m.weight.element_size() for m in called)
    # The keys and values of both halves under guidance, the text's of one.
    assert cache_bytes(config, 3, 7, 20, dtype) == 2 * sum(own) + sum(cross)


def test_quantized_weights_count_as_they_are_stored():
    """A quantized tensor's dtype is bfloat16; at two bytes a weight its limit is twice too slow."""
    pytest.importorskip("torchao")
    model = make_model(make_config("mid"), dtype=torch.bfloat16)
    before, head = weight_bytes(model), model.logits_dense.weight.numel() * 2
    share = (weight_bytes(reduce_precision(model, "int8")) - head) / (before - head)
    assert 0.5 < share < 0.52


def test_the_published_model_reads_what_was_computed_by_hand():
    """1,264.8 million weights; 36.9 kB a frame and row, 147 kB a byte of text and row, in bfloat16."""
    with torch.device("meta"):
        model = DiaForConditionalGeneration(DiaConfig()).to(torch.bfloat16)
    assert round(weight_bytes(model) / 2e6, 1) == 1264.8
    assert cache_bytes(DiaConfig(), 1, 1, 0, torch.bfloat16) == 2 * 36864
    assert cache_bytes(DiaConfig(), 1, 0, 1, torch.bfloat16) == 147456


def test_bandwidth_is_a_rate():
    """Seconds taken for bytes, or a matrix without rows, give a meaningless bandwidth."""
    assert read_bandwidth("cpu", num_bytes=2**22, repeats=2) > 0
