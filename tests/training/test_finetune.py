"""A run from a recipe to a checkpoint: complete, interrupted, distributed."""

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from packaging.version import Version
from safetensors.torch import load_file

from dia_hf import MINIATURE, Dia, DiaConfig, DiaForConditionalGeneration, DiaProcessor
from dia_hf.assets import __file__ as assets
from dia_hf.training import merge_adapter
from dia_hf.training.arguments import make_arguments
from dia_hf.training.callbacks import StopAtNanCallback
from dia_hf.training.finetune import finetune
from dia_hf.training.recipe import Recipe
from dia_hf.training.run_dir import newest_checkpoint
from dia_hf.training.trainer import DiaTrainer
from training.clips import StoppedError, quick_recipe, write_prepared

room = import_module("dia_hf.training.finetune")


def weights(folder):
    return load_file(Path(folder, "model.safetensors"))


def assert_equal_weights(first, second):
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def losses(folder):
    lines = Path(folder, "metrics.jsonl").read_text("utf-8").splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


def test_a_whole_run(tmp_path, data):
    """A result without tokenizer, codec, recipe or metrics cannot be moved, published or reproduced."""
    recipe = quick_recipe(data, tmp_path / "run", {"gradient_checkpointing": True}, frames_per_row=80)
    said = []
    metrics = finetune(recipe, say=said.append)
    assert metrics["step"] == 6 and metrics["train_loss"] > 0
    num_weights = f"{sum(weight.numel() for weight in weights(MINIATURE).values()):,}"
    assert f"training {num_weights} of {num_weights} weights (100.0%) with 12 clips" in said[0]
    assert "6 steps, 1.0 epochs; 2 clips per step" in said[1]
    assert Recipe.load(tmp_path / "run" / "recipe.yaml") == recipe
    assert len(losses(tmp_path / "run")) == 6
    card = (tmp_path / "run" / "README.md").read_text("utf-8")
    assert ModelCard(card).data.pipeline_tag == "text-to-speech" and "trained on 12 clips" in card
    assert "the embedded miniature" in card and "all weights, 6 steps" in card and str(tmp_path) not in card
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())[0] == "checkpoint-2"

    (tmp_path / "run").rename(tmp_path / "moved")
    shutil.rmtree(data)
    moved = weights(tmp_path / "moved")
    original = weights(MINIATURE)
    assert moved.keys() == original.keys()
    assert all(not torch.equal(moved[name], original[name]) for name in moved)
    dia = Dia.from_pretrained(tmp_path / "moved", device="cpu")
    codes = dia.model.generate(**dia.processor("[S1] Hi."), max_new_tokens=20, min_new_tokens=20)  # it may say nothing
    assert len(dia.processor.batch_decode(codes)[0]) > 0
    assert dia.model.config.use_cache, "`Trainer` switches it off, and a model without a cache speaks ever more slowly"
    assert dia.model.generation_config.guidance_scale == Dia.from_pretrained().model.generation_config.guidance_scale
    assert dia.processor.codec.fingerprint == DiaProcessor.from_pretrained(MINIATURE).codec.fingerprint


def test_adapters(tmp_path, data):
    """The merged checkpoint differed from the published weights with the adapter."""
    finetune(quick_recipe(data, tmp_path / "run", lora={"r": 4}))
    merged = merge_adapter(MINIATURE, tmp_path / "run" / "adapter").state_dict()
    saved = weights(tmp_path / "run")
    assert saved.keys() == merged.keys()
    num_added = 0
    for name, original in weights(MINIATURE).items():
        assert torch.equal(saved[name], merged[name])
        is_adapted = name.endswith("_proj.weight")
        assert torch.equal(saved[name], original) != is_adapted, name
        num_added += 4 * sum(original.shape) * is_adapted
    adapter = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert sum(weight.numel() for weight in adapter.values()) == num_added > 0
    Dia.from_pretrained(tmp_path / "run", device="cpu").generate("[S1] Hi.", max_seconds=0.2)


