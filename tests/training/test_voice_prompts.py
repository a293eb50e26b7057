import pickle
from collections import Counter
from multiprocessing.reduction import ForkingPickler

import datasets
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from dia_hf import DiaConfig, DiaFeatureExtractor, DiaProcessor, DiaTokenizer
from dia_hf.training.collator import DiaDataCollator
from dia_hf.training.voice_prompts import add_voice_prompts

CONFIG = DiaConfig(decoder_config={"num_channels": 2, "max_position_embeddings": 64}, delay_pattern=[0, 3])
FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "text": datasets.Value("string"),
        "codes": datasets.Array2D((None, 2), "int16"),
        "seconds": datasets.Value("float32"),
        "speaker": datasets.Value("string"),
    }
)


def small_processor(config=CONFIG, **options):
    return DiaProcessor(DiaFeatureExtractor(), DiaTokenizer(**options), config=config)


def prepared(speakers, seconds=None):
    """Make a prepared dataset of one frame a second; each clip's codes are its number."""
    seconds = seconds or [6] * len(speakers)
    clips = {
        "id": [f"clip-{index}" for index in range(len(speakers))],
        "text": [f"[S1] Words of {index}." for index in range(len(speakers))],
        "codes": [np.full((duration, 2), index, np.int16) for index, duration in enumerate(seconds)],
        "seconds": seconds,
        "speaker": speakers,
    }
    return datasets.Dataset.from_dict(clips, features=FEATURES)


def prompt_of(clip, index):
    """Read which clip precedes a clip of `prepared`, and check that all columns agree."""
    num_given, codes = clip["prompt_frames"], np.asarray(clip["codes"])
    assert clip["id"] == f"clip-{index}" and (codes[num_given:] == index).all() and len(codes) > num_given
    assert clip["seconds"] == len(codes)
    if num_given == 0:
        assert clip["text"] == f"[S1] Words of {index}."
        return None
    (prompt,) = set(codes[:num_given].flatten().tolist())
    assert clip["text"] == f"[S1] Words of {prompt}. [S1] Words of {index}."
    return prompt


def prompts_of(prompted):
    return [prompt_of(prompted[index], index) for index in range(len(prompted))]


def loop_allowed(speakers, seconds, index):
    """The definition: the clips that may precede this one."""
    others = [
        other
        for other in range(len(speakers))
        if other != index and speakers[other] == speakers[index] is not None and seconds[other] <= 10
    ]
    return [other for other in others if seconds[other] >= 5] or others


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(["anna", "ben", None]), st.integers(1, 12)), min_size=1, max_size=9),
    st.integers(-2, 2),
)
def test_some_clip_has_a_prompt_or_all_is_refused(clips, num_spare):
    """Where no two clips are short enough for a voice prompt, prompts were omitted without an error."""
    speakers, seconds = map(list, zip(*clips, strict=True))
    pairs = [(prompt, clip) for clip in range(len(clips)) for prompt in loop_allowed(speakers, seconds, clip)]
    assume(pairs)
    shortest = min(seconds[prompt] + seconds[clip] for prompt, clip in pairs)
    max_frames = max(shortest + num_spare, 1)
    if shortest > max_frames:
        message = rf"has {shortest} frames, more than `max_frames` \({max_frames}\); raise it"
        with pytest.raises(ValueError, match=message):
            add_voice_prompts(prepared(speakers, seconds), small_processor(), 1.0, max_frames=max_frames)
    else:
        add_voice_prompts(prepared(speakers, seconds), small_processor(), 1.0, max_frames=max_frames)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(["anna", "ben", None]), st.integers(1, 12)), min_size=1, max_size=9))
def test_prompts_are_by_the_same_speaker(clips):
    """A prompt in another voice, or the clip itself as its prompt, trains to ignore prompts or to repeat them."""
    speakers, seconds = map(list, zip(*clips, strict=True))
    allowed = [loop_allowed(speakers, seconds, index) for index in range(len(clips))]
    if not any(allowed):
        with pytest.raises(ValueError, match="speaker"):
            add_voice_prompts(prepared(speakers, seconds), small_processor(), 1.0)
        return
    prompted = add_voice_prompts(prepared(speakers, seconds), small_processor(), 1.0)
    assert len(prompted) == len(clips)
    for epoch in range(3):
        prompted.set_epoch(epoch)
        for prompt, choice in zip(prompts_of(prompted), allowed, strict=True):
            assert prompt in choice if choice else prompt is None


