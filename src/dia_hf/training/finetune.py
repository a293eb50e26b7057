"""A training run, from a recipe to a checkpoint: full fine-tuning, LoRA, or from random weights.

The steps are those of `finetune`, in its order. All processes of an `accelerate launch` take them together; the first
one alone writes. Knows nothing of labels, the loss or the codec's network; called by users and by the command line.
"""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import ModelCardData
from safetensors import SafetensorError
from transformers import TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils import cached_file

from ..assets import MINIATURE
from ..atomic_write import atomic_write, follow_umask
from ..audio.codec import load_network
from ..configuration_dia import DiaConfig
from ..conversion.source import generation_config_for
from ..data.prepared import load_prepared, read_info
from ..hub import check_model
from ..model_card import HOW_TO_RUN
from ..modeling_dia import DiaForConditionalGeneration
from ..processing_dia import DiaProcessor
from ..speech import Dia
from ..text_files import first_line
from ..tokenization_dia import DiaTokenizer
from .checkpoint import check_weights
from .collator import ClipChance, DiaDataCollator
from .lora import attach_lora, merge_adapter
from .recipe import Recipe
from .run_dir import (
    advise_other,
    check_resumable,
    check_same_data,
    checkpoints_of,
    has_result,
    held_alone,
    identify_data,
    newest_checkpoint,
    note_beginning,
    open_output,
)
from .speak import SpeakCallback
from .trainer import DiaTrainer
from .voice_prompts import add_voice_prompts

if TYPE_CHECKING:
    import datasets

__all__ = ["finetune"]

# Packages that `Trainer` needs for optimizers: by parts of their names, the more particular ones first.
_OPTIMIZER_PACKAGES = {
    "galore": ("galore_torch", "galore-torch"),
    "apollo": ("apollo_torch", "apollo-torch"),
    "schedule_free": ("schedulefree", "schedulefree"),
    "grokadamw": ("grokadamw", "grokadamw"),
    "lomo": ("lomo_optim", "lomo-optim"),
    "stable_adamw": ("optimi", "torch-optimi"),
    "adamw_torch_8bit": ("torchao", "torchao"),
    "adamw_torch_4bit": ("torchao", "torchao"),
    "8bit": ("bitsandbytes", "bitsandbytes"),
    "paged": ("bitsandbytes", "bitsandbytes"),
    "bnb": ("bitsandbytes", "bitsandbytes"),
    "lion": ("bitsandbytes", "bitsandbytes"),
    "ademamix": ("bitsandbytes", "bitsandbytes"),
}