def test_random_weights(tmp_path, data):
    """A run from random weights loaded those of the checkpoint, or drew other weights with the same seed."""
    config = json.loads(Path(MINIATURE, "config.json").read_text("utf-8")) | {"use_cache": True}
    config["encoder_config"] |= {"num_hidden_layers": 1, "max_position_embeddings": 64}
    for name in ("a", "b"):
        finetune(quick_recipe(data, tmp_path / name, config=config, channel_loss_weights=[3] + [1] * 8))
    assert_equal_weights(tmp_path / "a", tmp_path / "b")
    dia = Dia.from_pretrained(tmp_path / "a", device="cpu")
    assert dia.model.config.encoder_config.num_hidden_layers == 1
    assert dia.model.config.channel_loss_weights == [3, 1, 1, 1, 1, 1, 1, 1, 1]
    assert dia.processor.tokenizer.model_max_length == 64
    assert dia.model.config.use_cache, "`Trainer` switches it off"
    settings = dia.model.generation_config
    assert (settings.guidance_scale, settings.max_length) == (3.0, config["decoder_config"]["max_position_embeddings"])


@pytest.mark.parametrize("kind", ["full", "lora", "muon"])
def test_an_interrupted_run_ends_in_the_same_weights(tmp_path, data, stop_at, kind):
    """A resumed run drew clips, dropped texts, prompts or dropout anew, or lost the optimizer or the schedule."""
    lora = {"r": 4, "lora_dropout": 0.2} if kind == "lora" else None
    settings = {
        "training": {"gradient_accumulation_steps": 2, "eval_strategy": "steps", "eval_steps": 2},
        "text_dropout": 0.5,
        "voice_prompt_probability": 0.5,
        "eval_fraction": 0.3,
        "early_stopping_patience": 9,
        "lora": lora,
        "muon_learning_rate": 1e-3 if kind == "muon" else None,
    }
    whole = finetune(quick_recipe(data, tmp_path / "whole", **settings))
    recipe = quick_recipe(data, tmp_path / "run", **settings)
    stop_at(3)
    with pytest.raises(StoppedError):
        finetune(recipe)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    stop_at(None)
    resumed = finetune(recipe, resume=True)
    assert_equal_weights(tmp_path / "whole", tmp_path / "run")
    assert resumed["eval_loss"] == whole["eval_loss"]
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_a_checkpoint_that_was_being_written(tmp_path, data, stop_at):
    """A machine that fails during a save leaves an incomplete folder that looks like the newest checkpoint."""
    recipe = quick_recipe(data, tmp_path / "run")
    stop_at(5)
    with pytest.raises(StoppedError):
        finetune(recipe)
    stop_at(None)
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / "checkpoint-4" / "trainer_state.json").unlink()
    assert newest_checkpoint(checkpoints) == str(checkpoints / "checkpoint-2")
    finetune(recipe, resume=True)
    finetune(quick_recipe(data, tmp_path / "whole"))
    assert_equal_weights(tmp_path / "whole", tmp_path / "run")


def test_a_run_that_kept_nothing(tmp_path, data, stop_at):
    """A run that ran out of memory at its first step left a folder that blocked the next attempt."""
    recipe = quick_recipe(data, tmp_path / "run")
    stop_at(1, torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(ValueError, match=r"CUDA out of memory\. Lower `training.per_device_train_batch_size`"):
        finetune(recipe)
    stop_at(None)
    assert not (tmp_path / "run").exists()
    recipe.save(tmp_path / "run" / "recipe.yaml")
    assert finetune(recipe, resume=True)["step"] == 6


def test_a_chosen_checkpoint(tmp_path, data):
    """A checkpoint could not be chosen, and a folder that is no checkpoint started the run from the beginning."""
    recipe = quick_recipe(data, tmp_path / "run")
    finetune(recipe)
    first = weights(tmp_path / "run")
    finetune(recipe, resume=tmp_path / "run" / "checkpoints" / "checkpoint-2")
    second = weights(tmp_path / "run")
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(FileNotFoundError, match="no checkpoint of a run"):
        finetune(recipe, resume=tmp_path)
    (tmp_path / "run" / ".lock").touch()  # of a process that was killed after everything was written
    with pytest.raises(ValueError, match="is finished"):
        finetune(recipe, resume=True)
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.parametrize(
    ("training", "match"),
    [
        ({"learning_rate": 1e9, "max_steps": 4}, "the loss of step 2 is nan: the training has diverged"),
        ({"dataloader_drop_last": True, "per_device_train_batch_size": 50}, "no step was taken"),
        ({"fp16": True}, "needs a GPU"),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "no"},
            "must be `training.eval_str",
        ),
        (
            {
                "load_best_model_at_end": True,
                "eval_strategy": "steps",
                "save_strategy": "steps",
                "eval_steps": 3,
                "save_steps": 5,
            },
            "a multiple of",
        ),
    ],
)
def test_a_run_that_comes_to_nothing_is_an_error(tmp_path, data, training, match):
    """NaN weights, or weights identical to the initial ones, were saved as a result with a loss of 0."""
    recipe = quick_recipe(data, tmp_path / "run", {"save_strategy": "no", **training}, eval_fraction=0.3)
    with pytest.raises(ValueError, match=match):
        finetune(recipe)
    assert not (tmp_path / "run").exists()


