import dataclasses
import gc
import threading

import numpy as np
import pytest
import torch

from conftest import REFERENCE
from dia_hf import ComputeDtype, Dia
from dia_hf.audio.io import read_metadata, write_audio
from dia_hf.speech.voices import Voice

FRAME = 512 / 44100


def test_the_same_seed_says_the_same(dia):
    """nari-labs/dia has no seed: results were not reproducible."""
    torch.manual_seed(0)
    first = dia.generate("[S1] Hello.", seed=3, max_seconds=0.3)
    torch.manual_seed(1)
    assert np.array_equal(first, dia.generate("[S1] Hello.", seed=3, max_seconds=0.3))
    assert not np.array_equal(first, dia.generate("[S1] Hello.", seed=4, max_seconds=0.3))


def test_equals_the_three_steps_it_stands_for(dia):
    """An argument was lost on the way to `generate`."""
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


@pytest.mark.parametrize("seconds", [0.1, 0.5, 0.7])
def test_max_seconds_counts_audio(dia, seconds):
    """The 15 frames of the delay were subtracted from the limit."""
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
    """The progress bar counted steps instead of seconds of audio."""
    dia.generate("[S1] Hello.", max_seconds=0.4, verbose=True, seed=0)
    assert "0.4/0.4 s of audio" in capsys.readouterr().err
    dia.generate("[S1] Hello.", max_seconds=0.2, seed=0)
    assert capsys.readouterr().err == ""


def test_dtype_and_device(checkpoint, tmp_path, monkeypatch):
    """`compute_dtype="float16"`, as nari-labs writes it, and a torch device; `use_torch_compile` was accepted only."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda step, **options: compiled.append(step) or step)
    dia = Dia.from_pretrained(
        model_name=checkpoint, compute_dtype="bfloat16", device=torch.device("cpu"), load_dac=True
    )
    assert dia.model.dtype == torch.bfloat16
    assert dia.processor.audio_tokenizer.dtype == torch.float32, "the codec is delicate and cheap"
    wave = dia.generate("[S1] Hello.", max_seconds=0.2, use_torch_compile=True)
    assert len(compiled) == 1
    dia.save_audio(tmp_path / "out.flac", wave)
    assert (tmp_path / "out.flac").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": ""}, "empty"),
        ({"text": "x" * 2000}, "2000 ids"),
        ({"text": "[S1] a", "max_seconds": 0.001}, "a frame lasts 0.012 s"),
        ({"text": "[S1] a", "max_seconds": 1.0, "max_tokens": 50}, "give one"),
        ({"text": "[S1] a", "max_seconds": 40.0}, r"at most 35\.5 s in one call"),
        ({"text": ["[S1] a"], "seed": [1, 2]}, "`seed` has 2 values for 1 texts"),
        ({"text": "[S1] a", "audio_prompt": np.zeros(0, dtype=np.float32)}, "0 samples"),
        ({"text": "[S1] a", "audio_prompt": np.full(600, np.nan, dtype=np.float32)}, "NaN"),
    ],
)
@pytest.mark.filterwarnings("ignore:audio without")
def test_unusable_requests(dia, options, message):
    """nari-labs/dia truncates, replaces or prints, and continues."""
    with pytest.raises(ValueError, match=message):
        dia.generate(**options)


def test_without_codec():
    """`load_dac=False` ended in an attribute error after the whole generation."""
    bare = Dia.from_pretrained(load_dac=False, device="cpu")
    with pytest.raises(ValueError, match="no codec"):
        bare.generate("[S1] a")


def test_the_stream_is_what_generate_says(dia):
    """The stream of a text differed from `generate`."""
    options = {"seed": 5, "max_seconds": 0.6, "cfg_scale": 2.0, "temperature": 0.9}
    chunks = list(dia.stream("[S1] Hello.", **options))
    assert len(chunks) > 3 and all(chunk.dtype == np.float32 for chunk in chunks)
    np.testing.assert_allclose(np.concatenate(chunks), dia.generate("[S1] Hello.", **options), atol=1e-4)


@pytest.mark.parametrize("texts", [["[S1] One."], ["[S1] One.", "[S2] Two."]])
def test_the_stream_of_a_list_gives_lists(dia, texts):
    """A list of one text gave bare waveforms, unlike a list of two."""
    options = {"temperature": 0, "max_seconds": 0.3}
    chunks = list(dia.stream(texts, **options))
    for number, expected in enumerate(dia.generate(texts, **options)):
        np.testing.assert_allclose(np.concatenate([chunk[number] for chunk in chunks]), expected, atol=1e-4)


def test_leaving_the_stream_ends_its_thread(dia):
    """A `break` left the generation running."""
    before = threading.active_count()
    for _ in dia.stream("[S1] Hello.", seed=1):
        break
    gc.collect()
    assert threading.active_count() == before


def make_voice(dia, tone, transcript, seconds=3.2):
    return Voice.from_audio(tone(seconds, 44100), transcript, dia.processor, sampling_rate=44100)


def test_a_voice_is_prompt_and_transcript(dia, tone, tmp_path):
    """The transcript of a voice was omitted, or under another speaker's tag, and the speech was unintelligible."""
    voice = make_voice(dia, tone, "[S1] My words.")
    voice.save(tmp_path / "voice.safetensors")
    options = {"temperature": 0, "max_seconds": 0.3}
    expected = dia.generate("[S2] My words. And new ones. [S1] Yes.", audio_prompt=voice.codes, **options)
    for given in (voice, tmp_path / "voice.safetensors", str(tmp_path / "voice.safetensors")):
        np.testing.assert_array_equal(dia.generate("[S2] And new ones. [S1] Yes.", voice=given, **options), expected)
    assert len(expected) == 25 * 512, "the prompt is not part of the result"


