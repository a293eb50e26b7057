"""Evaluation of a model: its audio is transcribed, and compared with the right references."""

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from dia_hf import MINIATURE, DiaForConditionalGeneration
from dia_hf.asr.alignment import Aligner
from dia_hf.asr.recognizers import load_recognizer
from dia_hf.audio.io import read_audio, write_audio
from dia_hf.delay_pattern import num_valid_frames, revert_delay
from dia_hf.evaluation import METRICS, Prompt, Sentence, evaluate, evaluate_audio
from dia_hf.evaluation.judges import load_quality_judge, load_speaker_model
from dia_hf.evaluation.results import SOURCES
from dia_hf.evaluation.speak import Speech
from dia_hf.speech import Dia
from evaluation.ears import Ears

TEXTS = ["[S1] Hello there.", "[S2] Good bye!", "[S1] One. [S2] Two."]
SAMPLED = {"temperature": 1.0, "cfg_scale": 2.0, "top_p": 0.9, "cfg_filter_top_k": 20, "max_seconds": 0.3, "seed": 5}
GREEDY = {"temperature": 0, "cfg_scale": 1, "max_seconds": 0.3}


@pytest.fixture(scope="module")
def dia():
    return Dia.from_pretrained(MINIATURE, "float32", "cpu")


@pytest.fixture
def endless(processor):
    """A model that never emits EOS by itself."""
    model = DiaForConditionalGeneration.from_pretrained(MINIATURE, dtype=torch.float32)
    with torch.no_grad():
        model.logits_dense.weight[processor.config.decoder_config.eos_token_id] = 0
    return Dia(model, processor)


def say_codes(dia, text):
    """Codes `[T, C]` that the model generates greedily, by the reference path."""
    inputs, config = dia.processor(text=[text]), dia.model.config
    decoder, rate = config.decoder_config, dia.processor.codec.frame_rate
    num_tokens = int(0.3 * rate) + 1 + max(config.delay_pattern)
    delayed = dia.model.generate(**inputs, do_sample=False, guidance_scale=1.0, max_new_tokens=num_tokens)
    (end,) = num_valid_frames(delayed, config.delay_pattern, decoder.eos_token_id, decoder.pad_token_id)
    return revert_delay(delayed, config.delay_pattern)[0, 1:end]


# --- generation


def test_what_is_judged_is_what_generate_says(dia, tmp_path):
    """The evaluated audio differed from that of `Dia.generate`."""
    ears = Ears("hello there")
    report = evaluate(dia, TEXTS, ears, **SAMPLED, folder=tmp_path / "kept")
    options = {name: value for name, value in SAMPLED.items() if name != "seed"}
    for place, (text, line) in enumerate(zip(TEXTS, report.sentences, strict=True)):
        said = dia.generate(text, seed=5 + place, **options)
        assert (line.text, line.seed) == (text, 5 + place)
        np.testing.assert_allclose(ears.clips[place], said, atol=1e-4)
        assert line.seconds == pytest.approx(len(said) / dia.sampling_rate)
        kept, rate = read_audio(line.model.file)
        assert rate == dia.sampling_rate and kept.shape[-1] == len(said)
    assert ears.rates == [dia.sampling_rate] * 3
    assert [line.model.file for line in report.sentences] == [str(tmp_path / "kept" / f"000{i}.wav") for i in range(3)]


def test_nothing_said_is_no_file(dia, tmp_path, monkeypatch):
    """An audio file needs a sample: one sentence without frames ended the evaluation with an error."""
    nothing = Speech(torch.zeros(0, 9, dtype=torch.long), np.zeros(0, dtype=np.float32), True)
    monkeypatch.setitem(evaluate.__globals__, "speak", lambda dia, texts, *args: [nothing] * len(texts))
    report = evaluate(dia, TEXTS, Ears(""), **SAMPLED, folder=tmp_path / "kept")
    assert [(line.model.file, line.seconds) for line in report.sentences] == [(None, 0.0)] * 3


