"""The training benchmark: fair to both sides, and right about what it counts."""

import json

import pytest
import torch

from dia_hf import DiaConfig, DiaForConditionalGeneration
from dia_hf.bench import make_model, make_processor
from tiny import random_config

pytest.importorskip("accelerate")

import training_speed
from dia_hf.training import DiaDataCollator
from training_speed import _flops, make_training_candidates, measure_training, random_clips


@pytest.fixture(scope="module")
def race():
    config = random_config(4)
    processor = make_processor(config, "toy")
    clips = random_clips(processor, 8, (5, 30))
    candidates = make_training_candidates(make_model(config), processor, frames_per_row=50, loss_chunk_size=7)
    return processor, clips, candidates, measure_training(candidates, clips, 86.0, batch_size=4, num_steps=2, repeats=2)


def test_all_learn_the_same(race):
    """Other weights, other clips or another order would make a comparison of two different things."""
    *_, result = race
    names = [candidate.name for candidate in result.candidates]
    assert names == ["dia_hf", "dia_hf, chunked loss", "dia_hf, packed", "transformers"]
    for candidate in result.candidates[:-1]:
        torch.testing.assert_close(candidate.losses, result.candidates[-1].losses, rtol=1e-4, atol=1e-4)


def test_figures(race):
    """Frames of padding counted as audio, or memory that misses the weights, flatter somebody."""
    processor, clips, candidates, result = race
    frames, delay = [len(clip["codes"]) for clip in clips], max(processor.config.delay_pattern)
    padded = (max(frames[:4]) + max(frames[4:]) + 2 * (1 + delay)) * 4 / 2
    by_name = {candidate.name: candidate for candidate in result.candidates}
    assert by_name["dia_hf"].frames_per_batch == by_name["transformers"].frames_per_batch == padded
    assert sum(frames) / 2 < by_name["dia_hf, packed"].frames_per_batch < padded
    stored = sum(parameter.numel() * 4 for parameter in candidates[0].model.parameters())
    for candidate in result.candidates:
        assert candidate.peak_memory_bytes > 3 * stored, "weights and AdamW's two moments"
        assert len(candidate.losses) == 4
        assert candidate.ratio > 0
        assert candidate.audio_per_second > 0
    assert by_name["transformers"].ratio == 1
    assert by_name["dia_hf, chunked loss"].peak_memory_bytes < by_name["dia_hf"].peak_memory_bytes
    table = training_speed.training_table(result)
    assert "speedup" in table
    assert "transformers" in table


def test_useful_arithmetic_is_that_of_the_weights():
    """A FLOP counted twice, or padding counted, raises the share of the peak without training any faster."""
    config = random_config(4)
    config.encoder_config.num_hidden_layers = 1
    processor = make_processor(config, "toy")
    model = DiaForConditionalGeneration(config)
    clip = random_clips(processor, 1, (300, 300))[0]
    inputs = DiaDataCollator(processor, 0.0)([clip])
    num_frames, num_bytes = inputs["decoder_input_ids"].shape[1], inputs["input_ids"].shape[1]
    expected = 0
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "embed" not in name:
            of_text = ".encoder." in name or "cross_attention.k_proj" in name or "cross_attention.v_proj" in name
            expected += 6 * parameter.numel() * (num_bytes if of_text else num_frames)
    decoder, encoder = config.decoder_config, config.encoder_config
    products = num_frames**2 * decoder.num_attention_heads * decoder.head_dim
    products += num_frames * num_bytes * decoder.cross_num_attention_heads * decoder.cross_head_dim
    expected += 12 * decoder.num_hidden_layers * products
    expected += 12 * num_bytes**2 * encoder.num_attention_heads * encoder.head_dim
    assert _flops(model, [inputs]) == pytest.approx(expected, rel=0.02)


def test_command(tmp_path, capsys):
    """The options must reach the run, and the file hold what the table says."""
    output = tmp_path / "training.json"
    options = ["--steps", "1", "--repeats", "1", "--batch-size", "2", "--clip-seconds", "0.2", "1"]
    training_speed.main(["--device", "cpu", "--output", str(output), *options])
    assert "audio per second" in capsys.readouterr().out
    settings = json.loads(output.read_text("utf-8"))["training"]["settings"]
    assert {"batch_size": 2, "steps": 1, "clips": 16, "size": "toy"}.items() <= settings.items()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clip-seconds", "2", "1"], "give the least first"),
        (["--quantize", "int8"], "unrecognized arguments"),
        (["--parity", "bfloat16"], "unrecognized arguments"),
        (["--dtype", "float16"], "invalid choice"),
    ],
)
def test_options_that_do_not_go_together(options, message, capsys):
    """An option that is ignored makes a figure of something else than was asked for."""
    with pytest.raises(SystemExit):
        training_speed.main(options)
    assert message in capsys.readouterr().err


def test_a_second_of_audio_costs_the_full_model_what_the_documentation_says():
    """docs/training.md reckons hours of training with this figure."""
    with torch.device("meta"):
        model = DiaForConditionalGeneration(DiaConfig())
    names = {"input_ids": (1, 150), "decoder_input_ids": (1, 877, 9), "labels": (1, 877, 9)}  # 10 s
    clip = {name: torch.ones(shape, dtype=torch.long, device="meta") for name, shape in names.items()}
    assert _flops(model, [clip]) / 10 == pytest.approx(0.72e12, rel=0.05)
