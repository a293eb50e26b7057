"""`examples/miniature/`: where sounds are in a text, clips, the codec's parts, and guided attention.

flite is not installed where the tests run, so that a stand-in speaks: a tone for each letter.
"""

import importlib
import itertools
import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dia_hf import MINIATURE, DiaConfig, DiaForConditionalGeneration, DiaProcessor

datasets = pytest.importorskip("datasets")

FOLDER = Path(__file__).parents[2] / "examples" / "miniature"
SCRIPTS = (
    "texts",
    "flite",
    "resumable",
    "content_codec",
    "clips",
    "spelling",
    "circles",
    "guidance",
    "finish",
    "measure",
)
TEXTS = ["Hello there.", "It is late, go home!", "Who is he?", "We see the sea.", "A dog.", "Come here."]
RATE, HOP = 16000, 640


@pytest.fixture(scope="module")
def scripts():
    """The scripts as modules, with a small codec and few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        found = {name: importlib.import_module(name) for name in SCRIPTS}
        codec, clips, spelling = found["content_codec"], found["clips"], found["spelling"]
        patch.setattr(codec, "compile_snakes", lambda model: None)  # takes longer than all other steps
        patch.setattr(found["guidance"], "COMPILES", False)
        small = {"encoder_hidden_size": 4, "decoder_hidden_size": 16, "codebook_size": 64}
        patch.setattr(codec, "SHAPE", {**codec.SHAPE, **small})
        patch.setattr(codec, "NUM_USED", (8, 16, *5 * (64,), 48, codec.NUM_PHASES + 1))
        patch.setattr(found["resumable"], "KEEP_EVERY", 2)
        patch.setattr(codec, "BATCH_SIZE", 2)
        patch.setattr(codec, "NUM_FRAMES", 12)
        patch.setattr(clips, "PART", 4)
        patch.setattr(spelling, "BATCH_SIZE", 2)
        for module in (clips, spelling):
            patch.setattr(module, "Texts", StandIn)
        patch.setattr(clips, "speak", lambda text, voice: speak(found["flite"], text, voice))
        patch.setattr(spelling, "pronounce", lambda text: speak(found["flite"], text, "rms").sounds)
        yield SimpleNamespace(**found)
        for name in SCRIPTS:
            sys.modules.pop(name, None)


class StandIn:
    """Texts without the packages that they come from."""

    def __init__(self, work: Path) -> None:
        pass

    def draw(self, draw: random.Random, kind: str = "") -> str:
        return draw.choice(TEXTS)


def speak(flite, text: str, voice: str):
    """Say each letter as a tone of 90 ms, with pauses before, after and at commas, as flite tells it."""
    time, sounds, samples, pitches, place = 0.2, [], [np.zeros(3200)], [np.zeros(40)], 0
    sounds.append(flite.Sound("pau", time, 0, 1, False))
    for token in text.split():
        start, place = place, min(place + len(token) + 1, len(text))
        for letter in filter(str.isalpha, token):
            time += 0.09
            sounds.append(flite.Sound("aa" if letter in "aeiou" else "t", time, start, place, letter == "e"))
            pitch = (ord(letter.lower()) - 80) * 5 * (2 if voice == "slt" else 1)
            samples.append(0.3 * np.sin(2 * np.pi * pitch * np.arange(1440) / RATE))
            pitches.append(np.full(18, pitch))
        if token.endswith(",") or place == len(text):
            time += 0.2
            sounds.append(flite.Sound("pau", time, place - 1, place, False))
            samples.append(np.zeros(3200))
            pitches.append(np.zeros(40))
    return flite.Speech(np.concatenate(samples).astype(np.float32), sounds, np.concatenate(pitches).astype(np.float32))


@pytest.fixture(scope="module")
def work(scripts, tmp_path_factory):
    """A codec, sentences and clips."""
    folder = tmp_path_factory.mktemp("miniature")
    scripts.clips.write_speech(folder, 8)
    scripts.content_codec.write_codes(folder)
    scripts.content_codec.train_decoder(folder, 4)
    scripts.clips.write_sentences(folder, 20)
    for name in scripts.clips.KINDS:
        scripts.clips.write_clips(folder, name, 20)
    (folder / "held-out.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return folder


# --- the teacher


def test_sounds_are_spread_over_their_token(scripts):
    """A pause took the place of the next word, so that a head was told to look ahead of the voice."""
    text = "Go, dog."
    sounds = speak(scripts.flite, text, "rms").sounds
    places = scripts.flite.place_sounds(text, sounds)
    assert [sound.name for sound in sounds] == ["pau", "t", "aa", "pau", "t", "aa", "t", "pau"]
    assert places == [0, 0, 2, 3, 4, 6, 7, 7]


@settings(deadline=None, max_examples=50)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    counts=st.lists(st.integers(1, 20), min_size=6, max_size=6),
)
def test_places_grow_and_stay_in_the_text(scripts, lengths, counts):
    """A number of many sounds and few digits was placed behind the end of its token."""
    text, sounds, start = " ".join("x" * length for length in lengths), [], 0
    for length, count in zip(lengths, counts, strict=False):
        end = min(start + length + 1, len(text))
        sounds += [scripts.flite.Sound("t", len(sounds) + 1.0, start, end, False)] * count
        start = end
    places = scripts.flite.place_sounds(text, sounds)
    assert places == sorted(places)
    assert all(sound.start_of_token <= place < len(text) for sound, place in zip(sounds, places, strict=True))
    assert all(text[place] != " " for place in places)


def test_tags_are_not_spoken(scripts):
    """Behind a tag, all places were as many letters early as the tag has."""
    text = "Hi (laughs) you (coughs)"
    spoken, kept = scripts.flite.leave_out_tags(text)
    assert spoken == "Hi you"
    assert "".join(text[place] for place in kept) == spoken
    sounds = scripts.flite._in_text(speak(scripts.flite, spoken, "rms").sounds, spoken, kept)
    heard = [text[place] for place in scripts.flite.place_sounds(text, sounds)]
    assert heard == ["H", "H", "i", "y", "o", "u", "u"]


# --- sentences and clips


def test_sentences_begin_at_a_frame(scripts):
    """Sentences began anywhere in a frame, so that the same word had other codes each time."""
    samples, sounds, pitch = speak(scripts.flite, "Go, dog.", "rms")
    for begin in (0, 800, 3040):  # pauses of flite that are longer and shorter than what is kept
        moved = [scripts.flite.Sound(s.name, s.end - begin / RATE, 0, 1, False) for s in sounds]
        given = scripts.flite.Speech(samples[begin:], moved, pitch[begin // 80 :])
        cut, cut_pitch, first = scripts.clips.cut(given)
        assert len(cut) % HOP == 0
        assert first == 3200 - begin - scripts.clips.LEAD * HOP
        start = scripts.clips.LEAD * HOP
        assert not cut[:start].any() and not cut_pitch[: start // 80].any()
        np.testing.assert_array_equal(cut[start : start + 5000], samples[3200:8200])
        np.testing.assert_array_equal(cut_pitch[start // 80 :][:62], pitch[40:102])
        assert not cut[-(scripts.clips.TAIL * HOP - 10) :].any()
        assert len(cut_pitch) == len(cut) // 80


def test_frames_know_their_letter(scripts):
    """Frames were placed by the time before the cut, a few letters off."""
    text = "Go, dog."
    speech = speak(scripts.flite, text, "rms")
    sounds = speech.sounds
    cut, _, first = scripts.clips.cut(speech)
    places = scripts.clips.find_places(text, sounds, first, len(cut) // HOP)
    heard = "".join(text[place] for place in places)
    assert heard.startswith("GGGG") and ",,," in heard and heard.endswith("..")
    all_places = scripts.flite.place_sounds(text, sounds)
    ends = {round(sound.end * RATE): place for sound, place in zip(sounds, all_places, strict=True)}
    for frame, place in enumerate(places):
        middle = first + (frame + 0.5) * HOP
        assert place == next((ends[end] for end in sorted(ends) if end >= middle), len(text) - 1)


def test_sentences_go_on_where_they_stopped(scripts, work, tmp_path):
    """Started again, other sentences were said than those that were missing."""
    (tmp_path / "codes.pt").symlink_to(work / "codes.pt")
    scripts.clips.write_sentences(tmp_path, 4)
    kept = (tmp_path / "sentences" / "0000.npz").stat().st_mtime_ns
    scripts.clips.write_sentences(tmp_path, 12)
    assert (tmp_path / "sentences" / "0000.npz").stat().st_mtime_ns == kept
    for number in range(3):
        with (
            np.load(work / "sentences" / f"{number:04d}.npz") as ours,
            np.load(tmp_path / "sentences" / f"{number:04d}.npz") as theirs,
        ):
            assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("name", ["alone", "mixed"])
def test_places_of_a_clip_are_bytes_of_its_text(scripts, work, name):
    """A tag counted as four bytes, and all later turns of a dialogue were three letters off."""
    tokenizer = DiaProcessor.from_pretrained(MINIATURE).tokenizer
    clips = datasets.load_from_disk(work / f"clips-{name}")
    sentences = scripts.clips.Sentences(work / "sentences", 20)
    known = set()  # codes, and the letters that are spoken meanwhile
    for one in (one for voice in sentences.by_voice.values() for one in voice):
        for lead in range(scripts.clips.LEAD + 1):  # prompts are cut
            for end in range(len(one.codes) - scripts.clips.TAIL, len(one.codes) + 1):
                spoken = "".join(one.text[place] for place in one.places[lead:end])
                known.add((one.codes[lead:end].tobytes(), spoken))
    turns = 0
    for clip in clips:
        ids = tokenizer(clip["text"])["input_ids"]
        codes = np.asarray(clip["codes"], dtype=np.int16)
        spoken = bytes(ids[place] for place in clip["places"]).decode()
        assert len(codes) == len(spoken)
        start, ends = 0, []
        while start < len(codes):
            whole = range(len(codes), start, -1)
            end = next(end for end in whole if (codes[start:end].tobytes(), spoken[start:end]) in known)
            start, turns = end, turns + 1
            ends.append(end)
        assert clip["prompt_frames"] in (0, *ends[:-1])
    assert turns > len(clips) * (name == "mixed")


def test_lengths_of_passages(scripts, work):
    """Passages were longer than a chunk with its prompt, or had a single sentence."""
    sentences, draw = scripts.clips.Sentences(work / "sentences", 20), random.Random(0)
    for _ in range(200):
        turns = scripts.clips.draw_turns(sentences, "passage", draw)
        assert len(turns) > 1 and len({speaker for speaker, _ in turns}) == 1
        assert len(turns) == 2 or sum(len(sentence.codes) for _, sentence in turns) <= scripts.clips.MAX_FRAMES


class Numbered:
    """Sentences of which no two are the same."""

    def __init__(self, scripts) -> None:
        self.numbers, self.Sentence = itertools.count(), scripts.clips.Sentence
        self.own = {("[S1]", is_open): [self.sentence(f"Own{mark}")] for is_open, mark in ((False, "."), (True, ","))}

    def sentence(self, text):
        return self.Sentence(text, np.full((3, 9), next(self.numbers)), np.zeros(3, dtype=int))

    def draw(self, voice, draw):
        return self.sentence("Whole.")

    def draw_split(self, voice, draw):
        return self.sentence("Open,"), self.sentence("going on.")


@pytest.mark.parametrize("share", ["SHARE_OF_REPEATS", "SHARE_OF_SPLITS", "SHARE_OF_OWN"])
def test_prompts_are_like_those_of_chunks(scripts, monkeypatch, share):
    """Behind what was said already, a part of a sentence, or speech of its own, the model left words out."""
    for one in ("SHARE_OF_REPEATS", "SHARE_OF_SPLITS", "SHARE_OF_OWN"):
        monkeypatch.setattr(scripts.clips, one, float(one == share or (one == "SHARE_OF_SPLITS" and "OWN" in share)))
    sentences, draw, drawn = Numbered(scripts), random.Random(0), []
    for kind in 50 * ["passage", "dialogue"]:
        turns = scripts.clips.draw_turns(sentences, kind, draw)
        num_prompt = draw.randint(1, len(turns) - 1)
        before = list(turns)
        scripts.clips.vary(sentences, kind, turns, num_prompt, draw)
        assert [speaker for speaker, _ in turns] == [speaker for speaker, _ in before]
        drawn.append((turns, num_prompt))
    for turns, num_prompt in drawn:
        places = {place for place, (speaker, _) in enumerate(turns) if speaker == turns[0][0]}
        goes_on = turns[num_prompt - 1][0] == turns[num_prompt][0]
        texts = [sentence.text for _, sentence in turns]
        if share == "SHARE_OF_REPEATS":
            number = len({int(sentence.codes[0, 0]) for _, sentence in turns})
            assert number == len(turns) - (len(places) > 1 or len(turns) - len(places) > 1)
        elif share == "SHARE_OF_SPLITS":
            assert texts[num_prompt - 1 : num_prompt + 1] == (["Open,", "going on."] if goes_on else 2 * ["Whole."])
        else:
            ends = [("Own," if goes_on and place == num_prompt - 1 else "Own.") for place in range(num_prompt)]
            is_first = [speaker == "[S1]" for speaker, _ in turns]  # who alone has said something
            assert all(text == end for text, end, known in zip(texts, ends, is_first, strict=False) if known)
            assert not any(text.startswith("Own") for text in texts[num_prompt:])


def test_the_model_says_prompts(scripts, tmp_path, monkeypatch):
    """What the model says behind its own speech was kept with the prompt's text or frames, or learned as if flite's."""
    monkeypatch.setattr(scripts.clips, "OWN_BATCH", 3)
    scripts.clips.write_own(tmp_path, 9, str(MINIATURE))
    said = list(scripts.clips.read(tmp_path / "own.npz"))
    assert len(said) > 6 and {tag for tag, _ in said} <= set(scripts.clips.SPEAKERS)
    for _, (text, codes, places) in said:
        assert text in TEXTS and len(codes) < 5 * 25 and codes.shape[1] == 9 and (places == -1).all()
        assert len(codes) > 25 * 0.03 * len(text)


def test_some_texts_begin_or_end_inside_of_a_sentence(scripts, tmp_path):
    """Chunks that end within a sentence, where there is no comma, never ended; or a part was a held-out sentence."""
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    (tmp_path / "held-out.jsonl").write_text(json.dumps({"text": "Go home!"}))
    texts, draw = scripts.texts.Texts(tmp_path), random.Random(0)
    drawn = [texts.draw(draw, "sentence") for _ in range(400)]
    assert {"It is late,", "the sea.", "Who"} < set(drawn) and not {"go home!", "GO HOME!"} & set(drawn)
    assert 40 < sum(text not in TEXTS for text in drawn) < 240


def test_some_texts_say_words_twice(scripts, tmp_path, monkeypatch):
    """The model skipped what is between two places with the same words, such as "Yes I do, indeed I do."."""
    monkeypatch.setattr(scripts.texts, "SHARE_OF_FRAGMENTS", 0)
    monkeypatch.setattr(scripts.texts, "SHARE_OF_ECHOES", 1)
    monkeypatch.setattr(scripts.texts, "SHARE_OF_TAGS", 0)
    (tmp_path / "texts.txt").write_text("Yes I do, said she.")
    (tmp_path / "held-out.jsonl").write_text(json.dumps({"text": "Go home!"}))
    texts, draw = scripts.texts.Texts(tmp_path), random.Random(0)
    drawn = {texts.draw(draw, "sentence").lower().rstrip(".") for _ in range(500)}
    words = ["yes", "i", "do,", "said", "she"]
    for text in drawn:
        found = text.replace("she.", "she").split()
        ways = ((first, end, again) for again in range(6) for end in range(again + 1) for first in range(end))
        assert any(words[:again] + words[first:end] + words[again:] == found for first, end, again in ways)
    assert {"yes i do, said i do, she", "yes yes i do, said she"} <= drawn


# --- the codec


def test_features_are_those_of_each_frame(scripts):
    """A window began a frame too early, and spectra told what was heard before."""
    features, sound = scripts.content_codec.Features(), torch.zeros(1, 20 * HOP)
    sound[0, 8 * HOP : 12 * HOP] = torch.randn(4 * HOP)
    found = features.spectra(sound)[0]
    assert found.shape == (80, 20)
    loud = found.mean(0) > found.min() + 0.2
    assert loud[8:12].all() and not loud[:7].any() and not loud[13:].any()
    pitch = torch.zeros(1, 3 * 8)
    pitch[0, 4:16] = torch.tensor([260.0, 260, 260, 260, 130, 130, 130, 130, 0, 0, 65, 65])
    assert features.pitches(pitch)[0].T.tolist() == [[0, 2, 0, 4], [2, 2, 0, -4], [0, 0, 0, 0]]


@pytest.mark.parametrize("pitch", [90.0, 121.0, 200.0, 333.0])
def test_phases_go_on_with_the_pitch(scripts, pitch):
    """Phases turned backward, or were those of a frame's beginning, and no decoder can join such frames."""
    start = 0.3
    sound = torch.cos(2 * torch.pi * (pitch * torch.arange(12 * HOP) / RATE + start))[None]
    track = torch.full((1, 12 * 8), pitch)
    track[:, 80:] = 0
    found = scripts.content_codec.Features.phases(sound, track)[0]
    middle = (torch.arange(12) + 0.5) * HOP / RATE
    expected = 2 * torch.pi * (pitch * middle + start)
    right = torch.stack([expected.cos(), expected.sin()]) * (torch.arange(12) < 10)
    torch.testing.assert_close(found, right, atol=0.06, rtol=0)  # its negative frequency is near at 90 Hz


