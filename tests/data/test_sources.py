"""Sources of clips: missing files are reported row by row, unreadable sources at once."""

import csv
import io
import json
import sys
import unicodedata

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia_hf.data.clips import read_clip
from dia_hf.data.sources import open_source

TEXTS = ["Hello there.", 'She said "no", and left.', "Grüße, überall; ja?"]


def rows_of(source, columns=None, **options):
    return list(open_source(source, columns, **options).rows)


def write_csv(path, rows, delimiter=","):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


@pytest.mark.parametrize(
    ("name", "delimiter", "header"),
    [
        ("metadata.csv", ",", ["file_name", "text"]),
        ("metadata.csv", ";", ["Path", "Sentence"]),
        ("metadata.tsv", "\t", ["audio", "transcription"]),
    ],
)
def test_tables(recordings, name, delimiter, header):
    """A comma or a quote within a text ended the cell, and semicolons of a spreadsheet were not recognized."""
    write_csv(recordings / name, [header, *([f"{n}.wav", text] for n, text in enumerate(TEXTS))], delimiter)
    for source in (recordings, recordings / name):
        rows = rows_of(source)
        assert [row.text for row in rows] == TEXTS
        assert [row.audio for row in rows] == [str(recordings / f"{n}.wav") for n in range(3)]
        assert [(row.source, row.number, row.id) for row in rows] == [(name, n + 1, str(n)) for n in range(3)]


def test_a_table_saved_by_excel_begins_with_a_mark(recordings):
    """A byte order mark became part of the first column's name, which was then not found."""
    (recordings / "metadata.csv").write_text("file_name,text\r\n0.wav,Hello.\r\n", "utf-8-sig")
    assert rows_of(recordings)[0].text == "Hello."


def test_jsonl(recordings):
    """One broken line ended the reading, or shifted the numbers of the lines after it."""
    lines = [json.dumps({"file_name": "0.wav", "text": "One\u2028line."}, ensure_ascii=False), "", "{broken", "[1]"]
    lines.append(json.dumps({"file_name": "2.wav", "text": "Last.", "speaker": 7, "language": "de"}))
    (recordings / "metadata.jsonl").write_text("\n".join(lines), "utf-8")
    rows = rows_of(recordings)
    assert [row.number for row in rows] == [1, 3, 4, 5]
    assert [getattr(row.text, "code", row.text) for row in rows] == [
        "One\u2028line.",
        "unreadable_row",
        "unreadable_row",
        "Last.",
    ]
    rows = rows_of([{"audio": "0.wav", "text": "a", "speaker": 7, "language": "de"}], {"language": "language"})
    assert (rows[0].speaker, rows[0].language) == ("7", "de")


def test_a_json_file_is_a_list(recordings):
    """A JSON list was read as lines of JSON."""
    path = recordings / "clips.json"
    path.write_text(json.dumps([{"audio": "1.wav", "text": "Hi."}]))
    assert rows_of(path)[0].audio == str(recordings / "1.wav")
    path.write_text('{"audio": "1.wav"}')
    with pytest.raises(ValueError, match="does not contain a list"):
        open_source(path)