def test_speech_of_an_earlier_evaluation_does_not_stay(dia, tmp_path, tone, monkeypatch):
    """A sentence that said nothing kept the file of the evaluation before, which `evaluate_audio` took for its own."""
    kept = tmp_path / "kept"
    reference = Sentence(TEXTS[0], audio={"array": tone(0.3, 16000), "sampling_rate": 16000})
    evaluate(dia, [reference, *TEXTS[1:]], Ears("hello"), **SAMPLED, folder=kept)
    (kept / "notes.txt").write_text("mine", "utf-8")
    write_audio(kept / "mine.wav", tone(0.3, 16000), 16000)
    assert {"0000.wav", "0000.codec.wav", "0002.wav"} <= {path.name for path in kept.iterdir()}
    nothing = Speech(torch.zeros(0, 9, dtype=torch.long), np.zeros(0, dtype=np.float32), True)
    said = Speech(torch.zeros(9, 9, dtype=torch.long), tone(0.3, 16000), True)
    monkeypatch.setitem(evaluate.__globals__, "speak", lambda *args: [nothing, said])
    for _ in range(2):  # the folder is still one of an evaluation if the first sentence has no file
        evaluate(dia, TEXTS[:2], Ears(""), **SAMPLED, folder=kept)
        names = {path.name for path in kept.iterdir()}
        assert names == {".dia_hf_evaluation", "0001.wav", "mine.wav", "notes.txt"}
    new = tmp_path / "new"
    for _ in range(2):
        evaluate(dia, TEXTS[:2], Ears(""), **SAMPLED, folder=new)