def test_codes_are_the_nearest(scripts, work):
    """Codes that tell the decoder more than what is compared were preferred, or shunned, for it."""
    codec = scripts.content_codec
    coder = codec.Coder.load(work)
    stages, phases = coder.quantizer.quantizers, torch.rand(200) * 2 * torch.pi
    values = torch.randn(1, codec.NUM_VALUES, 200) * 3
    values[0, -2:] = torch.stack([phases.cos(), phases.sin()]) * (torch.arange(200) % 4 > 0)
    latents = F.pad(values, (0, 0, 0, coder.hidden_size - codec.NUM_VALUES))
    codes = coder.quantizer(latents)[1][0]
    for row, num_used in zip(codes, codec.NUM_USED, strict=True):
        assert row.max() < num_used
    is_voiced, found = torch.arange(200) % 4 > 0, codes[codec.PHASE_CODEBOOK]
    assert torch.equal(found < codec.NUM_PHASES, is_voiced)
    off = (phases / (2 * torch.pi) * codec.NUM_PHASES - found)[is_voiced].remainder(codec.NUM_PHASES)
    assert torch.minimum(off, codec.NUM_PHASES - off).max() < 0.6  # near ties: codebooks are in bfloat16
    pitches = stages[codec.PITCH_CODEBOOK].codebook.weight[: codec.NUM_USED[codec.PITCH_CODEBOOK], :4]
    found = values[0, codec.NUM_SPECTRAL : -2].T
    best = torch.cdist(found, pitches).min(1).values
    chosen = (found - pitches[codes[codec.PITCH_CODEBOOK]]).norm(dim=1)
    assert (chosen < best * 1.02 + 1e-3).float().mean() > 0.98
    again = coder.quantizer.from_codes(codes[None])[0][0]
    lengths = again[codec.NUM_VALUES :].norm(dim=0)  # 4 waves of the pitch and one of the phase
    torch.testing.assert_close(lengths, torch.full_like(lengths, 5**0.5), atol=0.05, rtol=0)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_codec_trains_on_where_it_stopped(scripts, work, tmp_path, monkeypatch):
    """A run in two pieces drew the first batches again, and ended with another codec."""
    for name in ("speech.npz", "codes.pt"):
        (tmp_path / name).symlink_to(work / name)
    codec, whole = scripts.content_codec, torch.load(work / "decoder.state.pt")

    class StopError(Exception):
        pass

    def save(state, file):
        original(state, file)
        if state.get("step") == 2:
            file.replace(file.with_suffix(".pt"))
            raise StopError

    original = torch.save
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        with pytest.raises(StopError):
            codec.train_decoder(tmp_path, 4)
    codec.train_decoder(tmp_path, 4)
    again = torch.load(tmp_path / "decoder.state.pt")
    assert again["step"] == whole["step"] == 4
    for ours, theirs in zip(whole["parts"], again["parts"], strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# --- spelling


def test_spelling_labels_are_at_their_bytes(scripts):
    """The sounds of a text were a byte off from the tokens, as the tag was not counted."""
    tokenizer = DiaProcessor.from_pretrained(MINIATURE).tokenizer
    ids, mask, sounds = scripts.spelling.make_batch(["Go, dog.", "A dog."], tokenizer)
    assert ids.shape == mask.shape == sounds.shape[:2]
    names = [[scripts.spelling.SOUNDS[sound] for sound in row if sound > 0] for row in sounds[0]]
    assert bytes(ids[0, 2:].tolist()) == b"Go, dog."
    assert names == [[], [], ["pau", "t"], [], ["aa"], ["pau"], ["t"], [], ["aa"], ["t", "pau"]]
    assert (sounds[1][mask[1] == 0] == -100).all() and (sounds[1][mask[1] == 1] >= 0).all()


def test_errors_of_sounds(scripts):
    """Sounds were compared place by place, so that one that was left out made all later ones wrong."""
    count, right = scripts.spelling.count_errors, [1, 2, 3]
    assert [count(found, right) for found in ([1, 2, 3], [2, 3], [1, 9, 2, 3], [])] == [0, 1, 1, 3]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_spelling_trains_on_where_it_stopped(scripts, work, tmp_path, monkeypatch):
    """A run in two pieces had another encoder than one in one."""
    monkeypatch.setattr(scripts.spelling, "make_model", lambda file: small_model(num_hidden_layers=1))
    monkeypatch.setattr(scripts.spelling, "decay", lambda step, steps: 1.0)
    results = []
    for pieces in ([4], [2, 4]):
        folder = tmp_path / str(len(pieces))
        folder.mkdir()
        (folder / "held-out.jsonl").symlink_to(work / "held-out.jsonl")
        for steps in pieces:
            scripts.spelling.train_speller(folder, steps)
        results.append(torch.load(folder / "speller.pt"))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert (tmp_path / "1" / "model-spelling" / "config.json").exists()


def small_model(**changes: int) -> DiaForConditionalGeneration:
    """A model of the recipe's shape, but narrower."""
    torch.manual_seed(0)
    config = DiaConfig.from_pretrained(MINIATURE).to_dict()
    for part, values in yaml.safe_load((FOLDER / "recipe.yaml").read_text())["config"].items():
        config[part] |= values | {"intermediate_size": 32} | changes
    return DiaForConditionalGeneration(DiaConfig(**config))


# --- phases


def test_pitches_turn_phases(scripts):
    """A pitch turned phases by another angle than the next frame has, which had to be unlearned first."""
    codec, circles, model = scripts.content_codec, scripts.circles, small_model()
    pitch = 123.4
    sound = torch.sin(2 * torch.pi * pitch * torch.arange(6 * HOP) / RATE)[None]
    track = torch.full((1, 6 * 8), pitch)
    found = codec.Features.phases(sound, track)[0]
    turned = torch.atan2(found[1, 3], found[0, 3]) - torch.atan2(found[1, 2], found[0, 2])
    halves = circles.angles_of_pitch(codec.Features.pitches(track)[0, :, 2][None])
    assert abs(torch.remainder(turned - halves.sum() + torch.pi, 2 * torch.pi) - torch.pi) < 0.05

    before = model.model.decoder.embeddings.embed.weight.detach().clone()
    entries = torch.tensor([[2.0, 2.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    circles.put_on_circles(model, entries)
    size, embed = model.config.decoder_config.vocab_size, model.model.decoder.embeddings.embed.weight
    first = codec.PHASE_CODEBOOK * size
    products = embed[first : first + codec.NUM_PHASES] @ embed[first : first + codec.NUM_PHASES].T
    for shift in range(codec.NUM_PHASES):  # alike from every phase
        torch.testing.assert_close(products.roll((-shift, -shift), (0, 1)), products, atol=1e-4, rtol=0)
    changed = (embed != before).any(1).nonzero()[:, 0].tolist()
    assert changed == [codec.PITCH_CODEBOOK * size, *range(first, first + codec.NUM_PHASES)]  # none without a voice


# --- guided attention


@pytest.fixture(scope="module")
def guided(scripts, work, tmp_path_factory):
    """A guided trainer of a small model, and a batch of packed rows."""
    model = small_model()
    model.set_attn_implementation("eager")
    processor = DiaProcessor.from_pretrained(MINIATURE)
    collator = scripts.guidance.GuidedCollator(processor, text_dropout=0.3, frames_per_row=300)
    collator.set_epoch(0)
    from transformers import TrainingArguments

    arguments = TrainingArguments(tmp_path_factory.mktemp("run"), use_cpu=True, report_to="none", disable_tqdm=True)
    trainer = scripts.guidance.GuidedTrainer(model, arguments, collator)
    clips = datasets.load_from_disk(work / "clips-mixed")
    return SimpleNamespace(trainer=trainer, collator=collator, clips=[clips[number] for number in range(16)])


def test_guidance_is_what_the_heads_miss(scripts, guided):
    """The guided head was told another clip's letters, where rows held several clips."""
    batch = guided.collator(guided.clips)
    trainer, model = guided.trainer, guided.trainer.model
    model.train()
    loss = trainer.compute_loss(model, dict(batch))
    plain = {name: value for name, value in batch.items() if name != "places"}
    alone = trainer.compute_loss(model, dict(plain))
    total = []
    for clip in guided.clips:  # one by one, without rows, and with attention weights from the model
        single = guided.collator([clip])
        places = single.pop("places")[0]
        outputs = model(**{k: v for k, v in single.items() if "sequence" not in k}, output_attentions=True)
        for layer in scripts.guidance.LAYERS:
            weights = outputs.cross_attentions[layer][0, scripts.guidance.HEAD]
            for frame, place in enumerate(places.tolist()):
                if place:
                    near = {min(max(place - 1 + step, 0), weights.shape[1] - 1) for step in (-1, 0, 1)}
                    total.append((layer, -weights[frame, sorted(near)].sum().clamp(max=1).log()))
    by_layer = [torch.stack([one for at, one in total if at == layer]).mean() for layer in scripts.guidance.LAYERS]
    expected = scripts.guidance.WEIGHT * torch.stack(by_layer).mean()
    torch.testing.assert_close(loss - alone, expected, atol=2e-3, rtol=2e-3)


def test_places_follow_the_rows(guided):
    """In rows of several clips places pointed into the first clip's text."""
    batch = guided.collator(guided.clips)
    assert batch["places"].shape == batch["decoder_sequence_ids"].shape
    for ids, of_bytes, places, of_frames in zip(
        batch["input_ids"], batch["sequence_ids"], batch["places"], batch["decoder_sequence_ids"], strict=True
    ):
        known = places > 0
        assert (of_bytes[places[known] - 1] == of_frames[known]).all()
        assert (ids[places[known] - 1] > 2).all()  # never a tag
    assert (batch["places"] > 0).any(1).float().mean() > 0.5  # rows whose texts are all dropped have none
    dropped = [row for row in guided.clips if guided.collator.chance.draw("text dropout", row["id"]) < 0.3]
    assert dropped
    assert not guided.collator([dropped[0]])["places"].any()


def test_details_are_hidden_by_the_clip_alone(scripts, guided):
    """A resumed run hid other details, and a run was never the same twice."""
    from dia_hf.training import DiaDataCollator

    first, again = guided.collator(guided.clips), guided.collator(guided.clips)
    assert torch.equal(first["decoder_input_ids"], again["decoder_input_ids"])
    plain = DiaDataCollator(DiaProcessor.from_pretrained(MINIATURE), text_dropout=0.3, frames_per_row=300)
    plain.set_epoch(0)
    clear = plain(guided.clips)
    assert torch.equal(first["labels"][..., :8], clear["labels"][..., :8])
    details, special = torch.arange(9)[scripts.guidance.DETAILS], clear["decoder_input_ids"] >= 1024
    others = [channel for channel in range(8) if channel not in details]
    assert torch.equal(first["decoder_input_ids"][..., others], clear["decoder_input_ids"][..., others])
    assert torch.equal(first["decoder_input_ids"][special], clear["decoder_input_ids"][special])
    changed = (first["decoder_input_ids"] != clear["decoder_input_ids"])[..., details][~special[..., details]]
    assert 0.4 < changed.float().mean() < 1.0


def test_phases_of_a_clip_turn_together(scripts, guided):
    """Labels kept their phases, and the model learned that phases do not follow from the ones before."""
    clip = next(clip for clip in guided.clips if not clip["prompt_frames"])
    phases = np.asarray(clip["codes"])[:, scripts.content_codec.PHASE_CODEBOOK]
    shifts = set()
    for epoch in range(4):
        guided.collator.set_epoch(epoch)
        batch = guided.collator([clip])
        delay = guided.collator.config.delay_pattern[-1]
        for name, first in (("decoder_input_ids", 1), ("labels", 0)):
            turned = batch[name][0, first + delay :][: len(phases), -1].numpy()
            is_voiced = phases < scripts.content_codec.NUM_PHASES
            assert (turned[~is_voiced] == scripts.content_codec.NUM_PHASES).all()
            (shift,) = set((turned - phases)[is_voiced] % scripts.content_codec.NUM_PHASES)
            shifts.add((epoch, int(shift)))
    guided.collator.set_epoch(0)
    assert len(shifts) == 4 and len({shift for _, shift in shifts}) > 1


# --- the report


def test_voices_are_compared_by_direction(scripts):
    """The loudest mean was nearest to all sounds."""
    means = {"low": np.array([1.0, 0.0]), "high": np.array([0.0, 0.9])}
    judge = SimpleNamespace(embed=lambda sound, rate: sound[:2])
    sounds = [np.array(pair, dtype=np.float32) for pair in ([5, 1], [1, 5], [0.5, 0.1], [2, 3])]
    assert scripts.measure.share_of_nearest(sounds, ["low", "high", "low", "high"], means, judge) == 1.0
    assert scripts.measure.share_of_nearest(sounds, ["low", "high", "high", "low"], means, judge) == 0.5


def test_report_counts_words_by_group(scripts, tmp_path):
    """Rare words counted among all, which have a row of their own."""

    def source(wrong, words):
        return {"errors": {"substitutions": wrong, "deletions": 0, "insertions": 0, "words": words}}

    rows = [
        {"id": "short-000", "reference": source(0, 4), "codec": source(1, 4), "model": source(2, 4)},
        {"id": "long-001", "reference": source(1, 16), "codec": source(1, 16), "model": source(3, 16)},
        {"id": "rare-002", "reference": source(2, 5), "codec": source(2, 5), "model": source(4, 5)},
    ]
    for way in scripts.finish.WAYS:
        (tmp_path / f"{way}.json").write_text(json.dumps({"sentences": rows, "metrics": {"end": {"ended": 0.99}}}))
    scripts.finish.write_report(tmp_path)
    table = [line.strip("| ").split(" | ") for line in (tmp_path / "report.md").read_text().splitlines()]
    assert table[2] == ["flite itself", "5.0 %", "0.0 %", "", "6.2 %", "40.0 %"]
    assert table[4][1:] == ["25.0 %", "50.0 %", "", "18.8 %", "80.0 %", "99.0 %"]
    assert len(table) == 6


def test_loss_compares_only_exact_clips(scripts):
    """Samples of clips without detail were compared, whose phase nobody knows."""
    loss = scripts.content_codec.SpectralLoss()
    sound = torch.randn(2, 8 * HOP) * 0.1
    ours = sound.clone()
    ours[1] = -sound[1]  # the same spectra, another phase
    assert loss(ours, sound, torch.tensor([1.0, 0.0])) < 1e-4 < loss(ours, sound)
    assert F.l1_loss(ours, sound) > 0


# --- the embedded checkpoint


def test_codes_of_the_embedded_codec():
    """Training that goes on from the embedded model with `codes.pt` had other codes than the model."""
    quantizer = torch.load(FOLDER / "codes.pt")["quantizer"]
    for name, value in DiaProcessor.from_pretrained(MINIATURE).codec.model.quantizer.state_dict().items():
        assert torch.equal(value, quantizer[name]), name
