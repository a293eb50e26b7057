"""`examples/miniature/`, all steps at a small size: seeds, resuming, texts and checkpoints."""

import csv
import functools
import importlib
import itertools
import json
import math
import random
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from transformers.models.dia import DiaForConditionalGeneration as TheirModel

from dia_hf import MINIATURE, Dia, DiaProcessor, cli
from dia_hf.asr.wer import WordErrors, read_vocabulary
from dia_hf.audio.io import read_audio
from dia_hf.evaluation.results import EvaluationReport, Measure, SentenceReport, SourceReport

datasets = pytest.importorskip("datasets")

FOLDER = Path(__file__).parents[2] / "examples" / "miniature"
SCRIPTS = ("teacher", "codec", "compose", "pack", "dialogues")
HOP = 512
WORDS = ["one", "two", "three", "four", "Monday", "I", "am", "hello", "Dia", "dog", "cat", "red"]
SPEAKERS = ["[S1]", "[S2]"]


@pytest.fixture(scope="module")
def scripts():
    """The scripts as modules, with a small codec, few steps and clips, and a vocabulary of twelve words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        found = {name: importlib.import_module(name) for name in SCRIPTS}
        codec, compose, pack = found["codec"], found["compose"], found["pack"]
        patch.setattr(codec, "compile_snakes", lambda model: None)  # takes longer than all other steps
        small = {"encoder_hidden_size": 4, "decoder_hidden_size": 16, "codebook_size": 64}
        patch.setattr(codec, "SHAPE", {**codec.SHAPE, **small})
        patch.setattr(codec, "STEPS", {"encoder": 4, "decoder": 4})
        patch.setattr(codec, "KEEP_EVERY", 2)
        patch.setattr(codec, "BATCH_SIZE", 2)
        patch.setattr(codec, "NUM_FRAMES", 12)
        patch.setattr(compose, "PARTS", {"words": (12, {(1, 6): 1}), "dialogues": (8, {(1, 3): 1, (3, 8): 2})})
        patch.setattr(compose, "NUM_EVALUATED", 5)
        patch.setattr(pack, "CALIBRATION_CLIPS", 8)
        patch.setattr(compose, "MAX_FRAMES", 45)
        patch.setattr(compose, "HELD_OUT", 0.4)
        for module in (compose, pack):
            patch.setattr(module, "read_vocabulary", lambda file: (WORDS, {}))
        compose.is_held_out.cache_clear()
        yield SimpleNamespace(**found)
        compose.is_held_out.cache_clear()


def write_corpus(work: Path) -> None:
    """Write a corpus like teacher.py's: units of three to five frames, each another tone, and sentences of tones."""
    draw = np.random.default_rng(0)

    def tones(num_samples):
        time = np.arange(num_samples) / 16000
        return 8000 * np.sin(2 * np.pi * draw.uniform(100, 3000) * time + draw.uniform(0, 6)) * draw.uniform(0.2, 1)

    units = [tones(HOP * int(draw.integers(3, 6))) for _ in range(2 * len(WORDS))]
    sentences = [np.concatenate([tones(2500) for _ in range(5)]) for _ in range(6)]
    work.mkdir()
    for name, sounds in (("units", units), ("sentences", sentences)):
        samples = np.concatenate(sounds).astype(np.int16)
        np.savez(work / f"{name}.npz", samples=samples, lengths=[len(sound) for sound in sounds])


def finetune(work: Path, clips: str, model: Path | str, output: str, *changes: str) -> None:
    """Run `dia-hf finetune` as the Makefile does, for two steps of a narrower model."""
    changes += ("training.max_steps=2", "training.per_device_train_batch_size=4", "training.warmup_steps=1")
    changes += ("training.use_cpu=true", "training.report_to=none", f"codec={work / 'codec'}")
    command = ["finetune", str(work / clips), str(work / output), "--model", str(model)]
    command += ["--recipe", str(FOLDER / "recipe.yaml")]
    assert cli.main(command + [part for change in changes for part in ("--set", change)]) == 0


def make_model(scripts, work: Path) -> None:
    """Take all steps from the corpus to a first model."""
    write_corpus(work)
    scripts.codec.train_encoder(work)
    scripts.codec.train_decoder(work)
    scripts.compose.write_training_clips(work, "words")
    scripts.compose.write_evaluation(work)
    part, size = "config.{}coder_config.", {"num_hidden_layers": 1, "intermediate_size": 32}
    narrow = [f"{part.format(which)}{name}={value}" for which in ("en", "de") for name, value in size.items()]
    finetune(work, "clips-words", MINIATURE, "model-words", *narrow)


