import json
import math
import random
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainingArguments

from dia_hf import MINIATURE, DiaForConditionalGeneration, DiaProcessor
from dia_hf.asr import recognizers
from dia_hf.audio.io import read_audio
from dia_hf.speech.dia import Dia
from dia_hf.speech.voices import Voice
from dia_hf.training import speak
from dia_hf.training.collator import DiaDataCollator
from dia_hf.training.speak import SpeakCallback
from dia_hf.training.trainer import DiaTrainer

SENTENCES = ["[S1] Hello there.", "[S2] (laughs) Good bye!"]


@pytest.fixture
def own_model():
    """A model that may be trained."""
    return DiaForConditionalGeneration.from_pretrained(MINIATURE)


@pytest.fixture
def callback(processor, tmp_path):
    return SpeakCallback(processor, SENTENCES, tmp_path / "samples", max_seconds=0.2)


@pytest.fixture
def recognizer(monkeypatch):
    """A recognizer that returns given transcripts, one a call, and counts how often it was loaded."""
    stand_in = SimpleNamespace(heard=[], loaded=[], clips=[])

    def listen(waveform):
        stand_in.clips.append(waveform)
        return {"text": stand_in.heard[(len(stand_in.clips) - 1) % len(stand_in.heard)]}

    def load(task, model, device):
        stand_in.loaded.append((task, model, device))
        pipeline = SimpleNamespace(feature_extractor=SimpleNamespace(sampling_rate=16000))
        return type("Pipeline", (), {"__call__": lambda self, waveform: listen(waveform)} | vars(pipeline))()

    monkeypatch.setattr(transformers, "pipeline", load)
    monkeypatch.setattr(recognizers, "check_model", lambda name: None)  # not on this disk and not on the Hub
    return stand_in


