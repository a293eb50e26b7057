import copy
import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers.models.dia.feature_extraction_dia import DiaFeatureExtractor as TheirFeatureExtractor
from transformers.models.dia.processing_dia import DiaProcessor as TheirProcessor
from transformers.models.dia.tokenization_dia import DiaTokenizer as TheirTokenizer

import tiny
from dia_hf import DiaConfig, DiaFeatureExtractor, DiaProcessor, DiaTokenizer
from dia_hf.delay_pattern import revert_delay
from dia_hf.training.collator import DiaDataCollator

RATE = 44100
NAMES = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask", "labels")


def processor_of(config):
    return DiaProcessor(DiaFeatureExtractor(), DiaTokenizer(), config=config)


def random_clips(config, num_frames, seed=0, **columns):
    """Draw a clip of random codes for each number of frames."""
    draw = np.random.default_rng(seed)
    shape, end = config.decoder_config.num_channels, config.decoder_config.eos_token_id
    return [
        {
            "id": f"clip-{seed}-{index}",
            "text": "x" * int(draw.integers(1, 30)),
            "codes": draw.integers(0, end, (length, shape), dtype=np.int16),
            **columns,
        }
        for index, length in enumerate(num_frames)
    ]


@st.composite
def configs(draw):
    """Any number of channels, delays in any order (channel 0 delayed, too), special tokens in any order."""
    if draw(st.booleans()):
        return tiny.random_config(draw(st.integers(0, 30)))
    delays = draw(st.lists(st.integers(0, 7), min_size=1, max_size=9))
    eos = draw(st.sampled_from([3, 50]))
    pad, bos = draw(st.permutations([eos + 1, eos + 2]))
    decoder = {"num_channels": len(delays), "vocab_size": eos + 3}
    decoder |= {"eos_token_id": eos, "pad_token_id": pad, "bos_token_id": bos}
    return DiaConfig(decoder_config=decoder, delay_pattern=delays)


@st.composite
def batches(draw):
    """A config, clips of 1 to 12 frames, some with prompts, and options of the collator."""
    config = draw(configs())
    clips = random_clips(config, draw(st.lists(st.integers(1, 12), min_size=1, max_size=5)), draw(st.integers(0, 1000)))
    max_frames = draw(st.one_of(st.none(), st.integers(1, 14)))
    for clip in clips:
        if draw(st.booleans()):
            clip["prompt_frames"] = draw(st.integers(0, min(len(clip["codes"]), max_frames or 99) - 1))
    return config, clips, max_frames


def loop_collate(config, clips, max_frames):
    """The definition, slot by slot."""
    decoder, delays = config.decoder_config, config.delay_pattern
    num_learned = []
    for clip in clips:
        is_cut = max_frames is not None and len(clip["codes"]) > max_frames
        num_learned.append(max_frames if is_cut else len(clip["codes"]) + 1)
    num_bytes = max(len(clip["text"]) for clip in clips)
    num_steps = max(num_learned) + max(delays)
    inputs = torch.full((len(clips), num_steps, len(delays)), decoder.pad_token_id)
    labels = torch.full((len(clips), num_steps, len(delays)), -100)
    mask = torch.zeros(len(clips), num_steps, dtype=torch.long)
    ids = torch.zeros(len(clips), num_bytes, dtype=torch.long)
    text_mask = torch.zeros(len(clips), num_bytes, dtype=torch.long)
    for row, clip in enumerate(clips):
        for place, byte in enumerate(clip["text"].encode()):
            ids[row, place], text_mask[row, place] = byte, 1
        in_time = [*clip["codes"].tolist(), [decoder.eos_token_id] * len(delays)]
        for step in range(num_learned[row] + max(delays)):
            mask[row, step] = 1
            for channel, delay in enumerate(delays):
                heard, next_frame = step - 1 - delay, step - delay
                if heard < 0:
                    inputs[row, step, channel] = decoder.bos_token_id
                elif heard < len(in_time):
                    inputs[row, step, channel] = in_time[heard][channel]
                if clip.get("prompt_frames", 0) <= next_frame < num_learned[row]:
                    labels[row, step, channel] = in_time[next_frame][channel]
    return dict(zip(NAMES, (ids, text_mask, inputs, mask, labels), strict=True))