def test_weights_that_break_in_the_last_step_are_not_saved(tmp_path, data, monkeypatch):
    """Nothing is logged after the last step: NaN weights of that step were saved."""
    original = DiaTrainer.training_step

    def training_step(self, *args, **kwargs):
        loss = original(self, *args, **kwargs)
        if self.state.global_step == 1:
            for weight in self.model.parameters():
                weight.grad.fill_(float("nan"))
        return loss

    monkeypatch.setattr(DiaTrainer, "training_step", training_step)
    with pytest.raises(ValueError, match="diverged in its last steps"):
        finetune(quick_recipe(data, tmp_path / "run", {"max_steps": 2, "save_strategy": "no"}))
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_a_run_that_came_first(tmp_path, data, monkeypatch):
    """Of two concurrent commands the second overwrote the result of the first, if that had ended meanwhile."""
    recipe = quick_recipe(data, tmp_path / "run")
    load = room._load_model

    def load_late(*args):
        monkeypatch.setattr(room, "_load_model", load)
        finetune(recipe)
        return load(*args)

    monkeypatch.setattr(room, "_load_model", load_late)
    with pytest.raises(ValueError, match="holds a run already"):
        finetune(recipe)
    assert len(losses(tmp_path / "run")) == 6


def test_others_may_read_the_weights(tmp_path, data):
    """The weights had mode 600 whatever the umask, and a server under another user could not load them."""
    before = os.umask(0o022)
    try:
        finetune(quick_recipe(data, tmp_path / "run", lora={"r": 4}))
    finally:
        os.umask(before)
    files = [*(tmp_path / "run").glob("*"), *(tmp_path / "run").glob("a*/*")]
    assert {path.stat().st_mode & 0o777 for path in files if path.is_file()} == {0o644}
    assert sum(path.suffix == ".safetensors" for path in files) == 3


@pytest.mark.parametrize("where", ["data", "eval_data"])
def test_a_folder_given_twice(tmp_path, data, where):
    """With one folder for training and evaluation, early stopping evaluates on training clips and never stops."""
    recipe = quick_recipe(data, tmp_path / "run")
    setattr(recipe, where, [*getattr(recipe, where), f"{data}/../data"])
    with pytest.raises(ValueError, match="given twice"):
        finetune(recipe)


def test_no_such_model(tmp_path, data):
    """The first line of the error for an unknown model was about a codec."""
    with pytest.raises(OSError, match="there is no model 'anne'"):
        finetune(quick_recipe(data, tmp_path / "run", model="anne"))


def test_a_result_that_cannot_be_written(tmp_path, data, monkeypatch):
    """A full disk at the end of a run caused a traceback that did not mention the saved checkpoints."""

    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(DiaProcessor, "save_pretrained", full)
    with pytest.raises(OSError, match=r"could not be written.*No space left.*kept: use --resume"):
        finetune(quick_recipe(data, tmp_path / "run"))
    monkeypatch.undo()
    finetune(quick_recipe(data, tmp_path / "run"), resume=True)


@pytest.mark.parametrize(
    ("owner", "method", "error"),
    [
        (DiaTrainer, "_load_optimizer_and_scheduler", ImportError("no package")),
        (StopAtNanCallback, "on_train_begin", OSError(28, "No space left")),
    ],
)
def test_errors_that_are_not_the_checkpoints(tmp_path, kept_run, monkeypatch, owner, method, error):
    """A missing package, or a full disk for logs, was reported as a damaged checkpoint."""
    shutil.copytree(kept_run / "run", tmp_path / "run")

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(owner, method, fail)
    with pytest.raises(type(error)) as told:
        finetune(quick_recipe(str(kept_run / "data"), tmp_path / "run"), resume=True)
    assert told.value is error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("file write failed")])
