"""Alignment heads of trained checkpoints."""

import pytest
import torch

from dia_hf import Dia
from dia_hf.conversion.adapters import merge_adapter
from dia_hf.training.alignment_heads import update_heads
from dia_hf.training.finetune import finetune
from training.clips import quick_recipe

TEXTS = ["[S1] One two three four five.", "[S2] Good morning, father. Hello."]


@pytest.fixture
def dia():
    return Dia.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def clips():
    waveforms = Dia.from_pretrained(device="cpu").generate(TEXTS, temperature=0, return_codes=True)[1]
    return [{"text": text, "codes": codes.numpy()} for text, codes in zip(TEXTS, waveforms, strict=True)]


def test_heads_that_still_follow_are_kept(dia, clips, recwarn):
    """A run exchanged heads that were as good, so that two runs had other times."""
    before = dia.model.generation_config.alignment_heads
    update_heads(dia.model, dia.processor, clips)
    assert dia.model.generation_config.alignment_heads == before
    assert not recwarn.list


def test_heads_that_follow_no_longer_are_replaced(dia, clips):
    """Training moved the alignment to other heads, and the times were those of the base's."""
    before = dia.model.generation_config.alignment_heads
    dia.model.generation_config.alignment_heads = [[0, 0]]
    with pytest.warns(UserWarning, match="other heads follow the text after training"):
        update_heads(dia.model, dia.processor, clips)
    assert sorted(dia.model.generation_config.alignment_heads) == sorted(before)


def test_heads_of_a_model_that_follows_nothing_are_removed(dia, clips):
    """Times of a model that had lost its alignment looked like all others."""
    with torch.no_grad():
        for layer in dia.model.model.decoder.layers:
            layer.cross_attention.q_proj.weight.zero_()
    with pytest.warns(UserWarning, match="saved without the base's `alignment_heads`: no head"):
        update_heads(dia.model, dia.processor, clips)
    assert dia.model.generation_config.alignment_heads is None


def test_a_checkpoint_without_heads_stays_without(dia, recwarn):
    """A fine-tune of a published checkpoint, which has none, failed at its end."""
    dia.model.generation_config.alignment_heads = None
    update_heads(dia.model, dia.processor, [])
    assert dia.model.generation_config.alignment_heads is None and not recwarn.list


@pytest.mark.parametrize("lora", [None, {"r": 4}])
def test_the_result_of_a_run_has_checked_heads(tmp_path, data, lora):
    """Saved checkpoints lost the base's heads, or had them unchecked: the data is noise, which few heads follow."""
    with pytest.warns(UserWarning, match="`alignment_heads`") as told:
        finetune(quick_recipe(data, tmp_path / "run", lora=lora))
    heads = getattr(Dia.from_pretrained(tmp_path / "run").model.generation_config, "alignment_heads", None)
    message = next(str(one.message) for one in told if "`alignment_heads`" in str(one.message))
    assert f"are {heads} instead of" in message if heads else "saved without the base's" in message
    if lora is not None:  # an adapter is merged into its base, and has that one's
        merged = merge_adapter(quick_recipe(data, tmp_path / "run").model, tmp_path / "run" / "adapter")
        assert merged.generation_config.alignment_heads == Dia.from_pretrained().alignment_heads()