@pytest.fixture(scope="module")
def work(scripts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("miniature") / "work"
    make_model(scripts, folder)
    return folder


@pytest.fixture(scope="module")
def packed(scripts, work):
    """The last steps: longer clips, from the weights before, and the checkpoint of all parts."""
    scripts.compose.write_training_clips(work, "dialogues")
    finetune(work, "clips-dialogues", work / "model-words", "model", "config=null", "training.lr_scheduler_type=cosine")
    scripts.pack.assemble(str(work))
    return work / "miniature"


def same_arrays(first: Path, second: Path) -> bool:
    with np.load(first) as ours, np.load(second) as theirs:
        return set(ours) == set(theirs) and all(np.array_equal(ours[name], theirs[name]) for name in ours)


# --- reproducibility


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_same_seed_makes_the_same(scripts, work, tmp_path):
    """A set's order, a clock or the hash of a string as a seed gave other weights in each run."""
    again = tmp_path / "again"
    make_model(scripts, again)
    assert same_arrays(work / "codes.npz", again / "codes.npz")
    for name in ("evaluation.jsonl", "codec/model.safetensors", "model-words/model.safetensors"):
        assert (work / name).read_bytes() == (again / name).read_bytes(), name
    ours, theirs = (datasets.load_from_disk(str(folder / "clips-words")) for folder in (work, again))
    assert ours[:] == theirs[:]
    for file in (work / "evaluation").iterdir():
        assert file.read_bytes() == (again / "evaluation" / file.name).read_bytes()


@pytest.mark.parametrize("stage", ["encoder", "decoder"])
def test_a_codec_goes_on_where_it_was_stopped(scripts, work, tmp_path, stage, monkeypatch):
    """A stopped training of the codec began anew, or was resumed without the optimizer's state."""
    run = getattr(scripts.codec, f"train_{stage}")
    for name in ("units.npz", "sentences.npz", *(["encoder.pt", "codes.npz"] if stage == "decoder" else [])):
        shutil.copy(work / name, tmp_path)
    original, calls = scripts.codec.SpectralLoss.forward, itertools.count(1)

    def forward(self, *sounds):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return original(self, *sounds)

    monkeypatch.setattr(scripts.codec.SpectralLoss, "forward", forward)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert torch.load(tmp_path / f"{stage}.state.pt")["step"] == 2
    with open(tmp_path / f"{stage}.csv", "a") as journal:
        journal.write("3,1.00000,1.0\n")  # of a step that was lost
    run(tmp_path)
    assert next(calls) == 4 + 1 + 2, "two steps were left"
    if stage == "encoder":
        assert same_arrays(work / "codes.npz", tmp_path / "codes.npz")
        ours, theirs = (torch.load(folder / "encoder.pt") for folder in (work, tmp_path))
    else:
        ours, theirs = (load_file(folder / "codec" / "model.safetensors") for folder in (work, tmp_path))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    steps = [int(row[0]) for row in csv.reader((tmp_path / f"{stage}.csv").read_text().splitlines())]
    assert steps == [4], "a loss curve that goes back in time"


# --- corpus and codec


def test_the_codec_of_the_package_is_taken_as_it_is(scripts, tmp_path):
    """The package's codec was rounded again, or its codes were not those that the model is trained for."""
    write_corpus(tmp_path / "work")
    scripts.codec.take_embedded(tmp_path / "work")
    ours, theirs = (
        load_file(folder / "model.safetensors")
        for folder in (tmp_path / "work" / "codec", Path(MINIATURE) / "audio_tokenizer")
    )
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    units, silence = scripts.codec.read_codes(tmp_path / "work" / "codes.npz")
    sounds = scripts.codec.read_sounds(tmp_path / "work" / "units.npz")
    assert [len(unit) * HOP for unit in units] == [len(sound) for sound in sounds]
    codec, quiet = DiaProcessor.from_pretrained(MINIATURE).codec, torch.zeros(16 * HOP)
    (found,) = codec.encode([torch.cat([quiet, sounds[0], quiet])])
    assert torch.equal(found[16:-16], units[0])
    assert torch.equal(codec.encode([torch.zeros(48 * HOP)])[0][16], silence[0])


def test_a_unit_is_cut_out_of_its_sentence(scripts, monkeypatch):
    """A unit cut too early or too late began with the end of the previous word."""
    teacher = scripts.teacher

    def speak(text, voice):
        """Synthesize every word as 0.1 s of audio, with its index as its amplitude, between silences of 0.1 s."""
        words = text.strip(".").split()
        levels = [0.0, *(0.1 * place for place in range(1, len(words) + 1)), 0.0]
        samples = np.repeat(np.array(levels, dtype=np.float32), 1600)
        return samples, [("pau" if level == 0 else "w", 0.1 * place) for place, level in enumerate(levels, start=1)]

    monkeypatch.setattr(teacher, "speak", speak)
    unit = teacher.cut_unit("word", "rms")
    assert len(unit) % HOP == 0 and len(unit) >= 128 + 1600 + 256
    assert not unit[:128].any() and not unit[128 + 1600 :].any()
    assert np.allclose(unit[128 + 64 : 128 + 1600 - 64], 0.7 * 0.4 / 0.6)


def test_codes_are_those_of_the_nearest_centers(scripts):
    """DAC compares directions, k-means points: where they disagree, the next codebook starts from a wrong residual."""
    codec = scripts.codec.make_codec()
    size = codec.config.hidden_size
    generator = torch.Generator().manual_seed(1)
    spread = torch.randn(size, size, generator=generator) * 0.7 ** torch.arange(size)
    latents = 3 + 2 * torch.randn(500, size, generator=generator) @ spread.T
    scripts.codec.find_codes(codec, latents)
    codes = codec.quantizer(latents.T[None])[1]
    errors = [
        (latents - codec.quantizer.from_codes(codes[:, :count])[0][0].T).square().mean() for count in range(1, 10)
    ]
    assert all(after < before for before, after in itertools.pairwise(errors))
    assert errors[-1] < 0.001 * latents.var(0).mean()

    rest = latents
    with torch.no_grad():
        for number, stage in enumerate(codec.quantizer.quantizers):
            points, centers = stage.in_proj(rest.T[None])[0].T, stage.codebook.weight
            assert torch.equal(points[:, -1], centers[:, -1].mean().expand(len(points))), "the lift is one constant"
            distances = (points[:, None, :-1] - centers[None, :, :-1]).norm(dim=-1)
            chosen = distances.gather(1, codes[0, number, :, None])[:, 0]
            is_nearest = distances.argmin(1) == codes[0, number]
            assert is_nearest.float().mean() > 0.99
            assert (chosen <= 1.01 * distances.min(1).values + 1e-3).all(), "near ties apart"
            rest = rest - stage.out_proj(stage.codebook.weight[codes[0, number]].T[None])[0].T


# --- texts


def read_back(text: str, words: list[str]) -> list[int]:
    """Return a text's units by the rules of README and compose.py; -1 is a frame of silence."""
    numbers = {word.casefold(): number for number, word in enumerate(words)}
    parts = re.findall(r"\[S\d\]|\w+|[,.?!]", text)
    assert re.sub(r"\s", "", text) == "".join(parts)
    units, speaker = [-1] * 2, None
    for part, following in itertools.zip_longest(parts, parts[1:]):
        ends_here = following is None or following in ".?!" or following in SPEAKERS
        if part in SPEAKERS:
            speaker = SPEAKERS.index(part)
        elif part == ",":
            units += [-1] * 5
        elif part not in ".?!":
            units += [2 * numbers[part.casefold()] + speaker]
            units += [-1] * 8 * ends_here
    return units


def pairs_of(text: str) -> set[tuple[str, str]]:
    said = re.findall(r"[a-z]+", re.sub(r"\[S\d\]", "", text).lower())
    return set(itertools.pairwise(said))


@functools.cache
def all_words() -> list[str]:
    return read_vocabulary(FOLDER / "vocabulary.txt")[0]


@settings(max_examples=60)
@given(st.integers(1, 16), st.integers(1, 4), st.integers(0, 2**32), st.booleans())
def test_a_text_says_its_units(scripts, num_words, num_turns, seed, only_held_out):
    """A comma was missing, or a word was in the other voice, so texts and audio did not match by the rules."""
    words = all_words()
    clip = scripts.compose.draw_clip(words, num_words, min(num_turns, num_words), random.Random(seed), only_held_out)
    assert clip.units == read_back(clip.text, words)
    assert len(re.findall(r"\w+", re.sub(r"\[S\d\]", "", clip.text))) == num_words
    held_out = {scripts.compose.is_held_out(*pair) for pair in pairs_of(clip.text)}
    assert held_out <= {only_held_out}, "a sentence to evaluate with had been trained on"
    tags = re.findall(r"\[S\d\]", clip.text)
    assert all(before != after for before, after in itertools.pairwise(tags)), "speakers alternate"


@given(st.lists(st.integers(0, 218), min_size=1, max_size=6, unique=True), st.integers(0, 2**32), st.booleans())
def test_few_words_come_again(scripts, few, seed, only_held_out):
    """Another word was drawn although one of the few could follow, so positions were not learned."""
    words = all_words()
    chosen = scripts.compose.draw_words(words, 12, random.Random(seed), only_held_out, few)
    assert chosen[0] in few
    for before, number in itertools.pairwise(chosen):
        may_follow = [one for one in few if scripts.compose.is_held_out(words[before], words[one]) == only_held_out]
        assert number in may_follow or not may_follow


def test_words_can_be_told_apart():
    """Of two words that differ in capitals alone, or in nothing, the text does not say which one is meant."""
    words = [word.casefold() for word in all_words()]
    assert len(words) == len(set(words)) >= 200 and all(word.isalpha() for word in words)


TEXTS = st.lists(st.sampled_from(["[S1]", "[S2]", "Hello", "s1", "I", "am", "Dia,", "cats.", "Yes?"])).map(" ".join)


@given(TEXTS, st.integers(0, 2**32))
def test_capitals_are_all_that_varies(scripts, text, seed):
    """A tag was changed to lowercase, and is then no tag but four letters."""
    varied = scripts.compose.vary_capitals(text, random.Random(seed))
    assert varied.lower() == text.lower()
    assert re.findall(r"\[[Ss]\d\]", varied) == re.findall(r"\[S\d\]", text)


def test_clips_are_what_their_texts_say(scripts, work):
    """The text, the codes and the evaluation audio of a clip belonged to different words."""
    units, silence = scripts.codec.read_codes(work / "codes.npz")
    sounds = scripts.codec.read_sounds(work / "units.npz")

    def codes_of(text):
        return torch.cat([silence if unit < 0 else units[unit] for unit in read_back(text, WORDS)])

    clips = datasets.load_from_disk(str(work / "clips-words"))
    assert clips["id"] == [f"words-{number:06d}" for number in range(12)]
    in_the_middle = [bool(clip["prompt_frames"]) for clip in clips]
    assert 0 < sum(in_the_middle) < 12
    for clip, is_cut in zip(clips, in_the_middle, strict=True):
        assert torch.equal(torch.tensor(clip["codes"]), codes_of(clip["text"])[2 * is_cut :])
        assert clip["prompt_frames"] == is_cut, "its first frame is given, or it could not know"
        assert len(clip["codes"]) <= 45 and clip["seconds"] == pytest.approx(len(clip["codes"]) * HOP / 16000)
    sentences = [json.loads(line) for line in (work / "evaluation.jsonl").read_text().splitlines()]
    assert len(sentences) == 5
    for sentence in sentences:
        assert torch.equal(torch.tensor(sentence["codes"]), codes_of(sentence["text"]))
        sound, rate = read_audio(work / sentence["audio"])
        parts = [torch.zeros(HOP) if unit < 0 else sounds[unit] for unit in read_back(sentence["text"], WORDS)]
        assert rate == 16000 and np.allclose(sound, torch.cat(parts), atol=1e-4)
    trained, evaluated = (set().union(*(pairs_of(row["text"]) for row in rows)) for rows in (clips, sentences))
    assert trained and evaluated and not trained & evaluated


def test_too_few_words_to_evaluate_with(scripts):
    """A short list of words caused an error of `random` about an empty sequence."""
    word = next(word for word in all_words() if not scripts.compose.is_held_out(word, word))
    with pytest.raises(ValueError, match=f"no pair that begins with '{word}' is held out; give more words"):
        scripts.compose.draw_words([word], 3, random.Random(0), only_held_out=True)


# --- the checkpoint


def strings_of(value):
    """Yield all strings in a JSON file."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings_of(inner)


def test_the_checkpoint_is_small_and_loads_in_float32(packed, tmp_path):
    """Weights were saved in float32 or loaded in another dtype, or a file contained a local path."""
    moved = shutil.copytree(packed, tmp_path / "moved")
    for file in (moved / "model.safetensors", moved / "audio_tokenizer" / "model.safetensors"):
        with safe_open(file, "pt") as weights:
            assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118
    for file in moved.rglob("*.json"):
        assert not [text for text in strings_of(json.loads(file.read_text("utf-8"))) if Path(text).is_absolute()], file
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in packed.rglob("*") if file.is_file())
    dia = Dia.from_pretrained(moved, device="cpu")
    assert {weight.dtype for part in (dia.model, dia.processor.codec.model) for weight in part.parameters()} == {
        torch.float32
    }
    assert dia.sampling_rate == 16000 and dia.model.generation_config.guidance_scale == 3.0
    assert (moved / "vocabulary.txt").read_bytes() == (FOLDER / "vocabulary.txt").read_bytes()


def test_a_model_that_doubts_what_is_certain_is_calibrated(scripts):
    """A temperature fitted the wrong way round makes a model less certain, and sampling worse."""

    class Doubting(torch.nn.Module):
        """Right nine times in ten, with a certainty that is known up to a factor: 1 / (1 + 1027 e^-score) = 0.9."""

        def __init__(self, factor):
            super().__init__()
            self.score = math.log(0.9 / (0.1 / 1027)) / factor
            self.logits_dense = torch.nn.Linear(2, 2, bias=False)
            self.draw = torch.Generator().manual_seed(0)

        def forward(self, decoder_input_ids, **_):
            following = torch.cat([decoder_input_ids[:, 1:], decoder_input_ids[:, -1:]], 1).mT.flatten(0, 1)
            wrong = torch.rand(following.shape, generator=self.draw) < 0.1
            guess = torch.where(wrong, (following + 1) % 1028, following)
            return SimpleNamespace(logits=self.score * torch.nn.functional.one_hot(guess, 1028).float())

    processor = DiaProcessor.from_pretrained(MINIATURE)
    clips = [{"text": "[S1] One.", "codes": np.random.default_rng(0).integers(0, 1024, (200, 9))}] * 2
    for factor in (1.0, 2.0**0.75, 4.0):
        model = Doubting(factor)
        before = model.logits_dense.weight.clone()
        assert scripts.pack.calibrate(model, processor, clips) == pytest.approx(factor)
        torch.testing.assert_close(model.logits_dense.weight, before * factor)


def test_theirs_says_the_same(packed):
    """transformers' own Dia could not load the checkpoint, or generated other codes."""
    dia, theirs = Dia.from_pretrained(packed, device="cpu"), TheirModel.from_pretrained(packed).eval()
    inputs = dia.processor(text=["[S1] One two.", "[S2] Hello, I am Dia. [S1] Red dog?"])
    options = {"do_sample": False, "guidance_scale": 1, "max_new_tokens": 20}
    ours = dia.model.generate(**inputs, **options)
    assert ours.shape[1] > 20
    assert torch.equal(ours, theirs.generate(**inputs, **options))


@pytest.fixture
def reports(scripts, packed):
    """Reports like those of `dia-hf evaluate`."""
    for name in ("greedy", "guided", "judged"):
        measures = {name: Measure(0.5) for name in scripts.pack.JUDGED if name != "wer"}
        heard = SourceReport("one two", WordErrors(1, 0, 0, 3), measures=measures)
        line = {"model": heard, "reference": heard, "codec": heard, "reference_seconds": 1.0, "within_a_frame": True}
        line |= {"same_first_channel": True, "same_codes": False}
        lines = [SentenceReport("[S1] One two three.", 0, 1.0, True, **line)]
        EvaluationReport({}, {}, lines, 1.0).save(packed.parent / f"{name}.json")
    return packed.parent


def test_the_card_has_no_gaps(scripts, reports, tmp_path, monkeypatch):
    """The card contained "<num_words> words", or the checkpoint an unneeded file."""
    scripts.pack.card(str(reports), str(tmp_path / "there"))
    card = (tmp_path / "there" / "README.md").read_text("utf-8")
    assert not re.search(r"<\w+>", card) and "None" not in card
    assert f"{len(WORDS)} words of English" in card and ", ".join(WORDS) in card
    assert "| 33.3 % |" in card and "100.0 %" in card
    assert "| attribution, % | 50.0 (50.0 to 50.0) |" in card
    Dia.from_pretrained(tmp_path / "there", device="cpu")
    monkeypatch.setattr(scripts.pack, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"the miniature has \d+ bytes; .* may have 1000"):
        scripts.pack.card(str(reports), str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


# --- dialogues


def test_a_script_is_of_held_out_sentences_in_turn(scripts):
    """A script with a full stop within a turn, or of pairs that were trained on, measures something else."""
    words = all_words()
    turns = scripts.dialogues.draw_script(words, random.Random(3))
    for number, turn in enumerate(turns):
        assert re.fullmatch(rf"\[S{number % 2 + 1}\] [A-Z][A-Za-z, ]*\.", turn), turn
        assert all(scripts.compose.is_held_out(*pair) for pair in pairs_of(turn))
        assert len(re.findall(r"\w+", turn)) - 1 == scripts.dialogues.TURN_WORDS
    assert len(turns) == scripts.dialogues.NUM_TURNS


def test_a_click_is_found_where_it_is(scripts):
    """The click was looked for a frame too early, so every join was smooth."""
    quiet = 0.01 * np.sin(np.arange(10 * HOP))
    for place, expected in ((4 * HOP, (0.5, 0.01)), (6 * HOP, (0.01, 0.5))):
        waveform = quiet.copy()
        waveform[place:] += 0.5
        at_joins, elsewhere = scripts.dialogues.find_steps([4, 6], waveform)
        assert np.allclose((at_joins, elsewhere), expected, atol=0.02)


# --- the Makefile

# Files in the work folder that each step needs, and those that it writes; by a part of its command.
STEPS = {
    "teacher.py": ("", "units.npz sentences.npz"),
    "codec.py encoder": ("units.npz sentences.npz", "codes.npz encoder.pt codec"),
    "codec.py decoder": ("units.npz codes.npz encoder.pt", "decoder"),
    "codec.py embedded": ("units.npz", "codes.npz codec decoder"),
    "compose.py words": ("codes.npz codec", "clips-words"),
    "compose.py phrases": ("codes.npz codec", "clips-phrases"),
    "compose.py dialogues": ("codes.npz codec", "clips-dialogues"),
    "compose.py evaluation": ("units.npz codes.npz", "evaluation.jsonl"),
    "finetune clips-words model-words of miniature": ("clips-words codec", "model-words"),
    "finetune clips-phrases model-phrases of model-words": ("clips-phrases model-words codec", "model-phrases"),
    "finetune clips-dialogues model of model-phrases": ("clips-dialogues model-phrases codec", "model"),
    "pack.py assemble": ("model codec decoder", "miniature"),
    "evaluate greedy.json": ("miniature evaluation.jsonl", "greedy.json"),
    "evaluate guided.json": ("miniature evaluation.jsonl", "guided.json"),
    "evaluate judged.json": ("miniature evaluation.jsonl", "judged.json"),
    "dialogues.py": ("miniature", "dialogues.json"),
    "curves.py": ("decoder model", "curves.png"),
    "pack.py card": ("miniature greedy.json guided.json judged.json dialogues.json", "packed"),
}


def name_step(command: str, work: str) -> str:
    """Return the step of a command of the Makefile."""
    words = [word.removeprefix(f"{work}/") for word in shlex.split(command)]
    if "finetune" in words:
        before = words.index("--model")
        start = words[before + 1].replace("../../src/dia_hf/assets/", "")
        return f"finetune {words[before - 2]} {words[before - 1]} of {start}"
    if "evaluate" in words:
        return f"evaluate {words[words.index('--output') + 1]}"
    script = next(place for place, word in enumerate(words) if word.endswith(".py"))
    return " ".join(word for word in words[script : script + 2] if word != work)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("goal", ["pack", "evaluate", "model", "embedded"])
def test_the_makefile_takes_every_step_in_its_turn(goal, tmp_path):
    """A target without one of its prerequisites works only after the other targets have run."""
    work = str(tmp_path / "work")
    command = ["make", "-n", goal, f"WORK={work}", "PYTHON=python"]
    printed = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=True).stdout
    there, taken = set(), []
    for line in printed.replace("\\\n", " ").splitlines():
        if not line.startswith("python "):
            continue
        step = name_step(re.sub(r"\$\(test.*?\)$", "", line), work)
        needed, made = (set(names.split()) for names in STEPS[step])
        assert needed <= there, f"{step} before {needed - there}"
        there |= made
        taken.append(step)
    assert len(taken) == len(set(taken))
    if goal == "pack":
        assert set(taken) == set(STEPS) - {"codec.py embedded"}