def test_a_full_disk_while_a_checkpoint_is_saved(tmp_path, data, monkeypatch, error):
    """A full disk left half a checkpoint, and torch's error named neither the file nor a remedy."""
    original = torch.save

    def save(content, file, *args, **kwargs):
        if "checkpoint-4" in str(file) and "scheduler" in str(file):
            raise error
        return original(content, file, *args, **kwargs)

    monkeypatch.setattr(torch, "save", save)
    recipe = quick_recipe(data, tmp_path / "run")
    with pytest.raises(OSError, match=r"checkpoint-4' could not be written.*(No space|write failed).*--resume"):
        finetune(recipe)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["checkpoint-2"]
    monkeypatch.undo()
    assert finetune(recipe, resume=True)["step"] == 6


@pytest.mark.parametrize(("lora", "dtype"), [(None, torch.float32), ({"r": 2}, torch.bfloat16)])
def test_bf16_computes_and_does_not_store(tmp_path, data, lora, dtype):
    """Trained weights were stored in bfloat16, which rounds small steps away; only frozen ones may be."""
    recipe = quick_recipe(data, tmp_path / "run", {"bf16": True}, lora=lora)
    arguments = make_arguments(recipe, has_evaluation=False)
    assert room._load_model(recipe, room._load_processor(recipe), arguments).dtype == dtype


@pytest.mark.parametrize("kernel", [None, "eager"])
def test_the_attention_kernel_is_the_recipes(tmp_path, data, kernel):
    """The recipe's attention kernel was ignored, or another setting changed with it."""
    recipe = quick_recipe(data, tmp_path / "run", attn_implementation=kernel)
    arguments = make_arguments(recipe, has_evaluation=False)
    model = room._load_model(recipe, room._load_processor(recipe), arguments)
    assert {model.model.encoder.config._attn_implementation, model.model.decoder.config._attn_implementation} == {
        kernel or "sdpa"
    }


def test_weights_of_the_channels_come_with_the_adapter(tmp_path, data):
    """The merged checkpoint lost its channel weights, and a further run used the defaults."""
    weights_of_channels = [4.0] + [1.0] * 8
    finetune(quick_recipe(data, tmp_path / "run", lora={"r": 2}, channel_loss_weights=weights_of_channels))
    assert DiaConfig.from_pretrained(tmp_path / "run").channel_loss_weights == weights_of_channels


@pytest.mark.parametrize(("step", "match"), [(1, "no checkpoint"), (3, "--resume")])
def test_interrupted_by_hand(tmp_path, data, stop_at, step, match):
    """Ctrl-C ended a run without the command that resumes it."""
    stop_at(step, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt, match=match):
        finetune(quick_recipe(data, tmp_path / "run"))


@pytest.mark.skipif(find_spec("schedulefree") is not None, reason="the package is installed")
def test_an_optimizer_without_its_package(tmp_path, data):
    """The error for an optimizer did not name its missing package, and the folder blocked the next attempt."""
    with pytest.raises(ImportError, match="pip install schedulefree"):
        finetune(quick_recipe(data, tmp_path / "run", {"optim": "schedule_free_sgd"}))
    assert not (tmp_path / "run").exists()


@torch.compiler.set_stance("force_eager")  # torchao compiles it, which takes a minute
def test_an_8_bit_optimizer(tmp_path, data):
    """An optimizer with quantized state did not train, or ended far from float32's result."""
    pytest.importorskip("torchao")
    for name in ("adamw_torch", "adamw_torch_8bit"):
        finetune(quick_recipe(data, tmp_path / name, {"max_steps": 6, "logging_steps": 1, "optim": name}))
    whole, small = losses(tmp_path / "adamw_torch"), losses(tmp_path / "adamw_torch_8bit")
    assert small == pytest.approx(whole, rel=0.01)


def test_missing_extra(tmp_path, data, monkeypatch):
    """A missing extra caused an AttributeError that did not name the package."""
    monkeypatch.setattr(room, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"accelerate and datasets and peft and tensorboard missing.*dia-hf\[train\]"):
        finetune(quick_recipe(data, tmp_path / "run", {"report_to": ["tensorboard"]}, lora={}))


def test_codes_of_another_codec(tmp_path):
    """Codes of one codec are noise to another, and the loss falls all the same."""
    data = write_prepared(tmp_path / "data", fingerprint="0123456789abcdef")
    with pytest.raises(ValueError, match=r"0123456789abcdef, but the model uses .*dia-hf prepare --model"):
        finetune(quick_recipe(data, tmp_path / "run"))


