"""Examples of other Dia documentation, unchanged except for the checkpoint and the package of a class.

The first three are the examples of transformers' page on Dia; the others are nari-labs' basic, advanced and batch use.
The dataset they load is replaced by a synthetic one of the same form.
"""

import datasets
import numpy as np
import pytest
import soundfile as sf
import torch

torch_device = "cpu"
model_checkpoint = ""  # set by each test: a random model, which generates up to the example's limit


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch, tone, checkpoint):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(globals(), "model_checkpoint", checkpoint)
    torch.manual_seed(0)

    class Dataset(list):
        def cast_column(self, name, feature):
            assert (name, feature.sampling_rate) == ("audio", 44100)
            return self

    def load_dataset(name, split):
        assert (name, split) == ("hf-internal-testing/dailytalk-dummy", "train")
        return Dataset([{"audio": {"array": tone(0.6, 44100).astype(np.float64), "sampling_rate": 44100}}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def test_text():
    """Of transformers' page: "Generation with Text" (there, `model` is used before it exists; here it is not)."""
    from transformers import AutoProcessor

    from dia_hf import DiaForConditionalGeneration

    text = ["[S1] Dia is an open weights text to dialogue model."]
    processor = AutoProcessor.from_pretrained(model_checkpoint)
    inputs = processor(text=text, padding=True, return_tensors="pt").to(torch_device)

    model = DiaForConditionalGeneration.from_pretrained(model_checkpoint).to(torch_device)
    outputs = model.generate(**inputs, max_new_tokens=256)  # corresponds to around ~2s

    # save audio to a file
    outputs = processor.batch_decode(outputs)
    processor.save_audio(outputs, "example.wav")

    assert sf.info("example.wav").frames == 240 * 512


@pytest.mark.filterwarnings("ignore:audio without `sampling_rate`")
def test_text_and_audio():
    """Of transformers' page: "Generation with Text and Audio (Voice Cloning)"."""
    from datasets import Audio, load_dataset
    from transformers import AutoProcessor

    from dia_hf import DiaForConditionalGeneration

    ds = load_dataset("hf-internal-testing/dailytalk-dummy", split="train")
    ds = ds.cast_column("audio", Audio(sampling_rate=44100))
    audio = ds[-1]["audio"]["array"]
    # text is a transcript of the audio + additional text you want as new audio
    text = ["[S1] I know. It's going to save me a lot of money, I hope. [S2] I sure hope so for you."]

    processor = AutoProcessor.from_pretrained(model_checkpoint)
    inputs = processor(text=text, audio=audio, padding=True, return_tensors="pt").to(torch_device)
    prompt_len = processor.get_audio_prompt_len(inputs["decoder_attention_mask"])

    model = DiaForConditionalGeneration.from_pretrained(model_checkpoint).to(torch_device)
    outputs = model.generate(**inputs, max_new_tokens=256)  # corresponds to around ~2s

    # retrieve actually generated audio and save to a file
    outputs = processor.batch_decode(outputs, audio_prompt_len=prompt_len)
    processor.save_audio(outputs, "example_with_audio.wav")

    assert sf.info("example_with_audio.wav").frames == 240 * 512


@pytest.mark.filterwarnings("ignore:audio without `sampling_rate`")
def test_training():
    """Of transformers' page: "Training"."""
    from datasets import Audio, load_dataset
    from transformers import AutoProcessor

    from dia_hf import DiaForConditionalGeneration

    ds = load_dataset("hf-internal-testing/dailytalk-dummy", split="train")
    ds = ds.cast_column("audio", Audio(sampling_rate=44100))
    audio = ds[-1]["audio"]["array"]
    # text is a transcript of the audio
    text = ["[S1] I know. It's going to save me a lot of money, I hope."]

    processor = AutoProcessor.from_pretrained(model_checkpoint)
    inputs = processor(
        text=text, audio=audio, generation=False, output_labels=True, padding=True, return_tensors="pt"
    ).to(torch_device)

    model = DiaForConditionalGeneration.from_pretrained(model_checkpoint).to(torch_device)
    out = model(**inputs)
    out.loss.backward()

    assert all(parameter.grad is not None for parameter in model.parameters())


def test_dia_basic():
    """nari-labs: basic use."""
    from dia_hf import Dia

    # Initialize model
    dia = Dia.from_pretrained(model_checkpoint)

    # Generate speech
    audio = dia.generate("Hello, world!")
    dia.save_audio("output.wav", audio)

    assert sf.info("output.wav").frames == len(audio) > 0


def test_dia_advanced(tone):
    """nari-labs: advanced use, a voice prompt from a file among the arguments."""
    from dia_hf import Dia

    sf.write("reference.wav", tone(0.5, 44100), 44100)
    dia = Dia.from_pretrained(model_checkpoint)

    # Custom configuration
    audio = dia.generate(
        text="Hello, world!",
        max_tokens=2048,
        cfg_scale=3.0,
        temperature=1.2,
        top_p=0.95,
        audio_prompt="reference.wav",  # Voice conditioning
    )

    assert audio.ndim == 1


def test_dia_batch():
    """nari-labs: batch generation."""
    from dia_hf import Dia

    dia = Dia.from_pretrained(model_checkpoint)

    texts = ["Hello", "World", "How are you?"]
    audios = dia.generate(texts)

    assert [audio.ndim for audio in audios] == [1, 1, 1]
