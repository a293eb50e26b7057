"""Streamers against `batch_decode` of the whole, with early, slow, late and failing consumers."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessor, LogitsProcessorList

from dia_hf.delay_pattern import apply_delay
from dia_hf.generation import DiaAudioStreamer, DiaCodesStreamer

GREEDY = {"do_sample": False, "guidance_scale": 3.0, "top_k": 45}
EOS, PAD, BOS = 1024, 1025, 1026


def prompt_len(inputs):
    return inputs["decoder_attention_mask"].shape[1] - 15


@pytest.mark.parametrize("chunks", [(1, 1), (1, 64), (5, 5), (40, 100), (300, 300)])
def test_chunks_are_the_whole(model, processor, chunks):
    """Chunks decoded without context click at every boundary, and lose the end."""
    inputs = processor("[S1] Hello there.")
    options = GREEDY | {"max_new_tokens": 120, "min_new_tokens": 104}
    (whole,) = processor.batch_decode(model.generate(**inputs, **options), audio_prompt_len=1)
    streamer = DiaAudioStreamer(processor, *chunks)
    heard = list(streamer.listen(model.generate, **inputs, **options))
    assert all(chunk.dtype == np.float32 for chunk in heard)
    assert len(heard[0]) == min(chunks[0] * 512, len(whole))
    np.testing.assert_allclose(np.concatenate(heard), whole.numpy(), atol=1e-4)


def test_lengths_of_the_chunks(model, processor):
    """Chunks of one length come either late at first or too often later."""
    options = GREEDY | {"max_new_tokens": 16 + 50, "min_new_tokens": 50}
    streamer = DiaAudioStreamer(processor, first_chunk_frames=2, chunk_frames=16)
    heard = [len(chunk) // 512 for chunk in streamer.listen(model.generate, **processor("[S1] Hi."), **options)]
    assert heard == [2, 4, 8, 16, 16, 4]


def test_a_batch_with_and_without_prompts(model, processor, tone):
    """Samples that end earlier than others, or have prompts of other lengths, had shifted or lost audio."""
    inputs = processor(
        ["[S1] One.", "[S1] A tone. [S2] Two.", "[S2] And three."],
        audio=[None, {"array": tone(0.4, 44100), "sampling_rate": 44100}, None],
    )
    options = GREEDY | {"max_new_tokens": [30, 75, 52], "min_new_tokens": 14}
    whole = processor.batch_decode(model.generate(**inputs, **options), audio_prompt_len=prompt_len(inputs))
    chunks = list(DiaAudioStreamer(processor, 1, 8).listen(model.generate, **inputs, **options))
    for sample, expected in enumerate(whole):
        heard = np.concatenate([chunk[sample] for chunk in chunks])
        np.testing.assert_allclose(heard, expected.numpy(), atol=1e-4)
    assert len({len(waveform) for waveform in whole}) == 3


class CountSteps(LogitsProcessor):
    """Processor that counts steps, and can wait or fail at one."""

    def __init__(self, seconds_per_step=0.0, fails_at=None):
        self.num_steps = 0
        self.seconds_per_step = seconds_per_step
        self.fails_at = fails_at

    def __call__(self, input_ids, scores):
        self.num_steps += 1
        if self.num_steps == self.fails_at:
            raise RuntimeError("the network caught fire")
        time.sleep(self.seconds_per_step)
        return scores


def test_the_first_chunk_comes_as_soon_as_it_can(model, processor):
    """The first chunk waited for more than the delay and the decoder's margin."""
    streamer = DiaAudioStreamer(processor)
    assert streamer.num_steps_before_sound == 1 + processor.codec.decoder_margin + 15
    codes = torch.randint(0, 1024, (1, 60, 9))
    delayed = apply_delay(codes, processor.config.delay_pattern, BOS, PAD)[0]
    streamer.put(torch.full((9, 1), BOS))
    got = []
    consumer = threading.Thread(target=lambda: got.append(next(streamer)))
    consumer.start()
    for step in range(streamer.num_steps_before_sound - 1):
        streamer.put(delayed[step])
    time.sleep(0.05)
    assert not got
    streamer.put(delayed[streamer.num_steps_before_sound - 1])
    consumer.join(timeout=10)
    (whole,) = processor.codec.decode([codes[0]])
    np.testing.assert_allclose(got[0], whole[:512].numpy(), atol=1e-5)


