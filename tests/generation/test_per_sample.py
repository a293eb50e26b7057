import pytest
import torch
from transformers import GenerationConfig, TemperatureLogitsWarper

from dia_hf.generation.per_sample import SampleSettings, take_lists


def make_settings(lists, batch_size, **single):
    config = GenerationConfig(**single)
    config.per_sample = lists
    return SampleSettings(config, batch_size, num_channels=2)


def test_lists_are_taken_and_single_values_left():
    """transformers compares a temperature with 0, and fails on a list in the middle of its own checks."""
    kwargs = {"temperature": [0.5, 1.0], "top_p": 0.9, "top_k": torch.tensor([3, 4]), "max_new_tokens": (20, 30)}
    lists = take_lists(kwargs)
    assert lists == {"temperature": [0.5, 1.0], "top_k": [3, 4], "max_new_tokens": [20, 30]}
    assert kwargs == {"temperature": None, "top_p": 0.9, "top_k": None, "max_new_tokens": 30}


@pytest.mark.parametrize("name", ["guidance_scale", "max_new_tokens"])
def test_an_empty_list(name):
    """`max` of nothing was the error, without the argument's name."""
    with pytest.raises(ValueError, match=f"`{name}` is an empty list"):
        take_lists({name: []})


def test_every_sequence_of_a_sample_has_its_value():
    """Values were repeated in the order of the batch instead of sample by sample."""
    settings = make_settings({"temperature": [0.5, 2.0]}, 6, do_sample=True, num_return_sequences=3, top_k=7)
    assert settings.of("temperature") == [0.5] * 3 + [2.0] * 3
    assert settings.of("top_k") == [7] * 6
    assert settings.are_lists("top_k", "temperature") and not settings.are_lists("top_k", "top_p")


def test_samples_of_one_value_share_a_rule():
    """A rule for each of thirty samples with the same setting is thirty times the work."""
    made = []

    def make(temperature):
        made.append(temperature)
        return TemperatureLogitsWarper(temperature)

    rule = make_settings({"temperature": [0.5, 2.0, 0.5]}, 3).make_processor(make, "temperature")
    scores = rule(torch.zeros(6, 1), torch.ones(6, 4))
    assert scores[:, 0].tolist() == [2.0, 2.0, 0.5, 0.5, 2.0, 2.0]
    single = make_settings({}, 3, temperature=4.0).make_processor(make, "temperature")
    assert isinstance(single, TemperatureLogitsWarper)
    assert made == [0.5, 2.0, 4.0]
