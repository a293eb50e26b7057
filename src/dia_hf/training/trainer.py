"""transformers' `Trainer`, told what Dia's batches and outputs have beyond a loss.

It adds what the nine channels say of themselves to what is logged, tells the collator which epoch it is, and evaluates
label by label. All else, from accumulation to many machines, is `Trainer`'s; the plain one trains Dia as well.

Legend: B clips, T frames, C channels.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from ..loss import IGNORE_INDEX, weighted_sum
from ..modeling_dia import DiaForConditionalGeneration
from ..processing_dia import DiaProcessor
from ..text_files import first_line
from .collator import DiaDataCollator
from .muon import MuonBeside
from .speak import SpeakCallback

__all__ = ["DiaTrainer"]


# Fields of the model's outputs that are no prediction, whatever the config lets a forward pass return.
_NOT_PREDICTED = (
    *("encoder_last_hidden_state", "encoder_hidden_states", "encoder_attentions"),
    *("decoder_hidden_states", "decoder_attentions", "cross_attentions"),
)


def _base_model(model: nn.Module) -> DiaForConditionalGeneration:
    """Return the Dia in a model, which may be wrapped by PEFT or for several devices."""
    while not isinstance(model, DiaForConditionalGeneration):
        wrapped: Any = model
        model = getattr(wrapped, "module", None) or getattr(wrapped, "_orig_mod", None) or wrapped.get_base_model()
    return model


class _RunningSums:
    """Sums over labels, channel by channel, kept where the model computes: nothing waits for the device."""

    def __init__(self) -> None:
        self._sums: torch.Tensor | None = None  # [3, C]: losses, right answers, labels

    def add(self, outputs: Any, num_channels: int) -> None:
        """Add a model's outputs, unless it was not asked for a loss."""
        if getattr(outputs, "channel_losses", None) is None:
            return
        losses = outputs.channel_losses.detach()
        # Apple's devices have no float64, of which float32 loses the ones beyond 16.8 million labels.
        dtype = torch.float32 if losses.device.type == "mps" else torch.float64
        counts = outputs.channel_counts.to(dtype)
        correct = (outputs.channel_accuracies.to(dtype) * counts).round()
        sums = torch.stack((torch.where(counts > 0, losses.to(dtype) * counts, 0), correct, counts))
        sums = sums.unflatten(1, (-1, num_channels)).sum(1)  # `DataParallel` puts its copies' outputs behind each other
        self._sums = sums if self._sums is None else self._sums + sums

    def take(self, trainer: Trainer) -> tuple[list[float], list[float], list[float]] | None:
        """Return the sums of all processes (losses, right answers, labels) and begin anew; all must call it."""
        if self._sums is None:
            return None
        losses, correct, counts = trainer.accelerator.reduce(self._sums, reduction="sum").tolist()
        self._sums = None
        return losses, correct, counts

    def clear(self) -> None:
        """Forget what was added."""
        self._sums = None


def _by_channel(losses: list[float], correct: list[float], counts: list[float], prefix: str = "") -> dict[str, float]:
    """Name the means of the channels that had labels."""
    heard = [(channel, count) for channel, count in enumerate(counts) if count]
    return {
        **{f"{prefix}loss_channel_{channel}": losses[channel] / count for channel, count in heard},
        **{f"{prefix}accuracy_channel_{channel}": correct[channel] / count for channel, count in heard},
    }


class _EpochCallback(TrainerCallback):
    """Tells whoever wants to know which epoch begins; `Trainer` calls it before it asks for the first batch."""

    def __init__(self, trainer: DiaTrainer) -> None:
        self._trainer = trainer
        self._epoch: int | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._epoch = None
        self._trainer.training_sums.clear()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Counted, as `state.epoch` is only right at first: an epoch may be left before its end.
        self._epoch = int(state.epoch or 0) if self._epoch is None else self._epoch + 1
        for listener in (self._trainer.data_collator, self._trainer.train_dataset):
            if hasattr(listener, "set_epoch"):
                listener.set_epoch(self._epoch)