def test_a_consumer_that_stops_early_ends_the_generation(model, processor):
    """Generation continued to its limit after the consumer had stopped."""
    steps = CountSteps(seconds_per_step=0.01)
    options = GREEDY | {"max_new_tokens": 3000, "min_new_tokens": 2900}
    chunks = DiaAudioStreamer(processor).listen(
        model.generate, **processor("[S1] Hi."), **options, logits_processor=LogitsProcessorList([steps])
    )
    before = threading.active_count()
    next(chunks)
    start = time.monotonic()
    chunks.close()
    assert time.monotonic() - start < 1
    assert threading.active_count() == before
    assert steps.num_steps < 200


def test_python_can_end_in_the_middle_of_a_stream():
    """A thread in the middle of a step at exit crashes the process (Python 3.13: SIGABRT)."""
    code = """
from dia_hf import Dia
stream = Dia.from_pretrained(device="cpu").stream("[S1] Hello.", seed=1)
next(stream)
raise SystemExit(7)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 7, done.stderr


def test_cancel_from_another_thread(model, processor):
    """A canceled stream hung in the wait for its next chunk."""
    streamer = DiaAudioStreamer(processor, first_chunk_frames=64)
    steps = CountSteps(seconds_per_step=0.02)
    options = GREEDY | {"max_new_tokens": 3000, "logits_processor": LogitsProcessorList([steps])}
    thread = threading.Thread(target=model.generate, kwargs={**processor("[S1] Hi."), **options, "streamer": streamer})
    thread.start()
    threading.Timer(0.2, streamer.cancel).start()
    assert list(streamer) == []
    thread.join(timeout=5)
    assert not thread.is_alive()
    with DiaAudioStreamer(processor) as other:
        pass
    assert other.is_canceled


def test_a_slow_consumer_loses_nothing(model, processor):
    """A full queue dropped chunks, or blocked generation."""
    inputs, options = processor("[S1] Hello."), GREEDY | {"max_new_tokens": 60, "min_new_tokens": 44}
    (whole,) = processor.batch_decode(model.generate(**inputs, **options), audio_prompt_len=1)
    streamer = DiaAudioStreamer(processor, 1, 4)
    thread = threading.Thread(target=model.generate, kwargs={**inputs, **options, "streamer": streamer})
    thread.start()
    heard = [next(streamer)]
    thread.join(timeout=30)
    assert not thread.is_alive(), "the generation must not wait for the consumer"
    for chunk in streamer:
        time.sleep(0.02)
        heard.append(chunk)
    np.testing.assert_allclose(np.concatenate(heard), whole.numpy(), atol=1e-4)


@pytest.mark.parametrize("by_hand", [False, True], ids=["listen", "a thread of the user's"])
def test_an_error_of_the_generating_thread_reaches_the_consumer(model, processor, by_hand):
    """The generating thread failed, and the consumer waited forever."""
    inputs, streamer = processor("[S1] Hello."), DiaAudioStreamer(processor, 1, 1)
    rules = LogitsProcessorList([CountSteps(fails_at=40)])
    options = GREEDY | {"max_new_tokens": 60, "min_new_tokens": 44, "logits_processor": rules}
    if by_hand:

        def generate():
            with pytest.raises(RuntimeError):
                model.generate(**inputs, **options, streamer=streamer)

        threading.Thread(target=generate).start()
        chunks = streamer
    else:
        chunks = streamer.listen(model.generate, **inputs, **options)
    heard = []
    with pytest.raises(RuntimeError, match="caught fire"):
        heard.extend(chunks)
    assert len(heard) == 39 - 15, "what was complete before the error is heard before it"
    assert list(chunks) == []


def test_an_error_before_the_first_step(model, processor):
    """Bad arguments end `generate` before it has put anything."""
    chunks = DiaAudioStreamer(processor).listen(model.generate, **processor("[S1] Hi."), guidance_scale=-1.0)
    with pytest.raises(ValueError, match="above 0"):
        next(chunks)


def test_a_wait_that_takes_too_long(model, processor):
    """Without a timeout a consumer waits forever if `generate` was never started."""
    streamer = DiaAudioStreamer(processor, timeout=0.05)
    with pytest.raises(TimeoutError, match=r"0\.05 s"):
        next(streamer)
    inputs, options = processor("[S1] Hello."), GREEDY | {"max_new_tokens": 40, "min_new_tokens": 24}
    model.generate(**inputs, **options, streamer=streamer)
    assert sum(map(len, streamer)) == 24 * 512, "the iteration can be continued"


def test_several_consumers_share_the_chunks(model, processor):
    """Two threads that take from one stream got the same chunk, or tore one apart."""
    inputs, options = processor("[S1] Hello."), GREEDY | {"max_new_tokens": 80, "min_new_tokens": 64}
    (whole,) = processor.batch_decode(model.generate(**inputs, **options), audio_prompt_len=1)
    streamer = DiaAudioStreamer(processor, 1, 1)
    heard = []
    consumers = [threading.Thread(target=lambda: heard.extend(streamer)) for _ in range(3)]
    for consumer in consumers:
        consumer.start()
    model.generate(**inputs, **options, streamer=streamer)
    for consumer in consumers:
        consumer.join(timeout=30)
    assert len(heard) == 64
    expected = whole.view(64, 512).numpy()
    nearest = [int(np.abs(expected - chunk).max(axis=1).argmin()) for chunk in heard]
    assert sorted(nearest) == list(range(64))


def test_a_streamer_serves_one_call(model, processor):
    """A second call continued after the first one's frames."""
    inputs, options = processor("[S1] Hello."), GREEDY | {"max_new_tokens": 20}
    streamer = DiaAudioStreamer(processor)
    model.generate(**inputs, **options, streamer=streamer)
    with pytest.raises(RuntimeError, match="a new one"):
        model.generate(**inputs, **options, streamer=streamer)