def assert_equal(ours, expected):
    assert set(ours) == set(expected)
    for name, tensor in expected.items():
        assert ours[name].dtype == tensor.dtype == torch.long, name
        assert torch.equal(ours[name], tensor), name


@given(batches())
def test_a_batch_is_its_definition(batch):
    """A label one step early or late, a lost last code, or an EOS in all channels at once trains noise."""
    config, clips, max_frames = batch
    collator = DiaDataCollator(processor_of(config), text_dropout=0.0, max_frames=max_frames)
    assert_equal(collator(clips), loop_collate(config, clips, max_frames))


@given(configs(), st.integers(1, 12), st.integers(0, 1000))
def test_a_whole_clip_can_be_read_back(config, num_frames, seed):
    """Delayed codes were cut at the clip's length: the last `delay` codes of each channel were never trained."""
    (clip,) = random_clips(config, [num_frames], seed)
    batch = DiaDataCollator(processor_of(config), text_dropout=0.0)([clip])
    codes, delays = torch.from_numpy(clip["codes"]).long(), config.delay_pattern
    assert torch.equal(revert_delay(batch["decoder_input_ids"], delays)[0, 1:], codes)
    ends = []
    for channel, labels in enumerate(batch["labels"][0].T):
        *learned, end = labels[labels != -100].tolist()
        assert learned == codes[:, channel].tolist()
        assert end == config.decoder_config.eos_token_id
        ends.append(labels.tolist().index(end))
    assert [end - ends[0] for end in ends] == [delay - delays[0] for delay in delays]


@given(batches())
def test_every_channel_has_equally_many_labels(batch):
    """Clips cut in delayed time gave the delayed channels fewer labels, and EOS without the frames before it."""
    config, clips, max_frames = batch
    collator = DiaDataCollator(processor_of(config), max_frames=max_frames)
    counts = (collator(clips)["labels"] != -100).sum(dim=1)
    for clip, row in zip(clips, counts.tolist(), strict=True):
        num_frames, prompt_frames = len(clip["codes"]), clip.get("prompt_frames", 0)
        is_cut = max_frames is not None and num_frames > max_frames
        assert set(row) == {(max_frames if is_cut else num_frames + 1) - prompt_frames}


def test_a_cut_clip_hears_what_it_would_hear(processor):
    """Padding in the inputs behind the cut, where inference has codes, trained that padding means more frames."""
    (clip,) = random_clips(processor.config, [60])
    whole = DiaDataCollator(processor, text_dropout=0.0)([clip])
    cut = DiaDataCollator(processor, text_dropout=0.0, max_frames=20)([clip])
    assert cut["labels"].shape == (1, 20 + 15, 9)
    assert torch.equal(cut["decoder_input_ids"], whole["decoder_input_ids"][:, :35])
    is_learned = cut["labels"] != -100
    assert torch.equal(cut["labels"][is_learned], whole["labels"][:, :35][is_learned])
    assert (cut["labels"] != processor.config.decoder_config.eos_token_id).all()


def assert_same_rows(ours, theirs):
    """Compare rows without their padding, which is on the left in one and on the right in the other."""
    channels = ours["labels"].shape[-1]
    their_labels = theirs["labels"].unflatten(0, (-1, channels)).transpose(1, 2)
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    assert torch.equal(ours["attention_mask"], theirs["attention_mask"])
    for row, mask in enumerate(theirs["decoder_attention_mask"]):
        length = int(mask.sum())
        assert ours["decoder_attention_mask"][row].tolist() == [1] * length + [0] * (len(mask) - length)
        assert torch.equal(ours["decoder_input_ids"][row, :length], theirs["decoder_input_ids"][row, -length:].long())
        assert torch.equal(ours["labels"][row, :length], their_labels[row, -length:])
        assert (ours["labels"][row, length:] == -100).all() and (their_labels[row, :-length] == -100).all()


