"""Calls of many threads in one engine: each has the codes that it has alone.

All in float64: in lower precision rounding depends on the size of the batch, and close tokens could swap.
"""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers.generation import BaseStreamer

from dia_hf.engine import Engine, EngineError, make_frame_decoder, scheduler
from dia_hf.engine.runners import EagerRunner, StaticRunner
from dia_hf.engine.scheduler import FrameScheduler
from dia_hf.generation import DiaCodesStreamer
from tiny import as_inputs, assert_same_speech, random_config, random_model

TEXTS = [b"Hello.", b"a", b"And who are you?", b"Yes.", b"No, not at all.", b"Hm", b"The end."]
GREEDY = {"guidance_scale": 2.0, "top_k": 9, "do_sample": False}


@pytest.fixture(scope="module")
def model():
    model = random_model(random_config(0)).double()
    with torch.no_grad():
        make_frame_decoder(model)
    return model


@pytest.fixture(params=[EagerRunner, StaticRunner])
def runner(request, monkeypatch):
    monkeypatch.setattr(scheduler, "make_runner", lambda network, spec, options: request.param(network, spec))


def make_call(model, number):
    """Draw a request: text, prompt, limit and sampling parameters."""
    draw, channels = random.Random(number), model.config.decoder_config.num_channels
    prompt = torch.randint(
        0, 11, (draw.choice([0, 0, 1, 5, 9]), channels), generator=torch.Generator().manual_seed(number)
    )
    options = {
        "do_sample": draw.random() < 0.6,
        "guidance_scale": draw.choice([None, 1.5, 2.0, 3.0]),
        "max_new_tokens": draw.randint(8, 45),
    }
    if options["do_sample"]:
        options |= {
            "temperature": draw.choice([0.7, 1.0, 1.3]),
            "top_k": draw.choice([None, 5, 9]),
            "top_p": draw.choice([None, 0.9]),
        }
    return as_inputs(model.config, [draw.choice(TEXTS)], [prompt]), options


def speak(model, number, **more):
    inputs, options = make_call(model, number)
    generator = torch.Generator().manual_seed(number) if options["do_sample"] else None
    return model.generate(**inputs, **options, generator=generator, **more)[0]


def wait_until_idle(engine):
    """Wait for a last turn of the engine's loop, after which it holds no call."""
    for _ in range(500):
        if not engine._schedulers and not engine.num_queued:
            return
        threading.Event().wait(0.01)
    pytest.fail("the engine still holds calls")


@pytest.mark.parametrize("max_batch_size", [1, 3, 16])
def test_calls_of_many_threads_are_each_as_alone(model, runner, max_batch_size):
    """A request heard the parameters, random numbers, cache or limits of the one beside it or before it in its slot."""
    before = threading.enumerate()  # a server of other tests has an engine, too
    with Engine(max_batch_size) as engine, ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda number: speak(model, number, engine=engine, use_fast_path=True), range(24)))
        wait_until_idle(engine)
        assert engine.num_active == 0
    for number, answer in enumerate(answers):
        assert_same_speech(answer, speak(model, number, use_fast_path=False), model.config)
    assert not [one for one in threading.enumerate() if one.name == "dia-engine" and one not in before]


class Frames(BaseStreamer):
    """Records frames; calls `at_frame` after that many."""

    def __init__(self, number=10**9, at_frame=None):
        self.frames, self.number, self.at_frame = [], number, at_frame

    def put(self, value):
        self.frames.append(value)
        if len(self.frames) == self.number:
            self.at_frame()

    def end(self):
        pass