def finetune(
    recipe: Recipe,
    resume: bool | str | os.PathLike = False,
    *,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train as a recipe says, and save a checkpoint that is complete by itself.

    `recipe.output` holds in the end: model and processor with the codec, for `Dia.from_pretrained` (LoRA's adapter
    merged, and by itself in `adapter`); `recipe.yaml`; `data.json`, which says which clips they were; `metrics.jsonl`,
    whatever was logged; `logs` for TensorBoard where that is installed and `training.report_to` names nothing else;
    `samples`, what was spoken at evaluations; and `checkpoints`, to resume from.

    Args:
        recipe (`Recipe`): With `data` and `output`.
        resume (`bool`, `str` or `os.PathLike`, defaults to `False`): Go on with the run in `recipe.output`, from its
            newest checkpoint (the beginning, where there is none) or from this one, to the same numbers as if it had
            never stopped. A resumed run keeps its recipe.
        say (`Callable[[str], None]`, *optional*): Is told in a few lines what the run is about to do. Without it,
            `training.disable_tqdm` leaves the screen empty.

    Returns:
        `dict`: Metrics of the training (`train_loss`, `train_runtime`, …), and of the evaluation of the weights that
            are kept: the best with early stopping, else the last.

    Raises:
        ValueError: If the recipe is incomplete, the data do not fit the model or are not prepared, there is nothing to
            train on, the output holds something else or another process trains in it, a resumed run had another recipe
            or other data, its checkpoint lacks files or is damaged, or the loss is no number any more.
        FileNotFoundError: If there is no run to resume.
        ImportError: If a package is missing; the message names it.
        OSError: If there is no such model, or a checkpoint or the result cannot be written.

    Example:
    ```python
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> import datasets, numpy as np
    >>> from dia_hf import MINIATURE, Dia, DiaProcessor
    >>> from dia_hf.training import Recipe, finetune
    >>> codes = np.zeros((20, 9), dtype=np.int16)
    >>> clip = {"id": "1", "text": "[S1] Hi.", "codes": codes, "seconds": 0.2}
    >>> codec = {"fingerprint": DiaProcessor.from_pretrained(MINIATURE).codec.fingerprint}
    >>> about = {"version": 1, "codec": codec, "speaker_tokens": ["[S1]", "[S2]"], "num_clips": 1, "seconds": 0.2}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     datasets.Dataset.from_list([clip]).save_to_disk(f"{folder}/data")  # which `dia-hf prepare` does
    ...     _ = Path(folder, "data", "prepared.json").write_text(json.dumps(about))
    ...     training = {"max_steps": 2, "report_to": "none", "disable_tqdm": True}
    ...     recipe = Recipe(model=MINIATURE, data=f"{folder}/data", output=f"{folder}/run", training=training)
    ...     metrics = finetune(recipe)
    ...     dia = Dia.from_pretrained(f"{folder}/run")
    >>> metrics["epoch"]
    2.0

    ```
    """
    recipe = replace(recipe)  # is checked again: fields may have been set since
    checkpoint = open_output(recipe, resume)
    check_resumable(recipe, checkpoint)
    _check_packages(recipe)
    set_seed(recipe.seed)
    processor = _load_processor(recipe)
    train_set, eval_set = _load_data(recipe, processor)
    data = identify_data(train_set, eval_set)
    if resume is not False:
        check_same_data(recipe, data)
    arguments = _make_arguments(recipe, has_evaluation=eval_set is not None)
    model = _load_model(recipe, processor, arguments)
    trainer = _make_trainer(recipe, processor, model, arguments, train_set, eval_set)
    _print_less(trainer, is_quiet=say is None)
    loading = _Loading()
    if checkpoint is not None:
        trainer.callback_handler.callbacks.insert(0, loading)  # before others, whose errors are their own
        _check_fits(trainer, recipe, checkpoint)
    with held_alone(recipe, trainer.is_world_process_zero()):
        if trainer.is_world_process_zero():
            open_output(recipe, resume)  # another run may have come and gone since
            note_beginning(recipe, data)
            if say is not None:
                _describe(trainer, train_set, eval_set, say)
        try:
            result = trainer.train(resume_from_checkpoint=checkpoint)
            if trainer.state.global_step == 0:
                raise ValueError(
                    f"no step was taken: {len(train_set)} clips fill no batch of {arguments.train_batch_size}; lower "
                    "`training.per_device_train_batch_size`, or leave out `training.dataloader_drop_last`."
                )
        except (Exception, KeyboardInterrupt) as error:
            _give_up(trainer, recipe, error)
            if checkpoint is None or loading.is_done or isinstance(error, _NOT_OF_CHECKPOINTS):
                raise
            why = f"{type(error).__name__}: {first_line(error)}"
            raise ValueError(
                f"the run cannot go on from {checkpoint!r} ({why}). {advise_other(recipe, checkpoint)}"
            ) from error
        try:
            _save(trainer, processor, recipe)
        except (OSError, SafetensorError) as error:
            advice = "" if newest_checkpoint(checkpoints_of(recipe)) is None else " What was trained is kept: --resume."
            raise OSError(f"the result could not be written to {recipe.output!r}: {error}.{advice}") from error
    return {**_evaluation_of_result(trainer), **result.metrics, "step": trainer.state.global_step}


def _evaluation_of_result(trainer: DiaTrainer) -> dict[str, Any]:
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    if trainer.args.load_best_model_at_end:
        evaluations = [entry for entry in evaluations if entry["step"] == trainer.state.best_global_step]
    return evaluations[-1] if evaluations else {}


def _check_packages(recipe: Recipe) -> None:
    """Miss a package now and not when the model is loaded."""
    needed = ["accelerate", "datasets"] + ["peft"] * (recipe.lora is not None)
    needed += [name for name in _reporters(recipe) if name == "tensorboard"]
    if missing := [name for name in needed if find_spec(name) is None]:
        raise ImportError(f'{" and ".join(missing)} missing; training needs: pip install "dia-hf[train]"')
    optimizer = str(recipe.training.get("optim", ""))
    for part, (module, package) in _OPTIMIZER_PACKAGES.items():
        if part in optimizer:
            if find_spec(module) is None:
                raise ImportError(f"the optimizer {optimizer!r} needs {package}: pip install {package}")
            break


def _load_processor(recipe: Recipe) -> DiaProcessor:
    try:
        check_model(recipe.model)
        cached_file(recipe.model, "config.json")
    except OSError as error:
        raise OSError(
            f"there is no model {recipe.model!r}: no folder here that is called so and has a config.json, and the Hub "
            f"gives none ({str(error).splitlines()[0]})"
        ) from error
    processor = DiaProcessor.from_pretrained(recipe.model, load_codec=recipe.codec is None)
    if recipe.codec is not None:
        processor.audio_tokenizer = load_network(recipe.codec)
    if recipe.config is not None:
        processor.config = DiaConfig(**recipe.config)
        longest = processor.config.encoder_config.max_position_embeddings
        processor.tokenizer = DiaTokenizer(max_length=longest, speaker_tokens=processor.tokenizer.speaker_tokens)
    codec, decoder = processor.codec, processor.config.decoder_config
    if codec.num_codebooks != decoder.num_channels or codec.codebook_size > decoder.eos_token_id:
        raise ValueError(
            f"the codec has {codec.num_codebooks} codebooks of {codec.codebook_size} codes, but the model "
            f"{decoder.num_channels} channels of {decoder.eos_token_id}; give the codec that the model was made for, "
            "or change `config.decoder_config`."
        )
    processor.feature_extractor.sampling_rate = codec.sampling_rate
    processor.feature_extractor.hop_length = codec.hop_length
    return processor


def _load_data(recipe: Recipe, processor: DiaProcessor) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """Open the prepared folders, take over their tags, and set clips aside for evaluation."""
    from datasets import concatenate_datasets

    folders = _open_prepared([*recipe.data, *recipe.eval_data], processor)
    clips, apart = concatenate_datasets(folders[: len(recipe.data)]), folders[len(recipe.data) :]
    chance = ClipChance(recipe.seed)
    chance.set_epoch(0)
    is_apart = [chance.draw("evaluation", clip_id) < recipe.eval_fraction for clip_id in clips["id"]]
    train_set = clips.select([index for index, drawn in enumerate(is_apart) if not drawn])
    if any(is_apart):
        apart.append(clips.select([index for index, drawn in enumerate(is_apart) if drawn]))
    if len(train_set) == 0:
        raise ValueError(
            f"none of the {len(clips)} clips is left to train on; give more `data`, or lower `eval_fraction`."
        )
    return train_set, concatenate_datasets(apart) if apart else None


def _open_prepared(folders: Sequence[str], processor: DiaProcessor) -> list[datasets.Dataset]:
    """Open prepared folders whose codes and tags mean the same; the tags become the tokenizer's."""
    found: list[Any] = []
    tokenizer, ours = processor.tokenizer, processor.codec.fingerprint
    paths = [os.path.realpath(folder) for folder in folders]
    for folder, path in zip(folders, paths, strict=True):
        if paths.count(path) > 1:
            raise ValueError(
                f"{folder!r} is given twice, in `data` or `eval_data`; its clips would be learned twice, or evaluated "
                "after they were learned."
            )
        clips, about = load_prepared(folder)
        theirs = about["codec"]["fingerprint"]
        if theirs != ours:
            raise ValueError(
                f"{folder!r} holds codes of the codec {theirs}, but the model speaks through {ours}; prepare the data "
                "anew with this model (`dia-hf prepare --model`), or give `codec` the one that made the codes."
            )
        tags, known = about["speaker_tokens"], tokenizer.speaker_tokens
        shorter = min(len(tags), len(known))
        if tags[:shorter] != known[:shorter]:
            if found:
                raise ValueError(
                    f"{folder!r} has the tags {tags}, but the data before it {known}; prepare all with the same tags."
                )
            known = []  # new names for the ids
        if len(tags) > len(known):
            tokenizer = DiaTokenizer(max_length=tokenizer.model_max_length, speaker_tokens=tags)
        found.append(clips.with_format("numpy", columns=["codes"], output_all_columns=True))
    processor.tokenizer = tokenizer
    return found


def _make_arguments(recipe: Recipe, has_evaluation: bool) -> TrainingArguments:
    """Fill in what the recipe leaves open; what it says is passed on as it is."""
    training = dict(recipe.training)
    if not has_evaluation:
        asked = [training.pop("eval_strategy", "no") != "no", training.pop("load_best_model_at_end", False)]
        if any(asked) or recipe.early_stopping_patience is not None or recipe.speak is not None:
            warnings.warn(
                "there are no clips to evaluate with, so that nothing is evaluated or spoken, and the run does not "
                "stop early; give `eval_data`, or a larger `eval_fraction`.",
                stacklevel=3,
            )
    # Otherwise each process of a launch without GPUs would train by itself.
    training.setdefault("use_cpu", not torch.accelerator.is_available())
    if not training.get("fp16") and not training["use_cpu"] and torch.cuda.is_available():
        training.setdefault("bf16", torch.cuda.is_bf16_supported(including_emulation=False))
    if training.get("gradient_checkpointing"):
        training.setdefault("gradient_checkpointing_kwargs", {"use_reentrant": False})
    if "activation_checkpointing" in TrainingArguments.__dataclass_fields__:  # its name from transformers 5.23 on
        training = {
            name.replace("gradient_checkpointing", "activation_checkpointing"): training[name] for name in training
        }
    if has_evaluation:
        training.setdefault("eval_strategy", "epoch")
    if has_evaluation and recipe.early_stopping_patience is not None:
        training.setdefault("save_strategy", training["eval_strategy"])
        training.setdefault("save_steps", training.get("eval_steps", training.get("logging_steps", 500)))
        training.setdefault("load_best_model_at_end", True)
        training.setdefault("metric_for_best_model", "eval_loss")
        # How long it has waited is part of what is resumed.
        training.setdefault("restore_callback_states_from_checkpoint", True)
    if str(training.get("metric_for_best_model", "")).endswith("_wer"):
        training.setdefault("greater_is_better", False)
    if has_evaluation and training.get("load_best_model_at_end"):
        _check_saves(training)
    if training.get("fp16") and training["use_cpu"]:
        raise ValueError("`training.fp16` needs a GPU; leave it out, or set `training.bf16`.")
    training.setdefault("logging_nan_inf_filter", False)  # shows a loss of 0 where it is NaN
    training.setdefault("prediction_loss_only", True)
    training.setdefault("dataloader_pin_memory", not training["use_cpu"])
    training.setdefault("ddp_find_unused_parameters", False)
    # TensorBoard's callback is told the folder, which `Trainer` would choose.
    training["report_to"] = [name for name in _reporters(recipe) if name != "tensorboard"] or "none"
    try:
        arguments = TrainingArguments(
            output_dir=str(checkpoints_of(recipe)),
            seed=recipe.seed,
            remove_unused_columns=False,
            label_names=["labels"],
            **training,
        )
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f"the recipe's `training` cannot be used: {first_line(error, 300)}") from error
    arguments.distributed_state.wait_for_everyone()  # all have looked at the output before anything is in it
    _share_out_on_cpu(arguments)
    if arguments.n_gpu > 1:
        warnings.warn(
            f"there are {arguments.n_gpu} GPUs, and one is used; for all of them: accelerate launch --multi_gpu "
            "--no_python dia-hf finetune ...",
            stacklevel=3,
        )
        arguments._n_gpu = 1  # or `Trainer` would take `nn.DataParallel`
    return arguments


