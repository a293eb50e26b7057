"""Scheduling: admission to slots, polling of ends and reuse of batches, with every runner and any delay of the reads.

All in float64, where rounding in a batch does not change the order of tokens.
"""

import threading
from contextlib import suppress
from itertools import pairwise

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import StoppingCriteriaList
from transformers.generation import BaseStreamer

from dia_hf.engine import make_frame_decoder, memory, runners, scheduler
from dia_hf.engine.async_reads import AsyncReads
from dia_hf.engine.runners import CompiledRunner, EagerRunner, StaticRunner
from dia_hf.engine.scheduler import FrameScheduler
from dia_hf.generation import DiaCodesStreamer
from dia_hf.generation.stopping_criteria import DiaCancelStoppingCriteria
from tiny import as_inputs, assert_same_speech, random_config, random_model

STEPS = {
    "eager": EagerRunner,
    "static": StaticRunner,
    "compiled": lambda network, rules: CompiledRunner(network, rules, {"backend": "eager"}),
}
GUIDED = {"guidance_scale": 2.0, "top_k": 9}
GREEDY = GUIDED | {"do_sample": False}
SAMPLED = GUIDED | {"do_sample": True, "temperature": 1.2, "top_p": 0.95}

TEXTS = [b"Hello.", b"a", b"And who are you?", b"Yes.", b"No, not at all.", b"Hm", b"The end."]
PROMPT_LENGTHS = [0, 5, 0, 1, 9, 0, 3]
LIMITS = [30, 12, 44, 9, 21, 37, 18]


def set_steps(monkeypatch, kind):
    monkeypatch.setattr(scheduler, "make_runner", lambda network, rules, options: STEPS[kind](network, rules))


@pytest.fixture(params=["eager", "static"])
def kind(request, monkeypatch):
    set_steps(monkeypatch, request.param)
    return request.param


def delay_reads(monkeypatch, max_pending):
    """Delay the reads of the host by a number of polls, as on a GPU."""
    monkeypatch.setattr(scheduler, "AsyncReads", lambda receive, **kwargs: AsyncReads(receive, max_pending))


@pytest.fixture(scope="module")
def model():
    return random_model(random_config(0)).double()


def make_inputs(config, numbers=range(7)):
    draw, channels = torch.Generator().manual_seed(0), config.decoder_config.num_channels
    prompts = [torch.randint(0, 11, (length, channels), generator=draw) for length in PROMPT_LENGTHS]
    return as_inputs(config, [TEXTS[n] for n in numbers], [prompts[n] for n in numbers])


@pytest.fixture(scope="module")
def alone(model):
    """Codes of each request alone on the reference path."""
    return [
        model.generate(**make_inputs(model.config, [n]), max_new_tokens=LIMITS[n], use_fast_path=False, **GREEDY)[0]
        for n in range(7)
    ]


def assert_answers(answers, alone, config):
    assert len(answers) == len(alone)
    for answer, single in zip(answers, alone, strict=True):
        assert_same_speech(answer, single, config)


@pytest.mark.parametrize("max_pending", [0, 1, 3])
@pytest.mark.parametrize("max_batch_size", [1, 2, 3, 7, None])
def test_requests_that_wait_are_answered_as_if_alone(monkeypatch, model, alone, kind, max_batch_size, max_pending):
    """A request admitted to a freed slot kept the slot's text, length, parameters or last frames."""
    delay_reads(monkeypatch, max_pending)
    answers = model.generate(
        **make_inputs(model.config), max_new_tokens=LIMITS, max_batch_size=max_batch_size, use_fast_path=True, **GREEDY
    )
    assert_answers(answers, alone, model.config)


@pytest.mark.parametrize("max_batch_size", [2, None])
def test_compiled_steps_answer_as_if_alone(monkeypatch, model, alone, max_batch_size):
    """A length or a batch size was compiled in as a constant."""
    set_steps(monkeypatch, "compiled")
    answers = model.generate(
        **make_inputs(model.config), max_new_tokens=LIMITS, max_batch_size=max_batch_size, **GREEDY
    )
    assert_answers(answers, alone, model.config)


