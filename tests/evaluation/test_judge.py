"""One sentence, judged in all of its sources."""

import numpy as np
import pytest

from dia_hf.asr.alignment import Aligner
from dia_hf.asr.recognizers import HeardWord
from dia_hf.evaluation.judge import Clip, Judge
from dia_hf.evaluation.metrics import METRICS, Measure
from evaluation.ears import Ears
from evaluation.voices import Pitches

RATE = 16000
TEXT = "[S1] One two. [S2] Three. [S1] Four."


class TimedEars:
    """Recognizer that hears four words, each of half a second."""

    sampling_rate = RATE

    def transcribe_words(self, waveform, sampling_rate):
        words = [
            HeardWord(word, place / 2, place / 2 + 0.5) for place, word in enumerate(["One", "two", "three", "four."])
        ]
        return "One two three four.", words


def tones(*pitches):
    """Half a second of each pitch."""
    time = np.arange(RATE // 2) / RATE
    return Clip(np.concatenate([0.5 * np.sin(2 * np.pi * pitch * time) for pitch in pitches]).astype(np.float32), RATE)


def judge(clips, prompts=None, text=TEXT, ears=None):
    model = Pitches(200, 400)
    return Judge(ears or TimedEars(), model).judge(text, clips, prompts or {})


def value(report, metric):
    measure = report.measures.get(metric)
    return None if measure is None else measure.value


def test_turns_are_compared_with_the_prompts():
    """A turn in the wrong voice was right, or the audio of another turn was compared."""
    prompts = {"[S1]": tones(200), "[S2]": tones(400)}
    clips = {"reference": tones(200, 200, 400, 200), "codec": None, "model": tones(200, 200, 200, 200)}
    found = judge(clips, prompts)
    assert list(found) == ["reference", "model"]
    assert value(found["reference"], "attribution") == 1 and value(found["model"], "attribution") == 2 / 3
    assert value(found["reference"], "sim") == pytest.approx(1, abs=0.01)
    assert value(found["model"], "sim") == pytest.approx(2 / 3, abs=0.05)
    assert value(found["reference"], "cpwer") == 0 and value(found["model"], "cpwer") == 2 / 4
    assert [(word.text, word.start, word.speaker) for word in found["model"].words] == [
        ("one", 0, "[S1]"),
        ("two", 0.5, "[S1]"),
        ("three", 1, "[S2]"),
        ("four", 1.5, "[S1]"),
    ]


def test_turns_are_compared_with_the_reference():
    """Without prompts the reference was compared with itself, or the model with its own turns."""
    clips = {"reference": tones(200, 200, 400, 200), "model": tones(400, 400, 200, 400)}
    found = judge(clips)
    assert value(found["model"], "attribution") == 0 and value(found["model"], "sim") < 0.1
    assert value(found["reference"], "sim") is None
    assert value(found["reference"], "attribution") == 1  # the turns of [S1] by each other


def test_a_prompt_of_one_speaker_is_not_enough():
    """The other speaker's turns were all given to the only voice."""
    found = judge({"model": tones(200, 200, 400, 200)}, {"[S1]": tones(400)})
    assert value(found["model"], "attribution") == 1 and value(found["model"], "sim") is None


def test_without_times_there_are_no_turns():
    """A recognizer without times ended the evaluation, or the whole was one turn."""
    found = judge({"model": tones(200, 400)}, {"[S1]": tones(200), "[S2]": tones(400)}, ears=Ears("one two"))
    assert {"attribution", "sim", "cpwer"}.isdisjoint(found["model"].measures) and found["model"].words is None
    alone = judge({"model": tones(200, 200)}, {"[S1]": tones(200)}, text="[S1] One two.", ears=Ears("one two"))
    assert value(alone["model"], "sim") == pytest.approx(1, abs=0.01) and value(alone["model"], "cpwer") is None


def test_turns_that_are_not_there():
    """Turns without audio were left out, so that a model that says nothing was always right."""
    prompts = {"[S1]": tones(200), "[S2]": tones(400)}
    silence = Clip(np.zeros(RATE, np.float32), RATE)
    report = Judge(Ears(""), Pitches(200, 400), aligner=Aligner()).judge(TEXT, {"model": silence}, prompts)["model"]
    assert report.measures["attribution"] == Measure(0, 3) and "sim" not in report.measures
    assert value(report, "cpwer") == 1 and value(report, "silent") == 1 and value(report, "truncated") == 1


@pytest.mark.parametrize(
    ("heard", "is_truncated"),
    [("one two three four", 0), ("one two", 1), ("one two three for", 0), ("", 1), ("one two four five", 0)],
)
def test_truncated(heard, is_truncated):
    """A last word that was misheard counted as cut, or a missing end did not."""
    found = Judge(Ears(heard)).judge(TEXT, {"model": tones(200)}, {})
    assert value(found["model"], "truncated") == is_truncated


def test_the_normalizer():
    """Digits of an open vocabulary were errors, or the recognizer's own normalizer was not used."""
    ears = TimedEars()
    ears.normalizer = "english"
    assert Judge(ears).normalizer == "english" and Judge(ears, normalizer="words").normalizer == "words"
    digits = Ears("1 2. 3! 4?")
    assert Judge(digits).judge(TEXT, {"model": tones(200)}, {})["model"].errors.errors == 4
    with pytest.raises(ValueError, match="`normalizer` is 'german'; give one of words, english"):
        Judge(digits, normalizer="german")


def test_a_prompt_file_is_embedded_once():
    """Each sentence embedded the same prompts again."""
    model = Pitches(200, 400)
    judged = Judge(TimedEars(), model)
    prompts = {"[S1]": Clip(tones(200).waveform, RATE, "a.wav"), "[S2]": Clip(tones(400).waveform, RATE, "b.wav")}
    for _ in range(3):
        judged.judge(TEXT, {"model": tones(200, 200, 400, 200)}, prompts)
    assert len(model.lengths) == 2 + 3 * 3


def test_metrics_are_known():
    """A judge measured what reports have no definition of."""
    found = judge({"model": tones(200, 200, 400, 200)}, {"[S1]": tones(200), "[S2]": tones(400)})
    assert set(found["model"].measures) <= set(METRICS)