@pytest.mark.usefixtures("runner")
def test_a_call_joins_between_the_steps_of_another(model):
    """A call that came late waited until the batch was empty, or moved what the others had read."""
    inputs = as_inputs(model.config, TEXTS[2:3], [torch.zeros(0, model.config.decoder_config.num_channels).long()])
    options = GREEDY | {"max_new_tokens": 60, "min_new_tokens": 50}
    sizes, take = [], FrameScheduler._take_step
    with Engine(4) as engine, ThreadPoolExecutor(4) as threads, pytest.MonkeyPatch.context() as patch:
        later = []
        first = Frames(20, lambda: later.extend(threads.submit(speak, model, n, engine=engine) for n in (1, 2, 5)))
        patch.setattr(
            FrameScheduler, "_take_step", lambda self, state: (sizes.append(self.num_active), take(self, state))[1]
        )
        codes = model.generate(**inputs, **options, streamer=first, engine=engine)
        answers = [one.result() for one in later]
    alone = Frames()
    expected = model.generate(**inputs, **options, streamer=alone, use_fast_path=False)
    assert torch.equal(codes, expected)
    assert all(torch.equal(*pair) for pair in zip(first.frames, alone.frames, strict=True))
    for number, answer in zip((1, 2, 5), answers, strict=True):
        assert_same_speech(answer, speak(model, number, use_fast_path=False), model.config)
    assert max(sizes) > 1, "nothing joined"


@pytest.mark.usefixtures("runner")
def test_a_canceled_call_frees_its_slot(model):
    """A client that is gone kept its place in the batch to the end."""
    streamer = DiaCodesStreamer(model.config)
    with Engine(1) as engine, ThreadPoolExecutor(2) as threads:
        inputs = as_inputs(model.config, TEXTS[:1], [torch.zeros(0, model.config.decoder_config.num_channels).long()])
        long = threads.submit(
            model.generate, **inputs, **GREEDY, max_new_tokens=180, min_new_tokens=170, streamer=streamer, engine=engine
        )
        next(iter(streamer))
        waiting = threads.submit(speak, model, 1, engine=engine)
        streamer.cancel()
        assert_same_speech(waiting.result(60), speak(model, 1, use_fast_path=False), model.config)
        assert long.result(60).shape[1] < 150
        wait_until_idle(engine)


@pytest.mark.parametrize("what", ["error", "nan"])
@pytest.mark.usefixtures("runner")
def test_an_error_ends_its_own_call(model, monkeypatch, what):
    """One request without memory, or with NaN in its logits, ended all; its NaN stayed in the cache of its slot."""
    prefill = FrameScheduler._prefill

    def failing(self, call, admitted):
        state, slots = prefill(self, call, admitted)
        if call.requests.max_new == [33]:
            if what == "error":
                raise MemoryError("no room")
            for values in (*state.cache.text_values, *state.cache.values):
                values.fill_(float("nan"))
        return state, slots

    monkeypatch.setattr(FrameScheduler, "_prefill", failing)
    inputs = as_inputs(model.config, TEXTS[:1], [torch.zeros(0, model.config.decoder_config.num_channels).long()])
    broken = GREEDY | {"max_new_tokens": 33, "do_sample": True}
    with Engine(3) as engine, ThreadPoolExecutor(6) as threads:
        errors = [threads.submit(model.generate, **inputs, **broken, engine=engine) for _ in range(3)]
        answers = [threads.submit(speak, model, number, engine=engine) for number in range(8)]
        for error in errors:
            with pytest.raises(MemoryError if what == "error" else ValueError, match=r"no room|no token could"):
                error.result(60)
        for number, answer in enumerate(answers):
            assert_same_speech(answer.result(60), speak(model, number, use_fast_path=False), model.config)


def test_an_error_of_the_batch_reaches_all_callers(model, monkeypatch):
    """Callers would wait for ever for an engine whose step failed; the next call finds a working one."""
    with Engine(4) as engine, ThreadPoolExecutor(4) as threads:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FrameScheduler, "_take_step", lambda self, state: 1 / 0)
            calls = [threads.submit(speak, model, number, engine=engine) for number in range(4)]
            for call in calls:
                with pytest.raises(ZeroDivisionError):
                    call.result(60)
        assert_same_speech(speak(model, 3, engine=engine), speak(model, 3, use_fast_path=False), model.config)


def test_a_consumer_that_fails_ends_its_own_call(model):
    """An exception in a streamer ended the engine's thread."""

    def fail():
        raise OSError("the pipe is closed")

    inputs = as_inputs(model.config, TEXTS[:1], [torch.zeros(0, model.config.decoder_config.num_channels).long()])
    with Engine(4) as engine, ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(speak, model, number, engine=engine) for number in range(3)]
        with pytest.raises(OSError, match="the pipe"):
            model.generate(**inputs, **GREEDY, max_new_tokens=40, streamer=Frames(5, fail), engine=engine)
        for number, answer in enumerate(answers):
            assert_same_speech(answer.result(60), speak(model, number, use_fast_path=False), model.config)