@pytest.mark.parametrize("probability", [1.0, 0.5])
def test_all_prompts_are_equally_likely(probability):
    """One random number for both decisions, or a wrap-around that is off by one: some clips are never a prompt."""
    speakers = ["anna", "ben", "anna", "anna", "ben", "anna", "anna"]
    prompted = add_voice_prompts(prepared(speakers), small_processor(), probability)
    for index, others in ((3, [0, 2, 5, 6]), (0, [2, 3, 5, 6]), (6, [0, 2, 3, 5]), (1, [4])):
        counts = Counter()
        for epoch in range(300):
            prompted.set_epoch(epoch)
            counts[prompt_of(prompted[index], index)] += 1
        counts.pop(None, None)
        assert sorted(counts) == others
        assert all(abs(count - 300 * probability / len(others)) < 35 for count in counts.values())


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("has_epoch", [True, False])
def test_probability(probability, has_epoch):
    """The share of clips with a prompt differed from the requested one."""
    torch.manual_seed(0)
    prompted = add_voice_prompts(prepared(["anna"] * 400), small_processor(), probability)
    if has_epoch:
        prompted.set_epoch(0)
    count = sum(prompt is not None for prompt in prompts_of(prompted))
    assert abs(count - 400 * probability) <= 4 * (400 * probability * (1 - probability)) ** 0.5


def test_the_same_again_after_a_resume():
    """A resumed run joined other clips."""
    clips = prepared(["anna"] * 40)
    first = add_voice_prompts(clips, small_processor(), 0.5)
    chosen = []
    for epoch in (0, 1):
        first.set_epoch(epoch)
        chosen.append(prompts_of(first))
    state = torch.get_rng_state()
    again = add_voice_prompts(clips, small_processor(), 0.5)
    again.set_epoch(1)
    assert prompts_of(again) == chosen[1] != chosen[0]
    assert torch.equal(torch.get_rng_state(), state)
    reseeded = add_voice_prompts(clips, small_processor(), 0.5, seed=1)
    reseeded.set_epoch(1)
    assert prompts_of(reseeded) != chosen[1]


def test_without_an_epoch_prompts_follow_torchs_seed():
    """A training loop that does not set an epoch got the same prompts in each."""
    prompted = add_voice_prompts(prepared(["anna"] * 40), small_processor(), 0.5)
    torch.manual_seed(0)
    first, second = prompts_of(prompted), prompts_of(prompted)
    torch.manual_seed(0)
    assert prompts_of(prompted) == first != second


def test_text_is_dropped_whether_there_is_a_prompt_or_not():
    """One random number for both decisions: only clips with a prompt lost their text."""
    prompted = add_voice_prompts(prepared(["anna"] * 400), small_processor(), 0.5)
    collator = DiaDataCollator(small_processor(), text_dropout=0.5)
    prompted.set_epoch(0)
    collator.set_epoch(0)
    clips = [prompted[index] for index in range(400)]
    has_prompt = torch.tensor([clip["prompt_frames"] > 0 for clip in clips])
    is_dropped = collator(clips)["input_ids"].sum(dim=1) == 0
    assert abs(is_dropped[has_prompt].float().mean() - is_dropped[~has_prompt].float().mean()) < 0.2


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("[nl] [S1] Een.", "[nl] [S1] Twee."), "[nl] [S1] Een. [S1] Twee."),
        (("[en] [S1] One.", "[nl] [S1] Twee."), "[nl] [S1] [en] One. [S1] Twee."),
        (("[S1] One.", "[nl] [S1] Twee."), "[nl] [S1] One. [S1] Twee."),
    ],
)
def test_the_language_stands_at_the_beginning(texts, expected):
    """The language stood before the prompt and again before the clip, and in cloning only at the beginning."""
    clips = prepared(["anna", "anna"]).map(lambda clip, index: {"text": texts[index]}, with_indices=True)
    processor = small_processor(language_tokens={"[nl]": 14, "[en]": 3})
    assert add_voice_prompts(clips, processor, 1.0)[1]["text"] == expected


def test_learning_begins_after_the_prompt():
    """A prompt with labels counts few clips more often, and its end is where the clip must continue."""
    prompted = add_voice_prompts(prepared(["anna", "anna"], [5, 7]), small_processor(), 1.0)
    batch = DiaDataCollator(small_processor(), text_dropout=0.0)([prompted[0], prompted[1]])
    end = CONFIG.decoder_config.eos_token_id
    for row, num_frames in ((0, 5), (1, 7)):
        for labels in batch["labels"][row].T:
            assert labels[labels != -100].tolist() == [row] * num_frames + [end]
    assert batch["decoder_input_ids"][0, :14, 0].tolist() == [1026] + [1] * 7 + [0] * 5 + [end]


@pytest.mark.parametrize(
    ("tokenizer", "options", "expected"),
    [
        ({"max_length": 26}, {}, [None] * 4),  # the two texts are 13 ids each, and the space between
        ({"max_length": 27}, {}, [1, 0, 3, 2]),
        ({}, {"max_frames": 11}, [None, None, 3, 2]),
        ({}, {"max_frames": 12}, [1, 0, 3, 2]),
    ],
)
def test_what_would_be_too_long_stays_alone(tokenizer, options, expected):
    """A prompt that made the text too long stopped the run; one that fills the frames had the clip cut."""
    clips = prepared(["anna", "anna", "ben", "ben"], [6, 6, 5, 6])
    prompted = add_voice_prompts(clips, small_processor(**tokenizer), 1.0, **options)
    assert prompts_of(prompted) == expected


