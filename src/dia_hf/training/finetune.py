"""Training run, from a recipe to a checkpoint: full fine-tuning, LoRA, or training from random weights.

`finetune` shows the steps in order. All processes of an `accelerate launch` run them together; only the main process
writes. Knows nothing of labels, the loss or the codec's network; called by users and the command line.
"""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import TrainingArguments, set_seed
from transformers.utils import cached_file

from ..atomic_write import atomic_write, follow_umask
from ..audio.codec import load_network
from ..configuration_dia import DiaConfig
from ..conversion.adapters import merge_adapter
from ..conversion.checkpoint import generation_config_for
from ..data.prepared import load_prepared, tags_of
from ..data.splits import group_clips
from ..hub import check_model
from ..modeling_dia import DiaForConditionalGeneration
from ..processing_dia import DiaProcessor
from ..speech import Dia
from ..text_files import first_line
from ..tokenization_dia import DiaTokenizer
from .alignment_heads import update_heads
from .arguments import make_arguments, reporters
from .callbacks import LoadingCallback, make_callbacks, print_less
from .checkpoint import check_weights
from .collator import ClipChance, DiaDataCollator
from .lora import attach_lora
from .recipe import Recipe
from .run_card import write_run_card
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
from .trainer import DiaTrainer
from .voice_prompts import add_voice_prompts

if TYPE_CHECKING:
    import datasets

__all__ = ["finetune"]