@pytest.mark.parametrize("options", [{}, {"guidance_scale": None}], ids=["guided", "unguided"])
@pytest.mark.parametrize("seed", range(1, 8))
def test_other_models(monkeypatch, seed, options, kind):
    """Other delays, including none, where the end comes before the host polls."""
    delay_reads(monkeypatch, seed % 3)
    model = random_model(random_config(seed), seed).double()
    inputs, options = make_inputs(model.config), GREEDY | options
    limits = [limit + max(model.config.delay_pattern) for limit in LIMITS]
    expected = model.generate(**inputs, max_new_tokens=limits, use_fast_path=False, **options)
    answers = model.generate(**inputs, max_new_tokens=limits, max_batch_size=seed % 4 + 1, **options)
    for answer, one in zip(answers, expected, strict=True):
        assert_same_speech(answer, one, model.config)


@pytest.mark.parametrize("limits", [LIMITS, [20] * 7], ids=["one by one", "together"])
@pytest.mark.parametrize("max_batch_size", [1, 2, 3])
def test_the_batch_stays_full(monkeypatch, model, kind, max_batch_size, limits):
    """Slots that stay empty while requests are queued multiply the time."""
    make_room, take, num_full, sizes = FrameScheduler._refill, STEPS[kind].take, [], []

    def watched(self):
        (call,) = self.calls
        had_waiting = bool(call.waiting)
        make_room(self)
        if had_waiting and call.waiting:
            num_full.append(sum(slot is not None for slot in self.slots))

    def counted(self, state, view):
        sizes.append(state.num_samples)
        take(self, state, view)

    monkeypatch.setattr(FrameScheduler, "_refill", watched)
    monkeypatch.setattr(STEPS[kind], "take", counted)
    options = GREEDY | {"min_new_tokens": min(limits) - 7}
    model.generate(**make_inputs(model.config), max_new_tokens=limits, max_batch_size=max_batch_size, **options)
    assert num_full
    assert set(num_full) == {max_batch_size}
    assert all(size >= later for size, later in pairwise(sizes))  # it shrinks when nobody waits, and never grows
    largest = max_batch_size if kind == "eager" else 2 ** (max_batch_size - 1).bit_length()
    assert (sizes[0], sizes[-1]) == (largest, 1)


def test_complete_samples_are_not_computed(monkeypatch, model, alone):
    """Steps were computed for samples at their limit, or whose end is known."""
    sizes, take = [], EagerRunner.take

    def counted(self, state, view):
        sizes.append(state.num_samples)
        take(self, state, view)

    monkeypatch.setattr(EagerRunner, "take", counted)
    model.generate(**make_inputs(model.config), max_new_tokens=LIMITS, **GREEDY)
    decoder = model.config.decoder_config
    spoken = [int(((row != decoder.bos_token_id) & (row != decoder.pad_token_id)).any(-1).sum()) for row in alone]
    spoken = [number - length for number, length in zip(spoken, PROMPT_LENGTHS, strict=True)]
    # The host looks every 7 frames; the slowest channel ends 6 after the first.
    assert sum(spoken) <= sum(sizes) <= sum(spoken) + 8 * 7


@pytest.mark.parametrize("max_pending", [0, 2])
@pytest.mark.parametrize("source", ["global", "generator", "generators"])
def test_draws_are_the_reference_paths(monkeypatch, model, kind, source, max_pending):
    """A padded or shrunk batch drew other noise for its samples than the whole batch."""
    delay_reads(monkeypatch, max_pending)
    config, numbers = model.config, [0, 2, 4]

    def run(use_fast_path):
        torch.manual_seed(3)
        generator = {
            "global": lambda: None,
            "generator": lambda: torch.Generator().manual_seed(3),
            "generators": lambda: [torch.Generator().manual_seed(n) for n in numbers],
        }[source]()
        return model.generate(
            **make_inputs(config, numbers),
            max_new_tokens=[LIMITS[n] for n in numbers],
            generator=generator,
            use_fast_path=use_fast_path,
            **SAMPLED,
        )

    assert torch.equal(run(True), run(False))