class DiaTrainer(Trainer):
    """`transformers.Trainer` for Dia: the same arguments, and

    - beside `loss`, each channel's own: `loss_channel_0`, …, and how often its best token is the right one:
      `accuracy_channel_0`, …; means over all labels since the last log, of all micro-batches and processes;
    - after an evaluation `eval_loss`, `eval_loss_channel_0`, `eval_accuracy_channel_0`, …, exact over the set: every
      label counts once, on however many processes, where `Trainer` takes the mean of the batches' means, and counts
      clips again that fill up the last batch. Each text is heard: a `DiaDataCollator` drops none and packs nothing;
    - the `set_epoch` of the collator, and of the training set if it has one, is called before each epoch, also when a
      run is resumed in the middle of one;
    - what a `SpeakCallback` measures, `eval_speech_wer` and others, is part of the evaluation: logged, and good for
      `metric_for_best_model` and early stopping;
    - `remove_unused_columns` is off: the columns `text` and `codes` are the collator's, not the model's;
    - `label_smoothing_factor` is the model's own `label_smoothing`, in training alone;
    - `compute_metrics` and `predict` get a row a clip, padded with -100: predictions are logits `[clips, T, C, V]`, or
      what `preprocess_logits_for_metrics` makes of them, labels `[clips, T, C]`.

    Args:
        args, kwargs: As `transformers.Trainer`; `data_collator` a `DiaDataCollator`.
        muon_learning_rate (`float`, *optional*): Train the matrices of the layers with Muon, at this rate; all else by
            `args.optim` at `args.learning_rate`, and both with `args.weight_decay`. Needs torch 2.9, and whole
            matrices in each process: neither FSDP nor DeepSpeed.

    Raises:
        ValueError: If `muon_learning_rate` comes with FSDP or DeepSpeed, the model and `args` have different label
            smoothing, or `args` asks for `predict_with_generate`, which pads tokens of texts.

    Example:
    ```python
    >>> import tempfile
    >>> import torch
    >>> from transformers import PrinterCallback, TrainingArguments
    >>> from dia_hf import MINIATURE, DiaForConditionalGeneration, DiaProcessor
    >>> from dia_hf.training import DiaDataCollator, DiaTrainer
    >>> clips = [{"text": "[S1] Hello.", "codes": torch.randint(0, 1024, (20, 9))}] * 4
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     trainer = DiaTrainer(
    ...         DiaForConditionalGeneration.from_pretrained(MINIATURE),
    ...         TrainingArguments(folder, max_steps=2, logging_steps=1, report_to="none", disable_tqdm=True),
    ...         DiaDataCollator(DiaProcessor.from_pretrained(MINIATURE)),
    ...         train_dataset=clips,
    ...     )
    ...     trainer.remove_callback(PrinterCallback)
    ...     _ = trainer.train()
    >>> [name for name in trainer.state.log_history[0] if name.endswith("_8")]
    ['loss_channel_8', 'accuracy_channel_8']

    ```
    """

    def __init__(self, *args: Any, muon_learning_rate: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if muon_learning_rate is not None and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ValueError(
                f"`muon_learning_rate` is {muon_learning_rate}, but FSDP and DeepSpeed cut up the matrices, which Muon "
                "takes whole; leave it out, or train with DDP."
            )
        if getattr(self.args, "predict_with_generate", False):
            raise ValueError(
                "`predict_with_generate` is True, but Dia generates frames of codes and not the rows of tokens that "
                "`Seq2SeqTrainer` pads and gathers; leave it out. `SpeakCallback` speaks at evaluations, and "
                "`compute_metrics` gets logits."
            )
        if self.args.push_to_hub:
            self._publish_processor()
        self._take_label_smoothing(self.model)
        self._muon_learning_rate = muon_learning_rate
        self.args.remove_unused_columns = False
        self.training_sums = _RunningSums()
        self._evaluation_sums = _RunningSums()
        self._speech: dict[str, float] | None = None
        self.add_callback(_EpochCallback(self))

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """Upload what was trained as `Trainer` does, the processor without paths of this machine."""
        self._publish_processor()
        return super().push_to_hub(*args, **kwargs)

    def _publish_processor(self) -> None:
        """Save the processor as it may be published from now on: folders are uploaded as they were saved."""
        processor: Any = self.processing_class  # type: ignore[has-type]  # as `data_collator` below
        if isinstance(processor, DiaProcessor):
            self.processing_class = processor.for_hub()

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Save a checkpoint to its end, or leave none: a disk may be full in the middle of it."""
        folder = os.path.join(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        is_new = not os.path.exists(folder)
        try:
            super()._save_checkpoint(*args, **kwargs)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch's writer has no error of its own
            if is_new and self.is_world_process_zero():
                shutil.rmtree(folder, ignore_errors=True)
            raise OSError(
                f"the checkpoint {folder!r} could not be written ({first_line(error)}); make room, and go on from the "
                "one before with --resume, or begin anew where there is none."
            ) from error

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """Make a model as `Trainer` does, for a run or a trial of a search, and set its label smoothing."""
        model = super().call_model_init(trial)
        self._take_label_smoothing(model)
        return model

    def _take_label_smoothing(self, model: nn.Module) -> None:
        """Let the model smooth: `Trainer`'s own smoother takes logits and labels of other shapes, also to evaluate."""
        self.label_smoother = None
        share = self.args.label_smoothing_factor
        if share == 0:
            return
        base = _base_model(model)
        if base.label_smoothing not in (0, share):
            raise ValueError(
                f"`label_smoothing_factor` is {share}, but the model's `label_smoothing` {base.label_smoothing}; set "
                "one of them."
            )
        base.label_smoothing = share

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Compute the loss as `Trainer` does, and note what the channels say."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        sums = self.training_sums if model.training else self._evaluation_sums
        sums.add(outputs, self.model.config.decoder_config.num_channels)
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create `Trainer`'s optimizer, and Muon beside it where it was asked for."""
        is_new = self.optimizer is None  # type: ignore[has-type]  # as `data_collator` below
        optimizer = super().create_optimizer(model)
        if self._muon_learning_rate is not None and is_new:
            optimizer = self.optimizer = MuonBeside(
                optimizer, model or self.model, self._muon_learning_rate, self.args.weight_decay
            )
        return optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, the channels beside the training loss; all processes come here."""
        if "loss" in logs and (sums := self.training_sums.take(self)) is not None:
            logs.update(_by_channel(*sums))
        super().log(logs, start_time)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Return `Trainer`'s loader, whose collator drops no text and packs no rows."""
        with self._collating_for_evaluation():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """Return `Trainer`'s loader, whose collator drops no text and packs no rows."""
        with self._collating_for_evaluation():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _collating_for_evaluation(self) -> Iterator[None]:
        """Put another collator where `Trainer` looks for it, the only way to give a loader of its own another one."""
        collator: Any = self.data_collator  # type: ignore[has-type]  # mypy does not see it in `Trainer`
        if isinstance(collator, DiaDataCollator):
            plain = copy.copy(collator)
            plain.text_dropout, plain.code_noise, plain.frames_per_row = 0.0, 0.0, None
            self.data_collator = plain
        try:
            yield
        finally:
            self.data_collator = collator

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Speak, where there is a `SpeakCallback`, and evaluate; see `Trainer.evaluate`."""
        if self._speech is not None:  # one of several sets
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        self._speech = {}
        try:
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, SpeakCallback):
                    spoken = callback.speak(self.model, self.state.global_step)
                    self._speech |= {f"{metric_key_prefix}_{name}": value for name, value in spoken.items()}
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        finally:
            self._speech = None

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Run `Trainer`'s loop, and put the exact loss and the channels into its metrics."""
        self._evaluation_sums.clear()
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix=metric_key_prefix
        )
        if (sums := self._evaluation_sums.take(self)) is not None and any(sums[2]):
            losses, correct, counts = sums
            weights = self.accelerator.unwrap_model(self.model).config.channel_loss_weights
            loss = weighted_sum(torch.tensor(losses, dtype=torch.float64), weights).item() / sum(counts)
            output.metrics[f"{metric_key_prefix}_loss"] = loss
            output.metrics.update(_by_channel(losses, correct, counts, f"{metric_key_prefix}_"))
        output.metrics.update(self._speech or {})
        return output

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Any, Any, Any]:
        """Evaluate a batch, without the labels of clips that another batch has, too; logits and labels by clips."""
        base, inputs = _base_model(self.model), self._without_repeats(inputs)
        chunk_size = base.loss_chunk_size
        if not prediction_loss_only:
            base.loss_chunk_size = None  # slices leave no logits
            ignore_keys = [*(ignore_keys or base.config.keys_to_ignore_at_inference), *_NOT_PREDICTED]
        try:
            loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        finally:
            base.loss_chunk_size = chunk_size
        num_channels = base.config.decoder_config.num_channels
        if isinstance(logits, torch.Tensor):
            logits = logits.unflatten(0, (-1, num_channels)).transpose(1, 2)  # [B·C, T, V] to [B, T, C, V]
        if isinstance(labels, torch.Tensor) and labels.ndim == 2:
            labels = labels.unflatten(0, (-1, num_channels)).transpose(1, 2)
        return loss, logits, labels

    def _without_repeats(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Leave out the labels of the clips that fill up the last batches, so that all processes have as many."""
        state = self.accelerator.gradient_state
        labels = inputs.get("labels")
        if labels is None or self.args.world_size == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return inputs
        num_clips = len(inputs["attention_mask"])
        # The last batches of all processes, put together, begin with what is new.
        num_new = min(max(state.remainder - self.args.process_index * num_clips, 0), num_clips)
        labels = labels.clone()
        labels[num_new * (len(labels) // num_clips) :] = IGNORE_INDEX  # [B, T, C], or [B·C, T]
        return {**inputs, "labels": labels}
