import torch
from transformers import DynamicCache, EncoderDecoderCache, StaticCache
from transformers.modeling_outputs import BaseModelOutput

import tiny
from dia_hf.generation.running_samples import DiaRunningSamplesLogitsProcessor, RunningSamples

EOS, PAD = 50, 51
CONFIG = tiny.random_config(0).decoder_config


def frames(*last):
    """Three channels, of which the last is the slowest, after one frame of something."""
    return torch.tensor([[[1, 1, 1], [EOS, PAD, token]] for token in last])


def cache_of(batch_size):
    cache = EncoderDecoderCache(DynamicCache(config=CONFIG), DynamicCache(config=CONFIG))
    for part in (cache.self_attention_cache, cache.cross_attention_cache):
        states = torch.arange(batch_size).float()[:, None, None, None].expand(-1, 2, 3, 4)
        part.update(states.clone(), states.clone(), 0)
    return cache


def rows_of(cache):
    return [int(row[0, 0, 0]) for row in cache.cross_attention_cache.layers[0].keys]


def test_only_those_that_have_said_all_are_dropped():
    """A sample whose channel 0 has ended still has 15 frames to complete."""
    running = RunningSamples(3, 2, (EOS, PAD), is_guided=False)
    cache = cache_of(4)
    running.drop_ended(frames(7, 0, 9, 3), cache)
    assert running.samples is None and rows_of(cache) == [0, 1, 2, 3]
    running.drop_ended(frames(7, EOS, 9, PAD), cache)
    assert running.samples.tolist() == [0, 2] and rows_of(cache) == [0, 2]
    running.drop_ended(frames(EOS, PAD, 9, PAD), cache)
    assert running.samples.tolist() == [2] and rows_of(cache) == [2]


def test_under_guidance_both_halves_shrink():
    """The unconditional half of another sample took the place of the sample's own."""
    running = RunningSamples(3, 2, (EOS, PAD), is_guided=True)
    cache = cache_of(6)
    running.drop_ended(frames(7, EOS, 9), cache)
    assert rows_of(cache) == [0, 2, 3, 5]
    running.drop_ended(frames(7, PAD, EOS), cache)
    assert rows_of(cache) == [0, 3]


def test_the_last_is_not_dropped():
    """A batch of 0 samples has no shape."""
    running = RunningSamples(3, 2, (EOS, PAD), is_guided=False)
    running.drop_ended(frames(EOS, EOS), cache_of(2))
    assert running.samples is None


def test_a_static_cache_keeps_its_shape():
    """A compiled step would be compiled anew for every sample that ends."""
    static = EncoderDecoderCache(StaticCache(CONFIG, max_cache_len=4), StaticCache(CONFIG, max_cache_len=4))
    running = RunningSamples(3, 2, (EOS, PAD), is_guided=False)
    running.drop_ended(frames(7, EOS), static)
    assert running.samples is None


def test_what_goes_into_the_network_and_what_comes_back():
    """Scores of one sample were in another's rows."""
    running = RunningSamples(3, 2, (EOS, PAD), is_guided=True)
    everything = frames(7, EOS, 9)
    kwargs = {
        "decoder_attention_mask": torch.arange(3)[:, None],
        "decoder_position_ids": None,
        "attention_mask": torch.arange(6)[:, None],
        "encoder_outputs": BaseModelOutput(torch.arange(6)[:, None, None]),
        "use_cache": True,
    }
    assert running.select(everything, kwargs) == (everything, kwargs)
    running.drop_ended(everything, None)
    kept, selected = running.select(everything, kwargs)
    assert torch.equal(kept, everything[[0, 2]])
    assert selected["decoder_attention_mask"].flatten().tolist() == [0, 2]
    assert selected["attention_mask"].flatten().tolist() == [0, 2, 3, 5]
    assert selected["encoder_outputs"][0].flatten().tolist() == [0, 2, 3, 5]
    assert selected["use_cache"] is True and len(kwargs["attention_mask"]) == 6
    scores = torch.arange(12.0)[:, None].expand(-1, 5)  # 2 · 2 samples of 3 channels
    spread = DiaRunningSamplesLogitsProcessor(running)(torch.zeros(9, 2), scores)
    assert spread[:, 0].tolist() == [0, 1, 2, 0, 0, 0, 3, 4, 5, 6, 7, 8, 0, 0, 0, 9, 10, 11]