def _check_saves(training: dict[str, Any]) -> None:
    """The best weights can be kept only if each evaluation that may be the best has its checkpoint."""
    saved, evaluated = (str(training.get(name, "steps")) for name in ("save_strategy", "eval_strategy"))
    if saved != evaluated:
        raise ValueError(
            f"to keep the best weights, `training.save_strategy` ({saved!r}) must be `training.eval_strategy` "
            f"({evaluated!r}); or set `early_stopping_patience` to null and do without."
        )
    saves, evaluations = (
        training.get(name, training.get("logging_steps", 500)) for name in ("save_steps", "eval_steps")
    )
    if evaluated == "steps" and min(saves, evaluations) >= 1 and saves % evaluations:
        raise ValueError(
            f"to keep the best weights, `training.save_steps` ({saves}) must be a multiple of `training.eval_steps` "
            f"({evaluations})."
        )


def _share_out_on_cpu(arguments: TrainingArguments) -> None:
    """Let FSDP run on CPUs, too: accelerate would silently take DDP there."""
    if arguments.use_cpu and os.environ.get("ACCELERATE_USE_FSDP") == "true" and arguments.world_size > 1:
        from accelerate import PartialState
        from accelerate.utils import DistributedType

        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def _reporters(recipe: Recipe) -> list[str]:
    """Name who is told what is logged: TensorBoard where it is installed, unless the recipe says otherwise."""
    given = recipe.training.get("report_to")
    if given is None:
        return ["tensorboard"] * (find_spec("tensorboard") is not None)
    return [given] if isinstance(given, str) else given


