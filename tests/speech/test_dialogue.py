"""Long dialogues: chunks, prompts, joins, resuming."""

import copy
import json
import re
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import LogitsProcessor

from dia_hf import Dia, DiaTokenizer
from dia_hf.speech.dialogue import Dialogue, DialogueError
from dia_hf.speech.dialogue_run import DialogueRun
from dia_hf.speech.script import Turn, estimate_seconds, render
from dia_hf.speech.voices import Voice

EOS = 1024


class EndAfter(LogitsProcessor):
    """Make channel 0 end a number of frames after the prompt: a random model never does."""

    def __init__(self, num_frames, fails_in_call=None):
        self.num_frames = num_frames
        self.fails_in_call = fails_in_call
        self.prompt_lengths = []
        self.last = 0

    def __call__(self, input_ids, scores):
        length = input_ids.shape[1]
        if length != self.last + 1 or not self.prompt_lengths:
            self.prompt_lengths.append(length - 1)
            self.begin = length
            if len(self.prompt_lengths) == self.fails_in_call:
                raise RuntimeError("the network caught fire")
        self.last = length
        scores = scores.clone()
        scores[::9, EOS] = 1e4 if length - self.begin >= self.num_frames else -float("inf")
        return scores

    def __repr__(self):
        return f"EndAfter({self.num_frames})"


@pytest.fixture(scope="module")
def dia(model, processor):
    return Dia(model, processor)


def make_script(num_turns):
    return " ".join(f"[S{1 + i % 2}] Turn number {i} it is." for i in range(num_turns))


def make_dialogue(dia, script, end=None, **kwargs):
    kwargs = {"seed": 7, "chunk_length_s": (0.0, 2.0)} | kwargs
    return Dialogue(dia.model, dia.processor, script, options={"logits_processor": [end or EndAfter(30)]}, **kwargs)


def make_voice(dia, num_frames, transcript, seed=0):
    codes = torch.randint(0, 1024, (num_frames, 9), generator=torch.Generator().manual_seed(seed))
    codec = dia.processor.codec
    return Voice(codes, transcript, codec.fingerprint, codec.sampling_rate, codec.hop_length)


def record_inputs(dia, monkeypatch):
    """Record the text and prompt of every chunk."""
    seen = []
    original = type(dia.processor).__call__

    def call(self, text, audio=None, **kwargs):
        seen.append((text[0], audio[0]))
        return original(self, text, audio, **kwargs)

    monkeypatch.setattr(type(dia.processor), "__call__", call)
    return seen


def test_one_chunk_is_what_generate_says(dia):
    """A dialogue of a short script differed from `generate`."""
    text, options = "[S1] Hello. [S2] Hi!", {"seed": 7, "max_seconds": 0.5}
    dialogue = dia.dialogue(text, **options)
    assert len(dialogue.chunks) == 1
    np.testing.assert_allclose(dialogue.generate(), dia.generate(text, **options), atol=1e-5)


@pytest.mark.parametrize("max_length", [None, 3072, 1000, 700, 400])
def test_chunks_fit_what_the_model_says_in_one_go(dia, monkeypatch, max_length):
    """A checkpoint trained on 12 s got chunks of 15 s, whose ends were noise."""
    monkeypatch.setattr(dia.model.generation_config, "max_length", max_length)
    monkeypatch.setattr(dia.model.config.decoder_config, "max_position_embeddings", 3072)
    chunks = Dialogue(dia.model, dia.processor, make_script(7), seed=7).chunks
    seconds = [sum(estimate_seconds(turn.text) for turn in turns) for turns in chunks]
    in_one_go = ((max_length or 3072) - 15) / dia.processor.codec.frame_rate
    if sum(seconds) <= in_one_go:
        assert len(chunks) == 1
    else:
        assert len(chunks) > 1 and max(seconds) <= in_one_go / 2


def test_every_chunk_is_prompted_with_what_each_speaker_said_last(dia, monkeypatch):
    """Without prompts the voices change with each chunk."""
    seen = record_inputs(dia, monkeypatch)
    script = "[S1] The first one says this. [S2] The second one says that. [S1] And I say this again."
    dialogue = make_dialogue(dia, script)
    whole = dialogue.generate()
    assert len(dialogue.chunks) == 3
    assert len(whole) == 3 * 30 * 512
    assert seen[0] == (render(dialogue.chunks[0]), None)
    assert seen[1][0] == render([*dialogue.chunks[0], *dialogue.chunks[1]])
    assert seen[1][1].shape == (30, 9)
    assert seen[2][0] == render([turn for turns in dialogue.chunks for turn in turns])
    assert seen[2][1].shape == (60, 9)
    assert torch.equal(seen[2][1][:30], seen[1][1])