def test_long_requests_have_caches_of_their_own(model, monkeypatch):
    """One long request sized the caches of all that shared its batch."""
    monkeypatch.setattr("dia_hf.engine.engine._SMALLEST_CAPACITY", 16)
    capacities, take = set(), FrameScheduler._take_step

    def watched(self, state):
        capacities.add((state.cache.keys[0].shape[2], max(slot.call.num_frames for slot in self._active())))
        take(self, state)

    monkeypatch.setattr(FrameScheduler, "_take_step", watched)
    with Engine(8) as engine, ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: speak(model, number, engine=engine), range(16)))
    assert len({capacity for capacity, _ in capacities}) > 1
    assert all(capacity < 2 * max(longest, 16) for capacity, longest in capacities)


def test_no_kind_of_call_waits_for_ever(model, monkeypatch):
    """Calls of a batch of their own waited until no call of the other kind was left."""
    monkeypatch.setattr("dia_hf.engine.engine._SMALLEST_CAPACITY", 16)
    none = torch.zeros(0, model.config.decoder_config.num_channels).long()
    inputs, streamer, ended = as_inputs(model.config, TEXTS[:1], [none]), DiaCodesStreamer(model.config), []

    def run(name, limit):
        model.generate(**inputs, **GREEDY, max_new_tokens=limit, engine=engine)
        ended.append(name)

    with Engine(1) as engine, ThreadPoolExecutor(8) as threads:
        first = threads.submit(
            model.generate, **inputs, **GREEDY, max_new_tokens=180, min_new_tokens=170, streamer=streamer, engine=engine
        )
        next(iter(streamer))
        calls = []
        for number, (name, limit) in enumerate([("short", 12), ("long", 100), *[("short", 12)] * 3]):
            calls.append(threads.submit(run, name, limit))
            while engine.num_queued <= number:
                threading.Event().wait(0.001)
        streamer.cancel()
        for call in (first, *calls):
            call.result(60)
    assert ended.index("long") == 1, ended


def test_a_full_queue_and_a_closed_engine(model):
    """Requests piled up without a bound; a call after `close()` waited for ever."""
    inputs = as_inputs(model.config, TEXTS[:1], [torch.zeros(0, model.config.decoder_config.num_channels).long()])
    options = GREEDY | {"max_new_tokens": 180, "min_new_tokens": 170}
    streamers = [DiaCodesStreamer(model.config) for _ in range(2)]
    with Engine(1, max_queue=1) as engine, ThreadPoolExecutor(2) as threads:
        running = threads.submit(model.generate, **inputs, **options, streamer=streamers[0], engine=engine)
        next(iter(streamers[0]))
        queued = threads.submit(model.generate, **inputs, **options, streamer=streamers[1], engine=engine)
        while engine.num_queued == 0:
            threading.Event().wait(0.01)
        with pytest.raises(EngineError, match=r"1 calls .* waiting"):
            speak(model, 0, engine=engine)
        for streamer in streamers:
            streamer.cancel()
        running.result(60), queued.result(60)
    with pytest.raises(EngineError, match="closed"):
        speak(model, 0, engine=engine)
    with pytest.raises(ValueError, match="`max_queue` is 0"):
        Engine(max_queue=0)


def test_a_stream_that_does_not_fit(model):
    """It would have waited for ever for a batch that is smaller than it."""
    none = torch.zeros(0, model.config.decoder_config.num_channels).long()
    inputs = as_inputs(model.config, TEXTS[:3], [none] * 3)
    with Engine(2) as engine:
        with pytest.raises(ValueError, match="3 samples, but the engine's `max_batch_size` is 2"):
            model.generate(**inputs, **GREEDY, max_new_tokens=20, streamer=Frames(), engine=engine)
        codes = model.generate(**inputs, **GREEDY, max_new_tokens=20, engine=engine)
    assert torch.equal(codes, model.generate(**inputs, **GREEDY, max_new_tokens=20, use_fast_path=False))
