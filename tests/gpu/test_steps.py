"""Graphs and late reads: nothing waits for the device, few graphs, no trace of their capture."""

import gc
import threading

import pytest
import torch
from transformers.generation import BaseStreamer

from dia_hf.engine import make_frame_decoder, memory, runners, scheduler
from dia_hf.engine.async_reads import AsyncReads
from dia_hf.engine.decoder import FrameDecoder
from dia_hf.engine.runners import CudaGraphRunner, EagerRunner
from dia_hf.engine.scheduler import FrameScheduler
from tiny import as_inputs, random_config, random_model

pytestmark = pytest.mark.gpu

GREEDY = {"do_sample": False, "guidance_scale": 2.0, "top_k": 9, "use_fast_path": True}
SAMPLED = GREEDY | {"do_sample": True, "temperature": 1.2, "top_p": 0.95}


def make_model(seed=0, is_first_release=False, **decoder):
    config = random_config(seed)
    config.decoder_config.cross_attention_rope = is_first_release
    for name, value in decoder.items():
        setattr(config.decoder_config, name, value)
    return random_model(config, seed).cuda()


def make_inputs(config, lengths):
    """Make a request for each of the prompts' lengths; every other text is longer."""
    draw, channels = torch.Generator().manual_seed(0), config.decoder_config.num_channels
    prompts = [torch.randint(0, 11, (length, channels), generator=draw) for length in lengths]
    texts = [b"Hello." if number % 2 else b"And who are you?" for number in range(len(lengths))]
    return {name: value.cuda() for name, value in as_inputs(config, texts, prompts).items()}


@pytest.fixture
def captures(monkeypatch):
    """Counts graphs as they are captured: places of the batch and length."""
    seen, capture = [], CudaGraphRunner._capture

    def watched(self, state, view):
        seen.append((state.num_samples, len(view.axis)))
        return capture(self, state, view)

    monkeypatch.setattr(CudaGraphRunner, "_capture", watched)
    return seen


def refuse_to_wait(function, is_ready):
    """Let anything that waits for the device raise in `function`, once `is_ready(*args)`."""

    def watched(*args):
        if not is_ready(*args):
            return function(*args)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return function(*args)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return watched


class Listener(BaseStreamer):
    """Somebody to hand frames to."""

    def put(self, value):
        assert value.device.type == "cpu"

    def end(self):
        pass


@pytest.mark.parametrize("is_first_release", [False, True])
@pytest.mark.parametrize("source", ["global", "generator", "generators"])
@pytest.mark.parametrize("kind", [CudaGraphRunner, EagerRunner], ids=lambda kind: kind.__name__)
def test_no_step_waits_for_the_device(monkeypatch, kind, source, is_first_release):
    """A number read off the device in every step: the device idles while the host prepares the next."""
    monkeypatch.setattr(scheduler, "make_runner", lambda network, rules, options: kind(network, rules))
    num_checked = []

    def is_ready(steps, state, view):
        # The first steps load kernels and make graphs.
        is_warm = bool(state.graphs) if kind is CudaGraphRunner else len(view.axis) > 9
        num_checked.append(is_warm)
        return is_warm

    monkeypatch.setattr(kind, "take", refuse_to_wait(kind.take, is_ready))
    monkeypatch.setattr(FrameScheduler, "_fill_noise", refuse_to_wait(FrameScheduler._fill_noise, lambda *args: True))
    monkeypatch.setattr(FrameScheduler, "_all_tokens", refuse_to_wait(FrameScheduler._all_tokens, lambda *args: True))
    model = make_model(0, is_first_release)
    inputs = make_inputs(model.config, [0, 4, 2])
    generator = {
        "global": None,
        "generator": torch.Generator("cuda").manual_seed(0),
        "generators": [torch.Generator("cuda").manual_seed(seed) for seed in range(3)],
    }[source]
    limits = [40, 60, 50]
    options = SAMPLED | {"min_new_tokens": 20, "streamer": Listener()}
    model.generate(**inputs, max_new_tokens=limits, generator=generator, **options)
    assert sum(num_checked) > 20


