"""Memorized clips are generated again only if training and generation agree about delay, shift and EOS."""

import csv

import numpy as np
import pytest
import torch

from dia_hf import DiaForConditionalGeneration, DiaProcessor, cli
from dia_hf.audio.io import write_audio
from dia_hf.delay_pattern import apply_delay

datasets = pytest.importorskip("datasets")

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight")


@pytest.fixture(scope="module")
def data(tmp_path_factory, checkpoint):
    """Eight recordings, prepared by the command."""
    folder = tmp_path_factory.mktemp("memorize")
    draw = np.random.default_rng(0)
    (folder / "clips").mkdir()
    with open(folder / "clips" / "metadata.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "text"])
        for number, word in enumerate(WORDS):
            time = np.arange(int(44100 * draw.uniform(0.25, 0.45))) / 44100
            phase = 2 * np.pi * (110 + 30 * number) * time * (1 + 0.2 * time)
            wave = sum(np.sin(k * phase) / k for k in range(1, 6))
            write_audio(folder / "clips" / f"{word}.wav", (0.2 * wave).astype(np.float32), 44100)
            table.writerow([f"{word}.wav", f"This is {word}."])
    options = ["--model", checkpoint, "--no-loudness", "--min-seconds", "0.2", "--characters-per-second", "3", "80"]
    assert cli.main(["prepare", str(folder / "clips"), str(folder / "data"), *options]) == 0
    return folder / "data"


FIRST_RELEASE = ["config.decoder_config.cross_attention_rope=true", "frames_per_row=200", "loss_chunk_size=64"]


@pytest.mark.parametrize("settings", [[], FIRST_RELEASE], ids=["0626", "v0.1, packed, loss in slices"])
def test_memorized_clips_are_repeated(data, checkpoint, tmp_path, settings):
    """A label a frame late, a lost last code, an EOS in all channels at once, or an EOS that is never learned."""
    settings = [*settings, "text_dropout=0", "training.max_steps=160", "training.per_device_train_batch_size=8"]
    settings += ["training.save_strategy=no", "training.report_to=none"]
    command = ["finetune", str(data), str(tmp_path / "run"), "--recipe", "scratch", "--model", checkpoint]
    assert cli.main(command + [part for setting in settings for part in ("--set", setting)]) == 0

    model = DiaForConditionalGeneration.from_pretrained(tmp_path / "run")
    processor = DiaProcessor.from_pretrained(tmp_path / "run")
    assert model.config.decoder_config.cross_attention_rope is (FIRST_RELEASE[0] in settings)
    clips = datasets.load_from_disk(str(data))
    inputs = processor(text=list(clips["text"]))
    codes = model.generate(**inputs, do_sample=False, guidance_scale=1, max_new_tokens=200)
    decoder, delay_pattern = model.config.decoder_config, model.config.delay_pattern
    for clip, row in zip(clips, codes, strict=True):
        beginning = torch.full((1, decoder.num_channels), decoder.bos_token_id)
        frames = torch.cat([beginning, torch.tensor(clip["codes"]), torch.full_like(beginning, decoder.eos_token_id)])
        expected = apply_delay(frames[None], delay_pattern, decoder.bos_token_id, decoder.pad_token_id)[0]
        assert torch.equal(row[: len(expected)], expected)
        assert (row[len(expected) :] == decoder.pad_token_id).all()
