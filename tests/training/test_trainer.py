import copy
import json
import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import tiny
from dia_hf import MINIATURE, DiaFeatureExtractor, DiaForConditionalGeneration, DiaProcessor, DiaTokenizer
from dia_hf.training.collator import DiaDataCollator
from dia_hf.training.speak import SpeakCallback
from dia_hf.training.trainer import DiaTrainer

CONFIG = tiny.random_config(1)
CHANNELS = CONFIG.decoder_config.num_channels
PROCESSOR = DiaProcessor(DiaFeatureExtractor(), DiaTokenizer(), config=CONFIG)


def make_clips(number, seed=0):
    """Draw clips of very different lengths."""
    generator = torch.Generator().manual_seed(seed)
    codes = CONFIG.decoder_config.eos_token_id
    lengths = torch.randint(1, 24, (number,), generator=generator).tolist()
    return [
        {
            "id": f"clip-{index}",
            "text": "[S1] " + "a" * (1 + length % 7),
            "codes": torch.randint(0, codes, (length, CHANNELS), generator=generator).numpy(),
        }
        for index, length in enumerate(lengths)
    ]


def make_trainer(folder, clips, eval_clips=None, kind=DiaTrainer, model=None, dropout=0.0, callbacks=None, **settings):
    settings = {
        "per_device_train_batch_size": 2,
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "seed": 3,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
    } | settings
    trainer = kind(
        tiny.random_model(CONFIG) if model is None else model,
        TrainingArguments(str(folder), **settings),
        DiaDataCollator(PROCESSOR, text_dropout=dropout),
        train_dataset=clips,
        eval_dataset=eval_clips,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def sums_over(model, clips, weights=None):
    """Loss and each channel's loss and accuracy over some clips, label by label, by a loop."""
    model.eval()
    losses, correct, counts = torch.zeros(3, CHANNELS, dtype=torch.float64)
    for clip in clips:
        batch = DiaDataCollator(PROCESSOR, text_dropout=0.0)([clip])
        labels = batch.pop("labels")[0].T  # [C, T]
        with torch.no_grad():
            logits = model(**batch).logits.double()  # [C, T, V]
        for channel in range(CHANNELS):
            heard = labels[channel] != -100
            likely = logits[channel][heard].log_softmax(-1)
            truth = labels[channel][heard]
            losses[channel] -= likely[torch.arange(len(truth)), truth].sum()
            correct[channel] += (likely.argmax(-1) == truth).sum()
            counts[channel] += len(truth)
    weights = torch.ones(CHANNELS) if weights is None else torch.tensor(weights)
    loss = (losses * weights / weights.mean()).sum() / counts.sum()
    return float(loss), (losses / counts).tolist(), (correct / counts).tolist()


# --- logged metrics


def test_channels_are_logged_beside_the_loss(tmp_path):
    """Each log contained its last micro-batch only, and a long clip counted as much as a short one."""
    clips = make_clips(12)
    trainer = make_trainer(
        tmp_path,
        clips,
        max_steps=1,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=4,
        train_sampling_strategy="sequential",
    )
    loss, losses, accuracies = sums_over(tiny.random_model(CONFIG), clips)
    trainer.train()
    entry = trainer.state.log_history[0]
    assert entry["loss"] == pytest.approx(loss, abs=1e-5)
    for channel in range(CHANNELS):
        assert entry[f"loss_channel_{channel}"] == pytest.approx(losses[channel], abs=1e-5)
        assert entry[f"accuracy_channel_{channel}"] == pytest.approx(accuracies[channel], abs=1e-9)


def test_each_log_begins_anew(tmp_path):
    """Metrics averaged since the beginning hid that a channel got worse, and included those of evaluations."""
    clips = make_clips(8)
    settings = {"learning_rate": 0.0, "train_sampling_strategy": "sequential", "eval_strategy": "steps"}
    trainer = make_trainer(tmp_path, clips, clips[:3], max_steps=4, logging_steps=2, eval_steps=1, **settings)
    trainer.train()
    model = tiny.random_model(CONFIG)
    expected = [sums_over(model, part)[1][0] for part in (clips[:4], clips[4:])]
    assert logged(trainer, "loss_channel_0") == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("weights", [None, [4.0] + [1.0] * (CHANNELS - 1)])
def test_evaluation_is_exact(tmp_path, weights):
    """`Trainer`'s `eval_loss` is a mean of means: a batch of short clips counts as much as one of long ones."""
    clips = make_clips(7)
    model = tiny.random_model(copy.deepcopy(CONFIG))
    model.config.channel_loss_weights = weights
    trainer = make_trainer(tmp_path, clips, clips, model=model, dropout=0.9, per_device_eval_batch_size=2)
    metrics = trainer.evaluate()
    loss, losses, accuracies = sums_over(model, clips, weights)
    assert metrics["eval_loss"] == pytest.approx(loss, abs=1e-6)
    assert [metrics[f"eval_loss_channel_{channel}"] for channel in range(CHANNELS)] == pytest.approx(losses, abs=1e-6)
    assert [metrics[f"eval_accuracy_channel_{channel}"] for channel in range(CHANNELS)] == pytest.approx(accuracies)
    assert trainer.state.log_history[-1]["eval_loss"] == metrics["eval_loss"]


def test_evaluation_hears_all_text_and_packs_nothing(tmp_path):
    """Text dropout made the evaluations of two epochs different."""
    clips = make_clips(6)
    trainer = make_trainer(tmp_path, clips, clips, dropout=1.0)
    trainer.data_collator.frames_per_row, trainer.data_collator.code_noise = 100, 1.0
    for loader in (trainer.get_eval_dataloader(), trainer.get_eval_dataloader(), trainer.get_test_dataloader(clips)):
        batch = next(iter(loader))
        assert batch["input_ids"].any(dim=1).all() and "sequence_ids" not in batch
    collator = trainer.data_collator
    assert (collator.text_dropout, collator.code_noise, collator.frames_per_row) == (1.0, 1.0, 100)


def test_what_was_summed_before_does_not_count(tmp_path):
    """Sums of an interrupted evaluation, or of a direct call, were added to the next metrics."""
    clips = make_clips(4)
    settings = {"max_steps": 1, "learning_rate": 0.0, "train_sampling_strategy": "sequential"}
    trainer = make_trainer(tmp_path, clips[:2], clips[:2], **settings)
    for is_training in (True, False):
        trainer.compute_loss(trainer.model.train(is_training), trainer.data_collator(clips[2:]))
    expected = sums_over(tiny.random_model(CONFIG), clips[:2])[1]
    metrics = trainer.evaluate()
    assert [metrics[f"eval_loss_channel_{channel}"] for channel in range(CHANNELS)] == pytest.approx(expected, abs=1e-6)
    trainer.train()
    losses = [logged(trainer, f"loss_channel_{channel}")[0] for channel in range(CHANNELS)]
    assert losses == pytest.approx(expected, abs=1e-5)


def test_several_evaluation_sets(tmp_path):
    """The sums of one evaluation set were added to those of the next."""
    clips = make_clips(5)
    trainer = make_trainer(tmp_path, clips, {"a": clips[:2], "b": clips[2:]})
    metrics = trainer.evaluate()
    model = tiny.random_model(CONFIG)
    for name, part in (("a", clips[:2]), ("b", clips[2:])):
        assert metrics[f"eval_{name}_loss"] == pytest.approx(sums_over(model, part)[0], abs=1e-6)


def test_stopping_by_a_channel(tmp_path):
    """Metrics that are added after the evaluation cannot choose the best model, or stop early."""
    clips = make_clips(4)
    trainer = make_trainer(
        tmp_path,
        clips,
        clips,
        max_steps=9,
        eval_strategy="steps",
        eval_steps=1,
        learning_rate=0.0,
        metric_for_best_model="eval_accuracy_channel_0",
        greater_is_better=True,
        callbacks=[EarlyStoppingCallback(2)],
    )
    trainer.train()
    assert trainer.state.global_step == 3


# --- epochs and resuming


class Notes:
    """A dataset that records the epochs it is given, and when each clip was requested."""

    def __init__(self, clips):
        self.clips, self.notes = clips, []

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, index):
        self.notes.append("clip")
        return self.clips[index]

    def set_epoch(self, epoch):
        self.notes.append(epoch)