def _load_model(recipe: Recipe, processor: DiaProcessor, arguments: TrainingArguments) -> DiaForConditionalGeneration:
    """Load the weights, or draw them."""
    dtype = recipe.dtype or ("bfloat16" if recipe.lora is not None and arguments.bf16 else "float32")
    if recipe.config is not None:
        # A config of its own: `Trainer` changes it, and the processor's says what is saved.
        model = DiaForConditionalGeneration(copy.deepcopy(processor.config)).to(getattr(torch, dtype))
        model.generation_config = generation_config_for(processor.config)
    else:
        model = Dia.from_pretrained(recipe.model, compute_dtype=dtype, device="cpu", load_dac=False).model
    if recipe.channel_loss_weights is not None:
        model.config.channel_loss_weights = recipe.channel_loss_weights
        model.config.validate_architecture()
    if recipe.attn_implementation is not None:
        model.set_attn_implementation(recipe.attn_implementation)
    model.loss_chunk_size = recipe.loss_chunk_size
    model.label_smoothing = recipe.label_smoothing
    return model


def _make_trainer(
    recipe: Recipe,
    processor: DiaProcessor,
    model: DiaForConditionalGeneration,
    arguments: TrainingArguments,
    train_set: datasets.Dataset,
    eval_set: datasets.Dataset | None,
) -> DiaTrainer:
    longest = processor.config.max_training_frames
    max_frames = min(recipe.max_frames or longest, longest)
    collator = DiaDataCollator(
        processor, recipe.text_dropout, max_frames, recipe.frames_per_row, recipe.seed, code_noise=recipe.code_noise
    )
    clips: Any = train_set
    if probability := recipe.voice_prompt_probability:
        clips = add_voice_prompts(train_set, processor, probability, recipe.seed, max_frames=max_frames)
    return DiaTrainer(
        model=model if recipe.lora is None else attach_lora(model, recipe.lora),
        args=arguments,
        data_collator=collator,
        train_dataset=clips,
        eval_dataset=eval_set,
        muon_learning_rate=recipe.muon_learning_rate,
        callbacks=_make_callbacks(recipe, processor, has_evaluation=eval_set is not None),
    )


