import json
import shutil
import subprocess
import sys
import textwrap

import pytest
import transformers
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForSpeechSeq2Seq,
    AutoModelForTextToWaveform,
    AutoProcessor,
    AutoTokenizer,
    pipeline,
)

import dia_hf
from dia_hf import MINIATURE
from dia_hf.auto import register


@pytest.mark.parametrize(
    ("auto", "name"),
    [
        (AutoConfig, "DiaConfig"),
        (AutoModel, "DiaModel"),
        (AutoModelForTextToWaveform, "DiaForConditionalGeneration"),
        (AutoModelForSpeechSeq2Seq, "DiaForConditionalGeneration"),
        (AutoTokenizer, "DiaTokenizer"),
        (AutoFeatureExtractor, "DiaFeatureExtractor"),
        (AutoProcessor, "DiaProcessor"),
    ],
)
def test_auto_classes_give_ours(auto, name):
    """AutoProcessor and AutoFeatureExtractor prefer the built-in class of the same name."""
    assert type(auto.from_pretrained(MINIATURE)) is getattr(dia_hf, name)


def test_parts_of_the_processor_are_ours():
    """Our processor was built with transformers' own tokenizer and its errors."""
    processor = AutoProcessor.from_pretrained(MINIATURE)
    assert type(processor.tokenizer) is dia_hf.DiaTokenizer
    assert type(processor.feature_extractor) is dia_hf.DiaFeatureExtractor


def test_a_checkpoint_that_transformers_wrote(pack):
    """The published files name classes without a package: another class was loaded."""
    assert type(AutoModelForTextToWaveform.from_pretrained(pack)) is dia_hf.DiaForConditionalGeneration
    assert type(AutoTokenizer.from_pretrained(pack)) is dia_hf.DiaTokenizer


def test_pipeline():
    """transformers lists its own Dia among the speech-to-text models, where the pipeline does not find it."""
    speak = pipeline("text-to-speech", model=MINIATURE)
    assert type(speak.model) is dia_hf.DiaForConditionalGeneration
    output = speak("Hello.", generate_kwargs={"max_new_tokens": 30, "do_sample": False})
    codec = dia_hf.DiaProcessor.from_pretrained(MINIATURE).codec
    assert output["sampling_rate"] == codec.sampling_rate
    assert 0 < output["audio"].shape[-1] <= 14 * codec.hop_length


def test_a_saved_pipeline(tmp_path):
    """transformers saves model and tokenizer; without feature extractor and codec, the folder did not load."""
    speak = pipeline("text-to-speech", model=MINIATURE)
    options = {"generate_kwargs": {"max_new_tokens": 30, "do_sample": False}}
    before = speak("Hello.", **options)
    speak.save_pretrained(tmp_path)
    after = pipeline("text-to-speech", model=str(tmp_path))("Hello.", **options)
    assert after["sampling_rate"] == before["sampling_rate"]
    assert (after["audio"] == before["audio"]).all()


def test_transformers_own_classes_stay():
    """Replacing transformers' own classes would change the imports of other code."""
    from transformers.models.dia.modeling_dia import DiaForConditionalGeneration

    assert transformers.DiaForConditionalGeneration is DiaForConditionalGeneration
    assert transformers.DiaForConditionalGeneration is not dia_hf.DiaForConditionalGeneration
    theirs = transformers.DiaConfig()
    assert type(theirs).__module__.startswith("transformers.")
    with_tiny_layers = {"num_hidden_layers": 1, "intermediate_size": 8}
    theirs = transformers.DiaConfig(encoder_config=with_tiny_layers, decoder_config=with_tiny_layers)
    assert type(AutoModel.from_config(theirs)).__module__.startswith("transformers.")


def test_registering_twice():
    """A reload in a notebook raised because the name was taken."""
    register()
    assert type(AutoConfig.from_pretrained(MINIATURE)) is dia_hf.DiaConfig