def test_the_epoch_is_told_before_its_first_clip(tmp_path):
    """The epoch was set after the loader had begun: its first batches were drawn with the previous epoch."""
    clips = Notes(make_clips(4))
    trainer = make_trainer(tmp_path, clips, num_train_epochs=3, save_strategy="steps", save_steps=3)
    told = []
    set_epoch = trainer.data_collator.set_epoch
    trainer.data_collator.set_epoch = lambda epoch: (told.append(epoch), set_epoch(epoch))
    trainer.train()
    assert told == [0, 1, 2]
    assert [note for index, note in enumerate(clips.notes) if note == "clip" or note not in clips.notes[:index]] == [
        0, *["clip"] * 4, 1, *["clip"] * 4, 2, *["clip"] * 4
    ]  # fmt: skip
    told.clear()
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert told == [1, 2]


def test_an_epoch_left_before_its_end(tmp_path):
    """The position in the run, rounded down, is the epoch that ended, not the one that begins."""
    clips = make_clips(8)
    trainer = make_trainer(tmp_path, clips, num_train_epochs=3)

    class Leave(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_epoch_stop = True

    trainer.add_callback(Leave())
    told = []
    trainer.data_collator.set_epoch = told.append
    trainer.train()
    assert told == [0, 1, 2]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resuming_goes_on_with_the_same_numbers(tmp_path, num_workers):
    """After a resume within an epoch other texts were dropped, and the loss curve had a step."""
    settings = {
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": 3,
        "dropout": 0.5,
        "dataloader_num_workers": num_workers,
    }
    clips = make_clips(8)
    whole = make_trainer(tmp_path / "whole", clips, **settings)
    whole.train()
    resumed = make_trainer(tmp_path / "resumed", clips, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    for name in ("loss", "loss_channel_0", f"accuracy_channel_{CHANNELS - 1}"):
        assert logged(resumed, name)[-3:] == pytest.approx(logged(whole, name)[-3:], abs=1e-6)
    undropped = make_trainer(tmp_path / "undropped", clips, **settings | {"dropout": 0.0, "save_strategy": "no"})
    undropped.train()
    assert logged(undropped, "loss") != pytest.approx(logged(whole, "loss"), abs=1e-4), "nothing was dropped"


# --- accumulation, adapters, the plain Trainer


@pytest.mark.parametrize("kind", [Trainer, DiaTrainer])
def test_accumulation_is_one_large_batch(tmp_path, kind):
    """A mean of the micro-batches' means gives the clips beside a short one too much weight."""
    clips = make_clips(12)
    models = []
    for size, accumulation in ((4, 1), (1, 4)):
        trainer = make_trainer(
            tmp_path,
            clips,
            kind=kind,
            max_steps=3,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            learning_rate=0.1,
            max_grad_norm=0.0,
            remove_unused_columns=False,
        )
        trainer.train()
        models.append((trainer.model, logged(trainer, "loss")))
    (one, one_losses), (other, other_losses) = models
    assert other_losses == pytest.approx(one_losses, abs=1e-5)
    start = tiny.random_model(CONFIG)
    for first, second, begin in zip(one.parameters(), other.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(first, second, atol=1e-6, rtol=0)
        assert not torch.equal(first, begin)


def test_adapters(tmp_path):
    """PEFT's wrapper lost the channel metrics, or base weights were trained."""
    model = get_peft_model(tiny.random_model(CONFIG), LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    frozen = {name: weight.clone() for name, weight in model.named_parameters() if not weight.requires_grad}
    clips = make_clips(6)
    trainer = make_trainer(tmp_path, clips, clips, model=model, max_steps=3, eval_strategy="steps", eval_steps=3)
    loss = sums_over(model, clips)[0]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss, abs=1e-6)
    trainer.train()
    assert len(logged(trainer, "loss_channel_0")) == 3
    assert logged(trainer, "eval_loss")[-1] < loss
    assert all(torch.equal(weight, frozen[name]) for name, weight in model.named_parameters() if name in frozen)


def test_mixed_precision(tmp_path):
    """Accelerate converts the outputs to float32, which must not include the counts."""
    clips = make_clips(6)
    trainer = make_trainer(tmp_path, clips, clips, max_steps=2, bf16=True, eval_strategy="steps", eval_steps=2)
    trainer.train()
    assert len(logged(trainer, "accuracy_channel_0")) == 2
    assert logged(trainer, "eval_loss")[0] == pytest.approx(sums_over(trainer.model, clips)[0], rel=0.02)


def test_copies_on_several_devices(tmp_path):
    """`DataParallel`, which `Trainer` uses with several GPUs, returned 18 channels in place of nine."""
    clips = make_clips(4)
    trainer = make_trainer(tmp_path, clips)
    model, collate = tiny.random_model(CONFIG), DiaDataCollator(PROCESSOR, text_dropout=0.0)
    with torch.no_grad():
        copies = [model(**collate(part)) for part in (clips[:1], clips[1:])]
    names = ("channel_losses", "channel_accuracies", "channel_counts")
    gathered = SimpleNamespace(**{name: torch.cat([getattr(copy, name) for copy in copies]) for name in names})
    trainer.training_sums.add(gathered, CHANNELS)
    losses, _, counts = trainer.training_sums.take(trainer)
    means = [loss / count for loss, count in zip(losses, counts, strict=True)]
    assert means == pytest.approx(sums_over(model, clips)[1], abs=1e-5)


def test_the_plain_trainer(tmp_path):
    """A script with the plain `Trainer` needed more of this package than the collator."""
    clips = make_clips(6)
    settings = {"max_steps": 3, "eval_strategy": "steps", "eval_steps": 3, "remove_unused_columns": False}
    trainer = make_trainer(tmp_path, clips, clips, kind=Trainer, dropout=0.5, **settings)
    trainer.train()
    assert len(logged(trainer, "loss")) == 3 and len(logged(trainer, "eval_loss")) == 1


def test_columns_are_the_collators(tmp_path):
    """`Trainer` drops the columns that `forward` does not name: text and codes."""
    datasets = pytest.importorskip("datasets")
    clips = datasets.Dataset.from_list([clip | {"codes": clip["codes"].tolist()} for clip in make_clips(4)])
    trainer = make_trainer(tmp_path, clips, clips, max_steps=1, eval_strategy="steps", eval_steps=1)
    trainer.train()
    assert logged(trainer, "eval_loss")


def test_the_schedule_reaches_muon(tmp_path):
    """The schedule did not change Muon's rate, or the log showed it in place of the other."""
    kind = partial(DiaTrainer, muon_learning_rate=0.02)
    trainer = make_trainer(tmp_path, make_clips(8), kind=kind, max_steps=4, lr_scheduler_type="linear")
    trainer.train()
    *others, muon = (group["lr"] for group in trainer.optimizer.param_groups)
    assert muon == 0.0 and set(others) == {0.0}
    assert logged(trainer, "learning_rate") == pytest.approx([0.01, 0.0075, 0.005, 0.0025])


def test_muon_takes_whole_matrices(tmp_path, monkeypatch):
    """Shards of matrices under FSDP and DeepSpeed were taken for matrices."""
    monkeypatch.setattr(Trainer, "is_fsdp_enabled", True, raising=False)
    monkeypatch.setattr(Trainer, "__init__", lambda self, *args, **kwargs: None)
    with pytest.raises(ValueError, match=r"0\.02, but FSDP and DeepSpeed"):
        DiaTrainer(muon_learning_rate=0.02)


# --- behavior of `Trainer` for text models


@pytest.mark.parametrize("kind", [DiaTrainer, Trainer])
@pytest.mark.parametrize("name", ["processor", "tokenizer"])
def test_a_processing_class_leaves_the_codecs_ids(tmp_path, kind, name):
    """`Trainer` set the tokenizer's padding, id 0, in the config: saved models never ended, or did not load."""
    miniature = DiaProcessor.from_pretrained(MINIATURE)
    model = DiaForConditionalGeneration.from_pretrained(MINIATURE, dtype="float32")
    miniature.config = model.config  # as after `resize_token_embeddings`
    clips = [{"text": "[S1] Hello.", "codes": torch.full((length, 9), length)} for length in (3, 9, 5, 7)]
    trainer = kind(
        model,
        TrainingArguments(str(tmp_path), max_steps=2, save_steps=2, report_to="none", use_cpu=True, disable_tqdm=True,
                          remove_unused_columns=False),
        DiaDataCollator(miniature),
        train_dataset=clips,
        processing_class=miniature if name == "processor" else miniature.tokenizer,
    )  # fmt: skip
    seen = []
    collate, trainer.data_collator = trainer.data_collator, lambda rows: (seen.append(collate(rows)), seen[-1])[1]
    with pytest.warns(UserWarning, match="the codec's are put back"):
        trainer.train()
    assert not any((batch["decoder_input_ids"] < 0).any() for batch in seen)
    for batch in seen:  # channel 0 has ended in the last position
        assert set(batch["decoder_input_ids"][:, -1, 0].tolist()) <= {1024, 1025}
    again = DiaForConditionalGeneration.from_pretrained(tmp_path / "checkpoint-2")
    for of in (model, again):
        ids = (1025, 1026, 1024)
        assert (of.config.pad_token_id, of.config.bos_token_id, of.config.eos_token_id) == (None, None, None)
        for part in (of.config.decoder_config, of.generation_config):
            assert (part.pad_token_id, part.bos_token_id, part.eos_token_id) == ids
    if name == "processor":
        assert DiaProcessor.from_pretrained(tmp_path / "checkpoint-2").codec.fingerprint == miniature.codec.fingerprint


@pytest.mark.filterwarnings("error:the model's special tokens")
def test_a_models_own_ids_stay():
    """Ids of a config that differs from the published one were taken for a tokenizer's."""
    config = copy.deepcopy(CONFIG)
    decoder = config.decoder_config
    decoder.pad_token_id, decoder.bos_token_id = decoder.bos_token_id, decoder.pad_token_id
    model = DiaForConditionalGeneration(config)
    model.train()
    model.generation_config.pad_token_id = None
    assert model.train().generation_config.pad_token_id is None
    assert model.config.decoder_config.pad_token_id == CONFIG.decoder_config.bos_token_id


def test_label_smoothing_of_the_arguments(tmp_path):
    """`label_smoothing_factor` failed with a shape error in the first step, as `Trainer` removes the labels."""
    clips = make_clips(6)
    settings = {"max_steps": 1, "train_sampling_strategy": "sequential"}
    expected = tiny.random_model(CONFIG)
    expected.label_smoothing = 0.1
    plain = make_trainer(tmp_path / "plain", clips, clips, model=expected, **settings)
    asked = make_trainer(tmp_path / "asked", clips, clips, label_smoothing_factor=0.1, **settings)
    without = make_trainer(tmp_path / "without", clips, clips, **settings)
    for trainer in (plain, asked, without):
        trainer.train()
    assert logged(asked, "loss") == logged(plain, "loss") != logged(without, "loss")
    fresh = make_trainer(tmp_path / "fresh", clips, clips, label_smoothing_factor=0.1)
    assert fresh.evaluate()["eval_loss"] == pytest.approx(sums_over(tiny.random_model(CONFIG), clips)[0], abs=1e-6)
    made = make_trainer(
        tmp_path / "made", clips, kind=partial(MadeInTime, model_init=lambda: tiny.random_model(CONFIG)),
        label_smoothing_factor=0.1, **settings,
    )  # fmt: skip
    made.train()
    assert logged(made, "loss") == logged(plain, "loss")
    expected.label_smoothing = 0.2
    with pytest.raises(
        ValueError, match=r"`label_smoothing_factor` is 0\.1, but the model's `label_smoothing` is 0\.2"
    ):
        make_trainer(tmp_path / "two", clips, model=expected, label_smoothing_factor=0.1)


class MadeInTime(DiaTrainer):
    """A trainer that is given a `model_init`, as a hyperparameter search is."""

    def __init__(self, model, *args, **kwargs):
        super().__init__(None, *args, **kwargs)


def test_label_smoothing_under_the_plain_trainer(tmp_path):
    """The error named only two sizes that do not match; the model's own smoothing works under any trainer."""
    clips = make_clips(4)
    settings = {"kind": Trainer, "max_steps": 1, "remove_unused_columns": False}
    trainer = make_trainer(tmp_path, clips, label_smoothing_factor=0.1, **settings)
    with pytest.warns(UserWarning, match=r"set `model\.label_smoothing` instead"), pytest.raises(RuntimeError):
        trainer.train()
    model = tiny.random_model(CONFIG)
    model.label_smoothing = 0.1
    trainer = make_trainer(tmp_path, clips, model=model, **settings)
    trainer.train()
    assert len(logged(trainer, "loss")) == 1


@pytest.mark.parametrize("wrapped", [False, True])
def test_predictions_and_labels_pair(tmp_path, wrapped):
    """Predictions were cut to the number of clips in the last batch, and their shape differed from the labels'."""
    clips, model = make_clips(5), tiny.random_model(CONFIG)
    model.loss_chunk_size = 3  # leaves no logits: metrics were skipped without a warning
    if wrapped:
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    seen = {}

    def compute_metrics(evaluation):
        seen.update(predictions=evaluation.predictions, labels=evaluation.label_ids)
        return {"told": 1.0}

    trainer = make_trainer(tmp_path, clips, clips, model=model, per_device_eval_batch_size=2)
    trainer.compute_metrics = compute_metrics
    metrics = trainer.evaluate()
    frames = max(len(clip["codes"]) for clip in clips) + 1 + max(CONFIG.delay_pattern)
    vocab_size = CONFIG.decoder_config.vocab_size
    assert seen["labels"].shape == (5, frames, CHANNELS)
    assert seen["predictions"].shape == (5, frames, CHANNELS, vocab_size)
    assert metrics["eval_told"] == 1.0
    assert metrics["eval_loss"] == pytest.approx(sums_over(tiny.random_model(CONFIG), clips)[0], abs=1e-6)
    heard = seen["labels"] != -100
    best = seen["predictions"].argmax(-1)
    accuracy = [(best == seen["labels"])[:, :, c][heard[:, :, c]].mean() for c in range(CHANNELS)]
    told = [metrics[f"eval_accuracy_channel_{channel}"] for channel in range(CHANNELS)]
    assert accuracy == pytest.approx(told)

    trainer.preprocess_logits_for_metrics = lambda logits, labels: logits.argmax(-1)
    trainer.evaluate()
    assert seen["predictions"].shape == seen["labels"].shape
    assert (seen["predictions"][heard] == best[heard]).all()
    assert trainer.predict(clips).predictions.shape == (5, frames, CHANNELS)


def test_labels_of_rows_pair_with_predictions(tmp_path):
    """`DiaProcessor` makes labels `[B·C, T]`, which the last batch cut to the number of clips."""
    clips, seen = make_clips(3), {}

    def by_rows(features):
        batch = DiaDataCollator(PROCESSOR, text_dropout=0.0)(features)
        return batch | {"labels": batch["labels"].transpose(1, 2).flatten(0, 1)}

    trainer = make_trainer(tmp_path, clips, clips, per_device_eval_batch_size=2)
    trainer.data_collator = by_rows
    trainer.compute_metrics = lambda evaluation: seen.update(labels=evaluation.label_ids) or {}
    loss = trainer.evaluate()["eval_loss"]
    assert seen["labels"].shape[::2] == (3, CHANNELS)
    assert loss == pytest.approx(sums_over(tiny.random_model(CONFIG), clips)[0], abs=1e-6)


def test_an_upload_holds_no_path_of_this_machine(tmp_path, monkeypatch):
    """`Trainer` uploads the folder that it saved, which contained the local path of the codec."""
    monkeypatch.setattr(Trainer, "push_to_hub", lambda self: self.save_model(tmp_path / "upload"))
    trainer = make_trainer(tmp_path / "run", make_clips(2))
    trainer.processing_class = DiaProcessor.from_pretrained(MINIATURE)
    trainer.push_to_hub()
    reference = json.loads((tmp_path / "upload" / "audio_tokenizer_config.json").read_text())
    assert reference["audio_tokenizer_name_or_path"] == "audio_tokenizer"


def test_predicting_with_generate(tmp_path):
    """`predict_with_generate` failed in padding after the first epoch, with an error that did not name it."""
    clips = make_clips(2)
    settings = Seq2SeqTrainingArguments(
        str(tmp_path), predict_with_generate=True, report_to="none", use_cpu=True, remove_unused_columns=False
    )
    parts = (tiny.random_model(CONFIG), settings, DiaDataCollator(PROCESSOR))
    with pytest.raises(ValueError, match="`predict_with_generate` is True"):
        DiaTrainer(*parts, train_dataset=clips)
    with pytest.raises(ValueError, match="`predict_with_generate=False`"):
        Seq2SeqTrainer(*parts, train_dataset=clips).predict(clips)


# --- several processes


@pytest.mark.parametrize(("remainder", "num_new"), [(0, [2, 2]), (-1, [2, 2]), (1, [1, 0]), (3, [2, 1])])
def test_clips_that_fill_up_the_last_batches(remainder, num_new):
    """With all batches of all processes full, the labels of the last batches were lost."""
    state = SimpleNamespace(end_of_dataloader=True, remainder=remainder)
    batch = {"labels": torch.ones(2, 3, 1).long(), "attention_mask": torch.ones(2, 5)}
    kept = []
    for rank in range(2):
        args = SimpleNamespace(world_size=2, process_index=rank)
        trainer = SimpleNamespace(accelerator=SimpleNamespace(gradient_state=state), args=args)
        labels = DiaTrainer._without_repeats(trainer, batch)["labels"]
        kept.append(int((labels != -100).all(dim=(1, 2)).sum()))
    assert kept == num_new and (batch["labels"] == 1).all()


SENTENCES = ["[S1] Hello there.", "[S2] Bye."]


def work_in_a_process(folder):
    """The work of each of two processes: train, evaluate its part, and generate with sharded weights."""
    clips = make_clips(12)
    trainer = make_trainer(
        folder / "run",
        clips,
        clips[:5],
        max_steps=3,
        eval_strategy="steps",
        eval_steps=3,
        logging_steps=3,
        per_device_eval_batch_size=2,
        learning_rate=0.0,
        train_sampling_strategy="sequential",
        ddp_backend="gloo",
    )
    trainer.train()
    rank = trainer.args.process_index

    model, processor = DiaForConditionalGeneration.from_pretrained(MINIATURE), DiaProcessor.from_pretrained(MINIATURE)
    whole = SpeakCallback(processor, SENTENCES, folder / "whole", max_seconds=0.2).speak(model, 1)
    mesh = init_device_mesh("cpu", (2,))
    for layer in (*model.model.encoder.layers, *model.model.decoder.layers, model):
        fully_shard(layer, mesh=mesh)
    register_fsdp_forward_method(model, "generate")  # as `Trainer` does
    shared = SpeakCallback(processor, SENTENCES, folder / "shared", max_seconds=0.2).speak(model, 1)
    (folder / f"{rank}.json").write_text(json.dumps([*trainer.state.log_history[:2], whole, shared]))


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """The folder, and the training, evaluation and generation metrics of each process."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    settings["PYTHONPATH"] = os.pathsep.join(
        [str(Path(tiny.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            env=os.environ | settings | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=180) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return folder, *(json.loads((folder / f"{rank}.json").read_text()) for rank in range(2))


def test_channels_of_all_processes(two_processes):
    """Each process logged the channel metrics of its own half only."""
    _, losses, accuracies = sums_over(tiny.random_model(CONFIG), make_clips(12))
    for training, *_ in two_processes[1:]:
        for channel in range(CHANNELS):
            assert training[f"loss_channel_{channel}"] == pytest.approx(losses[channel], abs=1e-5)
            assert training[f"accuracy_channel_{channel}"] == pytest.approx(accuracies[channel])


def test_evaluation_is_exact_in_two_processes(two_processes):
    """Clips that are repeated to fill the last batch of both processes counted twice."""
    loss, losses, accuracies = sums_over(tiny.random_model(CONFIG), make_clips(12)[:5])
    for _, evaluation, *_ in two_processes[1:]:
        assert evaluation["eval_loss"] == pytest.approx(loss, abs=1e-6)
        for channel in range(CHANNELS):
            assert evaluation[f"eval_loss_channel_{channel}"] == pytest.approx(losses[channel], abs=1e-6)
            assert evaluation[f"eval_accuracy_channel_{channel}"] == pytest.approx(accuracies[channel])


def test_speaking_with_weights_shared_out(two_processes):
    """One process generated while the other waited for its shards of the weights: a deadlock."""
    folder, (*_, whole, shared), (*_, other_whole, other_shared) = two_processes
    assert whole == other_whole == shared == other_shared
    assert whole["speech_seconds"] > 0
    for name in ("00.wav", "01.wav"):
        files = [folder / kind / "step-000001" / name for kind in ("whole", "shared")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert len((folder / "whole" / "spoken.jsonl").read_text().splitlines()) == 2, "one process writes"


if __name__ == "__main__":
    work_in_a_process(Path(sys.argv[1]))