def test_voices_of_a_batch(dia, tone):
    """One voice for all texts, or one for each and none for some."""
    voice, texts = make_voice(dia, tone, "My words."), ["[S1] One.", "[S2] Two."]
    options = {"temperature": 0, "max_seconds": 0.3}
    first, second = (dia.generate(text, voice=voice, **options) for text in texts)
    both = dia.generate(texts, voice=voice, **options)
    np.testing.assert_allclose(both[0], first, atol=1e-4)
    np.testing.assert_allclose(both[1], second, atol=1e-4)
    mixed = dia.generate(texts, voice=[None, voice], **options)
    np.testing.assert_allclose(mixed[0], dia.generate(texts[0], **options), atol=1e-4)
    np.testing.assert_allclose(mixed[1], second, atol=1e-4)


def test_one_voice_of_both_speakers(dia, tone):
    """The tags of a recording with two speakers were lost."""
    voice = make_voice(dia, tone, "[S1] Hello. [S2] Good day.")
    options = {"temperature": 0, "max_seconds": 0.2}
    expected = dia.generate("[S1] Hello. [S2] Good day. [S1] On.", audio_prompt=voice.codes, **options)
    np.testing.assert_array_equal(dia.generate("[S1] On.", voice=voice, **options), expected)


def test_unusable_voices(dia, tone):
    """An unusable voice was noticed late, or not at all."""
    voice = make_voice(dia, tone, "My words.")
    other = dataclasses.replace(voice, codec="0123456789abcdef")
    for options, message in [
        ({"voice": other}, "0123456789ab"),
        ({"voice": voice, "audio_prompt": voice.codes}, "both given"),
        ({"voice": [voice, voice]}, "1 texts but 2 voices"),
        ({"voice": "nobody-has-this-name"}, "nobody-has-this-name"),
    ]:
        with pytest.raises(ValueError, match=message):
            dia.generate("[S1] Hi.", **options)
    with pytest.raises(ValueError, match="empty"):
        dia.generate(" ", voice=voice)


def test_codes_of_a_recording_are_a_prompt(dia, tone, tmp_path):
    """nari-labs' `load_audio` gives codes, to be used as prompt more than once."""
    write_audio(tmp_path / "voice.wav", tone(0.4, 22050), 22050)
    codes = dia.load_audio(tmp_path / "voice.wav")
    assert codes.dtype == torch.int64 and codes.shape == (35, 9)
    options = {"temperature": 0, "max_seconds": 0.3}
    expected = dia.generate("[S1] Hi.", audio_prompt=str(tmp_path / "voice.wav"), **options)
    np.testing.assert_array_equal(dia.generate("[S1] Hi.", audio_prompt=codes, **options), expected)
    (listed,) = dia.generate(["[S1] Hi."], audio_prompt=[codes], **options)
    np.testing.assert_array_equal(listed, expected)


def test_the_older_names_of_nari_labs(dia, tone, tmp_path):
    """A script written for nari-labs/dia ended in a TypeError, or its prompt was dropped."""
    write_audio(tmp_path / "voice.wav", tone(0.4, 22050), 22050)
    path, options = str(tmp_path / "voice.wav"), {"temperature": 0, "max_seconds": 0.2}
    with pytest.warns(FutureWarning, match="audio_prompt"):
        old = dia.generate("[S1] Hi.", audio_prompt_path=path, **options)
    np.testing.assert_array_equal(old, dia.generate("[S1] Hi.", audio_prompt=path, **options))
    with pytest.warns(FutureWarning, match="use_cfg_filter"):
        dia.generate("[S1] Hi.", use_cfg_filter=True, **options)