def finetune(
    recipe: Recipe,
    resume: bool | str | os.PathLike = False,
    *,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train a model by a recipe, and save a complete checkpoint.

    `recipe.output` finally contains the model and the processor with the codec, for `Dia.from_pretrained` (a LoRA
    adapter merged, and separately in `adapter`); `recipe.yaml`; `data.json`, which identifies the clips;
    `metrics.jsonl` with all logs; `logs` for TensorBoard, if it is installed and `training.report_to` names nothing
    else; `samples` generated at evaluations; and `checkpoints` to resume from.

    Args:
        recipe (`Recipe`): Recipe with `data` and `output`.
        resume (`bool`, `str` or `os.PathLike`, defaults to `False`): Resume the run in `recipe.output` from its newest
            checkpoint (from the start if there is none), or from this checkpoint. The result equals that of an
            uninterrupted run. A resumed run keeps its recipe.
        say (`Callable[[str], None]`, *optional*): Function that receives a short description of the run. Without it
            and with `training.disable_tqdm`, nothing is printed.

    Returns:
        `dict`: Metrics of the training (`train_loss`, `train_runtime`, …) and of the evaluation of the saved weights:
            the best ones with early stopping, else the last ones.

    Raises:
        ValueError: If the recipe is incomplete, the data is not prepared or does not fit the model, there are no clips
            to train on, the output has other contents or is in use by another process, a resumed run had another
            recipe or other data, its checkpoint lacks files or is damaged, or the loss is NaN or infinite.
        FileNotFoundError: If there is no run to resume.
        ImportError: If a package is not installed; the message names it.
        OSError: If the model does not exist, or a checkpoint or the result cannot be written.

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
    recipe = replace(recipe)  # validates again: fields may have been set since
    checkpoint = open_output(recipe, resume)
    check_resumable(recipe, checkpoint)
    _check_packages(recipe)
    set_seed(recipe.seed)
    processor = _load_processor(recipe)
    train_set, eval_set = _load_data(recipe, processor)
    data = identify_data(train_set, eval_set)
    if resume is not False:
        check_same_data(recipe, data)
    arguments = make_arguments(recipe, has_evaluation=eval_set is not None)
    model = _load_model(recipe, processor, arguments)
    trainer = _make_trainer(recipe, processor, model, arguments, train_set, eval_set)
    print_less(trainer, is_quiet=say is None)
    loading = LoadingCallback()
    if checkpoint is not None:
        trainer.callback_handler.callbacks.insert(
            0, loading
        )  # before other callbacks, whose errors are not the checkpoint's
        _check_fits(trainer, recipe, checkpoint)
    with held_alone(recipe, trainer.is_world_process_zero()):
        if trainer.is_world_process_zero():
            open_output(recipe, resume)  # checked again under the lock: another run may have written since
            note_beginning(recipe, data)
            if say is not None:
                _describe(trainer, train_set, eval_set, say)
        try:
            result = trainer.train(resume_from_checkpoint=checkpoint)
            if trainer.state.global_step == 0:
                raise ValueError(
                    f"no step was taken: {len(train_set)} clips do not fill a batch of {arguments.train_batch_size}; "
                    "lower `training.per_device_train_batch_size`, or leave out `training.dataloader_drop_last`."
                )
        except (Exception, KeyboardInterrupt) as error:
            _give_up(trainer, recipe, error)
            if checkpoint is None or loading.is_done or isinstance(error, _NOT_OF_CHECKPOINTS):
                raise
            why = f"{type(error).__name__}: {first_line(error)}"
            raise ValueError(
                f"the run cannot be resumed from {checkpoint!r} ({why}). {advise_other(recipe, checkpoint)}"
            ) from error
        try:
            _save(trainer, processor, recipe)
        except (OSError, SafetensorError) as error:
            advice = (
                "" if newest_checkpoint(checkpoints_of(recipe)) is None else " The checkpoints are kept: use --resume."
            )
            raise OSError(f"the result could not be written to {recipe.output!r}: {error}.{advice}") from error
    return {**_evaluation_of_result(trainer), **result.metrics, "step": trainer.state.global_step}


def _evaluation_of_result(trainer: DiaTrainer) -> dict[str, Any]:
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    if trainer.args.load_best_model_at_end:
        evaluations = [entry for entry in evaluations if entry["step"] == trainer.state.best_global_step]
    return evaluations[-1] if evaluations else {}


def _check_packages(recipe: Recipe) -> None:
    """Raise `ImportError` for missing packages before the model is loaded."""
    needed = ["accelerate", "datasets"] + ["peft"] * (recipe.lora is not None)
    needed += [name for name in reporters(recipe) if name == "tensorboard"]
    if missing := [name for name in needed if find_spec(name) is None]:
        raise ImportError(f'{" and ".join(missing)} missing; training needs: pip install "dia-hf[train]"')


def _load_processor(recipe: Recipe) -> DiaProcessor:
    try:
        check_model(recipe.model)
        cached_file(recipe.model, "config.json")
    except OSError as error:
        raise OSError(
            f"there is no model {recipe.model!r}: no local folder with a config.json, and not available on the Hub "
            f"({str(error).splitlines()[0]})"
        ) from error
    processor = DiaProcessor.from_pretrained(recipe.model, load_codec=recipe.codec is None)
    if recipe.codec is not None:
        processor.audio_tokenizer = load_network(recipe.codec)
    if recipe.config is not None:
        processor.config = DiaConfig(**recipe.config)
        longest = processor.config.encoder_config.max_position_embeddings
        processor.tokenizer = DiaTokenizer(max_length=longest, **tags_of(processor.tokenizer))
    codec, decoder = processor.codec, processor.config.decoder_config
    if codec.num_codebooks != decoder.num_channels or codec.codebook_size > decoder.eos_token_id:
        raise ValueError(
            f"the codec has {codec.num_codebooks} codebooks of {codec.codebook_size} codes, but the model "
            f"{decoder.num_channels} channels of {decoder.eos_token_id}; give the codec that belongs to the model, "
            "or change `config.decoder_config`."
        )
    processor.feature_extractor.sampling_rate = codec.sampling_rate
    processor.feature_extractor.hop_length = codec.hop_length
    return processor


def _load_data(recipe: Recipe, processor: DiaProcessor) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """Open the prepared folders, adopt their tags, and split off clips for evaluation."""
    from datasets import concatenate_datasets

    folders = _open_prepared([*recipe.data, *recipe.eval_data], processor)
    clips, apart = concatenate_datasets(folders[: len(recipe.data)]), folders[len(recipe.data) :]
    chance = ClipChance(recipe.seed)
    chance.set_epoch(0)
    known = {name: clips[name] for name in ("id", "speaker", "speakers", "session") if name in clips.column_names}
    groups = group_clips(known, recipe.eval_unit)
    is_apart = [chance.draw("evaluation", group) < recipe.eval_fraction for group in groups]
    train_set = clips.select([index for index, drawn in enumerate(is_apart) if not drawn])
    if any(is_apart):
        apart.append(clips.select([index for index, drawn in enumerate(is_apart) if drawn]))
    if len(train_set) == 0:
        raise ValueError(
            f"none of the {len(clips)} clips remains for training; give more `data`, or lower `eval_fraction`."
        )
    return train_set, concatenate_datasets(apart) if apart else None


def _open_prepared(folders: Sequence[str], processor: DiaProcessor) -> list[datasets.Dataset]:
    """Open prepared folders, check that their codecs and tags agree, and set the tokenizer's tags."""
    found: list[Any] = []
    tokenizer, ours = processor.tokenizer, processor.codec.fingerprint
    paths = [os.path.realpath(folder) for folder in folders]
    for folder, path in zip(folders, paths, strict=True):
        if paths.count(path) > 1:
            raise ValueError(
                f"{folder!r} is given twice, in `data` or `eval_data`; its clips would be used twice, or for both "
                "training and evaluation. Give it once."
            )
        clips, about = load_prepared(folder)
        codec = about["codec"]["fingerprint"]
        if codec != ours:
            raise ValueError(
                f"{folder!r} has codes of the codec {codec}, but the model uses {ours}; prepare the data again with "
                "this model (`dia-hf prepare --model`), or set `codec` to the codec of the data."
            )
        theirs = DiaTokenizer(
            max_length=tokenizer.model_max_length,
            speaker_tokens=about["speaker_tokens"],
            language_tokens=about.get("language_tokens"),
        )
        try:
            tokenizer = tokenizer.with_tags(theirs.speaker_ids | theirs.language_ids, theirs.speaker_tokens)
        except ValueError as error:
            if found:
                raise ValueError(
                    f"{folder!r} has the tags {_named(theirs)}, but the data before it {_named(tokenizer)}; prepare "
                    "all with the same tags."
                ) from error
            tokenizer = theirs  # the ids get new names
        found.append(clips.with_format("numpy", columns=["codes"], output_all_columns=True))
    processor.tokenizer = tokenizer
    return found


def _named(tokenizer: DiaTokenizer) -> str:
    return ", ".join(f"{tag} {number}" for tag, number in (tokenizer.speaker_ids | tokenizer.language_ids).items())


def _load_model(recipe: Recipe, processor: DiaProcessor, arguments: TrainingArguments) -> DiaForConditionalGeneration:
    """Load the weights, or initialize them at random."""
    dtype = recipe.dtype or ("bfloat16" if recipe.lora is not None and arguments.bf16 else "float32")
    if recipe.config is not None:
        # A copy of the config: `Trainer` changes it, and the processor's determines the saved values.
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
        callbacks=make_callbacks(recipe, processor, has_evaluation=eval_set is not None),
    )


