import numpy as np
import pytest
import torch

from dia_hf import MINIATURE, Dia
from dia_hf.audio import write_audio

FRAME = 512 / 44100


@pytest.fixture(scope="module")
def dia() -> Dia:
    return Dia.from_pretrained(device="cpu")


def test_the_same_seed_says_the_same(dia):
    """nari-labs/dia has no seed: a result could not be had twice."""
    torch.manual_seed(0)
    first = dia.generate("[S1] Hello.", seed=3, max_seconds=0.3)
    torch.manual_seed(1)
    assert np.array_equal(first, dia.generate("[S1] Hello.", seed=3, max_seconds=0.3))
    assert not np.array_equal(first, dia.generate("[S1] Hello.", seed=4, max_seconds=0.3))


def test_equals_the_three_steps_it_stands_for(dia):
    """An argument that is dropped on the way to `generate` changes nothing, and nobody notices."""
    wave = dia.generate("[S1] Hi.", 40, 2.0, 0.9, 0.8, cfg_filter_top_k=20, seed=1)
    inputs = dia.processor("[S1] Hi.")
    codes = dia.model.generate(
        **inputs,
        max_length=40,
        guidance_scale=2.0,
        do_sample=True,
        temperature=0.9,
        top_p=0.8,
        top_k=20,
        generator=torch.Generator().manual_seed(1),
    )
    np.testing.assert_array_equal(wave, dia.processor.decode(codes).numpy())
    assert wave.dtype == np.float32 and wave.ndim == 1


def test_temperature_zero_is_greedy(dia):
    """nari-labs/dia takes a temperature of 0 for the best token; a division by it gives NaN."""
    waves = [dia.generate("[S1] Hi.", temperature=0, max_seconds=0.3, seed=seed) for seed in (1, 2)]
    assert np.array_equal(*waves)


@pytest.mark.parametrize("seconds", [0.1, 0.5, 0.7])
def test_max_seconds_counts_audio(dia, seconds):
    """The delay's 15 frames were taken out of the time asked for."""
    wave = dia.generate("[S1] Hello.", max_seconds=seconds, seed=0)
    assert seconds - FRAME < len(wave) / dia.sampling_rate <= seconds


def test_a_batch(dia, tmp_path, tone):
    """Texts with and without a voice prompt in one call; the prompt is not part of the result."""
    write_audio(tmp_path / "voice.wav", tone(0.4, 22050), 22050)
    prompts = [None, str(tmp_path / "voice.wav")]
    options = {"temperature": 0, "max_seconds": 0.3}
    waves = dia.generate(["[S1] One.", "[S2] Two, three."], audio_prompt=prompts, **options)
    assert isinstance(waves, list)
    assert [len(wave) for wave in waves] == [25 * 512] * 2
    for wave, text, prompt in zip(waves, ["[S1] One.", "[S2] Two, three."], prompts, strict=True):
        alone = dia.generate(text, audio_prompt=prompt, **options)
        np.testing.assert_allclose(wave, alone, atol=1e-4)


def test_verbose_shows_seconds_of_audio(dia, capsys):
    """A bar in steps says nothing to who waits for seconds of speech."""
    dia.generate("[S1] Hello.", max_seconds=0.4, verbose=True, seed=0)
    assert "0.4/0.4 s of audio" in capsys.readouterr().err
    dia.generate("[S1] Hello.", max_seconds=0.2, seed=0)
    assert capsys.readouterr().err == ""


def test_dtype_and_device(tmp_path):
    """`compute_dtype="float16"`, as nari-labs writes it, and a torch device."""
    dia = Dia.from_pretrained(model_name=MINIATURE, compute_dtype="bfloat16", device=torch.device("cpu"), load_dac=True)
    assert dia.model.dtype == torch.bfloat16
    assert dia.processor.audio_tokenizer.dtype == torch.float32, "the codec is delicate and cheap"
    wave = dia.generate("[S1] Hello.", max_seconds=0.2, use_torch_compile=True)
    dia.save_audio(tmp_path / "out.flac", wave)
    assert (tmp_path / "out.flac").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compute_dtype": "int8"}, "'float32', 'bfloat16' or 'float16'"),
        ({"compute_dtype": "speedy"}, "'speedy'"),
        ({"device": "warp"}, "'warp' is not available"),
        ({"device": "cuda:77"}, "not available"),
    ],
)
def test_unusable_places(options, message):
    """Device and dtype errors came after minutes of loading, in the words of CUDA."""
    with pytest.raises(ValueError, match=message):
        Dia.from_pretrained(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": ""}, "empty"),
        ({"text": "x" * 2000}, "2000 ids"),
        ({"text": "[S1] a", "max_seconds": 0.001}, "a frame lasts 0.012 s"),
        ({"text": "[S1] a", "max_seconds": 1.0, "max_tokens": 50}, "give one"),
        ({"text": "[S1] a", "audio_prompt": np.zeros(0, dtype=np.float32)}, "0 samples"),
        ({"text": "[S1] a", "audio_prompt": np.full(600, np.nan, dtype=np.float32)}, "NaN"),
    ],
)
@pytest.mark.filterwarnings("ignore:audio without")
def test_unusable_requests(dia, options, message):
    """nari-labs/dia cuts, maps to zero or prints, and goes on."""
    with pytest.raises(ValueError, match=message):
        dia.generate(**options)


def test_without_codec():
    """`load_dac=False` ended in an attribute error after the whole generation."""
    bare = Dia.from_pretrained(load_dac=False, device="cpu")
    with pytest.raises(ValueError, match="no codec"):
        bare.generate("[S1] a")
