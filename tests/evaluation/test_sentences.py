"""Sentences from files of every kind, and the errors for files that cannot be used."""

import json

import numpy as np
import pytest
import torch

from dia_hf import MINIATURE, DiaProcessor
from dia_hf.audio.io import write_audio
from dia_hf.evaluation import Prompt, Sentence, read_sentences
from training.clips import write_prepared

CODES = [[1, 2, 3], [4, 5, 6]]


@pytest.fixture
def write(tmp_path):
    """Write a file of sentences: `write(name, text)`, or a table of rows as .jsonl."""

    def make(name, content):
        if not isinstance(content, str):
            content = "\n".join(json.dumps(row, ensure_ascii=False) for row in content)
        path = tmp_path / name
        path.write_text(content, "utf-8")
        return path

    return make


def test_a_text_a_line(write):
    """A blank line at the end was an empty sentence; a byte order mark was part of the text."""
    path = write("sentences.txt", "\ufeff[S1] Hello, you.\n\n  [S2] It’s: a, b | c\t; d.\n\n")
    sentences = read_sentences(path)
    assert [sentence.text for sentence in sentences] == ["[S1] Hello, you.", "[S2] It’s: a, b | c\t; d."]
    assert all(sentence.audio is None and sentence.codes is None for sentence in sentences)


@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_a_table(write, tmp_path, tone, separator):
    """Recordings were looked for in the working directory and not in the table's folder."""
    write_audio(tmp_path / "clips" / "a.wav", tone(0.2, 8000), 8000)
    name = "table.tsv" if separator == "\t" else "table.csv"
    rows = [["text", "audio"], ["[S1] Hello.", "clips/a.wav"], ["[S2] Hi.", ""]]
    first, second = read_sentences(write(name, "\n".join(separator.join(row) for row in rows)))
    samples, rate = first.load_audio()
    assert (samples.shape, rate, first.text) == ((1, 1600), 8000, "[S1] Hello.")
    assert second.audio is None and second.text == "[S2] Hi."
    (only,) = read_sentences(write(name, "text\nHello."))
    assert only.text == "Hello." and only.audio is None


def test_relative_paths(write, tmp_path, tone, monkeypatch):
    """The folder of a table that is given as a relative path was not found."""
    write_audio(tmp_path / "clips" / "a.wav", tone(0.2, 8000), 8000)
    write("clips/table.jsonl", [{"text": "One.", "audio": "a.wav"}])
    monkeypatch.chdir(tmp_path)
    (sentence,) = read_sentences("clips/table.jsonl")
    assert sentence.load_audio()[0].shape == (1, 1600)


def test_a_segment_of_a_recording(write, tmp_path, tone):
    """A sentence was compared with the whole recording of which it is a segment."""
    write_audio(tmp_path / "a.wav", tone(2.0, 8000), 8000)
    path = write("table.jsonl", [{"text": "One.", "audio": "a.wav", "offset": 0.5, "duration": 0.25}])
    (sentence,) = read_sentences(path)
    samples, _ = sentence.load_audio()
    np.testing.assert_allclose(samples[0], tone(2.0, 8000)[4000:6000], atol=1e-4)
    path = write("table.jsonl", [{"text": "One.", "audio": "a.wav", "offset": 1.5, "duration": 1.0}])
    with pytest.raises(ValueError, match=r"table\.jsonl', row 1: the segment 1\.500-2\.500 s is not within"):
        read_sentences(path)


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
@pytest.mark.parametrize("name", ["sentences.txt", "table.csv"])
def test_another_encoding(tmp_path, name, encoding):
    """A decoding error named neither the file nor a remedy."""
    (tmp_path / name).write_text("text\nGrüße!\n", encoding)
    with pytest.raises(ValueError, match=rf"{name}' is not in UTF-8 .* save it as UTF-8"):
        read_sentences(tmp_path / name)