def test_the_host_looks_now_and_then(monkeypatch):
    """An event waited for after every frame: the host is never ahead."""
    model = make_model(0)
    waits, synchronize = [], torch.cuda.Event.synchronize
    monkeypatch.setattr(torch.cuda.Event, "synchronize", lambda self: waits.append(self) or synchronize(self))
    model.generate(**make_inputs(model.config, [0]), min_new_tokens=190, max_new_tokens=200, **GREEDY)
    assert len(waits) <= 200 / 7 + 2


def test_one_graph_serves_calls_of_like_size(captures):
    """A graph captured for every call, length and number of samples: longer than the call itself."""
    model = make_model(0)
    for limit in (30, 60, 120, 200):
        for lengths in ([0, 3, 1], [2, 0, 1, 5]):
            options = GREEDY | {"max_new_tokens": limit, "min_new_tokens": limit - 8}
            model.generate(**make_inputs(model.config, lengths), **options)
    # One for four places, and those for two and one as samples end; those are kept as well.
    assert len(captures) == len(set(captures))
    assert set(captures) <= {(4, 256), (2, 256), (1, 256)}


def test_lengths_of_graphs_are_few(captures):
    """A graph for each frame."""
    model = make_model(3)
    model.generate(**make_inputs(model.config, [0]), max_new_tokens=1200, min_new_tokens=1150, **GREEDY)
    assert captures == [(1, 256), (1, 512), (1, 1024), (1, 1280)]


@pytest.mark.parametrize("limit", [257, 300, 600])
def test_a_capture_leaves_no_trace(captures, limit):
    """Warm-up steps that are heard: frames doubled or lost where a longer graph takes over, an end said in between."""
    model = make_model(0).double()
    inputs = make_inputs(model.config, [0, 3])
    options = GREEDY | {"max_new_tokens": limit, "min_new_tokens": limit - 8}
    first, second = (model.generate(**inputs, **options) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, model.generate(**inputs, **options | {"use_fast_path": False}))
    sampled = [
        model.generate(**inputs, **SAMPLED, max_new_tokens=limit, generator=torch.Generator("cuda").manual_seed(3))
        for _ in range(2)
    ]
    assert torch.equal(*sampled)  # the first captured, the second replayed
    assert (2, 512) in captures


def test_threads_capture_and_replay_at_once(captures):
    """Two captures at once, or one while the other replays: CUDA refuses, or one's launches land in the other's."""
    model = make_model(0).double()
    requests = [[0], [0, 2], [1, 0, 4], [3] * 5]
    inputs = [make_inputs(model.config, lengths) for lengths in requests]
    options = GREEDY | {"max_new_tokens": 300, "min_new_tokens": 280}
    expected = [model.generate(**one, **options | {"use_fast_path": False}) for one in inputs]
    answers, start = {}, threading.Barrier(len(inputs))

    def run(number):
        start.wait()
        answers[number] = [model.generate(**inputs[number], **options) for _ in range(3)]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == len(inputs)
    for number, codes in enumerate(expected):
        assert all(torch.equal(answer, codes) for answer in answers[number])


def test_late_reads_keep_order_and_value():
    """A value read before it has arrived, or after the next step has written over it."""
    got = []
    reads = AsyncReads(lambda value: got.append(value.tolist()), max_pending=8)
    value, weight = torch.zeros(2, device="cuda"), torch.randn(2048, 2048, device="cuda")
    for number in range(100):
        weight = weight @ weight * 0  # keeps the device busy
        value.fill_(number)
        reads.send(value)
        assert len(reads._pending) <= 8
    reads.flush()
    assert got == [[number, number] for number in range(100)]


