"""Alignment of speech and text by cross-attention."""

import itertools
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CompileConfig
from transformers.generation import BaseStreamer

from dia_hf import MINIATURE, DiaForConditionalGeneration, DiaProcessor, DiaTokenizer
from dia_hf.calibration import TEXTS
from dia_hf.engine import Engine
from dia_hf.generation import DiaCodesStreamer, DiaGenerateOutput, attend_to_text, find_alignment_heads, find_path
from dia_hf.generation.alignment import PathSearch, score_heads
from tiny import as_inputs, random_config, random_model
from waiting import wait_for

SPOKEN = ("[S1] Hello, I am Dia. [S2] Welcome, Dia.", "[S2] One two three four five six seven.")


@pytest.fixture(scope="module")
def miniature():
    return DiaForConditionalGeneration.from_pretrained(MINIATURE), DiaProcessor.from_pretrained(MINIATURE)


def make(seed, lengths=(0, 5, 2)):
    config = random_config(seed)
    decoder, draw = config.decoder_config, torch.Generator().manual_seed(seed)
    prompts = [torch.randint(0, decoder.eos_token_id, (n, decoder.num_channels), generator=draw) for n in lengths]
    inputs = as_inputs(config, [b"abc", b"a longer text", b"x y"][: len(lengths)], prompts)
    every = itertools.product(range(decoder.num_hidden_layers), range(decoder.cross_num_attention_heads))
    return random_model(config, seed), inputs, [list(pair) for pair in every][-3:]


@pytest.mark.parametrize("options", [{}, {"guidance_scale": 2.5, "top_k": 5}, {"max_batch_size": 1}])
@pytest.mark.parametrize("seed", range(3))
def test_codes_are_the_same_and_the_weights_those_of_one_pass(seed, options):
    """Recording changed what is spoken, or the weights of a step were another frame's, prompt's or text's."""
    model, inputs, heads = make(seed)
    options = {"do_sample": False, "max_new_tokens": 30, **options}
    plain = model.generate(**inputs, **options)
    output = model.generate(**inputs, **options, return_alignment=True, alignment_heads=heads)
    assert type(output) is DiaGenerateOutput
    assert torch.equal(output.sequences, plain)
    pad = model.config.decoder_config.pad_token_id
    num_read = inputs["decoder_attention_mask"].shape[1]
    for sample, weights in enumerate(output.alignment):
        skipped = num_read - int(inputs["decoder_attention_mask"][sample].sum())
        frames = plain[sample, skipped:]
        frames = frames[: int((frames != pad).any(-1).sum())]
        length = int(inputs["attention_mask"][sample].nonzero()[-1]) + 1
        ids, mask = (inputs[name][sample, None, :length] for name in ("input_ids", "attention_mask"))
        expected = attend_to_text(model, ids, frames[None], tuple(map(tuple, heads)), mask)[0].mean(1)
        assert weights.shape[1] == length
        assert len(frames) - 1 <= len(weights) <= plain.shape[1] - skipped - 1
        num = min(len(weights), len(frames))
        torch.testing.assert_close(weights[:num], expected[:num], rtol=1e-4, atol=1e-5)


def test_several_sequences_of_a_text():
    """`num_return_sequences` gave the alignment of the first only."""
    model, inputs, heads = make(1)
    options = {"do_sample": True, "num_return_sequences": 2, "max_new_tokens": 25, "alignment_heads": heads}
    output = model.generate(**inputs, **options, return_alignment=True)
    assert len(output.alignment) == len(output.sequences) == 6


