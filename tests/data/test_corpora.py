"""Layouts of well-known corpora: a small tree of each, recognized, and prepared from files to codes."""

import json

import datasets
import pytest
import soundfile as sf

from data.inputs import TEXT
from dia_hf.data import PrepareConfig, load_prepared, prepare_dataset
from dia_hf.data.clips import read_clip
from dia_hf.data.sources import open_source

PLAIN = PrepareConfig(loudness=None, keep_silence=None)


@pytest.fixture
def tree(tmp_path, tone):
    """Write files below a folder, by their path: texts, or seconds of sound, each of its own pitch."""

    def write(files):
        for number, (name, content) in enumerate(files.items()):
            path = tmp_path / "tree" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, (int, float)):
                sf.write(path, tone(content, 16000, pitch=150 + 10 * number), 16000)
            else:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / "tree"

    return write


def manifest(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


KALDI = {"wav.scp": "a rec/a.wav\nb sox b.mp3 -t wav - |\n", "text": f"a-1 {TEXT}\na-2 {TEXT} Yes.\nb-1 No, it is.\n"}
TSV = "client_id\tpath\tsentence\tup_votes\n"

# Files, the layout in the report, options, and the rows as (id, text, speaker, or the code of their error).
LAYOUTS = {
    "nemo": (
        {
            "train_manifest.json": manifest(
                {"audio_filepath": "audio/a.wav", "offset": 0.0, "duration": 1.5, "text": TEXT},
                {"audio_filepath": "audio/a.wav", "offset": 1.5, "duration": 1.0, "text": TEXT},
                {"audio_filepath": "audio/a.wav", "offset": 9.0, "duration": 1.0, "text": TEXT},
            ),
            "audio/a.wav": 3.0,
        },
        "table: audio 'audio_filepath', text 'text'",
        {},
        [("audio/a@0.000-1.500", TEXT, None), ("audio/a@1.500-2.500", TEXT, None), "unclear_segment"],
    ),
    "common voice": (
        {
            "train.tsv": f'{TSV}c1\tcv_1.wav\t"Yes", {TEXT}\t2\nc2\tcv_2.wav\t{TEXT}\t2\n',
            "test.tsv": f"{TSV}c3\tcv_3.wav\t{TEXT}\t2\n",
            "clip_durations.tsv": "clip\tduration[ms]\ncv_1.wav\t1200\n",
            **{f"clips/cv_{number}.wav": 1.2 for number in (1, 2, 3)},
        },
        "Common Voice: audio 'path', text 'sentence', speaker 'client_id'",
        {"split": "train"},
        [("clips/cv_1", f'"Yes", {TEXT}', "c1"), ("clips/cv_2", TEXT, "c2")],
    ),
    "ljspeech": (
        {"metadata.csv": f"LJ1|12|Twelve. {TEXT}\nLJ2|a|{TEXT}\n", "wavs/LJ1.wav": 1.2, "wavs/LJ2.wav": 1.2},
        "table: audio 'file_name', text 'text'",
        {},
        [("wavs/LJ1", f"Twelve. {TEXT}", None), ("wavs/LJ2", TEXT, None)],
    ),
    "wav beside, backslashes": (
        {"list.csv": f"path,text\na.wav,{TEXT}\nsub\\b.wav,{TEXT}\n", "wav/a.wav": 1.2, "sub/b.wav": 1.2},
        "table: audio 'path', text 'text'",
        {},
        [("wav/a", TEXT, None), ("sub/b", TEXT, None)],
    ),
    "librispeech": (
        {
            "dev-clean/84/12/84-12.trans.txt": "84-12-0000 THIS IS WHAT IS SAID\n84-12-0001 AND THIS AS WELL\n",
            "dev-clean/84/12/84-12-0000.flac": 1.2,
            "dev-clean/84/12/84-12-0001.flac": 1.2,
            "train-clean-100/9/1/9-1.trans.txt": "9-1-0000 THIS IS WHAT IS SAID\n",
            "train-clean-100/9/1/9-1-0000.flac": 1.2,
        },
        "LibriSpeech: audio 'audio', text 'text', speaker 'speaker', session 'session'",
        {"split": "dev-clean"},
        [
            ("dev-clean/84/12/84-12-0000", "THIS IS WHAT IS SAID", "84"),
            ("dev-clean/84/12/84-12-0001", "AND THIS AS WELL", "84"),
        ],
    ),
    "libritts": (
        {
            "84/12/84_12_000001_000000.wav": 1.2,
            "84/12/84_12_000001_000000.normalized.txt": TEXT,
            "84/12/84_12_000001_000000.original.txt": "no",
            "84/12/84_12_000002_000000.normalized.txt": TEXT,
            "84/12/84_12.trans.tsv": f"84_12_000001_000000\tno\t{TEXT}\n",
        },
        "LibriTTS: audio 'audio', text 'text', speaker 'speaker', session 'session'",
        {},
        [("84/12/84_12_000001_000000", TEXT, "84"), "missing_file"],
    ),
    "vctk": (
        {
            "wav48_silence_trimmed/p225/p225_001_mic1.flac": 1.2,
            "wav48_silence_trimmed/p225/p225_001_mic2.flac": 1.2,
            "wav48_silence_trimmed/p226/p226_002_mic2.flac": 1.2,
            "wav48_silence_trimmed/p315/p315_003_mic1.flac": 1.2,
            "wav48_silence_trimmed/log.txt": "",
            "txt/p225/p225_001.txt": f"{TEXT}\n",
            "txt/p226/p226_002.txt": f"{TEXT}\n",
        },
        "VCTK: audio 'audio', text 'text', speaker 'speaker'",
        {},
        [
            ("wav48_silence_trimmed/p225/p225_001_mic1", f"{TEXT}\n", "p225"),
            ("wav48_silence_trimmed/p226/p226_002_mic2", f"{TEXT}\n", "p226"),
            "missing_text",
        ],
    ),
    "esd": (
        {
            "0011/0011.txt": f"\ufeff0011_000001\t{TEXT}\tNeutral\n0011_000351\t{TEXT}\tAngry\n0011_9\tA\tSad",
            "0011/Neutral/0011_000001.wav": 1.2,
            "0011/Angry/train/0011_000351.wav": 1.2,
            "0012/0012.txt": "0012_000001\tGrüße.\tSad\n".encode("latin-1"),
        },
        "ESD: audio 'audio', text 'text', speaker 'speaker'",
        {},
        [
            ("0011/Neutral/0011_000001", TEXT, "0011"),
            ("0011/Angry/train/0011_000351", TEXT, "0011"),
            "missing_file",
            "unreadable_text",
        ],
    ),
    "kaldi": (
        {
            **KALDI,
            "segments": "a-1 a 0.0 1.2\na-2 a 1.5 3.0\nb-1 b 0 1\n",
            "utt2spk": "a-1 A\na-2 B\n",
            "rec/a.wav": 3.0,
        },
        "Kaldi: audio 'audio', text 'text', speaker 'speaker', id 'id', session 'session'",
        {},
        [("a-1", TEXT, "A"), ("a-2", f"{TEXT} Yes.", "B"), "audio_not_path"],
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(processor, tree, tmp_path, name):
    """The folder of a corpus was refused, or its recordings had no text, other texts, or no speakers."""
    files, layout, options, expected = LAYOUTS[name]
    source = tree(files)
    rows = list(open_source(source, **options).rows)
    for row, wanted in zip(rows, expected, strict=True):
        error = next((part for part in (row.text, row.audio) if hasattr(part, "code")), None)
        if isinstance(wanted, str) and wanted == "unclear_segment":
            continue  # found when the recording is read
        assert wanted == (getattr(error, "code", None) or (row.id, row.text, row.speaker))
    report = prepare_dataset(source, tmp_path / "x", processor, PLAIN, **options)
    assert report.layout.startswith(layout) and f"source: {layout}" in str(report)
    assert [clip.id for clip in report.clips] == [row[0] for row in expected if not isinstance(row, str)]
    assert [issue.code for issue in report.rejected] == [row for row in expected if isinstance(row, str)]
    assert load_prepared(tmp_path / "x")[0]["speaker"][:] == [row[2] for row in expected if not isinstance(row, str)]


@pytest.mark.parametrize("name", ["common voice", "librispeech"])
def test_splits_of_a_corpus(tree, name):
    """The test split of a corpus was read as training data, or a mistyped one as all of it."""
    source, first = tree(LAYOUTS[name][0]), {"common voice": "test", "librispeech": "dev-clean"}[name]
    with pytest.raises(ValueError, match=rf"tree' has .*'{first}'.*choose one, or several joined by '\+'.*--split"):
        open_source(source)
    with pytest.raises(ValueError, match=r"has no split 'tset', but"):
        open_source(source, split="tset")
    second = {"common voice": "train", "librispeech": "train-clean-100"}[name]
    assert len(list(open_source(source, split=f"{first}+{second}").rows)) == 3


def test_emotions_become_tags(processor, tree, tmp_path):
    """The emotions of ESD could not be used for tags."""
    source = tree(LAYOUTS["esd"][0])
    prepare_dataset(source, tmp_path / "x", processor, PrepareConfig(language_column="emotion", loudness=None))
    assert load_prepared(tmp_path / "x")[0]["text"][:] == [f"[Neutral] [S1] {TEXT}", f"[Angry] [S1] {TEXT}"]


@pytest.mark.parametrize(
    "path",
    ["spk/a.wav", "/data/old/corpus/spk/a.wav", "D:\\corpus\\spk\\a.wav", "spk\\a.wav", "a.wav"],
)
def test_an_audio_root(tree, tmp_path, tone, path):
    """A table of another machine, or beside another copy of its recordings, found none of them."""
    source = tree({"tables/all.jsonl": json.dumps({"path": path, "text": TEXT})})
    for number, place in enumerate(("root/spk", "root/wavs")):
        (tmp_path / place).mkdir(parents=True)
        sf.write(tmp_path / place / "a.wav", tone(1.0 + number, 16000), 16000)
    (row,) = open_source(source / "tables" / "all.jsonl", audio_root=tmp_path / "root").rows
    assert row.audio == str(tmp_path / "root" / ("wavs" if path == "a.wav" else "spk") / "a.wav")
    with pytest.raises(FileNotFoundError, match=r"no folder '.*gone', which `audio_root`"):
        open_source(source / "tables" / "all.jsonl", audio_root=tmp_path / "gone")


def test_a_folder_that_is_no_corpus(tree):
    """The error for an unknown table in a folder named neither its columns nor the options."""
    source = tree({"list.csv": "clip,words\na.wav,Hello.\n", "notes.txt": "x"})
    with pytest.raises(
        ValueError, match=r"'list\.csv' has the columns \['clip', 'words'\].*--audio-column.*--audio-root"
    ):
        open_source(source)
    tree({"a.wav": 1.0})
    rows = list(open_source(source, {"audio": "clip", "text": "words"}).rows)
    assert [(row.id, row.text) for row in rows] == [("a", "Hello.")]


@pytest.mark.parametrize(
    "files",
    [
        {"wav.scp": b"\xff\xfe\0", "text": "a b\n"},
        {"wav.scp": "a\n", "text": "a b\n"},
        {"wav.scp": "a /dev/zero\n", "text": "a b\n"},
        {"wav.scp": "a a.wav\n", "text": "a b\n", "segments": "a a 0\n"},
        {"wav.scp": "a a.wav\n", "text": "a b\n", "segments": "a a x y\n"},
        {"1/2/1-2.trans.txt": b"1-2-3 caf\xe9\n"},
        {"1/2/1-2.trans.txt": "1-2-3\n"},
        {"1/2/1_2_3.normalized.txt": b"\xff"},
        {"wav48/p1/p1_1.wav": "RIFF", "txt/p1/p1_1.txt": b"\xff"},
        {"wav48/p1/p1_1.wav": "RIFF", "txt/p1/p1_1.txt": TEXT},
        {"0011/0011.txt": "0011_1\ta\tb\tc\td\n"},
        {"train.tsv": "path\tsentence\n" + "../" * 5000 + "a.wav\tHello.\n"},
    ],
)
def test_damaged_corpora(processor, tree, tmp_path, files):
    """A truncated or wrong file of a corpus ended in a traceback, or was taken for training data."""
    with pytest.raises(ValueError, match=r"none of the \d rows of 'tree' can be used: \d × \w+ \(row 1: "):
        prepare_dataset(tree(files), tmp_path / "x", processor)


def test_a_line_that_names_a_place_outside(tree):
    """One line with an absolute path made all lines after it unusable, as if the file were not text."""
    source = tree({"1/2/1-2.trans.txt": f"/1-2-0 {TEXT}\n1-2-1 {TEXT}\n", "1/2/1-2-1.wav": 1.0})
    first, second = open_source(source).rows
    assert first.audio.code == "missing_file" and second.id == "1/2/1-2-1"


def test_columns_that_are_not_decoded(recordings, monkeypatch):
    """Columns of undecoded bytes and paths needed torchcodec, or were taken for texts."""
    monkeypatch.setitem(__import__("sys").modules, "torchcodec", None)
    content = [
        {"audio": {"bytes": (recordings / "0.wav").read_bytes(), "path": "gone.wav"}, "text": TEXT},
        {"audio": {"bytes": None, "path": str(recordings / "1.wav")}, "text": TEXT},
    ]
    of_type = datasets.Dataset.from_list(content).cast_column("audio", datasets.Audio(decode=False))
    for source in (content, datasets.Dataset.from_list(content), of_type):
        rows = list(open_source(source).rows)
        assert [read_clip(row.audio)[0].shape for row in rows] == [(1, 1600), (1, 1600)]