@pytest.mark.parametrize("is_first_release", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_half_precision_is_no_worse_than_the_models_own(dtype, is_first_release):
    """Logits rounded where the model's own forward pass is exact; attention at scale 1.0 magnifies it."""
    exact = make_model(0, is_first_release).double()
    half = make_model(0, is_first_release).to(dtype)
    draw, num_frames = torch.Generator().manual_seed(0), 24
    ids = torch.randint(1, 256, (2, 9), generator=draw).cuda()
    frames = torch.randint(0, 60, (2, num_frames, 9), generator=draw).cuda()
    mask = torch.ones_like(ids)

    def forward(model):
        return model(input_ids=ids, attention_mask=mask, decoder_input_ids=frames).logits.unflatten(0, (2, 9)).double()

    network = FrameDecoder(half)
    cache = network.new_cache(2, False, num_frames, 9)
    network.read_text(cache, ids, mask, torch.arange(2, device="cuda"))
    steps = []
    for frame in range(num_frames):
        lengths = torch.full((2,), frame, device="cuda")
        axis = torch.arange(frame + 1, device="cuda")
        steps.append(network.step(cache, frames[:, frame], lengths, axis, 9, False, False))
    fast = torch.stack(steps, dim=2).double()
    expected = forward(exact)
    error, own_error = (fast - expected).square().mean().sqrt(), (forward(half) - expected).square().mean().sqrt()
    assert error <= 1.5 * own_error


def test_a_call_takes_the_memory_that_was_counted_for_it():
    """A batch that fits, but not beside the copies that are made of it when it is set up and when it shrinks."""
    model = make_model(3, num_hidden_layers=8, num_attention_heads=16, num_key_value_heads=16, head_dim=128)
    inputs, limits = make_inputs(model.config, [0, 3, 1]), [2000, 20, 1999]
    with torch.no_grad():
        counted = 3 * make_frame_decoder(model).bytes_of_sample(2004, 16, True)
    assert counted > 2**30  # or the libraries' workspaces would hide it
    gc.collect()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    model.generate(**inputs, max_new_tokens=limits, **GREEDY)
    assert torch.cuda.max_memory_allocated() - before <= counted / memory._SHARE + 2**30


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_memory_does_not_grow(options):
    """Batches and graphs of calls that are over."""
    model, held = make_model(0), []
    for _ in range(4):
        for lengths, limit in (([0], 60), ([0, 2, 1], 300), ([1] * 6, 40), ([0, 1], 700)):
            model.generate(**make_inputs(model.config, lengths), max_new_tokens=limit, **options)
        gc.collect()
        held.append(torch.cuda.memory_allocated())
    assert held[-1] <= held[1]
    with torch.no_grad():
        assert len(runners._IDLE._of[make_frame_decoder(model)]) <= runners._MOST_IDLE


def test_memory_goes_with_the_model():
    """Graphs hold their memory, and the weights, after the model is gone."""
    held = []
    for _ in range(4):
        model = make_model(0)
        model.generate(**make_inputs(model.config, [0]), max_new_tokens=30, **GREEDY)
        del model
        gc.collect()
        held.append(torch.cuda.memory_allocated())
    assert held[-1] <= held[0]


def test_as_many_at_once_as_fit(monkeypatch):
    """More samples than there is memory for, computed at once."""
    model = make_model(0).double()
    inputs = make_inputs(model.config, [0, 4, 2, 1, 0, 3, 5])
    expected = model.generate(**inputs, max_new_tokens=40, **GREEDY)
    sizes, take = [], CudaGraphRunner.take

    def counted(self, state, view):
        sizes.append(state.num_samples)
        take(self, state, view)

    monkeypatch.setattr(CudaGraphRunner, "take", counted)
    monkeypatch.setattr(scheduler, "num_fitting", lambda size, device: 2)
    assert torch.equal(model.generate(**inputs, max_new_tokens=40, **GREEDY), expected)
    assert max(sizes) == 2