def test_compiled_steps_record():
    """A batch with fixed addresses has spare frames, and texts longer than the call's."""
    model, inputs, heads = make(2)
    options = {"do_sample": False, "max_new_tokens": 25, "alignment_heads": heads, "return_alignment": True}
    expected = model.generate(**inputs, **options)
    compiled = model.generate(**inputs, **options, compile_config=CompileConfig(backend="eager", fullgraph=True))
    assert torch.equal(compiled.sequences, expected.sequences)
    for mine, theirs in zip(compiled.alignment, expected.alignment, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("first", [False, True])
def test_calls_with_and_without_share_a_batch(miniature, first):
    """A call that joined a batch found no place for its weights, or another call's in it."""
    model, processor = miniature
    calls = [{"text": SPOKEN[index % 2], "records": (index % 2 == 0) == first} for index in range(6)]

    def speak(call, engine=None):
        more = {"return_alignment": True, "alignment_heads": [[1, 1], [1, 0]]} if call["records"] else {}
        return model.generate(**processor(text=[call["text"]]), do_sample=False, engine=engine, **more)

    alone = [speak(call) for call in calls]
    with Engine(max_batch_size=3) as engine, ThreadPoolExecutor(6) as threads:
        together = list(threads.map(lambda call: speak(call, engine), calls))
    for call, mine, theirs in zip(calls, together, alone, strict=True):
        if call["records"]:
            assert torch.equal(mine.sequences, theirs.sequences)
            torch.testing.assert_close(mine.alignment[0], theirs.alignment[0], rtol=1e-4, atol=1e-5)
        else:
            assert torch.equal(mine, theirs)


def test_a_streamer_gets_the_weights_of_each_step():
    """A stream had the weights of the step after, or of another sample once one had ended."""
    model, inputs, heads = make(1)
    options = {"do_sample": False, "max_new_tokens": [30, 12, 21], "alignment_heads": heads, "return_alignment": True}
    expected = model.generate(**inputs, **options).alignment
    streamer, rows = DiaCodesStreamer(model.config), []
    streamer.put_alignment = rows.append
    list(streamer.listen(model.generate, **inputs, **options))
    streamed = torch.stack(rows, dim=1)
    for sample, weights in enumerate(expected):
        num_given = int(inputs["decoder_attention_mask"][sample].sum()) - 1 - model.config.max_delay
        new = weights[num_given:]
        assert torch.equal(streamed[sample, : len(new), : new.shape[1]], new)
        assert not streamed[sample, len(new) + 8 :].any()  # the end is known within a few steps


def test_heads_of_two_kinds_do_not_share_a_batch(miniature):
    """The second call of a batch got the weights of the first one's heads."""
    model, processor = miniature

    def speak(heads, engine=None):
        options = {"return_alignment": True, "alignment_heads": heads, "do_sample": False}
        return model.generate(**processor(text=[SPOKEN[0]]), **options, engine=engine).alignment[0]

    kinds = [[[1, 1]], [[0, 2], [3, 1]], [[1, 1]]]
    alone = [speak(heads) for heads in kinds]
    with Engine(max_batch_size=3) as engine, ThreadPoolExecutor(3) as threads:
        for mine, theirs in zip(threads.map(lambda heads: speak(heads, engine), kinds), alone, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_heads_of_two_kinds_join_a_batch_without_heads(miniature):
    """Beside a call that records nothing, the last call got the weights of the heads of the one before."""
    model, processor = miniature
    engine = Engine(max_batch_size=3)

    class Slow(BaseStreamer):
        """Holds the engine's thread until the other calls are there."""

        has_prompt = False

        def put(self, value):
            if self.has_prompt and not pending.is_set():
                pending.set()
                wait_for(lambda: len(engine._submitted) == len(kinds))
            self.has_prompt = True

        def end(self):
            pass

    def speak(heads, engine=None):
        options = {"return_alignment": True, "alignment_heads": heads, "do_sample": False}
        return model.generate(**processor(text=[SPOKEN[0]]), **options, engine=engine).alignment[0]

    kinds, pending = [[[1, 1]], [[0, 2], [3, 1]]], threading.Event()
    alone = [speak(heads) for heads in kinds]
    with engine, ThreadPoolExecutor(3) as threads:
        plain = processor(text=[SPOKEN[0]])
        first = threads.submit(model.generate, **plain, do_sample=False, engine=engine, streamer=Slow())
        assert pending.wait(60)
        for mine, theirs in zip(threads.map(lambda heads: speak(heads, engine), kinds), alone, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
        first.result()


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        (None, "has no `alignment_heads`"),
        ([], "has no `alignment_heads`"),
        ([[5, 0]], r"\[5, 0\]; give pairs of layer and head, below 5 and 4"),
        ([[0, -1]], r"\[0, -1\]"),
        ([[0, 1.0]], r"\[0, 1.0\]"),
        ([3], "has 3"),
    ],
)
def test_unusable_heads_are_refused(miniature, heads, message):
    """A head that does not exist was an IndexError deep inside, or read memory of another one."""
    model, processor = miniature
    with pytest.raises(ValueError, match=message):
        model.generate(**processor(text=["[S1] Hello."]), return_alignment=True, alignment_heads=heads)


def test_heads_for_given_speech_are_checked(miniature):
    """A head that does not exist had weights of zero."""
    model, processor = miniature
    ids, frames = processor(text=["[S1] Hello."])["input_ids"], torch.zeros(1, 5, 9, dtype=torch.long)
    with pytest.raises(ValueError, match=r"\[9, 0\]; give pairs of layer and head, below 5 and 4"):
        attend_to_text(model, ids, frames, [[9, 0]])


def test_the_reference_path_is_refused_with_its_reason(miniature):
    """The alignment was missing without a word."""
    model, processor = miniature
    options = {"return_alignment": True, "alignment_heads": [[1, 1]], "use_fast_path": False}
    with pytest.raises(ValueError, match="`return_alignment` needs the fast path, but `use_fast_path` is False"):
        model.generate(**processor(text=["[S1] Hello."]), **options)


@given(num_frames=st.integers(1, 6), num_bytes=st.integers(1, 5), seed=st.integers(0, 1000), is_sparse=st.booleans())
@settings(max_examples=60)
def test_a_path_is_the_most_probable_one(num_frames, num_bytes, seed, is_sparse):
    """A path that went back, or missed the best one, against all paths that there are."""
    weights = torch.rand(num_frames, num_bytes, generator=torch.Generator().manual_seed(seed))
    if is_sparse:
        weights = (weights > 0.7).float()
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-9)
    path = find_path(weights)
    logs = (weights.double() + 1e-3).log()

    def score(one):
        return float(logs[torch.arange(num_frames), torch.tensor(one)].sum())

    paths = itertools.combinations_with_replacement(range(num_bytes), num_frames)
    assert score(path.tolist()) == pytest.approx(max(map(score, paths)))
    assert (path.diff() >= 0).all()