def test_tags_come_with_the_data(tmp_path):
    """The data's tags were missing in the tokenizer of the run, and were trained as letters."""
    tags = ["[S1]", "[S2]", "[de]"]
    plain = write_prepared(tmp_path / "plain")
    tagged = write_prepared(tmp_path / "tagged", speaker_tokens=tags, first=12)
    finetune(quick_recipe([tagged, plain], tmp_path / "run", lora={"r": 2}))
    for folder in ("run", "run/adapter"):
        assert DiaProcessor.from_pretrained(MINIATURE).tokenizer.speaker_tokens == tags[:2]
        assert room.DiaTokenizer.from_pretrained(tmp_path / folder).speaker_tokens == tags
    assert Dia.from_pretrained(tmp_path / "run").processor.tokenizer("[de]")["input_ids"] == [3]
    gaps = write_prepared(tmp_path / "gaps", first=24, language_tokens={"[nl]": 14, "[hu]": 18})
    finetune(quick_recipe([plain, gaps], tmp_path / "gaps-run", {"max_steps": 1}))
    assert Dia.from_pretrained(tmp_path / "gaps-run").processor.tokenizer("[hu] [nl]")["input_ids"] == [18, 32, 14]
    moved = write_prepared(tmp_path / "moved", first=36, language_tokens={"[nl]": 15})
    other = write_prepared(tmp_path / "other", speaker_tokens=["[fr]", "[S2]"])
    finetune(quick_recipe(other, tmp_path / "other-run", {"max_steps": 1}))
    assert Dia.from_pretrained(tmp_path / "other-run").processor.tokenizer("[fr]")["input_ids"] == [1]
    for settings in ({"data": [plain, other]}, {"data": plain, "eval_data": [other]}, {"data": [gaps, moved]}):
        with pytest.raises(ValueError, match="prepare all with the same tags"):
            finetune(quick_recipe(**settings, output=tmp_path / "third"))


def test_a_clip_stays_on_its_side(tmp_path):
    """With data added, a clip that moves from training to evaluation makes the evaluation loss too low."""
    few = write_prepared(tmp_path / "few", num_clips=20)
    more = write_prepared(tmp_path / "more", num_clips=20, seed=1, first=20)
    processor = DiaProcessor.from_pretrained(MINIATURE)
    sides = []
    for folders in ([few], [more, few]):
        train_set, eval_set = room._load_data(quick_recipe(folders, "run", eval_fraction=0.3), processor)
        assert not set(train_set["id"]) & set(eval_set["id"])
        sides.append((set(train_set["id"]), set(eval_set["id"])))
    assert sides[0][0] <= sides[1][0] and sides[0][1] <= sides[1][1]
    assert len(sides[1][0] | sides[1][1]) == 40 and 5 <= len(sides[1][1]) <= 19
    given = room._load_data(quick_recipe(few, "run", eval_data=[more]), processor)
    assert (len(given[0]), len(given[1])) == (20, 20)
    with pytest.raises(ValueError, match="none of the 20 clips remains"):
        room._load_data(quick_recipe(few, "run", eval_fraction=1), processor)


def test_a_session_stays_on_one_side(tmp_path):
    """Other clips of the conversations of the evaluation were trained on, which makes its loss too low."""
    processor = DiaProcessor.from_pretrained(MINIATURE)
    folder = write_prepared(tmp_path / "data", num_clips=40)
    for unit, column in (("session", "session"), ("speaker", "speaker")):
        recipe = quick_recipe(folder, "run", eval_fraction=0.55, eval_unit=unit, seed=0)
        train_set, eval_set = room._load_data(recipe, processor)
        assert not set(train_set[column]) & set(eval_set[column])
        assert len(train_set) + len(eval_set) == 40
    with pytest.raises(ValueError, match="`eval_unit` is 'word'; it must be one of 'clip', 'speaker', 'session'"):
        quick_recipe(folder, "run", eval_unit="word")