@pytest.mark.parametrize(("num_frames", "expected"), [(54, [None, 0, 3, 2]), (55, [None, None, 3, 2])])
def test_the_models_frames_are_the_limit(num_frames, expected):
    """The positions of delay and EOS were not counted: 64 positions hold 60 frames."""
    clips = prepared(["anna", "anna", "ben", "ben"], [6, num_frames, 5, 5])
    prompted = add_voice_prompts(clips, small_processor(), 1.0)
    assert prompts_of(prompted) == expected
    assert DiaDataCollator(small_processor())([prompted[1]])["labels"].shape[1] <= 64


@pytest.mark.parametrize("kind", [None, "numpy", "torch"])
def test_datasets_of_any_format(kind):
    """`with_format("torch")` returned tensors, which `+` adds where it joins lists."""
    clips = prepared(["anna", "anna", None]).with_format(kind)
    prompted = add_voice_prompts(clips, small_processor(), 1.0)
    prompted.set_epoch(0)
    assert prompts_of(prompted) == [1, 0, None]
    batch = DiaDataCollator(small_processor())([prompted[index] for index in range(3)])
    assert batch["decoder_attention_mask"].sum(dim=1).tolist() == [16, 16, 10]


def test_indices_are_a_lists():
    """The last clip by its negative index was another clip, and iteration by index never ended."""
    prompted = add_voice_prompts(prepared(["anna"] * 5), small_processor(), 1.0)
    prompted.set_epoch(0)
    assert prompted[-1]["text"] == prompted[4]["text"]
    with pytest.raises(IndexError):
        prompted[5]


def test_worker_processes_see_the_epoch():
    """Persistent workers joined the same clips in each epoch."""
    clips = prepared(["anna"] * 20)
    prompted = add_voice_prompts(clips, small_processor(), 0.5)
    collator = DiaDataCollator(small_processor(), text_dropout=0.5)
    loader = DataLoader(prompted, batch_size=5, collate_fn=collator, num_workers=2, persistent_workers=True)
    for epoch in (0, 1):
        prompted.set_epoch(epoch)
        collator.set_epoch(epoch)
        for start, batch in zip(range(0, 20, 5), loader, strict=True):
            expected = collator([prompted[index] for index in range(start, start + 5)])
            assert all(torch.equal(batch[name], tensor) for name, tensor in expected.items())


def test_a_spawned_worker_shares_the_epoch():
    """A dataset that is pickled for a spawned worker did not share the epoch."""
    prompted = add_voice_prompts(prepared(["anna"] * 20), small_processor(), 0.5)
    worker = pickle.loads(bytes(ForkingPickler.dumps(prompted)))
    prompted.set_epoch(7)
    assert prompts_of(worker) == prompts_of(prompted)


def test_a_single_speaker():
    """Voice prompts were made from a dataset without speaker names, without explicit consent."""
    clips = prepared([None] * 4)
    for unnamed in (clips, clips.remove_columns("speaker")):
        with pytest.raises(ValueError, match="`single_speaker=True`"):
            add_voice_prompts(unnamed, small_processor(), 1.0)
        prompted = add_voice_prompts(unnamed, small_processor(), 1.0, single_speaker=True)
        assert None not in prompts_of(prompted)


@pytest.mark.parametrize(
    ("clips", "options", "message"),
    [
        (prepared(["anna", None]), {"single_speaker": True}, r"names 1 speakers \('anna', …\)"),
        (prepared(["anna", "ben"]), {}, "none of the 2 clips can have a voice prompt"),
        (prepared(["anna", "anna"], [11, 12]), {}, "at most 10.0 s"),
        (prepared(["anna", "anna"], [9, 52]), {}, r"has 61 frames, more than Dia reads \(60\); add shorter ones"),
        (prepared(["anna", "anna"]), {"max_frames": 11}, r"has 12 frames, more than `max_frames` \(11\); raise it"),
        (prepared(["anna", "anna"]).remove_columns(["id", "seconds"]), {}, "no column 'id' and no column 'seconds'"),
        (prepared(["anna", "anna"]), {"probability": 30}, "`probability` is 30"),
        (prepared(["anna", "anna"]), {"min_seconds": 20}, "`min_seconds` is 20 and `max_seconds` 10"),
        (prepared(["anna", "anna"]), {"max_frames": 61}, "Dia reads 1 to 60 frames"),
    ],
)
def test_unusable_requests(clips, options, message):
    """Voice prompts that were requested and omitted without an error show only in the generated speech."""
    with pytest.raises(ValueError, match=message):
        add_voice_prompts(clips, small_processor(), **{"probability": 1.0} | options)