@pytest.mark.parametrize("num_samples", [[600], [512, 5000], [3000, 20, 7777]])
def test_labels_equal_transformers(pack, pack_processor, tone, num_samples):
    """The labels differed from those of transformers' own training."""
    codec = pack_processor.audio_tokenizer
    theirs = TheirProcessor(TheirFeatureExtractor.from_pretrained(pack), TheirTokenizer.from_pretrained(pack), codec)
    waves = [tone(1.0, RATE, 110 + 60 * i)[:n] for i, n in enumerate(num_samples)]
    texts = ["[S1] Hi.", "[S2] Well, hello there!", "ok"][: len(waves)]
    options = {"generation": False, "output_labels": True, "sampling_rate": RATE}
    expected = theirs(text=texts, audio=waves, **options)
    codes = pack_processor.feature_extractor(waves, sampling_rate=RATE, audio_tokenizer=codec)["audio_codes"]
    clips = [{"text": text, "codes": clip} for text, clip in zip(texts, codes, strict=True)]
    collator = DiaDataCollator(pack_processor, text_dropout=0.0)
    assert_same_rows(collator(clips), expected)


@given(configs(), st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(0, 1000))
def test_labels_equal_the_processors(config, num_frames, seed):
    """The processor and the collator made different labels for the same clip."""
    processor, clips = processor_of(config), random_clips(config, num_frames, seed)
    codes = [clip["codes"].astype(np.int64) for clip in clips]
    texts = [clip["text"] for clip in clips]
    expected = processor(texts, codes, generation=False, output_labels=True)
    assert_same_rows(DiaDataCollator(processor, text_dropout=0.0)(clips), expected)


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_transformers(seed):
    """Padding on the right, where transformers pads on the left, changed the loss."""
    config = tiny.random_config(seed)
    model, processor = tiny.random_model(config, seed), processor_of(config)
    clips = random_clips(config, [9, 4, 12], seed)
    batch = DiaDataCollator(processor, text_dropout=0.0)(clips)
    batch["labels"] = batch["labels"].transpose(1, 2).flatten(0, 1)  # the form that both models read
    codes, texts = [clip["codes"].astype(np.int64) for clip in clips], [clip["text"] for clip in clips]
    expected = tiny.their_model(model)(**processor(texts, codes, generation=False, output_labels=True)).loss
    for network in (model, tiny.their_model(model)):
        torch.testing.assert_close(network(**batch).loss, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_packing_leaves_the_loss(seed):
    """A packed clip attended to the previous clip in its row, or continued its positions."""
    config = tiny.random_config(seed)
    model, clips = tiny.random_model(config, seed), random_clips(config, [9, 4, 12, 3, 7, 7], seed)
    alone, packed = (
        DiaDataCollator(processor_of(config), text_dropout=0.5, frames_per_row=size) for size in (None, 50)
    )
    alone.set_epoch(0)
    packed.set_epoch(0)
    assert len(packed(clips)["labels"]) < 3
    torch.testing.assert_close(model(**packed(clips)).loss, model(**alone(clips)).loss, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [np.ndarray.tolist, torch.from_numpy, lambda codes: codes.astype(np.int64)])
def test_codes_of_any_kind(processor, kind):
    """`datasets` returns lists, arrays or tensors by its format; without an id, dropout depended on the type."""
    clips = random_clips(processor.config, [20, 30, 25, 4] * 4, id=None, text="ok")
    collator = DiaDataCollator(processor, text_dropout=0.5)
    collator.set_epoch(0)
    batch = collator([clip | {"codes": kind(clip["codes"])} for clip in clips])
    assert_equal(batch, collator(clips))
    assert 0 < (batch["input_ids"].sum(dim=1) == 0).sum() < 16


def dropped(collator, clips, batch_size=16):
    """Collect the ids of the clips whose text is dropped."""
    ids = set()
    for start in range(0, len(clips), batch_size):
        part = clips[start : start + batch_size]
        batch = collator(part)
        for clip, row, mask in zip(part, batch["input_ids"], batch["attention_mask"], strict=True):
            text = row[mask == 1]
            assert len(text) == len(clip["text"])
            assert (text == 0).all() or (text != 0).all()
            if (text == 0).all():
                ids.add(clip["id"])
    return ids


@pytest.mark.parametrize("has_epoch", [True, False])
@pytest.mark.parametrize("rate", [0.0, 0.15, 1.0])
def test_text_is_dropped_clip_by_clip(processor, rate, has_epoch):
    """With text dropped batch by batch, most steps have no unconditional clip, and the others nothing else."""
    torch.manual_seed(0)
    clips = random_clips(processor.config, [1] * 1600)
    collator = DiaDataCollator(processor, text_dropout=rate)
    if has_epoch:
        collator.set_epoch(0)
    num_dropped = len(dropped(collator, clips))
    deviation = (1600 * rate * (1 - rate)) ** 0.5
    assert abs(num_dropped - 1600 * rate) <= 4 * deviation
    batches = [clips[start : start + 32] for start in range(0, 320, 32)]
    if rate == 0.15:
        assert all(0 < len(dropped(collator, batch)) < 20 for batch in batches)


def test_dropout_depends_on_epoch_seed_and_clip_alone(processor):
    """A resumed run, or one with another number of processes, dropped other texts and was not comparable."""
    clips = random_clips(processor.config, [1] * 100)
    collator = DiaDataCollator(processor, text_dropout=0.3)
    collator.set_epoch(3)
    expected = dropped(collator, clips)
    state = torch.get_rng_state()
    assert dropped(collator, clips[::-1], batch_size=7) == expected
    assert torch.equal(torch.get_rng_state(), state)
    for other in (copy.deepcopy(collator), pickle.loads(pickle.dumps(collator))):
        assert dropped(other, clips) == expected
        other.set_epoch(4)
        assert dropped(collator, clips) == expected != dropped(other, clips)
    again = DiaDataCollator(processor, text_dropout=0.3)
    again.set_epoch(3)
    assert dropped(again, clips) == expected
    reseeded = DiaDataCollator(processor, text_dropout=0.3, seed=1)
    reseeded.set_epoch(3)
    assert dropped(reseeded, clips) != expected


@given(configs(), st.integers(1, 12), st.integers(0, 1000))
def test_code_noise_changes_codes_of_the_input_alone(config, num_frames, seed):
    """Noise in labels trains errors; noise in special tokens, or ids that are no code, never occur at inference."""
    clips = random_clips(config, [num_frames], seed)
    clean, noisy = (DiaDataCollator(processor_of(config), text_dropout=0.0, code_noise=share) for share in (0.0, 1.0))
    for collator in (clean, noisy):
        collator.set_epoch(0)
    expected, batch = clean(clips), noisy(clips)
    end = config.decoder_config.eos_token_id
    assert all(torch.equal(batch[name], expected[name]) for name in NAMES if name != "decoder_input_ids")
    is_code = expected["decoder_input_ids"] < end
    assert torch.equal(batch["decoder_input_ids"] < end, is_code)
    assert torch.equal(batch["decoder_input_ids"][~is_code], expected["decoder_input_ids"][~is_code])
    assert batch["decoder_input_ids"].min() >= 0


def test_code_noise_is_a_share_of_each_clip_and_depends_on_epoch_seed_and_clip_alone(processor):
    """Noise depended on more than epoch, seed and clip; with a constant share no clip is ever clean."""
    clips = random_clips(processor.config, [200] * 40)
    clean = DiaDataCollator(processor, text_dropout=0.0)(clips)["decoder_input_ids"]

    def shares(collator, clips=clips):
        is_wrong = collator(clips)["decoder_input_ids"] != clean[: len(clips)]
        return is_wrong.sum((1, 2)) / (200 * 9)

    collator = DiaDataCollator(processor, text_dropout=0.0, code_noise=0.2)
    collator.set_epoch(3)
    state = torch.get_rng_state()
    expected = shares(collator)
    assert expected.max() < 0.22 and expected.min() < 0.02 and abs(expected.mean() - 0.1) < 0.03
    assert torch.equal(shares(collator, clips[:7]), expected[:7])
    assert torch.equal(torch.get_rng_state(), state)
    again = pickle.loads(pickle.dumps(collator))
    assert torch.equal(shares(again), expected)
    again.set_epoch(4)
    assert not torch.equal(shares(again), expected)


def test_dropout_is_the_same_on_every_machine(processor):
    """Python's `hash` of a string differs between processes: each rank dropped other texts."""
    clips = random_clips(processor.config, [1] * 20)
    collator = DiaDataCollator(processor, text_dropout=0.3)
    collator.set_epoch(0)
    assert sorted(dropped(collator, clips)) == ["clip-0-0", "clip-0-1", "clip-0-12", "clip-0-4", "clip-0-9"]


def test_without_an_epoch_dropout_follows_torchs_seed(processor):
    """The plain `Trainer` does not set an epoch: every epoch dropped the same texts."""
    clips = random_clips(processor.config, [1] * 100)
    collator = DiaDataCollator(processor, text_dropout=0.3)
    torch.manual_seed(0)
    first, second = dropped(collator, clips), dropped(collator, clips)
    torch.manual_seed(0)
    assert dropped(collator, clips) == first != second


@pytest.mark.parametrize("kind", [lambda collator: collator, copy.deepcopy])
def test_worker_processes_see_the_epoch(processor, kind):
    """Persistent workers kept the number of the first epoch, and dropped the same texts in each."""
    clips = random_clips(processor.config, range(1, 25))
    collator = kind(DiaDataCollator(processor, text_dropout=0.5))
    loader = DataLoader(clips, batch_size=4, collate_fn=collator, num_workers=2, persistent_workers=True)
    seen = []
    for epoch in (0, 1):
        collator.set_epoch(epoch)
        from_workers = list(loader)
        for start, batch in zip(range(0, 24, 4), from_workers, strict=True):
            assert_equal(batch, collator(clips[start : start + 4]))
        seen.append(torch.cat([batch["input_ids"].sum(dim=1) == 0 for batch in from_workers]))
    assert not torch.equal(*seen)


def test_a_spawned_worker_shares_the_epoch(processor):
    """A spawned worker gets a pickled collator: the epoch was not shared, and the codec was copied to each."""
    collator = DiaDataCollator(processor)
    assert len(pickle.dumps(collator)) < 100_000
    worker = pickle.loads(bytes(ForkingPickler.dumps(collator)))
    clips = random_clips(processor.config, [1] * 50)
    collator.set_epoch(5)
    assert dropped(worker, clips) == dropped(collator, clips)


@given(batches(), st.integers(1, 50))
def test_packed_rows_unpack_to_the_clips(batch, frames_per_row):
    """A packed clip was lost or duplicated, or its codes had the number of another clip."""
    config, clips, max_frames = batch
    options = {"text_dropout": 0.5, "max_frames": max_frames}
    alone, packed = (
        DiaDataCollator(processor_of(config), frames_per_row=size, **options) for size in (None, frames_per_row)
    )
    alone.set_epoch(0)
    packed.set_epoch(0)
    expected, batch = [alone([clip]) for clip in clips], packed(clips)
    assert set(batch) == {*NAMES, "sequence_ids", "decoder_sequence_ids"}
    assert_equal(packed(clips), batch)

    remaining = list(range(len(clips)))
    for row in range(len(batch["labels"])):
        numbers, text_numbers = batch["decoder_sequence_ids"][row], batch["sequence_ids"][row]
        assert torch.equal((numbers > 0).long(), batch["decoder_attention_mask"][row])
        assert torch.equal((text_numbers > 0).long(), batch["attention_mask"][row])
        num_clips = int(numbers.max())
        for ids in (numbers, text_numbers):
            contiguous = ids[ids > 0]
            assert contiguous.unique_consecutive().tolist() == list(range(1, num_clips + 1))
            assert (ids[len(contiguous) :] == 0).all()
        assert (numbers > 0).sum() <= frames_per_row or num_clips == 1
        for number in range(1, num_clips + 1):
            unpacked = {
                name: batch[name][row : row + 1, ids == number]
                for name in NAMES
                for ids in [numbers if name.startswith(("decoder", "labels")) else text_numbers]
            }
            is_it = [all(torch.equal(unpacked[name], expected[clip][name]) for name in NAMES) for clip in remaining]
            assert any(is_it)
            remaining.pop(is_it.index(True))
    assert not remaining


def test_packing_is_first_fit_decreasing(processor):
    """Clips packed in their given order leave a third of each row empty."""
    clips = random_clips(processor.config, [20, 40, 28, 84, 4])  # and 16 more steps for EOS and delay
    batch = DiaDataCollator(processor, frames_per_row=100)(clips)
    numbers = batch["decoder_sequence_ids"]
    assert [row[row > 0].unique_consecutive(return_counts=True)[1].tolist() for row in numbers] == [
        [100],
        [56, 44],
        [36, 20],
    ]


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"text": 7}, {}, r"clip 'a': `text` is 7"),
        ({"text": " "}, {}, r"clip 'a': `text` is ' '"),
        ({"text": "x" * 1025}, {}, r"clip 'a': the text has 1025 ids"),
        ({"codes": []}, {}, r"clip 'a': `codes` are float64 of the shape \(0,\)"),
        ({"codes": np.zeros((0, 9), np.int16)}, {}, r"1 frame or more"),
        ({"codes": np.zeros((5, 8), np.int16)}, {}, r"shape \(5, 8\); expected integers \[frames, 9\]"),
        ({"codes": np.zeros((5, 9))}, {}, r"float64"),
        ({"codes": None}, {}, r"`codes` are object"),
        ({"codes": np.full((5, 9), 1024)}, {}, r"range from 1024 to 1024; expected 0 to 1023"),
        ({"codes": np.full((5, 9), -1)}, {}, r"range from -1"),
        ({"prompt_frames": 5}, {}, r"clip 'a': `prompt_frames` is 5 of 5 frames.*give 0 to 4\."),
        ({"prompt_frames": -1}, {}, r"`prompt_frames` is -1"),
        ({"prompt_frames": 3}, {"max_frames": 3}, r"3 of 3 frames.*or raise `max_frames`"),
        ({"codes": np.zeros((3057, 9), np.int16)}, {}, r"3058 frames .* 3073 positions.*`max_frames` of at most 3056"),
        ({"id": None, "text": ""}, {}, r"clip 1 of the batch: `text`"),
    ],
)
def test_unusable_clips(processor, changes, options, message):
    """One invalid row among thousands stopped a run with a shape error in the network that did not name it."""
    good = {"id": "good", "text": "[S1] Hi.", "codes": np.zeros((5, 9), np.int16)}
    collator = DiaDataCollator(processor, **options)
    with pytest.raises(ValueError, match=message):
        collator([good, good | {"id": "a"} | changes])