@pytest.mark.parametrize("wrong", [3, 900], ids=["words are missing", "does not end"])
def test_a_chunk_that_went_wrong_is_no_prompt(dia, wrong):
    """After one chunk that did not end, all later ones were silent: each was prompted with the one before."""
    dialogue = make_dialogue(dia, "[S1] " + " ".join(f"This is what I say in number {i}." for i in range(5)))
    run, codes = DialogueRun(dialogue), torch.zeros(900, 9, dtype=torch.long)
    prompts = []
    for num_frames in (wrong, 150, wrong, 160):
        run.add(codes[:num_frames])
        text, prompt = run.next_input()
        prompts.append(len(prompt))
        before = {150: 1, 160: 3}.get(len(prompt), 0)
        assert text == render([*dialogue.chunks[before], *dialogue.chunks[run.index]])
    assert prompts == [wrong, 150, 150, 160]


def test_every_chunk_begins_with_the_language(dia, monkeypatch):
    """A language tag was taken for a speaker's, or put before the first chunk only."""
    processor = copy.copy(dia.processor)
    processor.tokenizer = DiaTokenizer(language_tokens={"[nl]": 14})
    dutch = Dia(dia.model, processor)
    seen = record_inputs(dutch, monkeypatch)
    voice = make_voice(dia, 20, "My words.")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dialogue = make_dialogue(dutch, "[nl] [S1] Dat is toch heel erg goed. [S2] Wat zeg je daar nou?", voices=voice)
    dialogue.generate()
    assert [text for text, _ in seen] == [
        "[nl] [S1] My words. Dat is toch heel erg goed.",
        "[nl] [S1] My words. [S2] Wat zeg je daar nou?",
    ]
    dutch.generate("[nl] [S2] Goed.", voice=voice, max_seconds=0.5)
    assert seen[-1][0] == "[nl] [S2] My words. Goed."


def with_tags(dia, **tags):
    """The same model with a tokenizer of a fine-tune."""
    processor = copy.copy(dia.processor)
    processor.tokenizer = DiaTokenizer(**tags)
    return Dia(dia.model, processor)


