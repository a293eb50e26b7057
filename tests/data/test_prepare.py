"""From recordings to a dataset of codes: kept and rejected clips, the reasons, and the cost of a second run."""

import importlib.util
import json
import shutil
import warnings
from dataclasses import replace

import datasets
import numpy as np
import pytest
import soundfile as sf
import torch

from data.inputs import RATE, TEXT, sound, write_rows
from dia_hf import MINIATURE, DiaProcessor
from dia_hf.audio.dac import DacCodec
from dia_hf.data import PrepareConfig, load_prepared, prepare_dataset
from dia_hf.tokenization_dia import DiaTokenizer
from kills import kill_everywhere, stunned
from phone_recordings import encode_recording

COLUMNS = ["id", "text", "codes", "seconds", "speaker", "source", "row", "speakers", "session"]


def without_a_plot(*args):
    raise ImportError


def test_the_dataset(processor, make_source, tmp_path):
    """The dataset's columns differed from the collator's, texts had no tags, or codes had delay or special tokens."""
    source, dest = make_source(TEXT, f"[S2] {TEXT}"), tmp_path / "prepared"
    report = prepare_dataset(source, dest, processor)
    dataset, info = load_prepared(dest)
    assert dataset.column_names == COLUMNS == datasets.load_from_disk(str(dest)).column_names
    assert dataset["text"][:] == [f"[S1] {TEXT}", f"[S2] {TEXT}"]
    assert [dataset[0][name] for name in ("id", "speaker", "source", "row")] == ["00", None, "metadata.csv", 1]
    codes = np.array(dataset[0]["codes"])
    assert codes.shape == (104, 9) and codes.min() >= 0 and codes.max() < 1024  # 1.2 s at 86.13 frames a second
    assert dataset.features["codes"].dtype == "int16"
    assert info["num_clips"] == len(dataset) == 2
    assert info["codec"] == {
        "fingerprint": processor.codec.fingerprint,
        "sampling_rate": 44100,
        "hop_length": 512,
        "num_codebooks": 9,
    }
    assert info["speaker_tokens"] == ["[S1]", "[S2]"]
    assert info["seconds"] == pytest.approx(2.4) == pytest.approx(report.seconds)
    files = {"rejected.jsonl", "warnings.jsonl", "report.json", "report.md", "report.png", "prepared.json"}
    assert files <= {path.name for path in dest.iterdir()}
    assert json.loads((dest / "report.json").read_text()) == report.to_dict()
    assert not list(dest.glob(".*"))


