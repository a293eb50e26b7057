"""Sentences to speech, with and without voices."""

import numpy as np
import pytest

from dia_hf import Dia
from dia_hf.audio.io import write_audio
from dia_hf.evaluation import Prompt, Sentence
from dia_hf.evaluation.speak import VoiceStore, speak
from dia_hf.speech.voices import Voice

OPTIONS = {"temperature": 0.9, "cfg_scale": 2.0, "max_seconds": 1.0}


@pytest.fixture(scope="module")
def dia():
    return Dia.from_pretrained(compute_dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def recordings(dia):
    """A sentence in each voice of the miniature."""
    return dia.generate(["[S1] Good morning, father.", "[S2] Thank you very much."], temperature=0, cfg_scale=1)


def prompt(waveform, text="Good morning, father."):
    return Prompt({"array": waveform, "sampling_rate": 16000}, text)


def test_a_voice_is_that_of_generate(dia, recordings):
    """A prompt had another transcript, speaker or seed than with `Dia.generate`, or changed the sentence beside it."""
    sentences = [Sentence("[S1] One.", prompts={"[S1]": prompt(recordings[0])}), Sentence("[S1] Two.")]
    store = VoiceStore(dia)
    voices = [store.find(sentence) for sentence in sentences]
    assert voices[1] is None and isinstance(voices[0]["[S1]"], Voice)
    with_voice, without = speak(dia, sentences, voices, [3, 4], OPTIONS, dia.max_frames(1.0))
    voice = Voice.from_audio(recordings[0], "Good morning, father.", dia.processor, sampling_rate=16000)
    np.testing.assert_allclose(
        with_voice.waveform, dia.generate("[S1] One.", voice=voice, seed=3, **OPTIONS), atol=1e-4
    )
    np.testing.assert_allclose(without.waveform, dia.generate("[S1] Two.", seed=4, **OPTIONS), atol=1e-4)


def test_two_voices_are_a_dialogue(dia, recordings):
    """The second voice was left out."""
    prompts = {"[S1]": prompt(recordings[0]), "[S2]": prompt(recordings[1], "Thank you very much.")}
    sentence = Sentence("[S1] One. [S2] Two.", prompts=prompts)
    voices = VoiceStore(dia).find(sentence)
    (speech,) = speak(dia, [sentence], [voices], [5], OPTIONS, dia.max_frames(1.0))
    said = dia.dialogue(sentence.text, voices=voices, seed=5, **OPTIONS).generate()
    assert speech.codes is None
    np.testing.assert_allclose(speech.waveform, said, atol=1e-4)


def test_a_long_text_is_a_dialogue(dia):
    """A text beyond one call of the model ended the evaluation."""
    text = "[S1] " + "One two three four five six seven. " * 40
    (speech,) = speak(dia, [Sentence(text)], [None], [0], {**OPTIONS, "max_seconds": 0.5}, dia.max_frames(0.5))
    assert speech.codes is None and not speech.ended and len(speech.waveform) / dia.sampling_rate <= 0.5


def test_a_prompt_without_transcript_is_not_heard_by_the_model(dia, recordings):
    """A recording that tells the judges how a speaker sounds was continued."""
    sentence = Sentence("[S1] One.", prompts={"[S1]": prompt(recordings[0], None)})
    assert VoiceStore(dia).find(sentence) is None


def test_a_prompt_replaces_the_voice_for_all(dia, recordings):
    """The voice of the command line was heard instead of the sentence's own, or no longer by the other speaker."""
    shared = {
        tag: Voice.from_audio(waveform, "Good morning.", dia.processor, sampling_rate=16000)
        for tag, waveform in zip(("[S1]", "[S2]"), recordings, strict=True)
    }
    store = VoiceStore(dia, shared)
    own = store.find(Sentence("[S1] One. [S2] Two.", prompts={"[S2]": prompt(recordings[1], "Thank you very much.")}))
    assert own["[S1]"] == shared["[S1]"] and own["[S2]"].transcript == "Thank you very much."
    assert store.find(Sentence("[S1] One.")) is shared
    assert list(store.recordings("[S1]")) == ["[S1]", "[S2]"]
    assert list(VoiceStore(dia, shared["[S1]"]).recordings("[S2]")) == ["[S2]"]
    assert VoiceStore(dia).recordings("[S1]") == {}


def test_a_prompt_file_is_encoded_once(dia, recordings, tmp_path, monkeypatch):
    """A prompt of many sentences was encoded for each of them."""
    file = str(tmp_path / "a.wav")
    write_audio(file, recordings[0], 16000)
    encoded = []
    load = Voice.from_audio
    monkeypatch.setattr(Voice, "from_audio", lambda *args, **kwargs: encoded.append(1) or load(*args, **kwargs))
    store = VoiceStore(dia)
    for _ in range(3):
        store.find(Sentence("[S1] One.", prompts={"[S1]": Prompt(file, "Good morning, father.")}))
    assert encoded == [1]