def test_recordings_are_not_replaced(dia, tmp_path, tone):
    """Generated files overwrote recordings of the same names: the corpus, or the references."""
    folder = tmp_path / "recordings"
    write_audio(folder / "0000.wav", tone(0.3, 16000), 16000)
    before = (folder / "0000.wav").read_bytes()
    with pytest.raises(ValueError, match="is not empty, and was not made by an evaluation"):
        evaluate(dia, TEXTS, Ears("hello"), **SAMPLED, folder=folder)
    assert (folder / "0000.wav").read_bytes() == before
    kept = tmp_path / "kept"
    for _ in range(2):
        evaluate(dia, TEXTS[:1], Ears("hello"), **SAMPLED, folder=kept)
    with pytest.raises(ValueError, match="contains the reference"):
        evaluate(dia, [Sentence(TEXTS[0], audio=str(kept / "0000.wav"))], Ears("hello"), **SAMPLED, folder=kept)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_batch_does_not_matter(dia, batch_size):
    """The noise of a sentence depended on the other sentences in its batch."""
    together, apart = Ears("so"), Ears("so")
    evaluate(dia, TEXTS, together, **SAMPLED, batch_size=3)
    evaluate(dia, TEXTS, apart, **SAMPLED, batch_size=batch_size)
    for ours, theirs in zip(together, apart, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_order_of_sentences(dia):
    """With greedy decoding a list in reverse order had other metrics."""
    sentences = [Sentence(text, codes=say_codes(dia, text)) for text in TEXTS]
    recognizer = load_recognizer("pocketsphinx", ["hello", "there", "one", "two", "good", "bye"])
    forth, back = (evaluate(dia, some, recognizer, **GREEDY, batch_size=2) for some in (sentences, sentences[::-1]))
    assert forth.metrics()["word_errors"] == back.metrics()["word_errors"]
    assert [line.model for line in forth.sentences] == [line.model for line in reversed(back.sentences)]


def test_settings_and_versions(dia):
    """The results lacked the settings and versions that reproduce them, or the checkpoint's defaults."""
    report = evaluate(dia, TEXTS[:1], Ears("so"), max_seconds=0.2, temperature=0)
    config, rate = dia.model.generation_config, dia.processor.codec.frame_rate
    expected = {
        "do_sample": False,
        "cfg_scale": config.guidance_scale,
        "cfg_filter_top_k": config.top_k,
        "top_p": config.top_p,
        "seed": 0,
        "batch_size": 8,
        "max_seconds": int(0.2 * rate) / rate,
        "device": "cpu",
        "dtype": "float32",
    }
    assert expected.items() <= report.settings.items()
    assert {"python", "dia-hf", "torch", "transformers", "jiwer"} <= set(report.versions)
    assert report.elapsed > 0


# --- end of a sentence


def test_the_limit_is_no_end(endless):
    """The limit forces an EOS, which was counted as the model's own."""
    report = evaluate(endless, TEXTS, Ears("so"), **GREEDY)
    assert [line.ended for line in report.sentences] == [False] * 3
    frame_rate = endless.processor.codec.frame_rate
    assert all(line.seconds == int(0.3 * frame_rate) / frame_rate for line in report.sentences)


@pytest.mark.parametrize("max_length", [20, None])
def test_the_checkpoints_own_limit(endless, max_length):
    """Without `max_seconds` the limit was another than that of `Dia.generate`, and was never reached."""
    endless.model.config.decoder_config.max_position_embeddings = 60
    endless.model.generation_config.max_length = max_length
    report = evaluate(endless, TEXTS[:1], Ears("so"), temperature=0, cfg_scale=1)
    codec, max_delay = endless.processor.codec, max(endless.model.config.delay_pattern)
    limit = 58 - max_delay if max_length is None else max_length - 2
    assert report.sentences[0].seconds * codec.frame_rate == pytest.approx(limit)
    assert not report.sentences[0].ended
    if max_length is not None:
        said = endless.generate(TEXTS[0], temperature=0, cfg_scale=1)
        assert len(said) / codec.sampling_rate == pytest.approx(report.sentences[0].seconds)


def test_an_end_of_its_own(dia, monkeypatch):
    """A complete sentence counted as cut, or one that ends at once did not count as all errors."""
    eos, num_channels = dia.model.config.decoder_config.eos_token_id, dia.model.config.decoder_config.num_channels

    def end(**inputs):
        frames = torch.full((1, 40, num_channels), eos)
        frames[:, 0] = dia.model.config.decoder_config.bos_token_id
        return frames

    monkeypatch.setattr(dia.model, "generate", end)
    ears = Ears("")
    (line,) = evaluate(dia, TEXTS[:1], ears, **GREEDY).sentences
    assert line.ended and line.seconds == 0 and len(ears.clips[0]) == 0
    assert line.model.errors.deletions == 2


# --- references


def test_reference_codes(dia):
    """Codes that differ in a fine channel alone counted as different in channel 0; a delay made all different."""
    right = say_codes(dia, TEXTS[0])
    fine, coarse, short, shorter = right.clone(), right.clone(), right[:-1], right[:-2]
    fine[3, -1] = (fine[3, -1] + 1) % dia.processor.codec.codebook_size
    coarse[3, 0] = (coarse[3, 0] + 1) % dia.processor.codec.codebook_size
    references = [right, fine, coarse, short, shorter, right.short()]
    ears = Ears("good bye", "hello there")
    report = evaluate(dia, [Sentence(TEXTS[0], codes=codes) for codes in references], ears, **GREEDY)
    lines = report.sentences
    assert [line.same_first_channel for line in lines] == [True, True, False, False, False, True]
    assert [line.same_codes for line in lines] == [True, False, False, False, False, True]
    assert [line.within_a_frame for line in lines] == [True, True, True, True, False, True]
    rate = dia.processor.codec.frame_rate
    assert [line.reference_seconds for line in lines] == [len(codes) / rate for codes in references]
    assert lines[0].codec.text == "good bye" and lines[0].model.text == "hello there" and lines[0].reference is None
    np.testing.assert_allclose(ears.clips[0], ears.clips[1], atol=1e-4)
    assert lines[0].codec.errors.errors == 2 and lines[0].model.errors.errors == 0


def test_recordings(dia, tone):
    """The recording was changed before it was transcribed, or its codec copy had another rate or length."""
    sound = {"array": np.stack([tone(0.5, 8000)] * 2), "sampling_rate": 8000}
    ears = Ears("hello there", "hello where", "good bye")
    (line,) = evaluate(dia, [Sentence(TEXTS[0], sound)], ears, **GREEDY).sentences
    assert [line.reference.errors.errors, line.codec.errors.errors, line.model.errors.errors] == [0, 1, 2]
    assert ears.rates == [8000, dia.sampling_rate, dia.sampling_rate]
    np.testing.assert_array_equal(ears.clips[0], tone(0.5, 8000))
    codec = dia.processor.codec
    assert len(ears.clips[1]) == math.ceil(0.5 * codec.frame_rate) * codec.hop_length
    assert line.reference_seconds == 0.5
    assert line.same_codes is None and line.within_a_frame is None


def test_a_recording_and_its_codes(dia, tone):
    """The reference audio was encoded anew, and not decoded from the codes that the model was trained on."""
    codes = say_codes(dia, TEXTS[0])
    sound = {"array": tone(0.5, 8000), "sampling_rate": 8000}
    ears = Ears("so")
    (line,) = evaluate(dia, [Sentence(TEXTS[0], sound, codes)], ears, **GREEDY).sentences
    assert len(ears.clips) == 3
    np.testing.assert_allclose(ears.clips[1], dia.processor.codec.decode([codes])[0], atol=1e-5)
    assert line.reference_seconds == len(codes) / dia.processor.codec.frame_rate
    assert line.same_codes is True


# --- failures


@pytest.mark.parametrize(
    ("sentences", "options", "message"),
    [
        ([], {}, "list of texts"),
        ("[S1] Hello.", {}, "list of texts"),
        (["[S1] (laughs)"], {}, "has no words"),
        (TEXTS, {"batch_size": 0}, "`batch_size` is 0"),
        (TEXTS, {"max_seconds": 1e9}, "in one call"),
        (TEXTS, {"max_seconds": 1e-9}, "a frame lasts"),
        ([Sentence("Hi.", codes=torch.ones(3, 77).long())], {}, "sentence 1 are 1 to 1 in 77 codebooks"),
        ([TEXTS[0], Sentence("Hi.", codes=torch.full((3, 9), 9999))], {}, "sentence 2 are 9999 to 9999 in 9"),
        (
            [Sentence("Hi.", codes=torch.ones(3, 9).long(), codec="0123")],
            {},
            "belong to the codec 0123, but the model's",
        ),
    ],
)
def test_what_cannot_be_evaluated(dia, sentences, options, message):
    """A mistake was reported during the evaluation, without its sentence."""
    ears = Ears("so")
    with pytest.raises(ValueError, match=message):
        evaluate(dia, sentences, ears, **options)
    assert not ears.clips


def test_without_jiwer(dia, monkeypatch):
    """The missing package was not named before the evaluation."""
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(ImportError, match=r"dia-hf\[evaluate\]"):
        evaluate(dia, TEXTS, Ears("so"))


# --- judges, and audio that exists


def test_all_judges(dia, tmp_path):
    """A metric was missing from the report, or of one source only; the prompts did not reach the judges."""
    recording = dia.generate("[S1] Good morning. [S2] Thank you very much.", temperature=0, cfg_scale=1)
    tones = [
        {"array": np.sin(np.arange(8000) * pitch / 2546).astype(np.float32), "sampling_rate": 16000} for pitch in (2, 4)
    ]
    sentence = Sentence(
        "[S1] Good morning. [S2] Thank you very much.",
        {"array": recording, "sampling_rate": 16000},
        prompts={"[S1]": Prompt(tones[0]), "[S2]": Prompt(tones[1])},
        id="first",
    )
    recognizer = load_recognizer("whisper-tiny.en")
    judges = {"speaker_model": load_speaker_model("resemblyzer"), "quality": load_quality_judge(), "aligner": Aligner()}
    report = evaluate(dia, [sentence], recognizer, **judges, temperature=0, cfg_scale=1, folder=tmp_path)
    (line,) = report.sentences
    assert line.id == "first" and report.settings["normalizer"] == "english"
    missing = {source: set(METRICS) - set(getattr(line, source).measures) - {"wer"} for source in SOURCES}
    assert missing == {"reference": {"endless"}, "codec": {"endless"}, "model": set()}
    assert set(report.metrics()["measures"]) == set(METRICS)
    assert "speaker similarity" in report.table()
    again = evaluate_audio([replace(sentence, id="")], tmp_path, recognizer, **judges)
    assert again.sentences[0].model.errors == line.model.errors and again.sentences[0].ended is None
    assert again.sentences[0].model.measures["sim"].value == pytest.approx(line.model.measures["sim"].value, abs=1e-3)
    assert again.elapsed is None and again.metrics()["speed"] is None and "real time" not in again.table()


def test_audio_of_another_system(tmp_path, tone):
    """Audio was judged for another sentence, or one without audio was left out."""
    ears = Ears("hello there", "good bye")
    sentences = [Sentence(TEXTS[0], id="utt7"), Sentence(TEXTS[1])]
    write_audio(tmp_path / "utt7.flac", tone(0.3, 8000), 8000)
    with pytest.raises(ValueError, match=r"no audio for sentence 2; name it '0001\.wav'"):
        evaluate_audio(sentences, tmp_path, ears)
    write_audio(tmp_path / "0001.wav", tone(0.4, 16000), 16000)
    report = evaluate_audio(sentences, tmp_path, ears)
    assert ears.rates == [8000, 16000] and [line.id for line in report.sentences] == ["utt7", "0001"]
    assert [line.model.errors.errors for line in report.sentences] == [0, 0]
    assert [line.seconds for line in report.sentences] == [0.3, 0.4] and report.settings["audio"] == str(tmp_path)
    assert report.sentences[0].model.file == str(tmp_path / "utt7.flac") and report.sentences[0].seed is None
    with pytest.raises(ValueError, match="is no folder"):
        evaluate_audio(sentences, tmp_path / "nowhere", ears)


def test_two_sentences_are_not_one_recording(tmp_path, tone):
    """A sentence called "0001" and the second one, which has no name, were judged by the same audio."""
    write_audio(tmp_path / "0001.wav", tone(0.3, 8000), 8000)
    with pytest.raises(ValueError, match=r"0001\.wav' is the audio of the sentences 1 and 2"):
        evaluate_audio([Sentence(TEXTS[0], id="0001"), Sentence(TEXTS[1])], tmp_path, Ears("hello there"))


@pytest.mark.parametrize("part", ["audio", "reference", "prompt"])
def test_audio_that_cannot_be_judged_is_found_before_the_work(dia, tmp_path, tone, part):
    """One recording with NaN ended an evaluation when its turn came, and the error did not say which one."""
    ears, broken = Ears("hello there"), np.array([0.1, np.nan], np.float32)
    write_audio(tmp_path / "0000.wav", tone(0.3, 8000), 8000)
    write_audio(tmp_path / "0001.wav", tone(0.3, 8000), 8000)
    if part == "audio":
        soundfile.write(tmp_path / "0001.wav", broken, 8000, subtype="FLOAT")
    clip = {"array": broken, "sampling_rate": 8000}
    given = {"audio": {}, "reference": {"audio": clip}, "prompt": {"prompts": {"[S1]": Prompt(clip)}}}[part]
    sentences = [Sentence(TEXTS[0]), Sentence(TEXTS[1], **given)]
    message = "sentence 2: .*the audio holds 1 samples that are NaN"
    with pytest.raises(ValueError, match=r"0001\.wav': the audio" if part == "audio" else message):
        evaluate_audio(sentences, tmp_path, ears)
    if part != "audio":
        with pytest.raises(ValueError, match=message):
            evaluate(dia, sentences, ears, **GREEDY, batch_size=1)
    assert not ears.clips


def test_a_text_that_no_model_reads_is_found_before_the_work(dia):
    """A control character in the last sentence ended the evaluation when all others were done."""
    ears = Ears("hello there")
    with pytest.raises(ValueError, match=r"sentence 2: the text holds the control character U\+0001"):
        evaluate(dia, [TEXTS[0], "[S1] Good\x01 bye."], ears, **GREEDY, batch_size=1)
    assert not ears.clips