def test_lines_of_json(write, tmp_path, tone):
    """A row with codes, a recording, both or neither was read wrongly."""
    write_audio(tmp_path / "a.wav", tone(0.2, 8000), 8000)
    path = write(
        "table.jsonl",
        [
            {"text": "One.", "codes": CODES, "audio": "a.wav", "other": 1},
            {"text": "Two.", "audio": str(tmp_path / "a.wav")},
            {"text": "Three.", "audio": None, "codes": None},
        ],
    )
    one, two, three = read_sentences(path)
    assert one.codes.tolist() == CODES and one.codes.dtype == torch.int64 and one.codec is None
    assert one.load_audio()[0].shape == two.load_audio()[0].shape == (1, 1600)
    assert three.audio is None and three.codes is None


def test_prepared_data(tmp_path):
    """Prepared data could not be evaluated, or their codes lost the codec that they belong to."""
    sentences = read_sentences(write_prepared(tmp_path / "prepared", num_clips=3))
    assert len(sentences) == 3
    assert sentences[0].text.startswith("[S1] ") and sentences[1].text.startswith("[S2] ")
    fingerprint = DiaProcessor.from_pretrained(MINIATURE).codec.fingerprint
    assert all(sentence.codec == fingerprint for sentence in sentences)
    assert all(sentence.codes.dtype == torch.int64 and sentence.codes.ndim == 2 for sentence in sentences)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "no sentences"),
        ("a.txt", "Hello.\n(laughs)", r"a\.txt', row 2: the text '\(laughs\)' has no words"),
        ("a.md", "Hello.", "unknown suffix"),
        ("a.csv", "words\nHello.", "has the columns 'words'; a column 'text' is required"),
        ("a.csv", "text,audio\nHello.,b.wav", r"row 1: there is no file '.*b\.wav'"),
        ("a.csv", "text,audio\nHello.,a.csv", "row 1: .*cannot be read as audio"),
        ("a.csv", "text,audio\nHello, you.,", "row 1: the row has 3 cells"),
        ("a.jsonl", '{"text": "Hello."}\n{"text": ', "row 2: the line is not valid JSON"),
        ("a.jsonl", [{"text": "Hello."}, {"audio": None}], "row 2: the text None has no words"),
        ("a.jsonl", [{"text": "Hello.", "codes": [[1, 2], [3]]}], "row 1: the codes are not a table"),
        ("a.jsonl", [{"text": "Hello.", "codes": [[1.5, 2]]}], "row 1: the codes have the dtype float64"),
        ("a.jsonl", [{"text": "Hello.", "codes": [1, 2]}], r"of the shape \(2,\); they must be integers"),
        ("a.jsonl", [{"text": "Hello.", "codes": "1 2"}], "row 1: the codes have the dtype <U3"),
    ],
)
def test_what_cannot_be_said(write, name, content, message):
    """A row that was skipped without an error makes the metrics of fewer sentences."""
    with pytest.raises(ValueError, match=message):
        read_sentences(write(name, content))


def test_no_such_file(tmp_path):
    """A folder that is no prepared data, or a mistyped name, had no clear error."""
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
        read_sentences(tmp_path / "nowhere.txt")
    with pytest.raises(ValueError, match="dia-hf prepare"):
        read_sentences(tmp_path)


def test_made_by_hand(tmp_path, tone):
    """Arrays and paths were refused where a program passes them."""
    write_audio(tmp_path / "a.wav", tone(0.2, 8000), 8000)
    assert Sentence("Hello.", tmp_path / "a.wav").load_audio()[1] == 8000
    sound = {"array": tone(0.2, 8000), "sampling_rate": 8000}
    assert Sentence("Hello.", sound).load_audio()[0].shape == (1600,)
    with pytest.raises(ValueError, match="must be integers"):
        Sentence("Hello.", codes=torch.zeros(3, 9))
    with pytest.raises(ValueError, match="must be integers"):
        Sentence("Hello.", codes=torch.from_numpy(np.zeros((0, 9), np.int64)))


