"""Requests of many callers in one speech engine: each sounds as it does alone.

In float64: in lower precision rounding depends on the size of the batch, and close tokens could swap.
"""

import random
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dia_hf import Dia
from dia_hf.engine import EngineError, QueueFullError
from dia_hf.engine.scheduler import FrameScheduler
from dia_hf.speech import SpeechEngine, SpeechRequest, Voice
from dia_hf.speech import handle as handle_module
from dia_hf.speech.dialogue_run import DialogueRun
from dia_hf.speech.engine import share_cores
from waiting import wait_for

SHORT = "[S1] Hello, I am Dia."
TEXTS = [SHORT, "[S1] Welcome, Dia. [S2] Hello.", "[S2] Yes.", "[S1] Hello, Dia. [S2] Welcome, I am Dia. [S1] Hello."]
LONG = (
    "[S1] It rained all day. [S2] Then we should stay at home. [S1] Where did you put the keys? [S2] They are in the "
    "kitchen. [S1] The old house was sold. [S2] Who bought it?"
)


@pytest.fixture(scope="module")
def dia():
    dia = Dia.from_pretrained()
    dia.model.double()
    dia.processor.codec.model.double()
    dia.model.generation_config.max_length = 200  # frames: so that a short text has several chunks
    return dia


@pytest.fixture
def engine(dia):
    with SpeechEngine(dia, max_batch_size=4) as engine:
        yield engine
        for handle in list(engine._handles):
            handle.cancel()
    assert not [thread for thread in engine._threads if thread.is_alive()]
    assert engine.num_active == engine.num_queued == 0


def hear(handle):
    return np.concatenate([np.zeros(0, np.float32), *handle])


def alone(dia, request):
    """Generate a request by the classes that know nothing of engines."""
    options = {"cfg_scale": request.cfg_scale, "temperature": request.temperature, "max_seconds": request.max_seconds}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dia.dialogue(request.text, voices=request.voices, seed=request.seed, **options).generate()


def assert_same_sound(waveform, expected):
    assert len(waveform) == len(expected)
    np.testing.assert_allclose(waveform, expected, rtol=0, atol=1e-6)  # float32 of float64


def make_request(number, voice):
    draw = random.Random(number)
    return SpeechRequest(
        LONG if number % 7 == 3 else draw.choice(TEXTS),
        voices=voice if number % 5 == 4 else None,
        seed=number,
        cfg_scale=draw.choice([None, 2.0]),
        temperature=draw.choice([None, 0.8]),
        max_seconds=draw.choice([None, None, 0.7]),
        is_streamed=draw.random() < 0.6,
    )


def test_each_of_many_requests_sounds_as_alone(dia, engine):
    """A request got frames, parameters or codec context of another, or the end of a long text was lost."""
    codec = dia.processor.codec
    codes = dia.generate(SHORT, seed=3, return_codes=True)[1]
    voice = Voice(codes, SHORT, codec.fingerprint, codec.sampling_rate, codec.hop_length)
    requests = [make_request(number, voice) for number in range(12)]
    handles = [engine.submit(request) for request in requests]
    with ThreadPoolExecutor(len(handles)) as threads:
        waveforms = list(threads.map(hear, handles))
    for request, handle, waveform in zip(requests, handles, waveforms, strict=True):
        assert_same_sound(waveform, alone(dia, request))
        assert handle.num_frames * codec.hop_length == len(waveform)
        assert handle.is_done
        assert handle.num_text_ids > 5
        assert handle.finish_reason in ("stop", "implausible") if request.max_seconds is None else "length"