ORDERS = {
    "dia_hf first": "import dia_hf; from transformers import AutoProcessor, AutoModel, pipeline",
    "dia_hf last": "from transformers import AutoProcessor, AutoModel, pipeline; import dia_hf",
    "between": "from transformers import pipeline; from dia_hf import Dia, DiaProcessor; "
    "from transformers import AutoProcessor, AutoModel",
    "names of dia_hf first": "from dia_hf import Dia, DiaProcessor; "
    "from transformers import AutoProcessor, AutoModel, pipeline",
    "transformers alone first": "import transformers; import dia_hf; "
    "from transformers import AutoProcessor, AutoModel, pipeline",
    "by the command": "from dia_hf_command.imports import import_cli; from dia_hf_command.parser import make_parser; "
    "import_cli(make_parser().parse_args(['generate', 'Hi.'])); "
    "from transformers import AutoProcessor, AutoModel, pipeline",
}


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_of_imports(order):
    """Registration that waits for a name of the package is missed with another order of imports."""
    program = """
        import sys

        left_out = {"datasets", "peft", "pocketsphinx", "jiwer", "matplotlib", "pandas", "pedalboard", "shtab"}
        if "sklearn" in sys.modules:  # by transformers 5.17; it imports pandas
            left_out.remove("pandas")
        assert not left_out & set(sys.modules), left_out & set(sys.modules)
        import dia_hf

        assert type(AutoProcessor.from_pretrained(dia_hf.MINIATURE)) is dia_hf.DiaProcessor
        assert type(AutoModel.from_pretrained(dia_hf.MINIATURE)) is dia_hf.DiaModel
        speak = pipeline("text-to-speech", model=dia_hf.MINIATURE)
        assert type(speak.model) is dia_hf.DiaForConditionalGeneration
        print("fine")
    """
    program = f"{ORDERS[order]}\n{textwrap.dedent(program)}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "fine", done.stderr


def test_works_without_transformers_own_dia():
    """Law 1: `src/` depends on the general parts of transformers alone."""
    program = """
        import sys

        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.startswith("transformers.models.dia"):
                    raise ImportError(f"{name} is not to be imported")

        sys.meta_path.insert(0, Refuse())
        from transformers import AutoProcessor, pipeline
        import dia_hf

        processor = AutoProcessor.from_pretrained(dia_hf.MINIATURE)
        model = dia_hf.DiaForConditionalGeneration.from_pretrained(dia_hf.MINIATURE)
        inputs = processor(["[S1] Hi."], return_tensors="pt")
        for options in ({"do_sample": False}, {"do_sample": True, "cache_implementation": "static"}):
            processor.batch_decode(model.generate(**inputs, max_new_tokens=24, **options))
        dia_hf.Dia.from_pretrained().generate("[S1] Hi.", max_seconds=0.2)
        # Given objects: for names, the pipeline itself asks transformers for a class called like the architecture.
        speak = pipeline("text-to-speech", model=model, tokenizer=processor.tokenizer, processor=processor)
        speak("Hi.", generate_kwargs={"max_new_tokens": 24})
        assert not [name for name in sys.modules if name.startswith("transformers.models.dia")]
        print("fine")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "fine", done.stderr


def test_a_checkpoint_by_its_name_on_the_hub(pack, tmp_path):
    """The published checkpoint's codec is in another repository; `revision` of the one was used for the other."""

    def cache(repo, source):
        snapshot = tmp_path / f"models--{repo.replace('/', '--')}" / "snapshots" / ("0" * 40)
        shutil.copytree(source, snapshot, ignore=shutil.ignore_patterns("dac_44khz", "expected*"))
        refs = snapshot.parent.parent / "refs"
        refs.mkdir()
        (refs / "main").write_text("0" * 40)

    cache("nari-labs/Dia-1.6B-0626", pack)
    cache("descript/dac_44khz", pack / "dac_44khz")
    processor = AutoProcessor.from_pretrained("nari-labs/Dia-1.6B-0626", cache_dir=tmp_path, revision="main")
    assert type(processor) is dia_hf.DiaProcessor
    assert processor.codec.num_codebooks == 9
    model = dia_hf.DiaForConditionalGeneration.from_pretrained("nari-labs/Dia-1.6B-0626", cache_dir=tmp_path)
    assert model.generation_config.top_k == 45
    # Saved together, they need neither cache nor network, and still name the codec's repository.
    processor.save_pretrained(tmp_path / "saved")
    reference = json.loads((tmp_path / "saved" / "audio_tokenizer_config.json").read_text())
    assert reference["audio_tokenizer_name_or_path"] == "descript/dac_44khz"
    assert type(AutoProcessor.from_pretrained(tmp_path / "saved")) is dia_hf.DiaProcessor


def test_a_checkpoint_on_the_hub_with_its_codec_inside(tmp_path):
    """Saved again, the checkpoint named its own repository as the codec's, which contains a Dia."""
    snapshot = tmp_path / "models--someone--dia" / "snapshots" / ("0" * 40)
    shutil.copytree(MINIATURE, snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("0" * 40)
    AutoProcessor.from_pretrained("someone/dia", cache_dir=tmp_path).save_pretrained(tmp_path / "saved")
    reference = json.loads((tmp_path / "saved" / "audio_tokenizer_config.json").read_text())
    assert reference["audio_tokenizer_name_or_path"] == str(tmp_path / "saved" / "audio_tokenizer")