def make_trainer(folder, model, processor, callbacks, kind=DiaTrainer, **settings):
    codes = torch.randint(0, 1024, (6, 9), generator=torch.Generator().manual_seed(0))
    clips = [{"id": str(index), "text": "[S1] Hi.", "codes": codes} for index in range(2)]
    settings = {
        "max_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "remove_unused_columns": False,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
    } | settings
    trainer = kind(
        model,
        TrainingArguments(str(folder / "run"), **settings),
        DiaDataCollator(processor),
        train_dataset=clips,
        eval_dataset=settings.pop("eval_dataset", clips),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def journal(callback):
    return [json.loads(line) for line in (callback.folder / "spoken.jsonl").read_text("utf-8").splitlines()]


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


# --- generated files


def test_files_and_journal(callback, model, processor):
    """A generated file could not be assigned to its sentence, step, length, or whether it was cut."""
    for step in (7, 100):
        metrics = callback.speak(model, step)
    lines = journal(callback)
    assert [line["file"] for line in lines] == [
        "step-000007/00.wav", "step-000007/01.wav", "step-000100/00.wav", "step-000100/01.wav"
    ]  # fmt: skip
    assert [line["text"] for line in lines] == SENTENCES * 2
    assert [line["step"] for line in lines] == [7, 7, 100, 100]
    for line in lines:
        waveform, rate = read_audio(callback.folder / line["file"])
        assert rate == processor.codec.sampling_rate
        assert waveform.shape[-1] / rate == pytest.approx(line["seconds"], abs=1e-3)
    assert metrics["speech_seconds"] == pytest.approx(np.mean([line["seconds"] for line in lines[2:]]))
    assert metrics["speech_ended"] == np.mean([line["ended"] for line in lines[2:]])


def test_ended_by_itself(callback, model, monkeypatch):
    """A sentence that ran to the limit was not reported as cut, which is the first sign of a bad model."""
    longest = int(0.2 * callback.processor.codec.frame_rate) * callback.processor.codec.hop_length
    waveforms = [np.zeros(longest, np.float32), np.zeros(longest - 512, np.float32)]
    monkeypatch.setattr(Dia, "generate", lambda *args, **kwargs: waveforms)
    assert callback.speak(model, 1)["speech_ended"] == 0.5
    assert [line["ended"] for line in journal(callback)] == [False, True]


def test_nothing_said_is_no_file(callback, model, monkeypatch):
    """An audio file needs a sample: a model that generates no frames yet ended its training with an error."""
    waveforms = [np.zeros(0, np.float32), np.zeros(512, np.float32)]
    monkeypatch.setattr(Dia, "generate", lambda *args, **kwargs: waveforms)
    callback.speak(model, 1)
    assert [line["file"] for line in journal(callback)] == [None, "step-000001/01.wav"]
    assert [path.name for path in callback.folder.rglob("*.wav")] == ["01.wav"]


def test_a_sentence_at_its_limit_has_not_ended(callback, processor, own_model):
    """The limit forces an EOS, which was counted as the model's own."""
    with torch.no_grad():  # its EOS is never the best token
        own_model.logits_dense.weight[processor.config.decoder_config.eos_token_id] = 0
    callback.temperature = 0
    assert callback.speak(own_model, 1)["speech_ended"] == 0
    assert all(line["ended"] is False for line in journal(callback))


def test_the_same_noise_at_each_step(callback, model):
    """Samples of two steps differed by their noise, and were not comparable."""
    for step in (1, 2):
        torch.manual_seed(step)
        callback.speak(model, step)
    for name in ("00.wav", "01.wav"):
        assert (callback.folder / "step-000001" / name).read_bytes() == (
            callback.folder / "step-000002" / name
        ).read_bytes()


def test_a_voice(processor, model, tmp_path, monkeypatch):
    """The voice's transcript was generated again, or its recording was part of the file."""
    codes = torch.randint(0, 1024, (20, 9), generator=torch.Generator().manual_seed(0))
    codec = processor.codec
    voice = Voice(codes, "This is me.", codec.fingerprint, codec.sampling_rate, codec.hop_length)
    voice.save(tmp_path / "voice.safetensors")
    callback = SpeakCallback(
        processor, SENTENCES[:1], tmp_path, voice=tmp_path / "voice.safetensors", max_seconds=0.2, temperature=0
    )
    callback.speak(model, 1)
    expected = Dia(model, processor).generate(SENTENCES[0], voice=voice, temperature=0, max_seconds=0.2)
    assert journal(callback)[0]["seconds"] == pytest.approx(len(expected) / codec.sampling_rate, abs=1e-3)
    with pytest.raises(ValueError, match="made with the codec"):
        SpeakCallback(processor, SENTENCES, tmp_path, voice=Voice(codes, "Hi.", "0123", 44100, 512))


def test_the_run_is_left_as_it_was(callback, own_model):
    """Evaluation drew from the training's random numbers and left the model in eval mode, without dropout."""
    own_model.train()
    own_model.model.encoder.eval()
    modes = [module.training for module in own_model.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    callback.speak(own_model, 1)
    assert [module.training for module in own_model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1] and random.getstate() == states[2]
    assert all(weight.grad is None for weight in own_model.parameters())


def test_dropout_is_silent(processor, own_model, tmp_path):
    """Generation in training mode applied the adapters' dropout."""
    lora = LoraConfig(r=4, lora_dropout=0.9, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    model = get_peft_model(own_model, lora)
    modes, spoken = [], {}
    model.base_model.model.model.decoder.register_forward_pre_hook(
        lambda *_: modes.extend(module.training for module in model.modules())
    )
    for is_training in (True, False):
        model.train(is_training)
        callback = SpeakCallback(processor, SENTENCES, tmp_path / str(is_training), max_seconds=0.2, temperature=0)
        callback.speak(model, 1)
        spoken[is_training] = [(callback.folder / line["file"]).read_bytes() for line in journal(callback)]
    assert modes and not any(modes)
    assert len(spoken[True]) == len(SENTENCES) and spoken[True] == spoken[False]


def test_each_sentence_has_its_own_seed(processor, model, tmp_path, monkeypatch):
    """All sentences were sampled with one seed, so they had the same noise."""
    seeds = []
    generate = Dia.generate
    monkeypatch.setattr(
        Dia, "generate", lambda *args, **kwargs: seeds.append(kwargs["seed"]) or generate(*args, **kwargs)
    )
    for seed in (0, 7):
        callback = SpeakCallback(processor, SENTENCES[:1] * 2, tmp_path / str(seed), max_seconds=0.2, seed=seed)
        callback.speak(model, 1)
        files = [(callback.folder / line["file"]).read_bytes() for line in journal(callback)]
        assert files[0] != files[1]
    assert seeds == [[0, 1], [7, 8]]


@pytest.mark.parametrize("bf16", [False, True])
def test_training_is_the_same_with_and_without(processor, tmp_path, bf16):
    """Training with evaluation samples gave other weights than training without them."""
    losses = []
    for name in ("heard", "unheard"):
        callback = SpeakCallback(processor, SENTENCES[:1], tmp_path / name, max_seconds=0.1)
        model = DiaForConditionalGeneration.from_pretrained(MINIATURE)
        trainer = make_trainer(tmp_path, model, processor, [callback] if name == "heard" else [], bf16=bf16)
        trainer.train()
        losses.append(logged(trainer, "loss") + logged(trainer, "eval_loss"))
        assert (callback.folder / "step-000002" / "00.wav").is_file() == (name == "heard")
    assert losses[0] == losses[1]


def test_adapters_are_heard(processor, tmp_path, own_model):
    """The fast path reads the weights of the layers directly: it ignored an unmerged adapter."""
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "gate_up_proj", "down_proj"], init_lora_weights=False)

    def spoken(model, name):
        callback = SpeakCallback(processor, SENTENCES, tmp_path / name, max_seconds=0.2, temperature=0)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            callback.speak(model, 1)
        return [read_audio(callback.folder / line["file"])[0] for line in journal(callback)]

    own_model.double()
    plain = spoken(own_model, "plain")
    adapted = get_peft_model(own_model, lora)
    apart = spoken(adapted, "apart")
    merged = spoken(adapted.merge_and_unload(), "merged")
    assert all(np.array_equal(one, other) for one, other in zip(apart, merged, strict=True))
    assert not all(np.array_equal(one, other) for one, other in zip(apart, plain, strict=True))


# --- transcripts


def test_word_errors(processor, model, tmp_path, recognizer):
    """Tags, punctuation and capitals counted as word errors."""
    recognizer.heard = ["hello, HERE.", "Good good bye!"]
    callback = SpeakCallback(processor, SENTENCES, tmp_path, asr="any/recognizer", max_seconds=0.2)
    for step in (1, 2):
        metrics = callback.speak(model, step)
    assert metrics["speech_wer"] == 2 / 4
    assert [(line["words"], line["word_errors"]) for line in journal(callback)] == [(2, 1), (2, 1)] * 2
    assert [line["transcript"] for line in journal(callback)][:2] == ["hello, HERE.", "Good good bye!"]
    assert recognizer.loaded == [("automatic-speech-recognition", "any/recognizer", "cpu")], "loaded once"
    seconds = [len(clip) / 16000 for clip in recognizer.clips]
    assert seconds == pytest.approx([line["seconds"] for line in journal(callback)], abs=1e-3), "at its own rate"


def test_silence_is_all_errors(processor, model, tmp_path, recognizer, monkeypatch):
    """A generation that ends at once caused a recognizer's error, or counted as no word error."""
    recognizer.heard = ["hello there"]
    monkeypatch.setattr(Dia, "generate", lambda *args, **kwargs: [np.zeros(0, np.float32), np.zeros(4096, np.float32)])
    callback = SpeakCallback(processor, [SENTENCES[0]] * 2, tmp_path, asr="any/recognizer")
    metrics = callback.speak(model, 1)
    assert metrics["speech_wer"] == 0.5 and metrics["speech_ended"] == 1.0
    assert len(recognizer.clips) == 1


# --- in a run


def test_metrics_reach_the_log(processor, own_model, tmp_path, recognizer):
    """Metrics of a callback were added after the log: they were not plotted, and early stopping could not use them."""
    recognizer.heard = ["hello there"]
    callback = SpeakCallback(processor, SENTENCES[:1], tmp_path, asr="any/recognizer", max_seconds=0.1)
    settings = {"max_steps": 9, "metric_for_best_model": "speech_wer", "greater_is_better": False}
    trainer = make_trainer(tmp_path, own_model, processor, [EarlyStoppingCallback(2), callback], **settings)
    trainer.train()
    assert trainer.state.global_step == 3, "no better word error rate for two evaluations"
    assert logged(trainer, "eval_speech_wer") == [0.0] * 3
    assert len(logged(trainer, "eval_speech_ended")) == 3
    assert all("eval_loss" in entry for entry in trainer.state.log_history if "eval_speech_wer" in entry)
    assert [line["step"] for line in journal(callback)] == [1, 2, 3], "spoken once an evaluation"
    assert trainer.evaluate(metric_key_prefix="test")["test_speech_wer"] == 0.0


def test_several_evaluation_sets(processor, own_model, tmp_path, callback):
    """The sentences were generated once for each evaluation set."""
    trainer = make_trainer(tmp_path, own_model, processor, [callback])
    trainer.eval_dataset = {"a": trainer.eval_dataset, "b": trainer.eval_dataset[:1]}
    metrics = trainer.evaluate()
    assert {"eval_a_loss", "eval_b_loss", "eval_speech_seconds"} <= set(metrics)
    assert len(journal(callback)) == len(SENTENCES)


def test_the_plain_trainer(processor, own_model, tmp_path, callback):
    """The callback did not work without our trainer, in a script that uses `Trainer`."""
    settings = {"metric_for_best_model": "eval_speech_seconds", "greater_is_better": True}
    trainer = make_trainer(tmp_path, own_model, processor, [callback], Trainer, **settings)
    trainer.train()
    assert [line["step"] for line in journal(callback)] == [1, 1, 2, 2]
    assert trainer.state.best_metric > 0


# --- failures


def test_a_recognizer_that_is_not_there(processor, own_model, tmp_path):
    """A failed download of the recognizer ended a run of hours."""
    callback = SpeakCallback(processor, SENTENCES, tmp_path, asr=tmp_path / "nowhere", max_seconds=0.1)
    settings = {"metric_for_best_model": "eval_speech_wer", "greater_is_better": False}
    trainer = make_trainer(tmp_path, own_model, processor, [callback], **settings)
    with pytest.warns(UserWarning, match="nowhere' could not transcribe the sentences .*the training continues"):
        trainer.train()
    assert trainer.state.global_step == 2
    assert all(math.isnan(rate) for rate in logged(trainer, "eval_speech_wer"))
    assert len(journal(callback)) == 4, "what was spoken is kept"
    assert logged(trainer, "eval_speech_seconds")[0] > 0


def test_a_model_that_cannot_speak(callback, processor, own_model, tmp_path, monkeypatch):
    """Running out of memory in generation ended the run, or left the model in eval mode."""

    def fail(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError("no memory left")

    monkeypatch.setattr(Dia, "generate", fail)
    trainer = make_trainer(tmp_path, own_model, processor, [callback])
    with pytest.warns(UserWarning, match="step 1: the sentences were not generated .*no memory left"):
        trainer.train()
    assert trainer.state.global_step == 2
    assert math.isnan(logged(trainer, "eval_speech_seconds")[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sentences": []}, "list of texts"),
        ({"sentences": "[S1] Hello."}, "list of texts"),
        ({"sentences": ["[S1] (laughs)"]}, "has no words"),
        ({"max_seconds": 0.001}, r"`max_seconds` is 0\.001"),
        ({"max_seconds": 1e9}, "in one call"),
    ],
)
def test_what_cannot_be_asked_for(processor, tmp_path, arguments, message):
    """A mistake in the recipe was reported at the first evaluation and not before the training."""
    with pytest.raises(ValueError, match=message):
        SpeakCallback(**{"processor": processor, "sentences": SENTENCES, "folder": tmp_path} | arguments)


def test_without_a_codec(tmp_path):
    """A processor loaded for training has no codec: generation failed without naming it."""
    with pytest.raises(ValueError, match="no codec"):
        SpeakCallback(DiaProcessor.from_pretrained(MINIATURE, load_codec=False), SENTENCES, tmp_path)


def test_without_jiwer(processor, tmp_path, monkeypatch):
    """The missing package was not named before the training."""
    monkeypatch.setitem(__import__("sys").modules, "jiwer", None)
    with pytest.raises(ImportError, match=r'pip install "dia-hf\[train\]"'):
        SpeakCallback(processor, SENTENCES, tmp_path, asr="any/recognizer")
    assert speak.SpeakCallback(processor, SENTENCES, tmp_path).asr is None