def test_a_stream_begins_before_the_request_ends(dia, engine):
    """The first chunk waited for the whole text, or chunks stayed at one frame to the end."""
    chunks, waiting = [], threading.Event()

    def changed():
        chunks.extend(handle.take())
        waiting.set()

    handle = engine.submit(SpeechRequest(SHORT, seed=1), on_change=changed)
    assert waiting.wait(60)
    wait_for(lambda: handle.is_done)
    changed()
    frames = [len(chunk) // dia.processor.codec.hop_length for chunk in chunks]
    assert len(frames) > 1
    assert max(frames) > frames[0]
    assert_same_sound(np.concatenate(chunks), alone(dia, SpeechRequest(SHORT, seed=1)))


def test_what_is_not_streamed_is_withheld_to_the_end(engine):
    """A request that could still be generated anew had given its first audio away."""
    handle = engine.submit(SpeechRequest(LONG, seed=1, is_streamed=False))
    wait_for(lambda: handle.num_frames)
    assert not handle.take() or handle.is_done
    hear(handle)
    assert handle.finish_reason == "stop"


def test_the_queue_is_bounded_and_a_canceled_request_leaves_it(dia):
    """A full server took requests until it ran out of memory, or clients that had gone kept their places."""
    with SpeechEngine(dia, max_batch_size=1, max_queue=1) as engine:
        running = [engine.submit(SpeechRequest(LONG, seed=1))]
        assert engine.num_queued == 0
        waiting = engine.submit(SpeechRequest(SHORT, seed=4))
        wait_for(lambda: len(engine._handles) == 2)  # in a worker that prepares the next call, and counted still
        assert engine.num_queued == 1
        with pytest.raises(QueueFullError, match=r"1 requests \(`max_queue`\) are waiting"):
            engine.submit(SpeechRequest(SHORT, seed=5))
        waiting.cancel()
        assert hear(waiting).size == 0
        assert waiting.finish_reason == "canceled"
        assert engine.num_queued == 0
        last = engine.submit(SpeechRequest(SHORT, seed=5))
        for handle in running:
            handle.cancel()
        assert hear(last).size > 0
    with pytest.raises(ValueError, match="`max_queue` is 0"):
        SpeechEngine(dia, max_queue=0)


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_canceled_request_frees_its_slot_within_8_frames(engine, monkeypatch, is_streamed):
    """A client that had gone was generated for to the end of its text."""
    steps, take = [], FrameScheduler._take_step

    def counted(self, state):
        steps.append(self.num_active)
        if len(steps) == 40:
            handle.cancel()
        return take(self, state)

    monkeypatch.setattr(FrameScheduler, "_take_step", counted)
    handle = engine.submit(SpeechRequest(LONG, seed=1, is_streamed=is_streamed))
    hear(handle)
    wait_for(lambda: not (engine.num_active))
    assert handle.finish_reason == "canceled"
    assert 40 <= len(steps) <= 48


@pytest.mark.parametrize("place", ["model", "frames", "codec"])
def test_an_error_ends_its_own_request(dia, engine, monkeypatch, place):
    """One request without memory ended all that were in the batch, or the thread that decodes for all."""
    requests = [SpeechRequest(TEXTS[number], seed=number) for number in range(4)]
    expected = [alone(dia, request) for request in requests]
    if place == "model":
        call = DialogueRun.next_call

        def failing(self, attempt=0):
            if self.dialogue.seed == 2:
                raise MemoryError("no room")
            return call(self, attempt)

        monkeypatch.setattr(DialogueRun, "next_call", failing)
    elif place == "frames":
        take = handle_module.TextFrames.take

        def failing(self):
            if self in handles[2]._parts and self.num_complete > 8:
                raise MemoryError("no room")
            return take(self)

        monkeypatch.setattr(handle_module.TextFrames, "take", failing)
    else:
        pop, codec = type(dia.processor.codec).pop_many, dia.processor.codec

        def failing(self, streams, counts):
            if any(stream is handles[2]._clip and stream.num_ready > 8 for stream in streams):
                raise MemoryError("no room")
            return pop(self, streams, counts)

        monkeypatch.setattr(type(codec), "pop_many", failing)
    handles = []
    handles.extend(engine.submit(request) for request in requests)
    for number, (handle, whole) in enumerate(zip(handles, expected, strict=True)):
        if number == 2:
            with pytest.raises(MemoryError, match="no room"):
                hear(handle)
            assert handle.finish_reason == "error"
        else:
            assert_same_sound(hear(handle), whole)


@pytest.mark.parametrize("is_streamed", [True, False])
def test_implausible_audio_is_generated_anew_with_another_seed(dia, engine, monkeypatch, is_streamed):
    """A near-empty result was handed on; or the second attempt was appended to the first, or repeated it."""
    monkeypatch.setattr(handle_module, "_CHUNK_FRAMES", 10**6)
    doubt, seeds, call = DialogueRun.find_chunk_doubt, [], DialogueRun.next_call
    monkeypatch.setattr(
        DialogueRun,
        "find_chunk_doubt",
        lambda self, index, number: "too short" if len(seeds) == 1 else doubt(self, index, number),
    )

    def recorded(self, attempt=0):
        kwargs = call(self, attempt)
        seeds.append(kwargs["generator"].initial_seed())
        return kwargs

    monkeypatch.setattr(DialogueRun, "next_call", recorded)
    if is_streamed:  # nothing has been decoded when the first attempt ends
        monkeypatch.setattr(engine, "_find_due", lambda find=engine._find_due: find() if len(seeds) > 1 else ([], None))
    handle = engine.submit(SpeechRequest(SHORT, is_streamed=is_streamed))
    waveform = hear(handle)
    assert handle.num_retries == 1
    assert handle.finish_reason == "stop"
    assert seeds[0] != seeds[1]
    assert_same_sound(waveform, dia.generate(SHORT, seed=seeds[1]))


def test_a_seed_that_was_given_is_kept(engine, monkeypatch):
    """A request with a seed, which is to be reproducible, got the audio of another one."""
    monkeypatch.setattr(DialogueRun, "find_chunk_doubt", lambda self, index, number: "too short")
    handle = engine.submit(SpeechRequest(SHORT, seed=1))
    hear(handle)
    assert (handle.seed, handle.num_retries, handle.finish_reason) == (1, 0, "implausible")
    assert "too short" in handle.doubt


def test_heard_audio_is_not_taken_back(dia, engine, monkeypatch):
    """A retry after the first chunk had been sent repeated the beginning."""
    monkeypatch.setattr(DialogueRun, "find_chunk_doubt", lambda self, index, number: "too long")
    handle = engine.submit(SpeechRequest(SHORT))
    waveform = hear(handle)
    assert (handle.num_retries, handle.finish_reason) == (0, "implausible")
    assert_same_sound(waveform, dia.generate(SHORT, seed=handle.seed))


def test_a_limit_is_a_finish_reason(dia, engine):
    """Audio that was cut at `max_seconds` looked like a complete one, or like a fault."""
    handle = engine.submit(SpeechRequest(SHORT, seed=1, max_seconds=0.5))
    codec = dia.processor.codec
    assert len(hear(handle)) == 0.5 * codec.sampling_rate // codec.hop_length * codec.hop_length
    assert handle.finish_reason == "length"
    assert "`max_seconds` (0.5)" in handle.doubt


def test_a_slow_reader_of_a_long_text_does_not_hold_a_slot(dia, engine, monkeypatch):
    """A reader that stopped reading filled the memory with audio, or kept others out of the batch."""
    monkeypatch.setattr(handle_module, "_MOST_BEHIND", 1.0)
    slow = [engine.submit(SpeechRequest(LONG, seed=seed)) for seed in range(7)]
    wait_for(lambda: all(handle._is_parked for handle in slow))
    wait_for(lambda: engine.num_active == 0)
    assert_same_sound(hear(engine.submit(SpeechRequest(SHORT, seed=1))), alone(dia, SpeechRequest(SHORT, seed=1)))
    assert_same_sound(hear(slow[0]), alone(dia, SpeechRequest(LONG, seed=0)))
    for handle in slow[1:]:
        handle.cancel()
        assert handle.finish_reason == "canceled"


def test_players_that_run_dry_first_come_first(dia, monkeypatch):
    """A stream with seconds to spare, or a whole file, was decoded before one whose player had stopped."""
    now = [100.0]
    monkeypatch.setattr(handle_module, "time", SimpleNamespace(monotonic=lambda: now[0]))  # not that of event loops
    with SpeechEngine(dia, max_batch_size=2) as engine:
        monkeypatch.setattr(engine, "_work", lambda: None)
        handles = []
        for is_streamed, played in ((False, None), (True, 5.0), (True, 0.5), (True, None), (True, 0.2)):
            dialogue = dia.dialogue(SHORT, seed=1)
            handle = handle_module.SpeechHandle(SpeechRequest(SHORT, is_streamed=is_streamed), dialogue, engine, None)
            handle._clip.push(torch.zeros(300 if played != 0.5 else 14, 9, dtype=torch.long))
            handle._first_time = None if played is None else now[0] - 1.0
            handle._heard.seconds = 1.0 + (played or 0.0)
            handle._next_frames = 64
            handles.append(handle)
        handles_before, engine._handles = engine._handles, handles
        due, _ = engine._find_due()
        assert due == [handles[3], handles[4], handles[1], handles[0]]
        now[0] += 0.45  # the third, with three frames, is about to run dry
        due, _ = engine._find_due()
        assert due.index(handles[2]) < due.index(handles[1])
        engine._handles = handles_before


def test_a_failing_listener_ends_nothing(dia, engine):
    """A closed event loop's error in `on_change` ended the thread that decodes for all."""

    def fail():
        raise RuntimeError("the loop is closed")

    handles = [engine.submit(SpeechRequest(SHORT, seed=seed), on_change=fail if seed else None) for seed in range(3)]
    for seed, handle in enumerate(handles):
        assert_same_sound(hear(handle), alone(dia, SpeechRequest(SHORT, seed=seed)))


def test_closing_finishes_what_is_there(dia):
    """A server that was told to stop cut what it was saying, or waited for it without a limit."""
    engine = SpeechEngine(dia, max_batch_size=2)
    handles = [engine.submit(SpeechRequest(SHORT, seed=seed)) for seed in range(4)]
    engine.close()
    for seed, handle in enumerate(handles):
        assert_same_sound(hear(handle), alone(dia, SpeechRequest(SHORT, seed=seed)))
    with pytest.raises(EngineError, match="closed"):
        engine.submit(SpeechRequest(SHORT))
    engine = SpeechEngine(dia, max_batch_size=2)
    handles = [engine.submit(SpeechRequest(LONG, seed=seed)) for seed in range(8)]
    engine.close(timeout=0.1)
    assert "canceled" in {handle.finish_reason for handle in handles}
    assert all(handle.is_done for handle in handles)


def test_a_mistake_is_the_callers_and_no_text_is_printed(engine, recwarn, capfd):
    """A wrong text took a place in the queue; or the text of a user came into the log of a server."""
    with pytest.raises(ValueError, match="the script is empty"):
        engine.submit(SpeechRequest(" "))
    with pytest.raises(ValueError, match=r"control character U\+0000"):
        engine.submit(SpeechRequest("[S1] Hello.\0"))
    for seconds in (1e308, float("inf"), float("nan"), 1e-9):
        with pytest.raises(ValueError, match="`max_seconds` is"):
            engine.submit(SpeechRequest(SHORT, max_seconds=seconds))
    assert engine.num_queued == 0
    hear(engine.submit(SpeechRequest("[S1] hello zebra (nonsense) [S3] yes", seed=1, max_seconds=0.5)))
    shown = "".join(str(one.message) for one in recwarn) + "".join(capfd.readouterr())
    assert "zebra" not in shown
    assert "nonsense" not in shown


def test_warming_up_fills_the_batch(dia, monkeypatch):
    """The first full batch after the start waited for kernels and memory of its size."""
    sizes, take = set(), FrameScheduler._take_step

    def counted(self, state):
        sizes.add(self.num_active)
        return take(self, state)

    monkeypatch.setattr(FrameScheduler, "_take_step", counted)
    with SpeechEngine(dia, max_batch_size=3, max_queue=1) as engine:
        engine.warm_up(seconds=2.0)
    assert sizes >= {1, 3}


def test_a_transcript_that_the_tokenizer_refuses(dia, engine):
    """A voice whose transcript has a control character made each request that named it fail midway."""
    codec = dia.processor.codec
    codes = torch.zeros(20, codec.num_codebooks, dtype=torch.long)
    damaged = Voice(codes, "Hello\1 there.", codec.fingerprint, codec.sampling_rate, codec.hop_length)
    with pytest.raises(ValueError, match=r"control character U\+0001"):
        engine.submit(SpeechRequest(SHORT, voices=damaged))
    with pytest.raises(ValueError, match=r"control character U\+0001"):
        Voice.from_audio(np.ones(16_000, np.float32), "Hello\1 there.", dia.processor)


@pytest.mark.parametrize(
    ("device", "cores", "threads"), [("cpu", 8, 4), ("cpu", 3, 1), ("cpu", 1, 1), ("cpu", None, 3), ("cuda", 8, None)]
)
def test_steps_and_codec_share_the_cores(device, cores, threads, monkeypatch):
    """Steps and codec each used every core, and waited for each other; or one core was no thread."""
    set_to = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    share_cores(SimpleNamespace(device=torch.device(device)), cores)
    assert set_to == ([] if threads is None else [threads])