def test_languages_of_voices_and_turns(dia, monkeypatch):
    """The language in a voice's transcript stood twice before a chunk; one inside a turn was a turn of its own."""
    dutch = with_tags(dia, language_tokens={"[nl]": 14, "[en]": 3})
    seen = record_inputs(dutch, monkeypatch)
    voices = {
        "[S1]": make_voice(dia, 20, "[nl] [S1] Mijn woorden."),
        "[S2]": make_voice(dia, 20, "[en] [S1] My words."),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dialogue = make_dialogue(dutch, "[nl] [S1] Dat is goed. [S2] [en] Fine.", chunk_length_s=(1, 9), voices=voices)
    dialogue.generate()
    assert seen[0][0] == "[nl] [S1] Mijn woorden. [S2] [en] My words. [S1] Dat is goed. [S2] [en] Fine."
    assert dialogue.expected_seconds == [estimate_seconds("Dat is goed.") + estimate_seconds("Fine.")]
    assert make_dialogue(dutch, "[nl] Dag.").chunks == [[Turn("[S1]", "Dag.")]]
    with pytest.raises(ValueError, match="the script is empty"):
        make_dialogue(dutch, "[nl]")


def test_speakers_by_name(dia, monkeypatch):
    """Only [S1], [S2] and so on could have a voice, or begin a turn."""
    named = with_tags(dia, speaker_tokens={"[anna]": 5, "[ben]": 19})
    seen = record_inputs(named, monkeypatch)
    voices = {"[ben]": make_voice(dia, 20, "[anna] My words."), "[anna]": make_voice(dia, 20, "Mine.", 1)}
    make_dialogue(named, "[anna] Hello. [ben] Good day.", chunk_length_s=(1, 9), voices=voices).generate()
    assert seen[0][0] == "[ben] My words. [anna] Mine. Hello. [ben] Good day."
    both = make_voice(dia, 20, "[anna] Hello. [ben] Good day.")
    make_dialogue(named, "[anna] Yes.", voices=both).generate()
    assert seen[1][0] == "[anna] Hello. [ben] Good day. [anna] Yes."
    named.generate("[ben] No.", voice=make_voice(dia, 20, "My words."), max_seconds=0.5)
    assert seen[2][0] == "[ben] My words. No."


def test_tags_at_the_bytes_of_white_space(dia):
    """A script of several lines was refused, although its line ends are no part of what the model reads."""
    dialogue = make_dialogue(with_tags(dia, language_tokens={"[nl]": 10}), "[nl] [S1] Dat\nis goed.")
    assert dialogue.chunks == [[Turn("[S1]", "Dat is goed.")]]
    assert dialogue.issues == []


def test_voices_are_prompts_of_their_speakers(dia, monkeypatch):
    """A given voice was used for the first chunk only, and drifted."""
    seen = record_inputs(dia, monkeypatch)
    voices = {"[S1]": make_voice(dia, 40, "My words.", 1), "[S2]": make_voice(dia, 50, "[S1] Mine.", 2)}
    dialogue = make_dialogue(dia, make_script(6), voices=voices)
    dialogue.generate()
    assert len(seen) == len(dialogue.chunks) > 1
    for (text, prompt), turns in zip(seen, dialogue.chunks, strict=True):
        assert text.startswith("[S1] My words. [S2] Mine.") and text.endswith(turns[-1].text)
        assert torch.equal(prompt, torch.cat([voices["[S1]"].codes, voices["[S2]"].codes]))


def test_one_voice_of_two_speakers(dia, monkeypatch):
    """A recording of two speakers was used twice as a prompt."""
    seen = record_inputs(dia, monkeypatch)
    voice = make_voice(dia, 40, "[S1] Hello. [S2] Good day.")
    make_dialogue(dia, make_script(4), voices=voice).generate()
    assert all(text.startswith("[S1] Hello. [S2] Good day. ") and len(prompt) == 40 for text, prompt in seen)


def test_joins_do_not_click(dia):
    """Waveforms of chunks, concatenated, have steps at their joins."""
    waveform = make_dialogue(dia, make_script(12)).generate()
    steps = np.abs(np.diff(waveform))
    joins = np.arange(30 * 512, len(waveform), 30 * 512)
    assert len(joins) >= 4
    at_joins = np.array([steps[join - 2 : join + 2].max() for join in joins])
    within = np.array([steps[i : i + 4].max() for i in range(100, len(steps) - 4, 97)])
    assert at_joins.max() <= np.quantile(within, 0.999)
    assert np.median(at_joins) <= 2 * np.median(within)


def test_the_stream_is_the_whole(dia):
    """The stream differed from the whole."""
    script = make_script(8)
    chunks = list(make_dialogue(dia, script).stream(first_chunk_frames=2, chunk_frames=16))
    assert [len(chunk) // 512 for chunk in chunks[:5]] == [2, 4, 8, 16, 16]
    np.testing.assert_array_equal(np.concatenate(chunks).shape, make_dialogue(dia, script).generate().shape)
    np.testing.assert_allclose(np.concatenate(chunks), make_dialogue(dia, script).generate(), atol=1e-5)


def test_it_tells_how_long_its_chunks_are(dia, tmp_path):
    """The joins were known from files only, and counted twice after a second call."""
    dialogue = make_dialogue(dia, make_script(8), folder=tmp_path)
    for _ in range(2):  # the second time from the folder
        waveform = dialogue.generate()
        assert len(dialogue.num_frames) == len(dialogue.chunks) > 2
        assert sum(dialogue.num_frames) * 512 == len(waveform)


def test_a_stream_that_is_left_ends_its_chunk(dia):
    """The generating thread of a chunk continued after the stream was closed."""
    before = threading.active_count()
    chunks = make_dialogue(dia, make_script(8)).stream()
    next(chunks)
    chunks.close()
    assert threading.active_count() == before


def test_seeds(dia):
    """With the same seed, all chunks begin alike; without one, runs are not reproducible."""
    script = make_script(6)
    first, again, other = (make_dialogue(dia, script, seed=seed).generate() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    drawn = make_dialogue(dia, script, seed=None)
    np.testing.assert_array_equal(drawn.generate(), make_dialogue(dia, script, seed=drawn.seed).generate())


def test_every_chunk_draws_for_itself(dia, monkeypatch):
    """With one seed for all chunks, each begins with the same random numbers."""
    seeds, generate = [], dia.model.generate

    def record(*args, generator, **kwargs):
        seeds.append(generator.initial_seed())
        return generate(*args, generator=generator, **kwargs)

    monkeypatch.setattr(dia.model, "generate", record)
    make_dialogue(dia, make_script(6), seed=11).generate()
    assert len(seeds) == len(set(seeds)) > 2 and seeds[0] == 11


def test_a_limit_of_the_whole(dia):
    """`max_seconds` was applied to each chunk."""
    waveform = make_dialogue(dia, make_script(8), max_seconds=1.0).generate()
    assert len(waveform) == int(1.0 * 44100 / 512) * 512


def test_a_chunk_that_does_not_end(dia):
    """With a prompt, the checkpoint's limit was ignored, and a chunk without EOS lasted half a minute."""
    voice = make_voice(dia, 40, "A voice.")
    waveform = Dialogue(dia.model, dia.processor, "[S1] Hello.", voice, seed=1).generate()
    assert len(waveform) == dia.model.generation_config.max_length * 512


def test_a_chunk_that_fails_keeps_those_before_it(dia, tmp_path):
    """An error in the last chunk lost all speech before."""
    script = make_script(8)
    whole = make_dialogue(dia, script).generate()
    failing = EndAfter(30, fails_in_call=3)
    dialogue = make_dialogue(dia, script, failing, folder=tmp_path / "kept")
    with pytest.raises(DialogueError, match="chunk 3 of") as info:
        dialogue.generate()
    assert "caught fire" in str(info.value) and "kept" in str(info.value)
    # All but the last 10 frames, which sound on into the chunk that follows.
    np.testing.assert_allclose(info.value.waveform[: 50 * 512], whole[: 50 * 512], atol=1e-5)
    assert len(info.value.waveform) == 60 * 512
    heard = []
    with pytest.raises(DialogueError):
        heard.extend(make_dialogue(dia, script, EndAfter(30, fails_in_call=3)).stream())
    assert sum(map(len, heard)) == 60 * 512
    end = EndAfter(30)
    resumed = make_dialogue(dia, script, end, folder=tmp_path / "kept", seed=None).generate()
    np.testing.assert_array_equal(resumed, whole)
    assert len(end.prompt_lengths) == len(dialogue.chunks) - 2, "what was spoken is not spoken again"


def test_a_folder_of_somebody_elses(dia, tmp_path):
    """Foreign files with names of chunks were used, and then removed."""
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "chunk-00001.safetensors").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no dialogue"):
        make_dialogue(dia, make_script(8), folder=folder)
    assert [path.name for path in folder.iterdir()] == ["chunk-00001.safetensors"]


KILLED = """
import sys
sys.path[:0] = {path!r}
from test_dialogue import *
dia = Dia.from_pretrained({model!r})
torch.set_num_threads(1)
make_dialogue(dia, make_script(24), folder={folder!r}).generate()
"""


def test_killed_midway_and_resumed(dia, tmp_path):
    """A crash during writing left half a chunk, which was read as a whole one."""
    folder = tmp_path / "kept"
    path = [path for path in sys.path if path] + [__file__.rsplit("/", 1)[0]]
    code = KILLED.format(path=path, model=dia.model.name_or_path, folder=str(folder))
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while len(list(folder.glob("chunk-*"))) < 3 and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    kept = len(list(folder.glob("chunk-*")))
    whole = make_dialogue(dia, make_script(24))
    assert 3 <= kept < len(whole.chunks)
    resumed = make_dialogue(dia, make_script(24), folder=folder, seed=None)
    np.testing.assert_array_equal(resumed.generate(), whole.generate())


def replace_weights(dia):
    model = copy.deepcopy(dia.model)
    with torch.no_grad():
        model.logits_dense.weight[0, 0] += 1
    return Dia(model, dia.processor)


def test_a_voice_that_says_something_else_is_another(dia, tmp_path):
    """A voice with a corrected transcript resumed from chunks of the old one."""
    voices = [make_voice(dia, 20, words) for words in ("A voice.", "Another voice.")]
    make_dialogue(dia, make_script(4), folder=tmp_path, voices=voices[0])
    with pytest.raises(ValueError, match="differs in voices"):
        make_dialogue(dia, make_script(4), folder=tmp_path, voices=voices[1])


@pytest.mark.parametrize("content", ["[]", "null", "{", '{"seed": "x"}', "[" * 10**5])
def test_a_damaged_plan(dia, tmp_path, content):
    """It raised an AttributeError of `None`."""
    make_dialogue(dia, make_script(4), folder=tmp_path)
    (tmp_path / "dialogue.json").write_text(content)
    with pytest.raises(ValueError, match=r"dialogue.json' (is damaged|is nested|has the `seed`)"):
        make_dialogue(dia, make_script(4), folder=tmp_path)


@pytest.mark.parametrize(
    "codes", [torch.zeros(5, 9), torch.zeros(5, 4, dtype=torch.int16), torch.full((5, 9), 1024).short()]
)
def test_a_chunk_that_holds_no_codes(dia, tmp_path, codes):
    """It failed in the codec, after the generation of the chunks before."""
    make_dialogue(dia, make_script(4), folder=tmp_path).generate()
    save_file({"codes": codes}, tmp_path / "chunk-00001.safetensors")
    with pytest.raises(ValueError, match=r"chunk-00001.safetensors' is damaged"):
        make_dialogue(dia, make_script(4), folder=tmp_path).generate()


@pytest.mark.parametrize("change", ["script", "seed", "closing_tag", "max_frames", "voices", "options", "weights"])
def test_another_dialogue_does_not_go_on_in_the_folder(dia, tmp_path, change):
    """Chunks of two dialogues were mixed silently."""
    make_dialogue(dia, make_script(4), folder=tmp_path / "kept")
    changed = {
        "seed": {"seed": 8},
        "closing_tag": {"closing_tag": True},
        "max_frames": {"max_seconds": 3.0},
        "voices": {"voices": make_voice(dia, 20, "A voice.")},
        "options": {"end": EndAfter(31)},
    }.get(change, {})
    script = make_script(6 if change == "script" else 4)
    if change == "weights":  # under the same name
        dia = replace_weights(dia)
    with pytest.raises(ValueError, match=rf"differs in .*{change}"):
        make_dialogue(dia, script, folder=tmp_path / "kept", **changed)
    assert json.loads((tmp_path / "kept" / "dialogue.json").read_text("utf-8"))["seed"] == 7


def test_a_damaged_chunk(dia, tmp_path):
    """The error of a truncated file did not name it."""
    make_dialogue(dia, make_script(4), folder=tmp_path).generate()
    (tmp_path / "chunk-00001.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match="chunk-00001"):
        make_dialogue(dia, make_script(4), folder=tmp_path).generate()


def test_what_looks_wrong_in_a_script_is_told(dia):
    """A misspelled tag was read aloud without a warning."""
    with pytest.warns(UserWarning, match=r"line 2, column 1: .*\[S7\]"):
        dia.dialogue("[S1] Hello.\n[S7] Hi!")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dia.dialogue("[S1] Hello. (laughs) [S2] Hi!")


def test_a_prompt_without_room_is_told_once(dia):
    """A voice changed for lack of room without a warning, or with one for every chunk."""
    dialogue = make_dialogue(dia, make_script(8))
    dialogue.frame_limit, dialogue.max_prompt_frames = 100, 25
    with pytest.warns(UserWarning, match="voice may change") as caught:
        dialogue.generate()
    assert len([w for w in caught if "voice may change" in str(w.message)]) == 1


def test_the_closing_tag(dia, monkeypatch):
    """The closing tag against truncated ends was missing in a chunk."""
    seen = record_inputs(dia, monkeypatch)
    make_dialogue(dia, make_script(4), closing_tag=True).generate()
    assert len(seen) > 2
    for text, _ in seen[1:]:
        tags = re.findall(r"\[S\d\]", text)
        assert text.endswith(tags[-1]) and tags[-1] == tags[-3] != tags[-2]


@pytest.mark.parametrize(
    ("script", "voices", "message"),
    [
        ("", None, "is empty"),
        ("[S1] [S2]", None, "is empty"),
        ("[S1] Hi.", {"[S3]": 20}, r"\[S1\], \[S2\]"),
        ("[S1] Hi.", {"[S1]": 1529}, "1528 frames"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_spoken_raises(dia, script, voices, message):
    """Invalid arguments failed in the middle of the generation."""
    if voices is not None:
        voices = {tag: make_voice(dia, frames, "Words.") for tag, frames in voices.items()}
    with pytest.raises(ValueError, match=message):
        make_dialogue(dia, script, voices=voices)


def test_no_time(dia):
    """A limit below one frame gave empty audio without an error."""
    with pytest.raises(ValueError, match=r"0\.012 s"):
        make_dialogue(dia, "[S1] Hi.", max_seconds=0.001)


def test_a_voice_of_another_codec(dia):
    """Codes of another codec are decoded to noise."""
    other = Voice(torch.zeros(20, 9, dtype=torch.long), "Words.", "0123456789abcdef", 24000, 320)
    with pytest.raises(ValueError, match="0123456789ab"):
        make_dialogue(dia, "[S1] Hi.", voices=other)