def test_without_pyloudnorm_it_warns_and_goes_on(processor, make_source, tmp_path, monkeypatch):
    """pyloudnorm is in another extra than training's packages; without it the run failed."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyloudnorm" else find_spec(name))
    with pytest.warns(UserWarning, match=r'pip install "dia-hf\[audio\]"'):
        report = prepare_dataset(make_source(TEXT), tmp_path / "x", processor)
    assert report.clips[0].loudness is None
    assert load_prepared(tmp_path / "x")[1]["settings"]["loudness"] is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settings = PrepareConfig(loudness=None)
        assert prepare_dataset(tmp_path / "recordings", tmp_path / "x", processor, settings).num_encoded == 0


# The invalid part of a row: its code, and a word of the message.
BAD = {
    "silence": ("silent", "-60 dBFS"),
    "hiss": ("silent", "-60 dBFS"),
    "nan": ("nan", "1 of 44100 samples"),
    "empty": ("empty_text", "empty"),
    "only-tag": ("empty_text", "no words"),
    "3000-bytes": ("text_too_long", "3002 ids"),
    "missing": ("missing_file", "missing.wav"),
    "corrupt": ("unreadable_audio", "cannot be read"),
    "no-samples": ("unreadable_audio", ""),
    "path-as-text": ("text_is_path", "good.wav"),
    "number-as-text": ("text_is_number", "12.5"),
    "text-as-audio": ("audio_not_path", "What was said here"),
    "ten-minutes": ("too_long", "600.0 s"),
    "long": ("too_long", "61.0 s"),
    "short": ("too_short", "0.30 s"),
    "good": ("duplicate_id", "row 1"),
    "babble": ("text_too_long_for_audio", "per second"),
    "one-word": ("text_too_short_for_audio", "per second"),
    "third": ("unknown_tag", "--extra-tag"),
    "control": ("unreadable_text", "U+0003"),
}


@pytest.fixture(scope="module")
def bad_run(processor, tmp_path_factory):
    """One run over a folder in which nearly every row is invalid."""
    folder, dest = tmp_path_factory.mktemp("bad"), tmp_path_factory.mktemp("prepared") / "x"
    time = np.arange(2 * RATE) / RATE
    wave = (0.2 * np.sin(1400 * time) * (0.6 + 0.4 * np.sin(19 * time))).astype(np.float32)
    rows = [["good.wav", TEXT, "good"]]
    sf.write(folder / "good.wav", wave, RATE)

    def add(name, samples=wave, text=TEXT, rate=RATE, file=None, **options):
        if file is None and samples is not None:
            sf.write(folder / f"{name}.wav", samples, rate, **options)
        rows.append([file or f"{name}.wav", text, name])

    add("silence", np.zeros(RATE))
    add("hiss", 1e-4 * np.random.default_rng(0).standard_normal(RATE))
    add("nan", np.where(np.arange(RATE) == 9, np.nan, wave[:RATE]), subtype="FLOAT")
    add("phone", wave[::6], rate=8000)
    add("empty", text="  ")
    add("only-tag", text="[S2] ")
    add("3000-bytes", text="é" * 1500)
    add("missing", None)
    (folder / "corrupt.wav").write_bytes(b"RIFF, or so it says")
    add("corrupt", None)
    add("no-samples", np.zeros(0))
    add("path-as-text", text="good.wav")
    add("number-as-text", text="12.5")
    add("text-as-audio", file="What was said here.")
    add("ten-minutes", np.tile(wave[::5], 300), text="Ten minutes. " * 70, rate=8820)
    add("long", np.tile(wave[::5], 31)[: 61 * 8820], text="A minute. " * 70, rate=8820)
    add("short", wave[: RATE * 3 // 10])
    add("good", file="good.wav")
    add("clipped", np.clip(20 * wave, -1, 1))
    add("babble", text="Far too much for so short a clip. " * 10)
    add("one-word", text="No.")
    add("third", text="[S3] And who am I?")
    add("noise", text="[noise] It is loud here.")
    add("control", text="Some \3 byte.")
    add("last")
    write_rows(folder, rows, ("file_name", "text", "id"))
    report = prepare_dataset(folder, dest, processor)
    return {row[2]: number for number, row in reversed(list(enumerate(rows, start=1)))}, report, dest


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_rejected(bad_run, name):
    """A rejected row was not reported with file, row and reason, in memory or on disk, or ended the run."""
    places, report, dest = bad_run
    notices = [notice for notice in report.rejected if notice.id == name]
    lines = [json.loads(line) for line in (dest / "rejected.jsonl").read_text("utf-8").splitlines()]
    assert [vars(notice) for notice in notices] == [line for line in lines if line["id"] == name]
    (notice,) = notices
    row = places[name] if name != "good" else 18
    assert (notice.source, notice.row, notice.code) == ("metadata.csv", row, BAD[name][0])
    assert BAD[name][1] in notice.reason


@pytest.mark.parametrize("num_proc", [1, 2])
def test_an_id_of_a_rejected_row(processor, tone, tmp_path, num_proc):
    """A duplicate id of a rejected row did not name that row, so the clip with the id could not be found."""
    short, long = (sound(tone(seconds, RATE)) for seconds in (0.2, 1.2))
    rows = [
        (short, "x", TEXT),
        (long, "x", TEXT),
        (long, "y", TEXT),
        (long, "y", TEXT),
        (long, "z", ""),
        (long, "z", TEXT),
    ]
    clips = [{"audio": audio, "id": name, "text": text} for audio, name, text in rows]
    report = prepare_dataset(clips, tmp_path / "prepared", processor, num_proc=num_proc)
    assert [(notice.row, notice.reason) for notice in report.rejected if notice.code == "duplicate_id"] == [
        (2, "row 1 has the same id, 'x', and was rejected."),
        (4, "row 3 has the same id, 'y'."),
    ]
    assert [(clip.id, clip.row) for clip in report.clips] == [("y", 3), ("z", 6)]


def test_the_rest_goes_on(bad_run):
    """A clip with a warning was dropped, or its warning was not reported."""
    places, report, dest = bad_run
    dataset, _ = load_prepared(dest)
    assert dataset["id"][:] == ["good", "phone", "clipped", "noise", "last"]
    assert len(report.rejected) == len(BAD)
    assert report.num_rows == len(BAD) + 5
    warned = [json.loads(line) for line in (dest / "warnings.jsonl").read_text("utf-8").splitlines()]
    assert [(line["code"], line["row"]) for line in warned] == [
        ("low_sampling_rate", places["phone"]),
        ("clipping", places["clipped"]),
        ("unknown_brackets", places["noise"]),
    ]
    assert "8000 Hz" in warned[0]["reason"] and warned[0]["audio"].endswith("phone.wav")


def test_segments_of_one_recording(processor, tone, tmp_path, num_encoded):
    """Three segments of an hour became the whole hour, once, and two duplicates."""
    waves = [tone(1.0, 16000, pitch) for pitch in (150, 200, 250)]
    sf.write(tmp_path / "long.wav", np.concatenate(waves), 16000, subtype="FLOAT")
    rows = [{"audio_filepath": "long.wav", "offset": float(n), "duration": 1.0, "text": TEXT} for n in range(3)]
    rows.append({"audio_filepath": "long.wav", "offset": 2.5, "duration": 9.0, "text": TEXT})
    (tmp_path / "manifest.json").write_text("\n".join(map(json.dumps, rows)))
    settings = PrepareConfig(loudness=None, keep_silence=None)
    report = prepare_dataset(tmp_path / "manifest.json", tmp_path / "x", processor, settings)
    assert [(clip.id, clip.seconds, clip.seconds_before) for clip in report.clips] == [
        (f"long@{n}.000-{n + 1}.000", pytest.approx(1.0, abs=1e-3), pytest.approx(1.0, abs=1e-3)) for n in range(3)
    ]
    dataset, _ = load_prepared(tmp_path / "x")
    for row, wave in zip(dataset, waves, strict=True):
        (waveform,) = processor.feature_extractor.load_waveforms(wave, 16000)
        (expected,) = processor.codec.encode([torch.from_numpy(waveform)])
        assert torch.equal(torch.tensor(row["codes"]), expected)
    (notice,) = report.rejected
    assert (notice.row, notice.code, notice.audio) == (4, "unclear_segment", str(tmp_path / "long.wav"))
    assert prepare_dataset(tmp_path / "manifest.json", tmp_path / "x", processor, settings).num_encoded == 0


def test_nothing_to_join_is_told(processor, make_source, tmp_path):
    """`--join-turns` on a table without sessions did nothing, and said nothing."""
    settings = PrepareConfig(loudness=None, join_turns=True)
    report = prepare_dataset(make_source(TEXT), tmp_path / "x", processor, settings)
    assert any("nothing was joined (--join-turns)" in note for note in report.notes)


def test_nothing_usable_is_an_error(processor, make_source, tmp_path):
    """An empty dataset was written, and failed hours later in a trainer without a reason."""
    source = make_source("1", "2", "")
    with pytest.raises(
        ValueError, match=r"none of the 3 rows .*2 × text_is_number \(row 1: .*1 × empty_text"
    ) as caught:
        prepare_dataset(source, tmp_path / "x", processor)
    assert "rejected.jsonl" in str(caught.value)
    assert len((tmp_path / "x" / "rejected.jsonl").read_text().splitlines()) == 3
    with pytest.raises(ValueError, match="not complete"):
        load_prepared(tmp_path / "x")
    write_rows(source, [])
    with pytest.raises(ValueError, match="has no rows"):
        prepare_dataset(source, tmp_path / "x", processor)


def test_a_second_run_encodes_only_what_is_new(processor, make_source, tmp_path, num_encoded):
    """One corrected typing error encoded all clips again."""
    source, dest = make_source(TEXT, TEXT, TEXT), tmp_path / "x"
    prepare_dataset(source, dest, processor)
    before = [list(row["codes"]) for row in load_prepared(dest)[0]]
    assert num_encoded == [3]
    make_source("It was this that was said.", TEXT, TEXT, TEXT)
    report = prepare_dataset(source, dest, processor)
    assert num_encoded == [4] and report.num_encoded == 1
    dataset, info = load_prepared(dest)
    assert info["num_clips"] == 4
    assert dataset[0]["text"] == "[S1] It was this that was said."
    assert [list(row["codes"]) for row in dataset][:3] == before


def test_goes_on_after_it_was_stopped(processor, make_source, tmp_path, monkeypatch, num_encoded):
    """After Ctrl-C the encoded clips were lost, or the incomplete folder was taken for complete."""
    monkeypatch.setattr("dia_hf.data.encoding._CLIPS_PER_JOB", 2)
    source, dest = make_source(*[TEXT] * 5), tmp_path / "x"
    with monkeypatch.context() as patch:
        encode = DacCodec.encode

        def stop(self, waveforms):
            if num_encoded[0] >= 4:
                raise KeyboardInterrupt
            return encode(self, waveforms)

        patch.setattr(DacCodec, "encode", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare_dataset(source, dest, processor)
    assert num_encoded == [4]
    with pytest.raises(ValueError, match="not complete; run `dia-hf prepare` again"):
        load_prepared(dest)
    prepare_dataset(source, dest, processor)
    assert num_encoded == [5]
    prepare_dataset(source, tmp_path / "y", processor)
    assert load_prepared(dest)[0].to_list() == load_prepared(tmp_path / "y")[0].to_list()


def test_a_run_that_fails_leaves_the_old_dataset(processor, make_source, tmp_path, monkeypatch):
    """An update that a full disk stops lost the existing dataset."""
    source, dest = make_source(TEXT), tmp_path / "x"
    prepare_dataset(source, dest, processor)
    make_source(TEXT, TEXT)

    def fail(*args):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("dia_hf.data.encoding.Cache.read_codes", fail)
        with pytest.raises(OSError, match="full"):
            prepare_dataset(source, dest, processor)
    assert len(load_prepared(dest)[0]) == 1
    assert not list(dest.glob(".new-*"))
    prepare_dataset(source, dest, processor)
    assert len(load_prepared(dest)[0]) == 2


@pytest.mark.parametrize("is_update", [True, False])
def test_killed_anywhere(processor, make_source, tmp_path, monkeypatch, is_update):
    """A killed update left neither the old nor the new dataset, and a first run refused its own folder."""
    monkeypatch.setattr("dia_hf.data.prepare.plot_report", without_a_plot)
    source, dest = make_source(TEXT, TEXT), tmp_path / "x"
    make_source(TEXT)
    prepare_dataset(source, tmp_path / "old", processor)
    make_source(TEXT, TEXT)
    prepare_dataset(source, tmp_path / "new", processor)
    wanted = files_of(tmp_path / "new")
    codes = list(tmp_path.glob("new/cache/*/*"))

    def prepare():
        shutil.rmtree(dest, ignore_errors=True)
        if is_update:
            shutil.copytree(tmp_path / "old", dest)
            for path in codes:  # encoded clips are tested separately
                (dest / "cache" / path.parent.name).mkdir(exist_ok=True)
                shutil.copy(path, dest / "cache" / path.parent.name)

    lengths = set()
    for number in kill_everywhere(prepare, lambda: prepare_dataset(source, dest, processor), stunned):
        if is_update:
            lengths.add(len(load_prepared(dest)[0]["id"]))
            assert load_prepared(dest)[1]["num_clips"] == len(load_prepared(dest)[0]) in (1, 2)
            assert len(datasets.load_from_disk(str(dest))["id"]) in (1, 2)
        elif number > 12:
            break
        if number % 8 == 0 or (not is_update and number % 2 == 0):
            prepare_dataset(source, dest, processor)
            assert files_of(dest) == wanted
    assert lengths == ({1, 2} if is_update else set())


def files_of(folder):
    """Return the content of a prepared folder, without the number of newly encoded clips."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "report" not in path.name
    }