def _make_callbacks(recipe: Recipe, processor: DiaProcessor, has_evaluation: bool) -> list[Any]:
    from transformers import EarlyStoppingCallback
    from transformers.integrations import TensorBoardCallback

    callbacks: list[Any] = [_StopsAtNan()]
    if recipe.early_stopping_patience is not None and has_evaluation:
        callbacks.append(EarlyStoppingCallback(recipe.early_stopping_patience))
    if recipe.speak is not None and has_evaluation:
        callbacks.append(SpeakCallback(processor, folder=Path(recipe.output, "samples"), **recipe.speak))
    if "tensorboard" in _reporters(recipe):
        callback = TensorBoardCallback()
        callback.logging_dir = os.path.join(recipe.output, "logs")
        callbacks.append(callback)
    return callbacks


def _check_fits(trainer: DiaTrainer, recipe: Recipe, checkpoint: str) -> None:
    """Refuse weights that are not those of the model: `Trainer` takes what fits, and leaves the rest as it is."""
    model: Any = trainer.model
    if recipe.lora is None:
        expected = model.state_dict()
    else:
        from peft import get_peft_model_state_dict

        expected = get_peft_model_state_dict(model)
    try:
        check_weights(Path(checkpoint), {name: weight.shape for name, weight in expected.items()})
    except ValueError as error:
        raise ValueError(f"{error}. {advise_other(recipe, checkpoint)}") from error


# What may happen while a checkpoint is read that is as it should be.
_NOT_OF_CHECKPOINTS = (KeyboardInterrupt, ImportError, MemoryError)


class _Loading(TrainerCallback):
    """Whether a resumed run has read its checkpoint; what is wrong until then is wrong with that."""

    is_done = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.is_done = True