@pytest.mark.parametrize("max_batch_size", [1, 2, 3])
def test_a_generator_of_ones_own(model, kind, max_batch_size):
    """A seed gave another result for a queued request."""
    generators = [torch.Generator().manual_seed(n) for n in range(7)]
    answers = model.generate(
        **make_inputs(model.config),
        max_new_tokens=LIMITS,
        max_batch_size=max_batch_size,
        generator=generators,
        **SAMPLED,
    )
    for n in (0, 3, 6):
        (single,) = model.generate(
            **make_inputs(model.config, [n]),
            max_new_tokens=LIMITS[n],
            generator=torch.Generator().manual_seed(n),
            use_fast_path=False,
            **SAMPLED,
        )
        assert_same_speech(answers[n], single, model.config)


class Record(BaseStreamer):
    """Streamer that keeps frames, and calls `then` at one of the steps."""

    def __init__(self, at=None, then=None):
        self.frames, self.has_ended, self.at, self.then = [], False, at, then

    def put(self, value):
        self.frames.append(value.clone())
        if len(self.frames) == self.at:
            self.then()

    def end(self):
        self.has_ended = True


@pytest.mark.parametrize("max_pending", [0, 1, 8])
def test_a_streamer_receives_every_frame_once(monkeypatch, model, kind, max_pending):
    """Frames were lost, delivered twice, out of order, or after the last end."""
    delay_reads(monkeypatch, max_pending)
    inputs, records = make_inputs(model.config), {}
    for use_fast_path in (True, False):
        records[use_fast_path] = Record()
        model.generate(
            **inputs, max_new_tokens=LIMITS, use_fast_path=use_fast_path, streamer=records[use_fast_path], **GREEDY
        )
    fast, slow = records[True], records[False]
    assert fast.has_ended
    assert len(fast.frames) == len(slow.frames)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(fast.frames, slow.frames, strict=True))
    assert not fast.frames[-1].is_inference()  # what a consumer in another thread could not change


@pytest.mark.parametrize("max_pending", [0, 1])
@pytest.mark.parametrize("seed", [0, 2, 3])
def test_a_call_ends_with_its_last_sample(monkeypatch, kind, seed, max_pending):
    """An extra frame of padding in the codes or the streamer, when all samples end before the limit."""
    delay_reads(monkeypatch, max_pending)
    model = random_model(random_config(seed), seed).double()
    decoder = model.config.decoder_config
    head = model.logits_dense.weight.data.unflatten(0, (decoder.num_channels, decoder.vocab_size))
    head[0, decoder.eos_token_id] *= 4  # so that it is soon the best token
    inputs, records, answers = make_inputs(model.config, [0, 1, 2]), [], []
    for use_fast_path in (True, False):
        records.append(Record())
        options = GREEDY | {"max_new_tokens": 80, "use_fast_path": use_fast_path, "streamer": records[-1]}
        answers.append(model.generate(**inputs, **options))
    assert answers[1].shape[1] < 80
    assert torch.equal(*answers)
    assert len(records[0].frames) == len(records[1].frames)
    without_streamer = model.generate(**inputs, **GREEDY, max_new_tokens=80, use_fast_path=True)
    assert torch.equal(without_streamer, answers[1])


def cancel_after(number):
    asked = []
    return lambda: asked.append(None) or len(asked) > number


@pytest.mark.parametrize("number", [0, 1, 5, 20])
def test_a_canceled_call_returns_what_there_is(model, kind, number):
    """Frames that were not generated were returned, or the call continued to its limit."""
    inputs = make_inputs(model.config, [0, 2])
    whole = model.generate(**inputs, max_new_tokens=44, **GREEDY)
    part = model.generate(
        **inputs,
        max_new_tokens=44,
        stopping_criteria=StoppingCriteriaList([DiaCancelStoppingCriteria(cancel_after(number))]),
        **GREEDY,
    )
    assert part.shape[1] <= 1 + number
    assert torch.equal(part, whole[:, : part.shape[1]])