def test_the_same_data_are_the_same_bytes(processor, make_source, tmp_path):
    """state.json held a random number: with data under version control, each run looked like a change."""
    source, dest = make_source(TEXT, TEXT), tmp_path / "x"
    prepare_dataset(source, dest, processor)
    before = files_of(dest)
    prepare_dataset(source, dest, processor)
    prepare_dataset(source, tmp_path / "y", processor)
    assert files_of(dest) == before == files_of(tmp_path / "y")
    assert sum(path.suffix == ".arrow" for path in before) == 1
    fingerprint = load_prepared(dest)[0]._fingerprint
    make_source(f"{TEXT} Or not.", TEXT)
    prepare_dataset(source, dest, processor)
    assert load_prepared(dest)[0]._fingerprint != fingerprint
    assert sum(path.suffix == ".arrow" for path in files_of(dest)) == 1


def test_two_prepare_one_folder(processor, make_source, tmp_path, monkeypatch):
    """Of two concurrent runs each removed the folder that the other was about to rename."""
    source, dest = make_source(TEXT), tmp_path / "x"
    encode = DacCodec.encode

    def encode_both(self, waveforms):
        with pytest.raises(ValueError, match="another process is preparing"):
            prepare_dataset(source, dest, processor)
        return encode(self, waveforms)

    monkeypatch.setattr(DacCodec, "encode", encode_both)
    prepare_dataset(source, dest, processor)
    assert len(load_prepared(dest)[0]) == 1
    assert not list(dest.glob(".*"))


