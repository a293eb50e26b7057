"""Recipe of a training run: a dataclass in Python, a YAML file on disk.

Mistakes (an unknown key, a string instead of a number) are errors before anything is loaded. Called by `finetune.py`,
users and the command line.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import os
import re
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from ..assets import MINIATURE
from ..atomic_write import atomic_write
from ..configuration_dia import DiaConfig
from ..data.splits import SPLIT_UNITS
from ..text_files import first_line, read_json, read_text

__all__ = ["Recipe"]

_SHIPPED = Path(MINIATURE).parent / "recipes"
_LORA_KEYS = ("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "use_dora")
_DTYPES = ("float32", "bfloat16", "float16")
# Fields of TrainingArguments that other keys of the recipe determine.
_DECIDED_ELSEWHERE = {
    "output_dir": "checkpoints are written to OUTPUT/checkpoints; set `output`",
    "seed": "set `seed`, beside `training`",
    "resume_from_checkpoint": "resume with `finetune(recipe, resume=True)` or `--resume`",
    "remove_unused_columns": "the collator reads the columns `text` and `codes`, which would be removed",
    "label_names": "the labels are named `labels`",
    "label_smoothing_factor": "set `label_smoothing`, beside `training`: the model computes its own loss",
}
# Limits far beyond any recipe, which is still read within a second.
_MAX_CHARACTERS, _MAX_VALUES, _MAX_DEPTH = 200_000, 20_000, 20
_VERSIONS = ("dia-hf", "torch", "transformers", "accelerate", "datasets", "peft")


class _Loader(yaml.SafeLoader):
    """YAML loader in which 1e-4 is a number, and `no`, the name of a strategy, is a string."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(":bool")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _read_yaml(text: str, where: str) -> Any:
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"{where} has {len(text):,} characters; a recipe may have at most {_MAX_CHARACTERS:,}.")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _count_values(node, {}, 0) > _MAX_VALUES:
                raise ValueError(f"it has more than {_MAX_VALUES:,} values, including those that anchors repeat")
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, ArithmeticError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        hint = '; quote a text that begins with a bracket: "[S1] Hello."' if text.lstrip().startswith("[") else ""
        raise ValueError(f"{where} is not valid YAML: {first_line(why, 300)}{hint}") from error


def _count_values(node: yaml.Node, known: dict[yaml.Node, int], depth: int) -> int:
    """Count the values of a node with anchors resolved, without resolving them: a few lines can hold millions."""
    if depth > _MAX_DEPTH or known.get(node) == 0:
        raise ValueError(f"it is nested more than {_MAX_DEPTH} deep, or in itself")
    if node not in known:
        known[node] = 0  # being counted
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for child in children for part in (child if isinstance(child, tuple) else (child,))]
        known[node] = 1 + sum(_count_values(part, known, depth + 1) for part in parts)
    return known[node]


def _say(value: Any) -> str:
    """Return the repr of a value, shortened for an error message."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(value)


def check_keys(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise `ValueError` for an unknown key, naming the closest known one."""
    known = sorted(known)
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key)[:80], known, n=1, cutoff=0.0 if len(known) > 20 else 0.6)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}."
            raise ValueError(f"{where} has no {_say(key if isinstance(key, str) else str(key))}; {hint}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from YAML has a type; types that YAML cannot express accept any value."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is typing.Literal:
        return value in inner
    if origin is list:
        return isinstance(value, list) and all(_fits(item, inner[0]) for item in value)
    if origin is dict or hint is dict:
        return isinstance(value, dict)
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) if isinstance(hint, type) else True


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", dict: "a table of keys"}


