"""`Trainer` of transformers with additions for Dia: metrics per channel, epochs for the collator, exact evaluation.

Everything else, from gradient accumulation to distributed training, is that of `Trainer`, which can train Dia, too.

Legend: B clips, T frames, C channels.
"""

from __future__ import annotations

import copy
import os
import shutil
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


# Fields of the model's outputs that are not predictions, even if the config enables them.
_NOT_PREDICTED = (
    *("encoder_last_hidden_state", "encoder_hidden_states", "encoder_attentions"),
    *("decoder_hidden_states", "decoder_attentions", "cross_attentions"),
)


def _base_model(model: nn.Module) -> DiaForConditionalGeneration:
    """Return the Dia model inside of wrappers of PEFT, `torch.compile` or distributed training."""
    while not isinstance(model, DiaForConditionalGeneration):
        wrapped: Any = model
        model = getattr(wrapped, "module", None) or getattr(wrapped, "_orig_mod", None) or wrapped.get_base_model()
    return model


class _RunningSums:
    """Sums over labels by channel, kept on the model's device to avoid synchronization."""

    def __init__(self) -> None:
        self._sums: torch.Tensor | None = None  # [3, C]: losses, correct predictions, labels

    def add(self, outputs: Any, num_channels: int) -> None:
        """Add a model's outputs, if they contain a loss."""
        if getattr(outputs, "channel_losses", None) is None:
            return
        losses = outputs.channel_losses.detach()
        # MPS has no float64; float32 counts exactly up to 16.8 million labels.
        dtype = torch.float32 if losses.device.type == "mps" else torch.float64
        counts = outputs.channel_counts.to(dtype)
        correct = (outputs.channel_accuracies.to(dtype) * counts).round()
        sums = torch.stack((torch.where(counts > 0, losses.to(dtype) * counts, 0), correct, counts))
        sums = sums.unflatten(1, (-1, num_channels)).sum(1)  # `DataParallel` concatenates the outputs of its replicas
        self._sums = sums if self._sums is None else self._sums + sums

    def take(self, trainer: Trainer) -> tuple[list[float], list[float], list[float]] | None:
        """Return the sums over all processes (losses, correct predictions, labels) and reset; all must call it."""
        if self._sums is None:
            return None
        losses, correct, counts = trainer.accelerator.reduce(self._sums, reduction="sum").tolist()
        self._sums = None
        return losses, correct, counts

    def clear(self) -> None:
        """Reset the sums."""
        self._sums = None


def _by_channel(losses: list[float], correct: list[float], counts: list[float], prefix: str = "") -> dict[str, float]:
    """Return the mean loss and accuracy of each channel with labels, by metric name."""
    used = [(channel, count) for channel, count in enumerate(counts) if count]
    return {
        **{f"{prefix}loss_channel_{channel}": losses[channel] / count for channel, count in used},
        **{f"{prefix}accuracy_channel_{channel}": correct[channel] / count for channel, count in used},
    }


class _EpochCallback(TrainerCallback):
    """Passes the epoch to the collator and the training set; `Trainer` calls it before it requests the first batch."""

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
        # Counted here: `state.epoch` is exact only at the beginning, since an epoch may end early.
        self._epoch = int(state.epoch or 0) if self._epoch is None else self._epoch + 1
        for listener in (self._trainer.data_collator, self._trainer.train_dataset):
            if hasattr(listener, "set_epoch"):
                listener.set_epoch(self._epoch)