def _check_fits(trainer: DiaTrainer, recipe: Recipe, checkpoint: str) -> None:
    """Raise `ValueError` if a checkpoint's weights do not fit the model; `Trainer` would load only those that do."""
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


# Errors while a checkpoint is read that are not caused by the checkpoint.
_NOT_OF_CHECKPOINTS = (KeyboardInterrupt, ImportError, MemoryError)


def _describe(
    trainer: DiaTrainer, train_set: datasets.Dataset, eval_set: datasets.Dataset | None, say: Callable[[str], None]
) -> None:
    """Describe the run before it starts, so that mistakes are noticed early."""
    arguments, seconds = trainer.args, sum(train_set["seconds"])
    total = sum(weight.numel() for weight in trainer.model.parameters())
    trained = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
    evaluated = (
        "" if eval_set is None else f"; evaluation with {len(eval_set):,}, {sum(eval_set['seconds']) / 3600:.2f} h"
    )
    say(
        f"training {trained:,} of {total:,} weights ({trained / total:.1%}) with {len(train_set):,} clips, "
        f"{seconds / 3600:.2f} h{evaluated}"
    )
    at_once, in_turn = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
    num_clips = min(at_once * in_turn * arguments.world_size, len(train_set))
    per_epoch = math.ceil(math.ceil(len(train_set) / (at_once * arguments.world_size)) / in_turn)
    num_steps = arguments.max_steps if arguments.max_steps > 0 else math.ceil(arguments.num_train_epochs * per_epoch)
    say(
        f"{num_steps:,} steps, {num_steps / per_epoch:.1f} epochs; {num_clips} clips per step, "
        f"{num_clips * seconds / len(train_set):.0f} s (batch size {at_once}, {in_turn} accumulation steps, "
        f"{arguments.world_size} processes)"
    )