def test_a_source_within_the_folder(processor, make_source, tmp_path):
    """A list of rejected clips, given as the source of a new run, was overwritten while it was read."""
    source, dest = make_source(TEXT), tmp_path / "x"
    prepare_dataset(source, dest, processor)
    row = json.dumps({"audio": str(source / "00.wav"), "text": TEXT})
    (dest / "rejected.jsonl").write_text(row)
    with pytest.raises(ValueError, match=r"'.*x' contains the source '.*rejected\.jsonl'"):
        prepare_dataset(str(dest / "rejected.jsonl"), dest, processor)
    assert (dest / "rejected.jsonl").read_text() == row


def test_a_folder_of_somebody_elses_is_left_alone(processor, make_source, tmp_path):
    """DEST, mistyped as the folder of the recordings, was overwritten."""
    source = make_source(TEXT)
    before = sorted(path.name for path in source.iterdir())
    with pytest.raises(ValueError, match="was not made by"):
        prepare_dataset(source, source, processor)
    assert sorted(path.name for path in source.iterdir()) == before
    with pytest.raises(ValueError, match="is a file"):
        prepare_dataset(source, source / "00.wav", processor)
    with pytest.raises(ValueError, match="no text column was found"):
        prepare_dataset([{"audio": "a.wav"}], tmp_path / "x", processor)
    assert not (tmp_path / "x").exists()
    with pytest.raises(ValueError, match="holds no prepared clips"):
        load_prepared(source)
    prepare_dataset(source, tmp_path / "x", processor)
    with pytest.raises(ValueError, match="is a prepared dataset"):
        prepare_dataset(tmp_path / "x", tmp_path / "y", processor)
    path = tmp_path / "x" / "prepared.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 2}))
    with pytest.raises(ValueError, match=r"version 2 .*version 1"):
        load_prepared(tmp_path / "x")