@pytest.mark.parametrize("release", ["nari-0626", "nari-v0.1"])
def test_from_local(release, tmp_path):
    """nari-labs' files had to be converted first, which needs disk space."""
    folder = REFERENCE / release
    (weights,) = {*folder.glob("model.safetensors"), *folder.glob("*.pth")}
    codec = REFERENCE / "transformers-4.53" / "dac_44khz"
    dia = Dia.from_local(str(folder / "config.json"), str(weights), "float32", torch.device("cpu"), codec=codec)
    wave = dia.generate("[S1] Hi.", max_tokens=40, seed=0)
    assert wave.dtype == np.float32 and dia.sampling_rate == 44100
    bare = Dia.from_local(folder / "config.json", weights, device="cpu", load_dac=False)
    with pytest.raises(ValueError, match="no codec"):
        bare.generate("[S1] Hi.")


def test_settings_of_each_text(dia):
    """Per-sample parameters were available in the model's `generate` only."""
    texts = ["[S1] One.", "[S2] Two, three."]
    settings = {
        "cfg_scale": [1.5, 3.0],
        "temperature": [0.7, 1.4],
        "top_p": [0.8, 1.0],
        "cfg_filter_top_k": [10, 40],
        "seed": [3, 4],
    }
    together = dia.generate(texts, max_seconds=0.3, **settings)
    for number, text in enumerate(texts):
        own = {name: values[number] for name, values in settings.items()}
        np.testing.assert_allclose(together[number], dia.generate(text, max_seconds=0.3, **own), atol=1e-4)
    chunks = list(dia.stream(texts, max_seconds=0.3, **settings))
    np.testing.assert_allclose(np.concatenate([chunk[1] for chunk in chunks]), together[1], atol=1e-4)


def test_metadata(dia, tmp_path):
    """The metadata of `save_audio` was not in the file."""
    wave = dia.generate("[S1] Hi.", max_seconds=0.2, seed=7)
    dia.save_audio(tmp_path / "a.mp3", wave, metadata={"text": "[S1] Hi.", "seed": 7})
    assert read_metadata(tmp_path / "a.mp3") == {"text": "[S1] Hi.", "seed": 7}


def test_names_of_nari_labs():
    """Scripts for nari-labs/dia read `device` and `compute_dtype`."""
    dia = Dia.from_pretrained(compute_dtype=ComputeDtype.BFLOAT16, device="cpu")
    assert dia.device == torch.device("cpu") and dia.config is dia.model.config
    assert dia.compute_dtype == ComputeDtype.BFLOAT16.to_dtype() == torch.bfloat16
    assert dia.dac_model is dia.processor.audio_tokenizer


@pytest.mark.parametrize("text", ["[S1] " + "ä" * 600, ["[S1] Hi.", "[S2] " + "long " * 300]])
def test_a_text_that_is_too_long(dia, text):
    """The error recommended `truncation=True`, which `Dia.generate` does not take."""
    with pytest.raises(ValueError, match=r"ids .* at most 1024 in one call; `Dia.dialogue`"):
        dia.generate(text)


def test_codes_with_the_sound(dia):
    """The evaluation needs codes, and called private methods instead of `generate`."""
    options = {"seed": 5, "max_seconds": 0.3, "temperature": 0.9}
    speech = dia.generate("[S1] Hello there.", **options)
    again, codes = dia.generate("[S1] Hello there.", **options, return_codes=True)
    assert np.array_equal(speech, again)
    assert codes.dtype == torch.int64 and codes.device.type == "cpu"
    assert codes.shape == (dia.max_frames(0.3), dia.config.decoder_config.num_channels)
    assert np.array_equal(dia.processor.codec.decode([codes])[0], speech)
    prompt = dia.processor.codec.encode([torch.from_numpy(speech)])[0]
    waveforms, several = dia.generate(
        ["[S1] Hello.", "[S2] Hi."], audio_prompt=[prompt, None], return_codes=True, **options
    )
    for waveform, clip in zip(waveforms, several, strict=True):
        assert len(clip) <= dia.max_frames(0.3), "the prompt is not part of it"
        np.testing.assert_allclose(dia.processor.codec.decode([clip])[0], waveform, atol=1e-5)


def test_the_most_frames(dia):
    """The evaluation computed the limit in frames by itself."""
    config, rate = dia.config, dia.processor.codec.frame_rate
    assert dia.max_frames(0.3) == int(0.3 * rate)
    assert dia.max_frames() == dia.model.generation_config.max_length - 2
    longest = config.decoder_config.max_position_embeddings - 2 - max(config.delay_pattern)
    assert dia.max_frames((longest + 0.5) / rate) == longest
    with pytest.raises(ValueError, match="in one call"):
        dia.max_frames((longest + 1.5) / rate)
    with pytest.raises(ValueError, match="give a number of seconds"):
        dia.max_frames(float("nan"))