def test_a_canceled_call_with_requests_that_wait(model):
    """An error for queued requests at cancellation lost the frames of the others."""
    criteria = StoppingCriteriaList([DiaCancelStoppingCriteria(cancel_after(40))])
    inputs = make_inputs(model.config)
    answers = model.generate(**inputs, max_new_tokens=30, max_batch_size=1, stopping_criteria=criteria, **GREEDY)
    assert len(answers) == 7


def test_cancellation_by_a_streamer_or_a_criterion(model):
    """Cancellation by a streamer was overruled by a criterion of the caller's."""
    streamer = DiaCodesStreamer(model.config)
    streamer.cancel()
    criteria = StoppingCriteriaList([DiaCancelStoppingCriteria(lambda: False)])
    inputs = make_inputs(model.config, [0])
    answer = model.generate(**inputs, max_new_tokens=30, streamer=streamer, stopping_criteria=criteria, **GREEDY)
    assert answer.shape[1] <= 2


@pytest.mark.parametrize("at", [6, 28])
@pytest.mark.parametrize("max_pending", [0, 1])
def test_weights_that_break_in_the_middle(monkeypatch, kind, max_pending, at):
    """NaN in the last frames was sampled from without an error; or all later calls failed, too."""
    delay_reads(monkeypatch, max_pending)
    model = random_model(random_config(0)).double()
    inputs = make_inputs(model.config, [0, 1])
    before = model.generate(**inputs, max_new_tokens=30, **GREEDY)
    norm = model.model.decoder.layers[0].pre_sa_norm.weight
    sound = norm.detach().clone()
    streamer = Record(at=at, then=lambda: norm.data.fill_(float("nan")))
    with pytest.raises(ValueError, match="no token could be sampled: the logits hold NaN"):
        model.generate(**inputs, max_new_tokens=30, min_new_tokens=23, streamer=streamer, **SAMPLED)
    norm.data.copy_(sound)
    assert torch.equal(model.generate(**inputs, max_new_tokens=30, **GREEDY), before)


def test_a_broken_call_leaves_nothing_to_the_next(kind):
    """NaN of one call stayed in reused memory, and a mask of 0 does not remove it."""
    model = random_model(random_config(0)).double()
    model.model.encoder.embedding.weight.data[7] = float("nan")
    sound = as_inputs(model.config, [b"abc"], [torch.zeros(0, 9, dtype=torch.long)])
    broken = as_inputs(model.config, [b"abc\x07" + b"d" * 30], [torch.zeros(20, 9, dtype=torch.long)])
    options = {"max_new_tokens": 20} | SAMPLED

    def run(**kwargs):
        return model.generate(**sound, **options, generator=torch.Generator().manual_seed(0), **kwargs)

    expected = run(use_fast_path=False)
    with pytest.raises(ValueError, match="no token could be sampled"):
        model.generate(**broken, **options)
    assert torch.equal(run(), expected)


def test_greedy_search_over_nan(kind):
    """A token outside the vocabulary is an IndexError on a CPU, and breaks the CUDA context."""
    broken = random_model(random_config(0)).double()
    broken.logits_dense.weight.data[0] = float("nan")
    inputs = make_inputs(broken.config, [0])
    codes = torch.zeros(1, dtype=torch.long)
    with suppress(ValueError):  # which names it would do as well
        codes = broken.generate(**inputs, max_new_tokens=20, **GREEDY)
    assert ((codes >= 0) & (codes < broken.config.decoder_config.vocab_size)).all()


# --- texts and positions ---