def test_speakers_and_languages(processor, make_source, tmp_path):
    """A speaker's tag or the language before it was missing, or the tag ids differed from the tokenizer's."""
    rows = [(TEXT, "anna", "nl"), (TEXT, "ben", ""), (f"[S1] {TEXT}", "ben", "[de]"), (TEXT, "carl", "nl")]
    source = make_source(*rows, header=("file_name", "text", "speaker", "lang"))
    settings = PrepareConfig(speaker_tags={"anna": "[S1]", "ben": "[S3]"}, extra_tags=["[S3]"], language_column="lang")
    report = prepare_dataset(source, tmp_path / "x", processor, settings)
    dataset, info = load_prepared(tmp_path / "x")
    assert dataset["text"][:] == [f"[nl] [S1] {TEXT}", f"[S3] {TEXT}", f"[de] [S1] {TEXT}"]
    assert dataset["speaker"][:] == ["anna", "ben", "ben"]
    assert info["speaker_tokens"] == ["[S1]", "[S2]", "[S3]"]
    assert info["language_tokens"] == {"[nl]": 4, "[de]": 5}
    tags = {name: info[name] for name in ("speaker_tokens", "language_tokens")}
    assert DiaTokenizer(**tags)(dataset[2]["text"])["input_ids"][:3] == [5, 32, 1]
    assert [(notice.row, notice.code) for notice in report.rejected] == [(4, "speaker_without_tag")]
    assert report.speakers == {"ben": (2, pytest.approx(2.4)), "anna": (1, pytest.approx(1.2))}
    many = [(TEXT, "anna", f"l{number}") for number in range(7)]
    make_source(*many, header=("file_name", "text", "speaker", "lang"))
    with pytest.raises(ValueError, match="more than the 8 tags"):
        prepare_dataset(source, tmp_path / "x", processor, replace(settings, speaker_tags={}))


