"""Dependencies on the installed release of transformers."""

import inspect

import pytest
import torch
import transformers
from transformers import GenerationMixin, Trainer
from transformers.generation import GenerationMode

import tiny
from dia_hf._compat import CACHE_NAME, CACHE_NAMES, rename_cache


@pytest.fixture
def small():
    return tiny.random_model(tiny.random_config(3))


@pytest.fixture
def batch(small):
    batch = tiny.random_batch(small.config)
    del batch["labels"]
    return batch


def networks(model):
    return {"whole": model, "base": model.model, "encoder": model.model.encoder, "decoder": model.model.decoder}


@pytest.mark.parametrize("name", CACHE_NAMES)
def test_either_name_of_the_cache_is_read(small, batch, name):
    """The other release's name was lost among the keyword arguments, and each frame attended to itself alone."""
    frames = batch.pop("decoder_input_ids")
    batch.pop("decoder_attention_mask", None)
    expected = small(**batch, decoder_input_ids=frames).logits[:, -1]
    first = small(**batch, decoder_input_ids=frames[:, :-1], use_cache=True)
    assert first[CACHE_NAME].get_seq_length() == frames.shape[1] - 1
    last = small(**batch, decoder_input_ids=frames[:, -1:], **{name: first[CACHE_NAME]})
    torch.testing.assert_close(last.logits[:, 0], expected, rtol=1e-4, atol=1e-4)


def test_two_different_caches_are_refused(small, batch):
    """Of two different caches, one was ignored."""
    caches = [small(**batch, use_cache=True)[CACHE_NAME] for _ in range(2)]
    with pytest.raises(ValueError, match="two names of one argument"):
        small(**batch, cache=caches[0], past_key_values=caches[1])
    assert rename_cache({"cache": caches[0], "past_key_values": caches[0], "other": 1}, "cache") == {
        "cache": caches[0],
        "other": 1,
    }


@pytest.mark.parametrize("name", ["whole", "base", "encoder", "decoder"])
def test_unknown_arguments_are_refused(small, batch, name):
    """An argument that a later transformers passes under a new name was dropped, and the codes changed."""
    network = networks(small)[name]
    inputs = batch
    if name == "encoder":
        inputs = {"input_ids": batch["input_ids"]}
    elif name == "decoder":
        states = small.model.encoder(batch["input_ids"]).last_hidden_state
        inputs = {"input_ids": batch["decoder_input_ids"], "encoder_hidden_states": states}
    with pytest.raises(TypeError, match=rf"\['kv_store'\].*version {transformers.__version__}"):
        network(**inputs, kv_store=object())
    network(**inputs, inputs_embeds=None)  # passed by PEFT


@pytest.mark.parametrize("name", ["whole", "base", "decoder"])
def test_signatures_name_the_cache_as_this_release_does(small, name):
    """`generate` and `Trainer` read signatures: under another name a caller's cache counts as an unused argument."""
    parameters = inspect.signature(networks(small)[name].forward).parameters
    assert CACHE_NAME in parameters
    assert len(set(CACHE_NAMES) & set(parameters)) == 1


def test_a_generate_that_passes_an_unknown_argument(small, monkeypatch):
    """An unknown release that passes another argument changed the codes instead of raising an error."""
    inputs = tiny.as_inputs(small.config, [b"hello"], [torch.zeros(0, small.config.decoder_config.num_channels).long()])
    original = GenerationMixin.prepare_inputs_for_generation

    def renamed(self, *args, **kwargs):
        prepared = original(self, *args, **kwargs)
        prepared["kv_store"] = prepared.pop(CACHE_NAME)
        return prepared

    monkeypatch.setattr(GenerationMixin, "prepare_inputs_for_generation", renamed)
    with pytest.raises(TypeError, match=r"\['kv_store'\].*upgrade dia_hf"):
        small.generate(**inputs, max_new_tokens=30, use_fast_path=False)


def test_a_generate_that_keeps_its_cache_elsewhere(small, monkeypatch):
    """Without a cache under the known name, the network would read each frame without those before it."""
    inputs = tiny.as_inputs(small.config, [b"hello"], [torch.zeros(0, small.config.decoder_config.num_channels).long()])
    original = GenerationMixin._prepare_cache_for_generation

    def renamed(self, generation_config, model_kwargs, *args, **kwargs):
        original(self, generation_config, model_kwargs, *args, **kwargs)
        model_kwargs["decoder_kv_store"] = model_kwargs.pop(CACHE_NAME)

    monkeypatch.setattr(GenerationMixin, "_prepare_cache_for_generation", renamed)
    with pytest.raises(RuntimeError, match="passes no cache as"):
        small.generate(**inputs, max_new_tokens=30, use_fast_path=False)


# Private parts of transformers that this package overrides or reads, with their expected form.
HOOKS = {
    "_prepare_generation_config": ["generation_config"],
    "_validate_generation_mode": ["generation_mode", "generation_config", "generation_mode_kwargs"],
    "_prepare_decoder_input_ids_for_generation": ["batch_size", "model_input_name", "model_kwargs"],
    "_expand_inputs_for_generation": ["expand_size", "is_encoder_decoder", "input_ids"],
    "_prepare_generated_length": ["generation_config", "input_ids_length"],
    "_get_logits_processor": ["generation_config", "input_ids_seq_length", "logits_processor", "model_kwargs"],
    "_get_stopping_criteria": ["generation_config", "stopping_criteria"],
    "_sample": ["input_ids", "logits_processor", "stopping_criteria", "generation_config", "synced_gpus", "streamer"],
}


@pytest.mark.parametrize("name", HOOKS)
def test_hook_of_generate(name):
    """A renamed hook is no longer called, and its part of Dia's rules is missing without an error."""
    parameters = inspect.signature(getattr(GenerationMixin, name)).parameters
    assert set(HOOKS[name]) <= set(parameters)


def test_hook_that_encodes_the_text():
    """Under guidance it doubles the texts; under a third name the unconditional half would be missing."""
    names = ("_maybe_prepare_encoder_kwargs_for_generation", "_prepare_encoder_decoder_kwargs_for_generation")
    assert sum(hasattr(GenerationMixin, name) for name in names) == 1
    assert {GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE} <= set(GenerationMode)


def test_tables_of_the_auto_classes():
    """Registration removes Dia's rows from these two, or `AutoProcessor` returns transformers' own class."""
    from transformers.models.auto import feature_extraction_auto, processing_auto

    assert "whisper" in processing_auto.PROCESSOR_MAPPING_NAMES
    assert "whisper" in feature_extraction_auto.FEATURE_EXTRACTOR_MAPPING_NAMES


def test_parts_of_the_tokenizer():
    """The base class's encoding method changed; ours raises there for text that is too long."""
    base = transformers.PreTrainedTokenizer
    for name in ("_set_processor_class", "prepare_for_model", "truncate_sequences", "added_tokens_encoder"):
        assert hasattr(base, name), name


def test_parts_of_the_layers(small):
    """The decoder reads from its layers whether they use gradient checkpointing; the attribute changed."""
    tiny.checkpoint_gradients(small)
    assert small.model.decoder.layers[0].gradient_checkpointing is True


def test_parts_of_the_trainer():
    """A method that `DiaTrainer` overrides was renamed."""
    for name in ("log", "get_eval_dataloader", "evaluate", "evaluation_loop", "prediction_step", "create_optimizer"):
        assert hasattr(Trainer, name), name