@pytest.mark.parametrize("hole", [slice(0, 3), slice(2, 5)], ids=["on the left", "inside"])
def test_masked_bytes_inside_a_text(model, kind, hole):
    """Masked bytes inside a text were attended to."""
    ids = torch.randint(1, 256, (2, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[:, hole] = 0
    inputs = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 30}
    fast = model.generate(**inputs, use_fast_path=True, **GREEDY)
    assert torch.equal(fast, model.generate(**inputs, use_fast_path=False, **GREEDY))


@pytest.mark.parametrize("options", [{"min_length": 40}, {"max_new_tokens": 60, "min_new_tokens": 50}])
def test_as_many_positions_as_the_limit_asks_for(kind, options):
    """The slowest channel ends after the model's last position whenever speech runs to the limit."""
    config = random_config(0)
    config.decoder_config.max_position_embeddings = 40
    model = random_model(config).double()
    model.generation_config.max_length = 40
    inputs = as_inputs(config, [b"Hi"], [torch.zeros(0, 9, dtype=torch.long)])
    fast = model.generate(**inputs, **GREEDY, **options)
    assert torch.equal(fast, model.generate(**inputs, use_fast_path=False, **GREEDY, **options))


def test_a_text_longer_than_the_decoders_positions(kind):
    """With rotary cross-attention (v0.1), a text has positions, too."""
    config = random_config(0)
    config.decoder_config.cross_attention_rope = True
    config.decoder_config.max_position_embeddings = 40
    model = random_model(config).double()
    inputs = as_inputs(config, [bytes(range(1, 60))], [torch.zeros(0, 9, dtype=torch.long)])
    fast = model.generate(**inputs, max_new_tokens=20, use_fast_path=True, **GREEDY)
    assert torch.equal(fast, model.generate(**inputs, max_new_tokens=20, use_fast_path=False, **GREEDY))


# --- memory that stays ---


@pytest.fixture
def batches(monkeypatch):
    """Record of the batches that are taken, made and released; fails if two calls use one at once."""
    taken, busy, lock, seen = [], set(), threading.Lock(), []
    adopt, release = StaticRunner.adopt, StaticRunner.release

    def watched_adopt(self, state):
        batch = adopt(self, state)
        with lock:
            taken.append(batch)  # kept, so that no other gets its id
            seen.append(id(batch) in busy)
            busy.add(id(batch))
        return batch

    def watched_release(self, state):
        with lock:
            busy.discard(id(state))
        release(self, state)

    monkeypatch.setattr(StaticRunner, "adopt", watched_adopt)
    monkeypatch.setattr(StaticRunner, "release", watched_release)
    set_steps(monkeypatch, "static")
    yield taken
    assert not any(seen), "a batch was used by two calls at once"
    assert not busy, "a batch was never given back"


def test_a_batch_serves_the_next_call(batches):
    """Memory was allocated, and graphs captured, in every call."""
    model = random_model(random_config(0)).double()
    inputs = make_inputs(model.config, [0])
    first, second = (model.generate(**inputs, max_new_tokens=30, **GREEDY) for _ in range(2))
    assert torch.equal(first, second)
    assert batches[0] is batches[1]
    model.generate(**make_inputs(model.config, [1, 2, 3]), max_new_tokens=30, **GREEDY)
    others = {id(batch) for batch in batches[2:]}
    assert id(batches[0]) not in others or batches[0].num_samples == 1


def test_a_batch_remembers_nothing(batches, alone, model):
    """The text, codes, ends or forced tokens of a call remained in the next of the same size."""
    del model
    model = random_model(random_config(0)).double()
    for n in (4, 0, 2, 1, 6, 3, 5):
        (answer,) = model.generate(**make_inputs(model.config, [n]), max_new_tokens=LIMITS[n], **GREEDY)
        assert_same_speech(answer, alone[n], model.config)
    assert len(set(map(id, batches))) == 1


def test_another_delay_pattern(kind):
    """The delays of the previous call remained in a reused batch."""
    model = random_model(random_config(0)).double()
    for _ in range(2):
        inputs = make_inputs(model.config, [0, 1])
        fast = model.generate(**inputs, max_new_tokens=30, use_fast_path=True, **GREEDY)
        assert torch.equal(fast, model.generate(**inputs, max_new_tokens=30, use_fast_path=False, **GREEDY))
        model.config.delay_pattern = [2 * delay for delay in model.config.delay_pattern]


def test_few_batches_stay(batches):
    """Batches of every length and size stayed in memory."""
    model = random_model(random_config(0)).double()
    for numbers in ([0], [0, 1], [0, 1, 2], range(7)):
        for limit in (20, 300):
            model.generate(
                **make_inputs(model.config, numbers),
                max_new_tokens=limit,
                stopping_criteria=StoppingCriteriaList([DiaCancelStoppingCriteria(cancel_after(2))]),
                **GREEDY,
            )
    with torch.no_grad():
        idle = runners._IDLE._of[make_frame_decoder(model)]
    assert len(idle) == runners._MOST_IDLE
    assert [batch.size.num_slots for batch in idle[-2:]] == [8, 8]  # the last ones


def test_threads_have_batches_of_their_own(batches, model, alone):
    """Two calls wrote to one cache."""
    answers, start = {}, threading.Barrier(3)

    def run(n):
        start.wait()
        for _ in range(3):
            (answers[n],) = model.generate(**make_inputs(model.config, [n]), max_new_tokens=LIMITS[n], **GREEDY)

    threads = [threading.Thread(target=run, args=(n,)) for n in (0, 2, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, answer in answers.items():
        assert_same_speech(answer, alone[n], model.config)
    assert len(answers) == 3


def test_a_batch_is_not_used_again_after_an_error(monkeypatch):
    """A state left unfinished or full of NaN by an error was reused by the next call."""
    model = random_model(random_config(0)).double()
    set_steps(monkeypatch, "static")
    options = GREEDY | {"max_new_tokens": 30}
    model.generate(**make_inputs(model.config, [0, 1, 2]), **options)
    with torch.no_grad():
        network = make_frame_decoder(model)
    idle = {batch.num_samples for batch in runners._IDLE._of[network]}
    monkeypatch.setattr(FrameScheduler, "_poll", lambda self, state: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.generate(**make_inputs(model.config, [0, 1, 2]), **options)
    assert {batch.num_samples for batch in runners._IDLE._of[network]} == idle - {4}


def test_a_batch_that_was_given_back_is_not_given_back_again(monkeypatch):
    """A batch was released twice when allocating a smaller one failed."""
    model = random_model(random_config(0)).double()
    set_steps(monkeypatch, "static")
    adopt, held = StaticRunner.adopt, []

    def failing_adopt(self, state):
        if held:
            # Meanwhile another call has come for what was given back.
            assert runners._IDLE.take(self.network, held[0].size) is held[0]
            raise MemoryError
        held.append(adopt(self, state))
        return held[0]

    monkeypatch.setattr(StaticRunner, "adopt", failing_adopt)
    with pytest.raises(MemoryError):
        model.generate(**make_inputs(model.config), max_new_tokens=LIMITS, **GREEDY)
    with torch.no_grad():
        assert runners._IDLE.take(make_frame_decoder(model), held[0].size) is None


def test_a_call_takes_the_memory_that_was_counted_for_it(kind):
    """A batch that fits, but not beside the copies that are made of it when it is set up and when it shrinks."""
    model = random_model(random_config(0))
    inputs, limits = make_inputs(model.config, [0, 1, 2]), [3000, 10, 3000]
    criteria = StoppingCriteriaList([DiaCancelStoppingCriteria(cancel_after(15))])
    with torch.no_grad():
        network = make_frame_decoder(model)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        model.generate(**inputs, max_new_tokens=limits, stopping_criteria=criteria, **GREEDY)
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    counted = 3 * network.bytes_of_sample(3000 + 1, 16, True)
    assert peak > counted
    assert peak <= counted / memory._SHARE