@pytest.fixture
def wavs(tmp_path, tone):
    """Recordings a.wav and b.wav in a folder beside the sentences."""
    for name in ("a", "b"):
        write_audio(tmp_path / "wavs" / f"{name}.wav", tone(0.2, 8000), 8000)
    return tmp_path / "wavs"


def test_seed_tts_eval(write, wavs):
    """The transcript of the prompt was spoken, or the reference was taken for the prompt."""
    path = write(
        "meta.lst", "utt1|I said so.|wavs/a.wav|Say this, too.|wavs/b.wav\nutt2|I said so.|wavs/a.wav|Or this.\n"
    )
    first, second = read_sentences(path)
    assert (first.id, first.text) == ("utt1", "[S1] Say this, too.") and second.id == "utt2"
    assert first.prompts["[S1]"].text == "I said so." and first.prompts["[S1]"].audio == str(wavs / "a.wav")
    assert first.audio == str(wavs / "b.wav") and second.audio is None


def test_ttsd_eval(write, wavs):
    """The second speaker's recording was lost, or a line with two recordings was one of Seed-TTS-eval."""
    (one,) = read_sentences(write("meta.lst", "utt1|wavs/a.wav|wavs/b.wav|[S1] Hello. [S2] Hi!\n"))
    assert (one.id, one.text) == ("utt1", "[S1] Hello. [S2] Hi!") and one.audio is None
    assert {tag: (prompt.audio, prompt.text) for tag, prompt in one.prompts.items()} == {
        "[S1]": (str(wavs / "a.wav"), None),
        "[S2]": (str(wavs / "b.wav"), None),
    }


def test_prompts_in_a_table(write, wavs):
    """The columns of MOSS-TTSD were not read, or not relative to their `base_path`."""
    row = {"id": "x", "text": "[S1] Hello. [S2] Hi!", "base_path": "wavs", "prompt_audio_speaker1": "a.wav"}
    row |= {"prompt_text_speaker1": "I said so.", "prompt_audio_speaker2": "b.wav", "prompt_text_speaker2": ""}
    (one,) = read_sentences(write("table.jsonl", [row]))
    assert one.id == "x" and list(one.prompts) == ["[S1]", "[S2]"]
    assert (one.prompts["[S1]"].audio, one.prompts["[S1]"].text) == (str(wavs / "a.wav"), "I said so.")
    assert one.prompts["[S2]"].text is None


@pytest.mark.parametrize("column", ["prompt_audio_speaker_1", "prompt_audio_speaker0", "prompt_text_speaker2"])
def test_prompts_that_would_be_left_out(write, wavs, column):
    """A prompt in a column with another name, or a transcript without recording, was left out without a word."""
    row = {"text": "[S1] Hello.", "prompt_audio_speaker1": "wavs/a.wav", column: "wavs/b.wav"}
    with pytest.raises(ValueError, match=rf"row 1: .*{column}"):
        read_sentences(write("table.jsonl", json.dumps(row)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("utt1|So.||Say this.", "prompt_text_speaker1 has the transcript of a prompt without recording"),
        ("utt1|Say this.", r"meta\.lst', row 1: the line has 2 fields; it must be name\|"),
        ("utt1|So.|nowhere.wav|Say this.", r"row 1: there is no file '.*nowhere\.wav'"),
        ("utt1|So.|wavs/a.wav|Say this.\nutt2|wavs/a.wav|wavs/c.wav|[S1] So.", r"row 2: there is no file"),
        ("utt1|So.|wavs/a.wav|?", r"row 1: the text '\[S1\] \?' has no words"),
        ("", "no sentences"),
    ],
)
def test_lists_that_cannot_be_read(write, wavs, content, message):
    """A line of another form was an error of Python, or was left out."""
    with pytest.raises(ValueError, match=message):
        read_sentences(write("meta.lst", content))


def test_a_prompt_of_no_speaker():
    """A prompt for "S1" was silently ignored."""
    with pytest.raises(ValueError, match="a prompt is given to 'S1'; give it to a speaker tag"):
        Sentence("Hello.", prompts={"S1": Prompt("a.wav")})