def test_recordings_of_telephones(processor, tone, tmp_path):
    """Memos of a telephone were rejected one by one as unreadable; or a segment of one was that of the wrong place."""
    source = tmp_path / "memos"
    source.mkdir()
    (source / "a.m4a").write_bytes(encode_recording(tone(1.2, 44100), "ipod", "aac", 44100))
    (source / "b.webm").write_bytes(encode_recording(tone(1.2, 48000), "webm", "libopus", 48000))
    (source / "c.mp4").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(99))
    for name in "abc":
        (source / f"{name}.txt").write_text(TEXT)
    report = prepare_dataset(source, tmp_path / "x", processor)
    assert [clip.id for clip in report.clips] == ["a", "b"]
    assert [clip.seconds_before for clip in report.clips] == pytest.approx([1.2, 1.2], abs=0.001)
    assert [(issue.id, issue.code) for issue in report.rejected] == [("c", "unreadable_audio")]
    rows = [{"audio": str(source / "a.m4a"), "text": TEXT, "start": 0.1, "end": 1.0}]
    segments = prepare_dataset(rows, tmp_path / "y", processor)
    assert segments.clips[0].seconds_before == pytest.approx(0.9, abs=0.001)


def test_tags_with_their_bytes(processor, make_source, tmp_path):
    """Data for a fine-tune with a language at byte 14 were prepared with byte 3."""
    source = make_source((TEXT, "nl"), (f"[S3] {TEXT}", "de"), header=("file_name", "text", "lang"))
    settings = PrepareConfig(extra_tags={"[S3]": 30, "[nl]": 14, "[whisper]": None}, language_column="lang")
    prepare_dataset(source, tmp_path / "x", processor, settings)
    dataset, info = load_prepared(tmp_path / "x")
    assert info["speaker_tokens"] == {"[S1]": 1, "[S2]": 2, "[S3]": 30}
    assert info["language_tokens"] == {"[whisper]": 3, "[de]": 4, "[nl]": 14}
    assert dataset["text"][:] == [f"[nl] [S1] {TEXT}", f"[de] [S3] {TEXT}"]
    path = tmp_path / "x" / "prepared.json"
    path.write_text(path.read_text().replace('"[nl]": 14', '"[nl]": "14"'))
    with pytest.raises(ValueError, match=r"`language_tokens` is .*must be tags with ids"):
        load_prepared(tmp_path / "x")


@pytest.mark.parametrize(
    "wrong",
    [
        {"loudness": 3.0},
        {"keep_silence": -1.0},
        {"min_seconds": 3.0, "max_seconds": 2.0},
        {"min_characters_per_second": float("nan")},
        {"speaker_tags": {"anna": "S1"}},
        {"extra_tags": ["[S 3]"]},
    ],
)
def test_settings_that_cannot_be_right(wrong):
    """An invalid setting was reported after the encoding."""
    with pytest.raises(ValueError, match=r"must be|is not a tag"):
        PrepareConfig(**wrong)


def test_arguments_that_cannot_be_right(processor, tmp_path):
    rows = [{"audio": "a.wav", "text": TEXT}]
    with pytest.raises(ValueError, match="`num_proc` is 0"):
        prepare_dataset(rows, tmp_path / "x", processor, num_proc=0)
    settings = PrepareConfig(speaker_tags={"anna": "[S3]"})
    with pytest.raises(ValueError, match=r"'anna' the tag '\[S3\]', but the tags are \[S1\], \[S2\]; .*--extra-tag"):
        prepare_dataset(rows, tmp_path / "x", processor, settings)


def test_the_data_say_their_model(tmp_path):
    """`finetune` could not know which model the data were prepared for."""
    sound = {"array": 0.2 * np.sin(np.arange(16000) / 20), "sampling_rate": 16000}
    prepare_dataset([{"audio": sound, "text": "Hello there."}], tmp_path, DiaProcessor.from_pretrained(MINIATURE))
    assert load_prepared(tmp_path)[1]["model"] == "miniature"