def _give_up(trainer: DiaTrainer, recipe: Recipe, error: BaseException) -> None:
    """Raise an error with advice on resuming; remove the files of a run that has no checkpoint."""
    output = Path(recipe.output)
    is_kept = newest_checkpoint(checkpoints_of(recipe)) is not None
    if not is_kept and not has_result(output) and trainer.is_world_process_zero():
        for name in ("recipe.yaml", "data.json"):
            (output / name).unlink(missing_ok=True)
        for name in ("checkpoints", "logs", "samples"):
            shutil.rmtree(output / name, ignore_errors=True)
    if isinstance(error, KeyboardInterrupt):
        advice = (
            "resume from the newest checkpoint with --resume." if is_kept else "no checkpoint has been written yet."
        )
        raise KeyboardInterrupt(advice) from error
    if isinstance(error, torch.OutOfMemoryError):
        raise ValueError(
            f"the device is out of memory: {error} Lower `training.per_device_train_batch_size` and raise "
            "`training.gradient_accumulation_steps` instead, lower `max_frames` or `loss_chunk_size`, or set "
            "`training.gradient_checkpointing`."
        ) from error


def _save(trainer: DiaTrainer, processor: DiaProcessor, recipe: Recipe) -> None:
    """Write the result and the logs; all processes take part in gathering the weights."""
    state = trainer.accelerator.get_state_dict(trainer.model)
    if trainer.is_world_process_zero():
        if broken := [name for name, weight in state.items() if not weight.isfinite().all()]:
            raise ValueError(
                f"the training has diverged in its last steps: {len(broken)} weights are not finite, such as "
                f"{broken[0]}. Nothing was saved; lower `training.learning_rate`."
            )
        output = Path(recipe.output)
        trained: Any = trainer.accelerator.unwrap_model(trainer.model)
        config = copy.deepcopy(trained.config)
        config.use_cache = processor.config.use_cache  # `Trainer` has disabled it
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
            assert not report["missing_keys"], report  # missing weights would be random
            model.generation_config = trained.generation_config
        update_heads(model, processor, trainer.train_dataset if trainer.eval_dataset is None else trainer.eval_dataset)
        # Without the general model card of the class: `write_run_card` writes that of the run.
        super(DiaForConditionalGeneration, model).save_pretrained(output)
        processor.save_pretrained(output)
        follow_umask(output)
        write_run_card(output, recipe, trainer.state)
        with atomic_write(output / "metrics.jsonl") as path:
            path.write_text("".join(json.dumps(entry) + "\n" for entry in trainer.state.log_history), "utf-8")
    trainer.accelerator.wait_for_everyone()
