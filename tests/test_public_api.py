"""The public API: a removed name, or an example that no longer runs, is a breaking change."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import dia_hf

MODULES = ["dia_hf", *(m.name for m in pkgutil.walk_packages(dia_hf.__path__, "dia_hf."))]


def test_public_names():
    """A name dropped from `__init__` breaks the imports of users."""
    assert set(dia_hf.__all__) == {
        "MINIATURE",
        "ComputeDtype",
        "Dia",
        "DiaAudioStreamer",
        "DiaConfig",
        "DiaDecoderConfig",
        "DiaEncoderConfig",
        "DiaFeatureExtractor",
        "DiaForConditionalGeneration",
        "DiaModel",
        "DiaPreTrainedModel",
        "DiaProcessor",
        "DiaTokenizer",
        "Voice",
        "VoiceLibrary",
    }
    assert set(dia_hf.generation.__all__) == {
        "DiaAudioStreamer",
        "DiaCancelStoppingCriteria",
        "DiaClassifierFreeGuidanceLogitsProcessor",
        "DiaCodesStreamer",
        "DiaConditionalLogitsProcessor",
        "DiaEOSChannelFilterLogitsProcessor",
        "DiaEOSDelayPatternLogitsProcessor",
        "DiaEOSScaleLogitsProcessor",
        "DiaGenerateOutput",
        "DiaGenerationMixin",
        "DiaForcedTokensLogitsProcessor",
        "DiaGuidanceTopKLogitsProcessor",
        "DiaPerSampleLogitsProcessor",
        "DiaRunningSamplesLogitsProcessor",
        "DiaSampleStoppingCriteria",
        "DiaSeededSamplingLogitsProcessor",
        "attend_to_text",
        "find_alignment_heads",
        "find_path",
    }
    assert set(importlib.import_module("dia_hf.evaluation").__all__) == {
        "METRICS",
        "EvaluationReport",
        "HeardWord",
        "Measure",
        "Metric",
        "Prompt",
        "Sentence",
        "SentenceReport",
        "SourceReport",
        "evaluate",
        "evaluate_audio",
        "read_sentences",
    }
    assert set(importlib.import_module("dia_hf.data").__all__) == {"PrepareConfig", "load_prepared", "prepare_dataset"}
    assert set(importlib.import_module("dia_hf.training").__all__) == {
        "LORA_TARGET_MODULES",
        "DiaDataCollator",
        "DiaTrainer",
        "Recipe",
        "SpeakCallback",
        "add_voice_prompts",
        "attach_lora",
        "finetune",
        "merge_adapter",
    }


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_run(module):
    """An example in a docstring failed."""
    module = importlib.import_module(module)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_is_documented(module):
    """A public name had no docstring."""
    module = importlib.import_module(module)
    assert module.__doc__
    for name in getattr(module, "__all__", []):
        item = getattr(module, name)
        if inspect.isclass(item):
            assert item.__dict__.get("__doc__"), name
        elif inspect.isfunction(item):
            assert item.__doc__, name


def test_version_is_told_once():
    """The version of the package differed from that of its metadata."""
    from importlib.metadata import version

    assert dia_hf.__version__ == version("dia-hf")