def _say_type(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        said = [_say_type(one) for one in inner if one is not type(None)]
        if type(None) in inner:
            said.append("null")
        return " or ".join(dict.fromkeys(said))
    if origin is list:
        return f"a list, each {_say_type(inner[0])}"
    return _NAMES.get(origin or hint, "a word" if isinstance(hint, type) else str(hint))


def _check_type(name: str, value: Any, hint: Any) -> None:
    if not _fits(value, hint):
        raise ValueError(f"the recipe's `{name}` is {_say(value)}; it must be {_say_type(hint)}.")


def _check_range(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        allowed = f"at least {low}" if high == float("inf") else f"between {low} and {high}"
        raise ValueError(f"the recipe's `{name}` is {_say(value)}; it must be {allowed}.")


@dataclass
class Recipe:
    """Recipe of a training run.

    Args:
        model (`str`, defaults to `"nari-labs/Dia-1.6B-0626"`): Folder or Hub id of the checkpoint to start from. With
            `config`, only its tokenizer and codec are used.
        config (`dict` or file, *optional*): Fields of a `DiaConfig`, or a JSON file of them: training starts from
            random weights of this shape. Files are read at once; the recipe holds the fields.
        codec (`str`, *optional*): Folder or Hub id of a `DacModel` to use instead of the checkpoint's codec.
        data (`list[str]`): Folders that `prepare_dataset` wrote; one may be given as a string.
        output (`str`): Output folder of the result and all files of the run. It must be new or the run's own.
        eval_fraction (`float`, defaults to 0.0): Fraction of the clips used for evaluation instead of training, from 0
            to 1. The split depends on each clip's id and `seed`, and is stable when data is added.
        eval_unit (`str`, defaults to `"clip"`): What the split keeps together: `"clip"`, `"speaker"` (with all who are
            in dialogues with each other) or `"session"`. No speaker or session is then in both parts.
        eval_data (`list[str]`): Prepared folders for evaluation, in addition to `eval_fraction`.
        lora (`dict`, *optional*): Train LoRA adapters instead of all weights: `r` (rank, 32), `lora_alpha`
            (32), `lora_dropout` (0.0), `target_modules` (`LORA_TARGET_MODULES`), `use_rslora`
            (`False`: divide by the root of the rank instead of the rank), `use_dora` (`False`).
        text_dropout (`float`, defaults to 0.15): Probability of training a clip without its text, which guidance needs.
        code_noise (`float`, defaults to 0.0): Maximum fraction of a clip's input codes that are replaced; see
            `DiaDataCollator`.
        label_smoothing (`float`, defaults to 0.0): Probability mass distributed uniformly over all tokens.
        max_frames (`int`, *optional*): Maximum length of a clip in frames; longer clips are cut. By default the
            number of positions of the model.
        frames_per_row (`int`, *optional*): Pack short clips into rows of at most this many frames.
        channel_loss_weights (`list[float]`, *optional*): Relative weight of each channel in the loss; by default those
            of the checkpoint's config.
        loss_chunk_size (`int`, *optional*, defaults to 512): Frames whose logits are in memory at once; `None` for all.
        attn_implementation (`str`, *optional*): Attention implementation, by transformers' names; by default the
            model's. On a CPU in bfloat16, "eager" is faster than "sdpa" for rows of a few hundred frames.
        muon_learning_rate (`float`, *optional*): Train the weight matrices of the layers with Muon at this learning
            rate; see `DiaTrainer`.
        voice_prompt_probability (`float`, defaults to 0.0): Fraction of clips preceded by another clip of the same
            speaker, without loss on it: training for voice cloning.
        early_stopping_patience (`int`, *optional*): Number of evaluations without improvement after which training
            stops; the best weights are kept.
        speak (`dict`, *optional*): Samples to generate at each evaluation: `sentences` and other arguments of
            `SpeakCallback`.
        seed (`int`, defaults to 0): Random seed of weights, the order of clips, the evaluation split and text dropout.
        dtype (`str`, *optional*): Dtype of the weights in training. By default "float32" for trained weights, and for
            LoRA's frozen ones "bfloat16" if the device supports it.
        save_dtype (`str`, *optional*): Dtype of the saved weights; by default that of the checkpoint.
        training (`dict`): Fields of `transformers.TrainingArguments`: learning rate, batch size, steps, …

    Raises:
        ValueError: If a key is unknown, or a value has a wrong type or is out of range. The message names the closest
            known key, or the values allowed.

    Example:
    ```python
    >>> from dia_hf.training import Recipe
    >>> recipe = Recipe.load("lora").change({"training.learning_rate": "1e-4", "lora.r": 16})
    >>> recipe.training["learning_rate"], recipe.lora["r"]
    (0.0001, 16)
    >>> recipe.change({"training.learning_rat": 1e-4})
    Traceback (most recent call last):
    ValueError: the recipe's `training` has no 'learning_rat'; did you mean 'learning_rate'?

    ```
    """

    model: str = "nari-labs/Dia-1.6B-0626"
    config: dict[str, Any] | None = None
    codec: str | None = None
    data: list[str] = field(default_factory=list)
    output: str = ""
    eval_fraction: float = 0.0
    eval_unit: str = "clip"
    eval_data: list[str] = field(default_factory=list)
    lora: dict[str, Any] | None = None
    text_dropout: float = 0.15
    code_noise: float = 0.0
    label_smoothing: float = 0.0
    max_frames: int | None = None
    frames_per_row: int | None = None
    channel_loss_weights: list[float] | None = None
    loss_chunk_size: int | None = 512
    attn_implementation: str | None = None
    muon_learning_rate: float | None = None
    voice_prompt_probability: float = 0.0
    early_stopping_patience: int | None = None
    speak: dict[str, Any] | None = None
    seed: int = 0
    dtype: str | None = None
    save_dtype: str | None = None
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("model", "codec", "output"):
            if isinstance(getattr(self, name), os.PathLike):
                setattr(self, name, os.fspath(getattr(self, name)))
        for name in ("data", "eval_data"):
            value = getattr(self, name)
            paths = [value] if isinstance(value, (str, os.PathLike)) else value
            if isinstance(paths, (list, tuple)):
                paths = [os.fspath(path) if isinstance(path, os.PathLike) else path for path in paths]
            setattr(self, name, paths)
        if isinstance(self.config, (str, os.PathLike)):
            self.config = _read_config(Path(self.config))
        hints = typing.get_type_hints(Recipe)
        for one in dataclasses.fields(self):
            _check_type(one.name, getattr(self, one.name), hints[one.name])
        self._check_values()
        self._check_training()

    def _check_values(self) -> None:
        for name in ("eval_fraction", "text_dropout", "code_noise", "label_smoothing", "voice_prompt_probability"):
            _check_range(name, getattr(self, name), 0, 1)
        _check_range("seed", self.seed, 0, 2**32 - 1)
        _check_range("muon_learning_rate", self.muon_learning_rate, 0, float("inf"))
        for name in ("max_frames", "frames_per_row", "loss_chunk_size", "early_stopping_patience"):
            _check_range(name, getattr(self, name), 1, float("inf"))
        if self.eval_unit not in SPLIT_UNITS:
            units = ", ".join(map(repr, SPLIT_UNITS))
            raise ValueError(f"the recipe's `eval_unit` is {self.eval_unit!r}; it must be one of {units}.")
        for name in ("dtype", "save_dtype"):
            if getattr(self, name) not in (None, *_DTYPES):
                raise ValueError(
                    f"the recipe's `{name}` is {getattr(self, name)!r}; it must be {', '.join(_DTYPES)} or null."
                )
        if self.config is not None:
            known = DiaConfig().to_dict()
            check_keys(self.config, [*known, "channel_loss_weights"], "the recipe's `config`")
            for part in ("encoder_config", "decoder_config"):
                _check_type(f"config.{part}", self.config.get(part), dict | None)
                check_keys(self.config.get(part) or {}, [*known[part], "rope_theta"], f"the recipe's `config.{part}`")
            if self.lora is not None:
                raise ValueError("the recipe has `config` (random weights) and `lora`; adapters need trained weights.")
        if self.lora is not None:
            check_keys(self.lora, _LORA_KEYS, "the recipe's `lora`")
            hints = {"r": int, "lora_alpha": float, "lora_dropout": float, "use_rslora": bool, "use_dora": bool}
            for name, hint in hints.items():
                if name in self.lora:
                    _check_type(f"lora.{name}", self.lora[name], hint)
            _check_range("lora.r", self.lora.get("r"), 1, float("inf"))
            _check_range("lora.r", self.lora.get("r"), 1, 8192)  # above the width of any layer
            _check_range("lora.lora_dropout", self.lora.get("lora_dropout"), 0, 1)
        if self.speak is not None:
            from .speak import SpeakCallback

            known = [*inspect.signature(SpeakCallback).parameters]
            check_keys(self.speak, set(known) - {"processor", "folder"}, "the recipe's `speak`")
            _check_type("speak.sentences", self.speak.get("sentences"), list[str] | None)
            if not self.speak.get("sentences"):
                raise ValueError("the recipe's `speak` has no `sentences`; give a list, such as ['[S1] Hello.'].")

    def _check_training(self) -> None:
        from transformers import TrainingArguments
        from transformers.training_args import OptimizerNames

        known = [one.name for one in dataclasses.fields(TrainingArguments)]
        hints = typing.get_type_hints(TrainingArguments)
        for name in self.training:
            if name in _DECIDED_ELSEWHERE:
                raise ValueError(
                    f"`training.{name}` cannot be set in the recipe's `training`: {_DECIDED_ELSEWHERE[name]}."
                )
        check_keys(self.training, known, "the recipe's `training`")
        if "optim" in self.training:
            optimizers = [str(one.value) for one in OptimizerNames]
            check_keys([self.training["optim"]], optimizers, "`training.optim`")
        max_steps, epochs = self.training.get("max_steps", -1), self.training.get("num_train_epochs", 1)
        if isinstance(max_steps, int) and max_steps != -1 and max_steps < 1:
            raise ValueError(
                f"the recipe's `training.max_steps` is {max_steps}; it must be at least 1, or -1 for epochs."
            )
        if isinstance(epochs, (int, float)) and epochs <= 0:
            raise ValueError(f"the recipe's `training.num_train_epochs` is {epochs}; it must be above 0.")
        for name, value in self.training.items():
            _check_type(f"training.{name}", value, hints[name])

    @classmethod
    def load(cls, name_or_file: str | os.PathLike) -> Recipe:
        """Read a recipe.

        Args:
            name_or_file (`str` or `os.PathLike`): "lora", "full" or "scratch", which are part of the package, or a
                YAML file.

        Raises:
            FileNotFoundError: If there is no such recipe or file.
            ValueError: If the file is not a recipe.
        """
        shipped = {path.stem: path for path in sorted(_SHIPPED.glob("*.yaml"))}
        path = shipped.get(os.fspath(name_or_file), Path(name_or_file))
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no recipe {os.fspath(name_or_file)!r}; give a YAML file, or one of {', '.join(shipped)}."
            )
        content = _read_yaml(read_text(path), str(path))
        if not isinstance(content, dict):
            raise ValueError(f"{path} is not a recipe: it has no keys. See `dia-hf finetune --show lora`.")
        check_keys(content, [one.name for one in dataclasses.fields(cls)], str(path))
        try:
            return cls(**content)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from error

    def save(self, file: str | os.PathLike) -> None:
        """Write the recipe as YAML, with the versions of the installed packages in a comment.

        Args:
            file (`str` or `os.PathLike`): Output file; an existing file is replaced.

        Example:
        ```python
        >>> import tempfile
        >>> from dia_hf.training import Recipe
        >>> recipe = Recipe.load("full")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     recipe.save(f"{folder}/recipe.yaml")
        ...     Recipe.load(f"{folder}/recipe.yaml") == recipe
        True

        ```
        """
        lines = ["# Training run of dia-hf. The keys are described in help(dia_hf.training.Recipe).", "# Versions:"]
        for package in _VERSIONS:
            try:
                lines.append(f"#   {package} {version(package)}")
            except PackageNotFoundError:
                continue
        content = yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True)
        with atomic_write(file) as path:
            path.write_text("\n".join([*lines, content]), "utf-8")

    def change(self, changes: Mapping[str, Any]) -> Recipe:
        """Return a copy of the recipe with some values changed.

        Args:
            changes (`Mapping[str, Any]`): Values by key; a dot separates nested keys (`"training.learning_rate"`). A
                string is parsed as YAML: `"1e-4"` is a number, `"null"` is `None`, `"[1, 2]"` a list.

        Returns:
            `Recipe`: New recipe; this one is unchanged.

        Raises:
            ValueError: As `Recipe`.
        """
        from transformers import TrainingArguments

        content = dataclasses.asdict(self)
        known, trainers = list(content), {one.name for one in dataclasses.fields(TrainingArguments)}
        for key, value in changes.items():
            names = key.split(".")
            if names[0] not in known and names[0] in trainers:
                raise ValueError(f"the recipe has no {key!r}; did you mean 'training.{key}'?")
            check_keys(names[:1], known, "the recipe")
            table = content
            for depth, name in enumerate(names[:-1]):
                if table.get(name) is None:
                    table[name] = {}
                if not isinstance(table[name], dict):
                    raise ValueError(f"the recipe's `{'.'.join(names[: depth + 1])}` has no keys, but {key!r} is set.")
                table = table[name]
            table[names[-1]] = (
                _read_yaml(value, f"the value of {key}, {_say(value)},") if isinstance(value, str) else value
            )
        return Recipe(**content)


def _read_config(path: Path) -> dict[str, Any]:
    """Read the fields of a `DiaConfig` from a JSON file."""
    try:
        return read_json(path)
    except ValueError as error:
        raise ValueError(f"the recipe's `config` is not a DiaConfig: {error}") from error