class _StopsAtNan(TrainerCallback):
    """Ends a run whose loss is no number any more: its weights are none either, and nothing after it can be better."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        for name in ("loss", "eval_loss"):
            value = (logs or {}).get(name, 0.0)
            if not math.isfinite(value):
                raise ValueError(
                    f"the {name} of step {state.global_step} is {value}: the training has diverged. Lower "
                    f"`training.learning_rate` ({args.learning_rate:g}), or `training.max_grad_norm` "
                    f"({args.max_grad_norm:g}); of the checkpoints resume only one from before that."
                )


def _brief(logs: dict[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (logs or {}).items() if "_channel_" not in name}


class _BriefProgress(ProgressCallback):
    """Shows a log without the channels, which would fill the screen; files and TensorBoard have them."""

    def on_log(self, *args: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().on_log(*args, logs=_brief(logs), **kwargs)


class _BriefPrinter(PrinterCallback):
    """The same where there is no progress bar."""

    def on_log(self, *args: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().on_log(*args, logs=_brief(logs), **kwargs)


def _brief_notebook(table: type[TrainerCallback]) -> type[TrainerCallback]:
    """Make the same of the table that `Trainer` shows in a notebook, which can be imported there only."""

    class BriefNotebook(table):
        def on_log(self, *args: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
            super().on_log(*args, logs=_brief(logs), **kwargs)

        def on_evaluate(self, *args: Any, metrics: dict[str, Any] | None = None, **kwargs: Any) -> None:
            super().on_evaluate(*args, metrics=_brief(metrics), **kwargs)

    return BriefNotebook


def _print_less(trainer: DiaTrainer, is_quiet: bool) -> None:
    """Replace what `Trainer` prints with; without a progress bar and a listener, by nothing."""
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(_BriefProgress)
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ == "NotebookProgressCallback":
            trainer.remove_callback(callback)
            trainer.add_callback(_brief_notebook(type(callback)))
    if trainer.pop_callback(PrinterCallback) is not None and not is_quiet:
        trainer.add_callback(_BriefPrinter)


def _describe(
    trainer: DiaTrainer, train_set: datasets.Dataset, eval_set: datasets.Dataset | None, say: Callable[[str], None]
) -> None:
    """Say what the run is about to do, so that a mistake shows before hours are spent."""
    arguments, seconds = trainer.args, sum(train_set["seconds"])
    total = sum(weight.numel() for weight in trainer.model.parameters())
    trained = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
    evaluated = (
        "" if eval_set is None else f"; evaluated with {len(eval_set):,}, {sum(eval_set['seconds']) / 3600:.2f} h"
    )
    say(
        f"trains {trained:,} of {total:,} weights ({trained / total:.1%}) with {len(train_set):,} clips, "
        f"{seconds / 3600:.2f} h{evaluated}"
    )
    at_once, in_turn = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
    num_clips = min(at_once * in_turn * arguments.world_size, len(train_set))
    per_epoch = math.ceil(math.ceil(len(train_set) / (at_once * arguments.world_size)) / in_turn)
    num_steps = arguments.max_steps if arguments.max_steps > 0 else math.ceil(arguments.num_train_epochs * per_epoch)
    say(
        f"{num_steps:,} steps, {num_steps / per_epoch:.1f} epochs; each step {num_clips} clips, "
        f"{num_clips * seconds / len(train_set):.0f} s ({at_once} at once, {in_turn} in turn, "
        f"{arguments.world_size} processes)"
    )


def _give_up(trainer: DiaTrainer, recipe: Recipe, error: BaseException) -> None:
    """Say how to go on; a run that has kept nothing leaves nothing in the way of the next attempt."""
    output = Path(recipe.output)
    is_kept = newest_checkpoint(checkpoints_of(recipe)) is not None
    if not is_kept and not has_result(output) and trainer.is_world_process_zero():
        for name in ("recipe.yaml", "data.json"):
            (output / name).unlink(missing_ok=True)
        for name in ("checkpoints", "logs", "samples"):
            shutil.rmtree(output / name, ignore_errors=True)
    if isinstance(error, KeyboardInterrupt):
        advice = "go on from the newest checkpoint with --resume." if is_kept else "no checkpoint was kept yet."
        raise KeyboardInterrupt(advice) from error
    if isinstance(error, torch.OutOfMemoryError):
        raise ValueError(
            f"the device's memory is full: {error} Lower `training.per_device_train_batch_size` and raise "
            "`training.gradient_accumulation_steps` instead, lower `max_frames` or `loss_chunk_size`, or set "
            "`training.gradient_checkpointing`."
        ) from error


_CARD = """\
{about}