def test_the_longest_clip(processor):
    """A clip of the longest length that can be generated was refused, or a longer one was accepted."""
    clip = {"text": "[S1] Hi.", "codes": np.zeros((4000, 9), np.int16)}
    assert DiaDataCollator(processor, max_frames=3056)([clip])["labels"].shape == (1, 3071, 9)
    whole = {"text": "[S1] Hi.", "codes": np.zeros((3056, 9), np.int16)}
    assert DiaDataCollator(processor, max_frames=3056)([whole])["labels"].shape == (1, 3072, 9)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([], "the batch is empty"),
        ([{}], "no column 'text' and no column 'codes', but none at all; .*remove_unused_columns=False"),
        ([{"text": "a", "audio": 1}], "no column 'codes', but 'text', 'audio'; `dia-hf prepare`"),
    ],
)
def test_missing_columns(processor, clips, message):
    """A dataset that was not prepared caused a KeyError in a worker process."""
    with pytest.raises(ValueError, match=message):
        DiaDataCollator(processor)(clips)


@pytest.mark.parametrize(
    "options",
    [
        {"text_dropout": 1.5},
        {"text_dropout": -0.1},
        {"code_noise": 1.1},
        {"code_noise": -1},
        {"max_frames": 0},
        {"frames_per_row": 0},
    ],
)
def test_unusable_options(processor, options):
    """A dropout of 15, meant as 15 %, dropped every text."""
    (name,) = options
    with pytest.raises(ValueError, match=f"`{name}` is {options[name]}"):
        DiaDataCollator(processor, **options)