@pytest.mark.parametrize("lengths", [(0, 4), (5, 4), (1, 0)])
def test_lengths_that_make_no_chunk(processor, lengths):
    """A chunk of no frames never ends the wait."""
    with pytest.raises(ValueError, match="at least 1"):
        DiaAudioStreamer(processor, *lengths)


def delayed_rows(clips, pattern):
    """Rows that `generate` puts for codes `[T_b, C]`, step by step: delayed, ended by channel 0's EOS, padded."""
    longest = max(map(len, clips))
    steps = torch.full((longest + 1 + max(pattern), len(clips), len(pattern)), PAD)
    for b, clip in enumerate(clips):
        for c, delay in enumerate(pattern):
            steps[:delay, b, c] = BOS
            steps[delay : delay + len(clip), b, c] = clip[:, c]
            steps[delay + len(clip), b, c] = EOS
    return steps


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    first=st.integers(1, 6),
    later=st.integers(0, 30),
    seed=st.integers(0, 1000),
)
def test_codes_come_back_whatever_the_chunks(processor, lengths, first, later, seed):
    """A delay reverted chunk by chunk mixes up frames at the boundaries, or misses the end of a sample."""
    generator = torch.Generator().manual_seed(seed)
    clips = [torch.randint(0, 1024, (length, 9), generator=generator) for length in lengths]
    streamer = DiaCodesStreamer(processor.config, first, first + later)
    streamer.put(torch.full((9 * len(clips), 1), BOS))
    for step in delayed_rows(clips, processor.config.delay_pattern):
        streamer.put(step.flatten())
    streamer.end()
    chunks = [chunk if len(clips) > 1 else [chunk] for chunk in streamer]
    for b, clip in enumerate(clips):
        assert torch.equal(torch.cat([torch.zeros(0, 9).long(), *(chunk[b] for chunk in chunks)]), clip)