# Dia, trained on {num_clips} clips

| | |
|---|---|
| started from | {model} |
| data | {data}, {hours:.2f} h |
| trained | {kind}, {steps} steps |
| loss | {loss} |
| recipe | `recipe.yaml`, with the versions of the packages |

The license is that of the model it started from, and what the recordings allow. Say here whose voice it is.

## How to run it

{how}"""


def _write_card(output: Path, recipe: Recipe, trainer: DiaTrainer) -> None:
    """Write a model card, unless there is one; no path of this machine is in it."""
    file = output / "README.md"
    if file.exists():
        return
    is_here = recipe.model == MINIATURE or os.path.exists(recipe.model)
    name = "the embedded miniature" if recipe.model == MINIATURE else f"`{Path(recipe.model).name}`"
    folders = []
    for folder in recipe.data:
        with suppress(OSError, ValueError):  # it may have been moved since
            folders.append(read_info(folder))
    losses = {key: entry[key] for entry in trainer.state.log_history for key in ("loss", "eval_loss") if key in entry}
    about = ModelCardData(
        base_model=None if is_here else recipe.model,
        library_name="transformers",
        pipeline_tag="text-to-speech",
        tags=["dia", "text-to-speech", "dialogue"],
    )
    kind = "all weights" if recipe.lora is None else "LoRA adapters, merged (and in `adapter/` by themselves)"
    told = {"loss": "training", "eval_loss": "evaluation"}
    card = _CARD.format(
        about=f"---\n{about.to_yaml()}\n---",
        num_clips=sum(info.get("num_clips", 0) for info in folders),
        model="random weights" if recipe.config is not None else name if is_here else f"`{recipe.model}`",
        data=", ".join(f"`{Path(folder).name}`" for folder in recipe.data),
        hours=sum(info.get("seconds", 0) for info in folders) / 3600,
        kind=kind,
        steps=trainer.state.global_step,
        loss=", ".join(f"{told[key]} {value:.3f}" for key, value in losses.items()) or "not logged",
        how=HOW_TO_RUN,
    )
    with atomic_write(file) as path:
        path.write_text(card, "utf-8")


def _save(trainer: DiaTrainer, processor: DiaProcessor, recipe: Recipe) -> None:
    """Write the checkpoint, and what was logged; every process takes part in gathering the weights."""
    state = trainer.accelerator.get_state_dict(trainer.model)
    if trainer.is_world_process_zero():
        if broken := [name for name, weight in state.items() if not weight.isfinite().all()]:
            raise ValueError(
                f"the training has diverged in its last steps: {len(broken)} weights are not finite, {broken[0]} for "
                "one. Nothing was saved; lower `training.learning_rate`."
            )
        output = Path(recipe.output)
        trained: Any = trainer.accelerator.unwrap_model(trainer.model)
        config = copy.deepcopy(trained.config)
        config.use_cache = processor.config.use_cache  # which `Trainer` has switched off
        dtype = getattr(torch, recipe.save_dtype) if recipe.save_dtype is not None else processor.config.dtype
        if recipe.lora is not None:
            trained.save_pretrained(output / "adapter", state_dict=state)
            processor.tokenizer.save_pretrained(output / "adapter")
            model = merge_adapter(recipe.model, output / "adapter").to(dtype or torch.float32)
            model.config.channel_loss_weights = config.channel_loss_weights
        else:
            model, report = DiaForConditionalGeneration.from_pretrained(
                None,
                config=config,
                state_dict={name: weight.cpu() for name, weight in state.items()},
                dtype=dtype or torch.float32,
                output_loading_info=True,
            )
            assert not report["missing_keys"], report  # they would be drawn at random
            model.generation_config = trained.generation_config
        # Without the general model card of the class: `_write_card` writes that of the run.
        super(DiaForConditionalGeneration, model).save_pretrained(output)
        processor.save_pretrained(output)
        follow_umask(output)
        _write_card(output, recipe, trainer)
        with atomic_write(output / "metrics.jsonl") as path:
            path.write_text("".join(json.dumps(entry) + "\n" for entry in trainer.state.log_history), "utf-8")
    trainer.accelerator.wait_for_everyone()