class DiaTrainer(Trainer):
    """`transformers.Trainer` for Dia: the same arguments, and

    - logs of training have the loss and the accuracy of each channel beside `loss`: `loss_channel_0`, …, and
      `accuracy_channel_0`, …: means over all labels since the last log, of all micro-batches and processes;
    - evaluations give `eval_loss`, `eval_loss_channel_0`, `eval_accuracy_channel_0`, …, exact over the set: each label
      counts once for any number of processes. `Trainer` averages over batches, and counts clips twice that fill up the
      last batch. A `DiaDataCollator` drops no text, adds no noise and packs no rows in evaluation;
    - `set_epoch` of the collator, and of the training set if it has one, is called before each epoch, also when a run
      is resumed within an epoch;
    - the metrics of a `SpeakCallback`, such as `eval_speech_wer`, are part of the evaluation: they are logged and can
      be used for `metric_for_best_model` and early stopping;
    - `remove_unused_columns` is off: the collator needs the columns `text` and `codes`;
    - `label_smoothing_factor` sets the model's `label_smoothing`, which applies in training only;
    - `compute_metrics` and `predict` get one row per clip, padded with -100: predictions are logits `[clips, T, C, V]`,
      or the result of `preprocess_logits_for_metrics`; labels are `[clips, T, C]`.

    Args:
        args, kwargs: Arguments of `transformers.Trainer`, with a `DiaDataCollator` as `data_collator`.
        muon_learning_rate (`float`, *optional*): Train the weight matrices of the layers with Muon at this learning
            rate; other parameters use `args.optim` and `args.learning_rate`, and both `args.weight_decay`. Needs torch
            2.9 and whole matrices in each process, thus neither FSDP nor DeepSpeed.

    Raises:
        ValueError: If `muon_learning_rate` is used with FSDP or DeepSpeed, the model and `args` have different label
            smoothing, or `args` sets `predict_with_generate`, which assumes text tokens.

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
                f"`muon_learning_rate` is {muon_learning_rate}, but FSDP and DeepSpeed shard the matrices, which Muon "
                "needs whole; leave it out, or train with DDP."
            )
        if getattr(self.args, "predict_with_generate", False):
            raise ValueError(
                "`predict_with_generate` is True, but Dia generates frames of codes, not the rows of tokens that "
                "`Seq2SeqTrainer` pads and gathers; leave it out. `SpeakCallback` generates speech at evaluations, and "
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
        """Upload the model as `Trainer` does, with a processor that contains no paths of this machine."""
        self._publish_processor()
        return super().push_to_hub(*args, **kwargs)

    def _publish_processor(self) -> None:
        """Replace the processor by one without local paths: saved folders are uploaded as they are."""
        processor: Any = self.processing_class  # type: ignore[has-type]  # mypy does not see it in `Trainer`
        if isinstance(processor, DiaProcessor):
            self.processing_class = processor.for_hub()

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Save a checkpoint completely, or remove it, for instance if the disk is full."""
        folder = os.path.join(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        is_new = not os.path.exists(folder)
        try:
            super()._save_checkpoint(*args, **kwargs)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch's writer raises RuntimeError
            if is_new and self.is_world_process_zero():
                shutil.rmtree(folder, ignore_errors=True)
            raise OSError(
                f"the checkpoint {folder!r} could not be written ({first_line(error)}); free disk space, and "
                "resume from the previous one with --resume, or start again if there is none."
            ) from error

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """Make a model as `Trainer` does, for a run or a hyperparameter search trial, and set its label smoothing."""
        model = super().call_model_init(trial)
        self._take_label_smoothing(model)
        return model

    def _take_label_smoothing(self, model: nn.Module) -> None:
        """Use the model's label smoothing: `Trainer`'s needs other shapes, and applies in evaluation too."""
        self.label_smoother = None
        share = self.args.label_smoothing_factor
        if share == 0:
            return
        base = _base_model(model)
        if base.label_smoothing not in (0, share):
            raise ValueError(
                f"`label_smoothing_factor` is {share}, but the model's `label_smoothing` is {base.label_smoothing}; "
                "set only one of them."
            )
        base.label_smoothing = share

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Compute the loss as `Trainer` does, and add the channels to the running sums."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        sums = self.training_sums if model.training else self._evaluation_sums
        sums.add(outputs, self.model.config.decoder_config.num_channels)
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create `Trainer`'s optimizer, combined with Muon if `muon_learning_rate` is set."""
        is_new = self.optimizer is None  # type: ignore[has-type]  # as `processing_class` above
        optimizer = super().create_optimizer(model)
        if self._muon_learning_rate is not None and is_new:
            optimizer = self.optimizer = MuonBeside(
                optimizer, model or self.model, self._muon_learning_rate, self.args.weight_decay
            )
        return optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the channels' metrics beside the training loss; called in all processes."""
        if "loss" in logs and (sums := self.training_sums.take(self)) is not None:
            logs.update(_by_channel(*sums))
        super().log(logs, start_time)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Return `Trainer`'s loader with a collator that drops no text and packs no rows."""
        return self._without_augmentation(super().get_eval_dataloader(eval_dataset))

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """Return `Trainer`'s loader with a collator that drops no text and packs no rows."""
        return self._without_augmentation(super().get_test_dataloader(test_dataset))

    def _without_augmentation(self, loader: DataLoader) -> DataLoader:
        """Replace the collator of a loader that was just made: `Trainer` passes that of training to all loaders."""
        collator: Any = self.data_collator
        if isinstance(collator, DiaDataCollator):
            plain = copy.copy(collator)
            plain.text_dropout, plain.code_noise, plain.frames_per_row = 0.0, 0.0, None
            getattr(loader, "base_dataloader", loader).collate_fn = plain  # accelerate wraps the loader
        return loader

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Run the `SpeakCallback`, if any, and evaluate; see `Trainer.evaluate`."""
        if self._speech is not None:  # one of several evaluation sets
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
        """Run `Trainer`'s loop, and add the exact loss and the channels to its metrics."""
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
        """Evaluate a batch, leaving out repeated clips; return logits and labels with one row per clip."""
        base, inputs = _base_model(self.model), self._without_repeats(inputs)
        if not prediction_loss_only:
            inputs = {**inputs, "return_logits": True}  # a chunked loss returns none by default
            ignore_keys = [*(ignore_keys or base.config.keys_to_ignore_at_inference), *_NOT_PREDICTED]
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        num_channels = base.config.decoder_config.num_channels
        if isinstance(logits, torch.Tensor):
            logits = logits.unflatten(0, (-1, num_channels)).transpose(1, 2)  # [B·C, T, V] to [B, T, C, V]
        if isinstance(labels, torch.Tensor) and labels.ndim == 2:
            labels = labels.unflatten(0, (-1, num_channels)).transpose(1, 2)
        return loss, logits, labels

    def _without_repeats(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Mask the labels of repeated clips, which fill up the last batches of all processes to equal size."""
        state = self.accelerator.gradient_state
        labels = inputs.get("labels")
        if labels is None or self.args.world_size == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return inputs
        num_clips = len(inputs["attention_mask"])
        # The concatenated last batches of all processes begin with the clips that are not repeated.
        num_new = min(max(state.remainder - self.args.process_index * num_clips, 0), num_clips)
        labels = labels.clone()
        labels[num_new * (len(labels) // num_clips) :] = IGNORE_INDEX  # [B, T, C], or [B·C, T]
        return {**inputs, "labels": labels}