def score_of_path(path, weights, is_pause):
    """Log-likelihood of a path by its definition: weights of its frames, and words that it passes."""
    rows, has_end = weights.double(), any(is_pause) and not is_pause[-1]
    most = rows[:, is_pause].max(-1).values if any(is_pause) else None
    words, place = [], 0
    for paused, group in itertools.groupby(is_pause):
        size = len(list(group))
        if not paused:
            words.append(range(place, place + size))
        place += size
    total = 0.0
    for frame, place in enumerate(path):
        own = 0.0 if place == len(is_pause) else float(rows[frame, place])
        if place == len(is_pause):
            own = float(most[frame])
        elif is_pause[place]:
            own = (own + float(most[frame])) / 2
        total += math.log(own + 1e-3)
    assert has_end or max(path) < len(is_pause)
    passed = sum(word[-1] < path[-1] and not set(word) & set(path) for word in words)
    return total + passed * math.log(1e-3)


@given(data=st.data(), num_frames=st.integers(1, 5), is_pause=st.lists(st.booleans(), min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_the_path_with_pauses_is_the_best_of_all(data, num_frames, is_pause):
    """The search in one pass passed words without their cost, or took it within a word."""
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    weights = torch.rand(num_frames, len(is_pause), generator=draw) ** data.draw(st.sampled_from([1, 8, 40]))
    path = find_path(weights, is_pause).tolist()
    num_places = len(is_pause) + (any(is_pause) and not is_pause[-1])
    best = max(
        score_of_path(one, weights, is_pause)
        for one in itertools.combinations_with_replacement(range(num_places), num_frames)
    )
    assert score_of_path(path, weights, is_pause) == pytest.approx(best)
    search, cut = PathSearch(is_pause), data.draw(st.integers(0, num_frames))
    search.add(weights[:cut])
    assert search.path().tolist() == find_path(weights[:cut], is_pause).tolist()
    search.add(weights[cut:])
    assert search.path().tolist() == path


def test_the_last_word_is_passed_where_silence_looks_at_a_pause_before_it():
    """A text without a mark at its end has no byte for the silence there: the last word got no frame."""
    is_pause = [False, False, True, False, False]
    looked_at = torch.tensor([0, 1, 3, 4] + [2] * 8)  # "ab cd", and silence
    weights = torch.nn.functional.one_hot(looked_at, 5).float()
    assert find_path(weights, is_pause).tolist() == [0, 1, 3, 4] + [5] * 8
    # A recording that is cut in the pause does not reach the last word.
    assert find_path(weights[[0, 1, 4, 4, 4]], is_pause).tolist() == [0, 1, 2, 2, 2]


def test_heads_are_scored_by_peaks_in_order():
    """A head that always looks at the last byte counts as peaked, and one that goes backwards as informative."""
    forward = torch.eye(20)
    heads = torch.stack([forward, forward.flip(0), forward * 0 + torch.eye(20)[-1], forward * 0 + 1 / 20], dim=1)
    assert score_heads(heads).tolist() == pytest.approx([1.0, 0.0, 0.0, 0.0], abs=1e-6)


def test_heads_of_the_miniature_are_found(miniature):
    """The heads that were found were not those whose attention is on the word being spoken."""
    model, processor = miniature
    found = find_alignment_heads(model, processor.tokenizer, SPOKEN)
    assert found[0] in model.generation_config.alignment_heads
    assert len(found) <= 3


def test_a_model_that_does_not_follow_the_text_is_told():
    """Random heads were returned for a model that cannot speak."""
    model, _, _ = make(0)
    model.generation_config.max_length = 60
    with pytest.raises(ValueError, match="no head of cross-attention follows the text"):
        find_alignment_heads(model, DiaTokenizer(), TEXTS[4:5])