def test_evaluation_speech_and_an_early_end(tmp_path, data):
    """The last checkpoint was saved in place of the best one, or the generated evaluation files were lost."""
    recipe = quick_recipe(
        data,
        tmp_path / "run",
        {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "learning_rate": 30.0, "max_steps": 20},
        eval_fraction=0.3,
        early_stopping_patience=2,
        speak={"sentences": ["[S1] Hello."], "max_seconds": 0.2},
    )
    metrics = finetune(recipe)
    assert metrics["step"] < 20
    spoken = sorted(path.name for path in (tmp_path / "run" / "samples").rglob("*.wav"))
    assert len(spoken) == metrics["step"]
    state = json.loads(
        Path(tmp_path, "run", "checkpoints", f"checkpoint-{metrics['step']}", "trainer_state.json").read_text()
    )
    assert state["best_global_step"] == metrics["step"] - 2
    assert metrics["eval_loss"] == state["best_metric"], "that of the weights that are kept, not the last one"
    best = weights(state["best_model_checkpoint"])
    assert all(torch.equal(weight, best[name]) for name, weight in weights(tmp_path / "run").items())


def test_weights_in_training_and_after(tmp_path, data, monkeypatch):
    """Small steps are rounded away in bfloat16: trained weights must be float32, whatever dtype they were stored in."""
    half = tmp_path / "half"
    shutil.copytree(MINIATURE, half)
    DiaForConditionalGeneration.from_pretrained(MINIATURE, dtype=torch.bfloat16).save_pretrained(half)
    seen = []
    original = room.DiaTrainer

    def make_trainer(model, **kwargs):
        seen.append({weight.dtype for weight in model.parameters()})
        return original(model=model, **kwargs)

    monkeypatch.setattr(room, "DiaTrainer", make_trainer)
    finetune(quick_recipe(data, tmp_path / "same", {"max_steps": 1}, model=half))
    finetune(quick_recipe(data, tmp_path / "full", {"max_steps": 1}, model=half, save_dtype="float32"))
    finetune(quick_recipe(data, tmp_path / "lora", {"max_steps": 1}, model=half, lora={}, dtype="bfloat16"))
    assert seen == [{torch.float32}, {torch.float32}, {torch.float32, torch.bfloat16}]
    for name, dtype in (("same", torch.bfloat16), ("full", torch.float32), ("lora", torch.bfloat16)):
        assert {weight.dtype for weight in weights(tmp_path / name).values()} == {dtype}
        assert Dia.from_pretrained(tmp_path / name, device="cpu").model.dtype == dtype


def launch(configuration, data, output, *options):
    """Run the command in two processes on the CPU, with a launcher."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--mixed_precision", "no"]
    command += ["--config_file", str(Path(assets).parent / "accelerate" / f"{configuration}.yaml")]
    command += ["--main_process_port", "0", "-m", "dia_hf.cli", "finetune", str(data), str(output), *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("configuration", ["ddp", "fsdp2"])
def test_two_processes_train_as_one(tmp_path, configuration):
    """Two processes had another order, other dropped texts or another divisor of the loss than one process."""
    data = write_prepared(tmp_path / "data", num_clips=24)
    training = {"max_steps": 20, "logging_steps": 1, "save_steps": 10, "per_device_train_batch_size": 4}
    # The miniature's wide weights amplify a rounding to hundredths within ten steps; usual weights do not.
    config = json.loads(Path(MINIATURE, "config.json").read_text("utf-8"))
    for part in ("encoder_config", "decoder_config"):
        config[part]["initializer_range"] = 0.02
    recipe = quick_recipe(data, tmp_path / "one", training, config=config, text_dropout=0.3)
    finetune(recipe)
    recipe.change({"training.per_device_train_batch_size": 2}).save(tmp_path / "recipe.yaml")
    result = launch(configuration, data, tmp_path / "two", "--recipe", str(tmp_path / "recipe.yaml"))
    assert result.returncode == 0, result.stderr
    assert "4 clips per step" in result.stderr and "20 steps; loss: training" in result.stdout
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(two) == 20
    torch.testing.assert_close(torch.tensor(two), torch.tensor(one), atol=1e-4, rtol=0)
    if configuration == "ddp" and Version(transformers.__version__) < Version("5.23"):
        return  # transformers 5.17 resumes processes on CPUs with a device, "cpu:0", that torch.load does not know
    # A run killed after the first checkpoint continues to the same weights.
    whole = weights(tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "checkpoint-20")
    (tmp_path / "two" / "model.safetensors").unlink()
    result = launch(configuration, data, tmp_path / "two", "--resume")
    assert result.returncode == 0, result.stderr
    assert losses(tmp_path / "two")[10:] == pytest.approx(two[10:], abs=1e-6)
    for name, weight in weights(tmp_path / "two").items():
        torch.testing.assert_close(weight, whole[name], atol=1e-6, rtol=1e-5, msg=name)
