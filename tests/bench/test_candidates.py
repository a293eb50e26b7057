"""Candidates of a benchmark: the same weights and the same work; nothing is registered."""

import sys
import types

import pytest
import torch
from transformers import AutoConfig, AutoModelForSpeechSeq2Seq

import dia_hf
from dia_hf import DiaForConditionalGeneration
from dia_hf.bench import (
    make_candidates,
    make_config,
    make_model,
    make_processor,
    random_inputs,
    reduce_precision,
    transformers_twin,
)


@pytest.fixture
def fake_quantization(monkeypatch):
    """A scheme that can be detected: every weight of the head is halved in place."""
    module = types.ModuleType("dia_hf.quantization")

    def quantize_model(model, scheme):
        model.logits_dense.weight = torch.nn.Parameter(model.logits_dense.weight / 2, requires_grad=False)
        return model

    module.quantize_model = quantize_model
    monkeypatch.setitem(sys.modules, "dia_hf.quantization", module)


def test_the_full_size_is_the_published_one():
    """A benchmark of another shape is not comparable with the published model."""
    with torch.device("meta"):
        model = DiaForConditionalGeneration(make_config("full"))
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6) == 1611


@pytest.mark.parametrize("size", ["toy", "mid"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_weights_are_of_a_sane_scale(size, dtype):
    """Uninitialized memory holds NaN or zeros, which compute faster or slower than other numbers."""
    config = make_config(size)
    model = make_model(config, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    inputs = random_inputs(config, 2, 30)
    logits = model(input_ids=inputs["input_ids"], decoder_input_ids=inputs["decoder_input_ids"]).logits.float()
    assert 0.5 < logits.std() < 2
    assert torch.equal(logits, make_model(config, dtype=dtype)(**inputs).logits.float())
    assert not torch.equal(model.logits_dense.weight, make_model(config, dtype=dtype, seed=1).logits_dense.weight)


def test_the_twin_is_the_same_model_and_no_second_copy():
    """At full size a second copy does not fit, and other weights are other work."""
    config = make_config("toy")
    model = make_model(config)
    twin = transformers_twin(model)
    assert not isinstance(twin, DiaForConditionalGeneration)
    ours = model.state_dict()
    assert all(tensor.data_ptr() == ours[name].data_ptr() for name, tensor in twin.state_dict().items())
    inputs = random_inputs(config, 2, 30)
    assert torch.allclose(model(**inputs).logits, twin(**inputs).logits, atol=1e-5)
    assert AutoConfig.for_model("dia").__class__ is dia_hf.DiaConfig
    assert type(AutoModelForSpeechSeq2Seq.from_config(config)) is DiaForConditionalGeneration


def test_candidates_do_the_same_work():
    """A candidate that generates fewer or other frames looks faster."""
    config = make_config("toy")
    candidates = [c for c in make_candidates(make_model(config)) if c.unavailable is None]
    inputs = random_inputs(config, 2, 30)
    options = {"min_new_tokens": 24, "max_new_tokens": 24, "do_sample": False, "guidance_scale": 3.0, "top_k": 45}
    ids = {"eos_token_id": 1024, "pad_token_id": 1025, "bos_token_id": 1026}
    codes = [c.model.generate(**inputs, **options, **ids, **c.options) for c in candidates]
    assert len(codes) >= 2
    assert all(torch.equal(one, codes[0]) for one in codes)


def test_what_cannot_run_here_says_so():
    """A candidate that cannot run here was omitted from the table without a reason."""
    candidates = make_candidates(make_model(make_config("toy")))
    assert {c.name for c in candidates} >= {"dia_hf", "transformers, eager", "transformers, static + compiled"}
    assert [c.unavailable for c in candidates if c.is_compiled] == ["not requested", "not on this device"]
    candidates = make_candidates(make_model(make_config("toy")), compile_ours=True)
    assert [c.unavailable for c in candidates if c.is_compiled] == [None, "not on this device"]
    assert all(c.is_ours for c in make_candidates(make_model(make_config("toy")), against="none"))


def test_quantizing_ours_leaves_the_baseline_alone(fake_quantization):
    """The candidates share tensors: a scheme that quantized the baseline made ours look better."""
    model = make_model(make_config("toy"), dtype=torch.bfloat16)
    before = model.logits_dense.weight.clone()
    candidates = make_candidates(model, quantize="int8")
    ours, theirs = candidates[0], next(c for c in candidates if not c.is_ours)
    assert ours.name == "dia_hf int8"
    assert torch.equal(ours.model.logits_dense.weight, before / 2)
    assert torch.equal(theirs.model.logits_dense.weight, before)


def test_the_baseline_of_a_quantized_model_is_in_bfloat16(fake_quantization):
    """The baseline of a quantized model was float32, against which every quantization looks fast."""
    with pytest.raises(ValueError, match="must be in bfloat16"):
        make_candidates(make_model(make_config("toy")), quantize="int8")


def test_schemes():
    """A misspelled scheme was measured as another one."""
    model = make_model(make_config("toy"))
    assert reduce_precision(model, "bfloat16").dtype == torch.bfloat16
    for make, what in ((reduce_precision, "scheme"), (lambda _, name: make_config(name), "size")):
        with pytest.raises(ValueError, match=f"no {what} 'int3'"):
            make(model, "int3")
    with pytest.raises(ValueError, match="no codec 'int3'"):
        make_processor(model.config, "int3")


@pytest.mark.parametrize("codec", ["toy", "full"])
def test_a_second_is_a_second_of_the_published_codec(codec):
    """With the frame rate of another codec, such as the miniature's, every model looks three times as fast."""
    processor = make_processor(make_config("toy"), codec)
    assert processor.codec.frame_rate == pytest.approx(86.13, abs=0.01)
    assert processor.feature_extractor.sampling_rate == processor.codec.sampling_rate == 44100


def test_processor_has_the_model_s_config():
    """Codes of one delay pattern that are reverted by another are noise."""
    config = make_config("mid")
    processor = make_processor(config, "toy")
    assert processor.config is config
    assert processor.tokenizer.model_max_length == config.encoder_config.max_position_embeddings
    assert processor.codec.num_codebooks == config.decoder_config.num_channels