@pytest.mark.parametrize("name", ["train_manifest.json", "clips.JSON", "clips.jsonl"])
@pytest.mark.parametrize("form", ["lines", "list", "pages"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_json_is_told_by_what_it_holds(recordings, name, form, mark):
    """NeMo's manifests, lines in a file named .json, were refused, and so was a list in a file named .jsonl."""
    content = [{"audio_filepath": f"{n}.wav", "text": TEXTS[n]} for n in range(3)]
    content[1]["id"] = "second"  # a column that the first row lacks
    written = {
        "lines": "\r\n".join(map(json.dumps, content)),
        "list": json.dumps(content),
        "pages": json.dumps(content, indent=2),
    }
    path = recordings / name
    path.write_bytes((mark + written[form]).encode())
    rows = rows_of(path)
    assert [(row.number, row.id, row.text) for row in rows] == list(
        zip([1, 2, 3], ["0", "second", "2"], TEXTS, strict=True)
    )


def test_json_of_one_row_and_of_none(recordings):
    """A manifest of one line is one object and was refused; other JSON had no clear error."""
    path = recordings / "manifest.json"
    path.write_text(json.dumps({"audio_filepath": "1.wav", "text": "Hi."}) + "\n")
    assert [row.text for row in rows_of(path)] == ["Hi."]
    path.write_text(json.dumps({"audio": "1.wav", "text": "Hi."}) + "\n{broken\n")
    assert [getattr(row.text, "code", row.text) for row in rows_of(path)] == ["Hi.", "unreadable_row"]
    for content in ('{"audio": {"0": "1.wav"}, "text": {"0": "Hi."}}', "null", '"text"', '{"data": []}'):
        path.write_text(content)
        with pytest.raises(
            ValueError, match=r"manifest\.json' does not contain a list; give a list of objects, or one object per line"
        ):
            open_source(path)
    for content in ("{broken\n{}", "[1, 2", "[" * 100_000):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"manifest\.json' is not valid JSON"):
            open_source(path)


def test_ljspeech(recordings):
    """LJSpeech's list has no header, ids of files in another folder, and the normalized text in column three."""
    (recordings / "wavs").mkdir()
    (recordings / "0.wav").rename(recordings / "wavs" / "LJ001-0001.wav")
    (recordings / "metadata.csv").write_text('LJ001-0001|In 1990, "so".|In nineteen ninety, "so".\n', "utf-8")
    (row,) = rows_of(recordings)
    assert (row.id, row.text) == ("wavs/LJ001-0001", 'In nineteen ninety, "so".')


def test_a_list_of_files_and_texts(recordings):
    """The file lists of other speech projects, file|text, were not recognized."""
    (recordings / "train.txt").write_text("1.wav|Hello, you.\n2.wav|Bye.\n")
    assert [row.text for row in rows_of(recordings / "train.txt")] == ["Hello, you.", "Bye."]


@pytest.mark.parametrize("source", ["recordings", "recordings/", "./recordings", "here"])
@pytest.mark.parametrize("kind", ["texts", "csv", "jsonl", "ids", "parquet", "table", "rows"])
def test_relative_paths(recordings, monkeypatch, kind, source):
    """For a folder given as `rec`, each clip was looked for in rec/rec, and none was found."""
    monkeypatch.chdir(recordings if source == "here" else recordings.parent)
    (recordings / "wavs").mkdir()
    for number in range(3):
        (recordings / f"{number}.wav").rename(recordings / "wavs" / f"{number}.wav")
    names = [f"wavs/{number}.wav" for number in range(3)]
    place = "." if source == "here" else source
    content = [{"audio": name, "text": text} for name, text in zip(names, TEXTS, strict=True)]
    given = place
    if kind == "texts":
        for name, text in zip(names, TEXTS, strict=True):
            (recordings / name).with_suffix(".txt").write_text(text, "utf-8")
    elif kind in ("csv", "table"):
        write_csv(recordings / "metadata.csv", [["audio", "text"], *(list(row.values()) for row in content)])
        given = f"{place.rstrip('/')}/metadata.csv" if kind == "table" else place
    elif kind == "jsonl":
        (recordings / "metadata.jsonl").write_text("\n".join(map(json.dumps, content)))
    elif kind == "ids":
        (recordings / "metadata.csv").write_text("".join(f"{n}|{text}\n" for n, text in enumerate(TEXTS)), "utf-8")
    elif kind == "parquet":
        datasets.Dataset.from_list(content).to_parquet(recordings / "clips.parquet")
    else:
        given = [row | {"audio": f"{place.rstrip('/')}/{row['audio']}"} for row in content]
    rows = rows_of(given)
    assert [row.text for row in rows] == TEXTS
    for number, row in enumerate(rows):
        np.testing.assert_array_equal(read_clip(row.audio)[0], read_clip(str(recordings / names[number]))[0])
        assert row.id == (f"{number + 1:06d}" if kind == "rows" else f"wavs/{number}")


def test_texts_beside_recordings(recordings):
    """A missing text file beside a recording ended the run, and not its row alone."""
    (recordings / "deeper").mkdir()
    (recordings / "2.wav").rename(recordings / "deeper" / "2.wav")
    for name in ("0", "deeper/2"):
        (recordings / f"{name}.txt").write_text(f"This is {name}.\n")
    rows = rows_of(recordings)
    assert [(row.source, row.number, row.id) for row in rows] == [
        ("0.wav", 1, "0"),
        ("1.wav", 1, "1"),
        ("deeper/2.wav", 1, "deeper/2"),
    ]
    assert rows[2].text == "This is deeper/2.\n"
    assert rows[1].text.code == "missing_text"
    (recordings / "1.txt").write_bytes(b"caf\xe9")
    assert rows_of(recordings)[1].text.code == "unreadable_text"
    assert "1.txt' is not in UTF-8" in str(rows_of(recordings)[1].text)
    (recordings / "1.txt").write_bytes("[S1] Grüße.".encode("utf-16"))
    assert rows_of(recordings)[1].text.code == "unreadable_text" and "UTF-16" in str(rows_of(recordings)[1].text)
    (recordings / "1.txt").write_bytes(b"\xef\xbb\xbf[S1] Hi.\r\n[S2] Oh.\r\n")
    assert rows_of(recordings)[1].text == "[S1] Hi.\n[S2] Oh.\n"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_of_another_system(recordings, form):
    """Of an archive of macOS, "café.txt" was "not beside café.wav", and a table found none of its recordings."""
    name, other = unicodedata.normalize(form, "é"), unicodedata.normalize("NFC" if form == "NFD" else "NFD", "é")
    (recordings / "0.wav").rename(recordings / f"{name}.wav")
    (recordings / f"{other}.TXT").write_text("Oui.")
    (row,) = (row for row in rows_of(recordings) if row.id == name)
    assert row.text == "Oui."
    (recordings / f"{name}.srt").write_text("1\n00:00:00,000 --> 00:00:00,500\nNon.\n")
    (recordings / f"{name}.srt").rename(recordings / f"{other}.srt")
    (row,) = (row for row in rows_of(recordings) if row.source == f"{other}.srt")
    assert row.text == "Non."
    write_csv(recordings / "metadata.csv", [["file_name", "text"], [f"{other}.wav", "Oui."]])
    assert [row.audio for row in rows_of(recordings)] == [str(recordings / f"{name}.wav")]


def test_two_texts_beside_a_recording(recordings):
    """Of two files that could be the text, one would be taken at random; one of exactly the name is the one."""
    for name in ("0.Txt", "0.TXT"):
        (recordings / name).write_text(name)
    assert rows_of(recordings)[0].text.code == "several_annotations"
    (recordings / "0.txt").write_text("Hello.")
    assert rows_of(recordings)[0].text == "Hello."


def test_tiers_of_nothing(recordings):
    """`--tier words` on recordings without TextGrids had no effect, and the whole texts were taken."""
    (recordings / "0.txt").write_text("Hello.")
    with pytest.raises(ValueError, match=r"`tiers` \(--tier\) are those of TextGrids, and 'recordings' has none"):
        open_source(recordings, tiers=["words"])


def test_metadata_in_several_folders(recordings):
    """Clips with the same file name in two folders were one clip."""
    for place in ("anna", "ben"):
        (recordings / place).mkdir()
        (recordings / f"{'01'[place == 'ben']}.wav").rename(recordings / place / "same.wav")
        write_csv(recordings / place / "metadata.csv", [["file_name", "text"], ["same.wav", f"I am {place}."]])
    rows = rows_of(recordings)
    assert [(row.source, row.id) for row in rows] == [
        ("anna/metadata.csv", "anna/same"),
        ("ben/metadata.csv", "ben/same"),
    ]


@pytest.fixture
def audio_dataset(recordings):
    """A dataset like those on the Hub, with an audio column and a column of classes."""
    rows = [{"audio": str(recordings / f"{n}.wav"), "transcript": TEXTS[n], "speaker": n % 2} for n in range(3)]
    features = datasets.Features(
        audio=datasets.Audio(),
        transcript=datasets.Value("string"),
        speaker=datasets.ClassLabel(names=["anna", "ben"]),
    )
    return datasets.Dataset.from_list(rows).cast(features)


@pytest.mark.parametrize("form", ["dataset", "iterable", "saved", "splits", "hub"])
def test_datasets(audio_dataset, recordings, tmp_path, monkeypatch, form):
    """Without torchcodec an audio column that decodes itself caused an ImportError in each row."""
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    options = {}
    if form == "iterable":
        source = audio_dataset.to_iterable_dataset()
    elif form == "saved":
        source = tmp_path / "saved"
        audio_dataset.save_to_disk(source)
    elif form == "splits":
        source, options = tmp_path / "splits", {"split": "train"}
        datasets.DatasetDict(train=audio_dataset, test=audio_dataset.select([0])).save_to_disk(source)
    elif form == "hub":

        def load_dataset(name, config, split):
            assert (name, config, split) == ("someone/clips", "en", None)
            return datasets.DatasetDict(train=audio_dataset)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        source, options = "someone/clips", {"config": "en"}
    else:
        source = audio_dataset
    opened = open_source(source, **options)
    rows = list(opened.rows)
    assert opened.num_rows == (None if form == "iterable" else 3)
    assert [(row.text, row.speaker) for row in rows] == list(zip(TEXTS, ["anna", "ben", "anna"], strict=True))
    for number, row in enumerate(rows):
        expected, rate = read_clip(str(recordings / f"{number}.wav"))
        samples, own_rate = read_clip(row.audio)
        assert own_rate == rate
        np.testing.assert_array_equal(samples, expected)


def test_a_relative_dataset(audio_dataset, recordings, monkeypatch):
    """A dataset at a relative path, or its audio, was not found from the working directory."""
    monkeypatch.chdir(recordings.parent)
    audio_dataset.save_to_disk("saved")
    monkeypatch.chdir(recordings)
    for number, row in enumerate(rows_of("../saved")):
        np.testing.assert_array_equal(read_clip(row.audio)[0], read_clip(f"{number}.wav")[0])


def test_parquet_holds_the_files(recordings, tmp_path):
    """Parquet files of the Hub contain the audio itself, which was looked for in files."""
    folder = tmp_path / "parquet"
    folder.mkdir()
    for part in range(2):
        rows = [{"audio": {"bytes": (recordings / f"{part}.wav").read_bytes(), "path": "a.wav"}, "text": TEXTS[part]}]
        datasets.Dataset.from_list(rows).to_parquet(folder / f"part-{part}.parquet")
    opened = open_source(folder)
    rows = list(opened.rows)
    assert [row.text for row in rows] == TEXTS[:2] and opened.num_rows == 2
    assert len({row.id for row in rows}) == 2, "the files are all called a.wav, and the rows all number 1"
    expected, _ = read_clip(str(recordings / "1.wav"))
    np.testing.assert_array_equal(read_clip(rows[1].audio)[0], expected)


def test_splits_have_to_be_chosen(audio_dataset):
    """Without a split, the test split was read as training data."""
    splits = datasets.DatasetDict(train=audio_dataset, test=audio_dataset)
    with pytest.raises(ValueError, match="'train', 'test'; choose one"):
        open_source(splits)
    with pytest.raises(ValueError, match="no split 'dev', but 'train', 'test'"):
        open_source(splits, split="dev")
    with pytest.raises(ValueError, match="has no splits"):
        open_source(audio_dataset, split="train")


def test_columns(recordings):
    """The error for a missing column did not name the columns that exist."""
    write_csv(recordings / "clips.csv", [["clip", "text", "words", "who"], ["0.wav", "no", "yes", "anna"]])
    with pytest.raises(ValueError, match=r"no audio column was found.*'clip', 'text', 'words', 'who'.*--audio-column"):
        open_source(recordings / "clips.csv")
    with pytest.raises(ValueError, match=r"no text column 'sentence'.*'clip', 'text', 'words', 'who'"):
        open_source(recordings / "clips.csv", {"audio": "clip", "text": "sentence"})
    columns = {"audio": "clip", "text": "words", "speaker": "who", "id": "words"}
    (row,) = rows_of(recordings / "clips.csv", columns)
    assert (row.text, row.speaker, row.id) == ("yes", "anna", "yes")


def test_a_text_that_is_cut_at_its_comma_is_rejected(recordings):
    """Without quotes, a comma cuts the text in two, and the model is trained on half a sentence."""
    (recordings / "metadata.csv").write_text("file_name,text\n0.wav,Well, yes.\n1.wav\n2.wav,Fine.\n")
    first, second, third = rows_of(recordings)
    assert first.text.code == "extra_cells" and "quotes" in str(first.text)
    assert second.text is None
    assert third.text == "Fine."


def test_a_quote_that_is_not_closed_is_no_text(recordings):
    """An unclosed quote read all rows that follow as one text."""
    (recordings / "metadata.csv").write_text('file_name,text\n0.wav,Yes.\n1.wav,"No.\n2.wav,Fine.\n')
    with pytest.raises(ValueError, match=r"after row 1 .*quote"):
        open_source(recordings)


def test_nothing_there(tmp_path):
    """A mistyped folder, or an empty one, was reported as a success."""
    with pytest.raises(FileNotFoundError, match=r"no file or folder '\./gone'"):
        open_source("./gone")
    with pytest.raises(
        FileNotFoundError, match="no file or folder 'someone/gone', and it cannot be loaded as a Hub dataset"
    ):
        open_source("someone/gone")
    with pytest.raises(ValueError, match="no clips in"):
        open_source(tmp_path)
    with pytest.raises(ValueError, match="is empty"):
        open_source([])
    with pytest.raises(ValueError, match="contains a str"):
        open_source(["a.wav"])
    (tmp_path / "latin.csv").write_bytes(b"file_name,text\na.wav,caf\xe9\n")
    with pytest.raises(ValueError, match="not in UTF-8"):
        open_source(tmp_path / "latin.csv")
    (tmp_path / "wide.csv").write_text("file_name,text\na.wav,Hi.\n", "utf-16")
    with pytest.raises(ValueError, match=r"wide\.csv' is not in UTF-8 \(it looks like UTF-16\); save it as UTF-8"):
        open_source(tmp_path / "wide.csv")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        open_source(tmp_path / "broken.parquet")
    (tmp_path / "notes.pdf").write_bytes(b"")
    with pytest.raises(ValueError, match="unknown suffix"):
        open_source(tmp_path / "notes.pdf")


def test_without_datasets_the_extra_is_named(monkeypatch):
    """Without `datasets` a ModuleNotFoundError did not say what to install."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r'pip install "dia-hf\[train\]"'):
        open_source([{"audio": "a.wav", "text": "Hi."}])


@given(
    cells=st.lists(
        st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\n\0"), min_size=1), min_size=1
    ),
    delimiter=st.sampled_from(",;"),
)
def test_whatever_a_csv_writer_writes_is_read(tmp_path_factory, cells, delimiter):
    """Delimiters and quotes within texts, in any script, were read wrongly."""
    path = tmp_path_factory.mktemp("csv") / "clips.csv"
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter).writerows([["audio", "text"], *(["a.wav", cell] for cell in cells)])
    path.write_bytes(file.getvalue().encode())
    assert [row.text for row in rows_of(path)] == cells
