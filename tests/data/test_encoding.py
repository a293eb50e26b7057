"""Codes of recordings: loudness, silence, the cache, and encoding in several processes."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile as sf
import torch

from data.inputs import RATE, TEXT, sound
from dia_hf.audio.dac import DacCodec
from dia_hf.audio.effects import measure_loudness
from dia_hf.data import PrepareConfig, load_prepared, prepare_dataset


def test_codes_are_those_of_the_processor(processor, tone, tmp_path):
    """An unchanged clip had other codes than from the processor: another mono mix or resampling."""
    wave = tone(1.0, 48000)
    settings = PrepareConfig(loudness=None, keep_silence=None)
    prepare_dataset(
        [{"audio": sound(np.stack([wave, wave]), 48000), "text": TEXT}], tmp_path / "x", processor, settings
    )
    ours = load_prepared(tmp_path / "x")[0][0]["codes"]
    (waveform,) = processor.feature_extractor.load_waveforms([wave], 48000)
    (expected,) = processor.codec.encode([torch.from_numpy(waveform)])
    assert torch.equal(torch.tensor(ours), expected)


def test_loudness_and_silence(processor, tone, tmp_path, monkeypatch):
    """Clips differed in loudness, or a quiet clip was trimmed before its loudness was normalized."""
    heard = []
    encode = DacCodec.encode
    monkeypatch.setattr(DacCodec, "encode", lambda self, waves: heard.extend(waves) or encode(self, waves))
    padded = np.concatenate([np.zeros(RATE), 0.01 * tone(1.0, RATE), np.zeros(RATE)])
    rows = [{"audio": sound(padded), "text": TEXT}, {"audio": sound(0.8 * tone(1.2, RATE)), "text": TEXT}]
    report = prepare_dataset(rows, tmp_path / "x", processor)
    assert [len(wave) / RATE for wave in heard] == pytest.approx([1.2, 1.2], abs=0.03)
    for wave in heard:
        assert measure_loudness(wave.numpy(), RATE) == pytest.approx(-23, abs=0.7)  # few blocks, at such a length
    assert report.clips[0].seconds_before == pytest.approx(3.0)
    assert report.clips[0].loudness == pytest.approx(report.clips[1].loudness - 38, abs=1)


def test_nothing_but_an_offset_is_silent(processor, tone, tmp_path):
    """The constant samples of a muted microphone counted as speech, and prevented trimming."""
    padded = np.concatenate([np.zeros(RATE), tone(1.0, RATE), np.zeros(RATE)]) + 0.01
    rows = [{"audio": sound(np.full(RATE, 0.0034)), "text": TEXT}, {"audio": sound(padded), "text": TEXT}]
    report = prepare_dataset(rows, tmp_path / "x", processor)
    assert [notice.code for notice in report.rejected] == ["silent"]
    assert report.clips[0].seconds == pytest.approx(1.2, abs=0.03)


def test_what_changes_the_sound_is_encoded_again(processor, pack_processor, make_source, tmp_path, num_encoded):
    """A cache key without a setting, or without the codec, returned the codes of other audio."""
    source, dest = make_source(TEXT), tmp_path / "x"
    for settings, expected in [
        (PrepareConfig(), 1),
        (PrepareConfig(max_seconds=30.0, extra_tags=["[S3]"]), 1),
        (PrepareConfig(loudness=-20.0), 2),
        (PrepareConfig(keep_silence=None), 3),
        (PrepareConfig(), 3),
    ]:
        prepare_dataset(source, dest, processor, settings)
        assert num_encoded == [expected]
    sf.write(source / "00.wav", np.sin(np.arange(20000) / 9), 16000)
    prepare_dataset(source, dest, processor)
    assert num_encoded == [4]
    prepare_dataset(source, dest, pack_processor)
    assert num_encoded == [5]
    assert load_prepared(dest)[1]["codec"]["fingerprint"] == pack_processor.codec.fingerprint


def test_a_damaged_cache_is_repaired(processor, make_source, tmp_path, num_encoded):
    """An incomplete cache file, after a crash, ended every later run."""
    source, dest = make_source(TEXT, TEXT), tmp_path / "x"
    prepare_dataset(source, dest, processor)
    path = next(dest.glob("cache/*/*.safetensors"))
    path.write_bytes(path.read_bytes()[:50])
    assert prepare_dataset(source, dest, processor).num_encoded == 1


@pytest.mark.slow
def test_processes_change_nothing(processor, make_source, tmp_path, monkeypatch):
    """Results in the order of completion assigned codes to other texts."""
    monkeypatch.setattr("dia_hf.data.encoding._CLIPS_PER_JOB", 2)
    source = make_source(*[TEXT] * 4, "", *[TEXT] * 4, "7")
    (source / "03.wav").write_bytes(b"")
    one = prepare_dataset(source, tmp_path / "one", processor)
    two = prepare_dataset(source, tmp_path / "two", processor, num_proc=2, device="cpu")
    assert one.to_dict() == two.to_dict()
    assert [notice.row for notice in two.rejected] == [4, 5, 10]
    assert load_prepared(tmp_path / "one")[0].to_list() == load_prepared(tmp_path / "two")[0].to_list()


@pytest.mark.slow
def test_a_script_that_begins_processes_while_imported_ends(make_source, tmp_path):
    """A script that starts processes when it is imported made the first process wait without end."""
    script = tmp_path / "script.py"
    script.write_text(
        "from dia_hf import MINIATURE, DiaProcessor\n"
        "from dia_hf.data.prepare import prepare_dataset\n"
        "processor = DiaProcessor.from_pretrained(MINIATURE)\n"
        f"prepare_dataset({str(make_source(TEXT))!r}, {str(tmp_path / 'x')!r}, processor, num_proc=2)\n"
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1
    assert 'under `if __name__ == "__main__":`' in ended.stderr.splitlines()[-1]
