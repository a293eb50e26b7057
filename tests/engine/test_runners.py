"""Launching of steps without a GPU; the scheduler is tested in `test_scheduler.py`."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
import torch._dynamo.testing
from transformers import CompileConfig

from dia_hf.engine import runners
from dia_hf.engine.decoder import FrameDecoder
from dia_hf.engine.runners import CompiledRunner, CudaGraphRunner, EagerRunner, StaticRunner, make_runner
from dia_hf.engine.sampling import SamplingSpec
from dia_hf.engine.step import FrameView
from tiny import random_config, random_model

RULES = SamplingSpec(
    eos_token_id=64,
    pad_token_id=65,
    is_guided=True,
    do_sample=False,
    max_top_k=5,
    same_top_k=True,
    uses_top_k=True,
    uses_top_p=False,
    all_filter=True,
    any_filters=True,
)


class Elsewhere:
    """A network that reports a GPU as its device."""

    def __init__(self, config):
        self.config = config
        self.device = torch.device("cuda")


@pytest.fixture(scope="module")
def network():
    with torch.no_grad():
        return FrameDecoder(random_model(random_config(3)))


@pytest.mark.parametrize(
    ("compile_options", "kind"), [(None, EagerRunner), ({}, CompiledRunner), ({"backend": "eager"}, CompiledRunner)]
)
def test_choice_on_a_cpu(network, compile_options, kind):
    """Compiled without a request, which takes a minute; or not compiled on request."""
    assert type(make_runner(network, RULES, compile_options)) is kind


def test_choice_on_a_gpu(monkeypatch):
    """Steps launched operator by operator are bound by the host's launch time."""
    compiled = []
    monkeypatch.setattr(runners, "_compiled", lambda *args: compiled.append(args[2]) or "compiled")
    arange = torch.arange
    monkeypatch.setattr(torch, "arange", lambda *args, **kwargs: arange(*args))
    elsewhere = Elsewhere(random_config(3).decoder_config)
    assert type(make_runner(elsewhere, RULES, None)) is CudaGraphRunner
    assert not compiled
    steps = make_runner(elsewhere, RULES, {"backend": "inductor"})
    assert (type(steps), steps.step, compiled) == (CudaGraphRunner, "compiled", [{"backend": "inductor"}])


@pytest.mark.parametrize(("number", "places"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (64, 64), (65, 128)])
def test_places(network, number, places):
    """A graph was captured for every number of samples."""
    assert StaticRunner(network, RULES).num_slots(number) == places
    assert EagerRunner(network, RULES).num_slots(number) == number


@pytest.mark.parametrize("capacity", [256, 512, 1280, 3072])
@torch.inference_mode()
def test_lengths_are_few_and_long_enough(network, capacity):
    """A length that cuts off the newest frames, exceeds the cache, or changes at each step."""
    steps = StaticRunner(network, RULES)
    room = network.new_cache(1, True, capacity + getattr(runners, "_SPARE", 0), 128)
    state = type("State", (), {"cache": room})
    for length in range(1, capacity + 1):
        view = steps._round(state, FrameView(torch.arange(length), 3, False, False))
        assert len(view.axis) == min(max(256, 1 << (length - 1).bit_length()), capacity)
        assert (view.num_bytes, view.is_ragged, view.is_text_ragged) == (128, True, True)
    assert torch.equal(view.axis, torch.arange(capacity))


def test_a_program_for_each_rules(network):
    """Compiled in every call; or one call's spec used in another's program."""
    options = {"backend": "eager"}
    first = runners._compiled(network, RULES, options)
    assert runners._compiled(network, replace(RULES), options) is first
    assert runners._compiled(network, replace(RULES, max_top_k=6), options) is not first
    assert runners._compiled(network, RULES, {"backend": "aot_eager"}) is not first


@torch._dynamo.config.patch(recompile_limit=2)
def test_more_programs_than_torch_keeps():
    """After eight calls with different specs, torch.compile falls back to eager mode, or fails."""
    model = random_model(random_config(2))
    ids = torch.ones(1, 3, dtype=torch.long)
    for top_k in (3, 4, 5, 6):
        options = {"do_sample": False, "top_k": top_k, "guidance_scale": 2.0, "max_new_tokens": 12}
        compiled = model.generate(ids, compile_config=CompileConfig(backend="eager"), **options)
        assert torch.equal(compiled, model.generate(ids, use_fast_path=False, **options))


def test_a_program_serves_all_lengths():
    """The number of frames compiled in as a constant costs a minute at each power of two."""
    model = random_model(random_config(2))
    torch._dynamo.reset()
    counted = torch._dynamo.testing.CompileCounter()
    options = {"do_sample": False, "min_new_tokens": 1100, "max_new_tokens": 1150}
    model.generation_config.compile_config = CompileConfig(backend=counted)
    ids = torch.ones(1, 3, dtype=torch.long)
    fast = model.generate(ids, use_fast_path=True, **options)
    assert fast.shape[1] > 1100
    assert counted.frame_count <= 2


def test_programs_and_batches_go_with_the_model():
    """A compiled program kept its network, and all weights, until the process ended."""
    model = random_model(random_config(2))
    ids = torch.ones(1, 3, dtype=torch.long)
    model.generate(ids, compile_config=CompileConfig(backend="eager"), max_new_tokens=12)
    (network,) = [one for one in runners._COMPILED if one.encoder is model.model.encoder]
    seen = weakref.ref(network)
    batch = weakref.ref(runners._IDLE._of[network][0])
    del model, network
    gc.collect()
    assert seen() is None
    assert batch() is None
