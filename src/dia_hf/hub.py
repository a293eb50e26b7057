"""Names of checkpoints: folders, names on the Hub, and checks before loading.

The checks run before anything is loaded by name, so that the error tells a missing folder from a missing network.
"""

from __future__ import annotations

import json
import os
import re
import threading
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_session, try_to_load_from_cache
from safetensors import SafetensorError, safe_open

from .text_files import is_deep, shortened

__all__ = ["check_huggingface_layout", "check_model", "is_hub_id", "is_nari_name", "looks_like_path"]

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SECONDS = 4.0  # time to wait for the Hub
_MAX_JSON = 2**26  # bytes
_COUNT, _NUMBER, _OBJECT = (int, "a whole number"), ((int, float), "a number"), (dict, "an object")
# JSON files of a checkpoint, and the types of their fields.
_FIELDS: dict[str, dict[str, tuple[Any, str]]] = {
    "config.json": {},
    "generation_config.json": {
        **dict.fromkeys(("max_length", "max_new_tokens", "min_length", "min_new_tokens", "top_k"), _COUNT),
        **dict.fromkeys(("num_return_sequences", "num_beams"), _COUNT),
        **dict.fromkeys(("temperature", "top_p", "guidance_scale", "eos_logit_scale"), _NUMBER),
    },
    "preprocessor_config.json": {
        **dict.fromkeys(("sampling_rate", "hop_length", "feature_size"), _COUNT),
        "padding_value": _NUMBER,
    },
    "processor_config.json": dict.fromkeys(("feature_extractor", "audio_tokenizer"), _OBJECT),
    "tokenizer_config.json": {},
    "special_tokens_map.json": {},
    "added_tokens.json": {},
    "audio_tokenizer_config.json": {},
    "model.safetensors.index.json": {},
}


def looks_like_path(name: str | os.PathLike) -> bool:
    """Return whether a name can only be a path: it begins with ".", "/" or "~", has several slashes, or exists."""
    text = os.fspath(name)
    return not _HUB_NAME.fullmatch(text) or text.startswith((".", "/", "~")) or os.path.exists(text)


def is_hub_id(name: str) -> bool:
    """Return whether a name has the form of a Hub id, owner and repository, and is no local folder."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None and not os.path.isdir(name)


def is_nari_name(name: str) -> bool:
    """Return whether a tensor's name is one of nari-labs' that the Hugging Face layout has not."""
    return name.endswith(".mlp.wi_fused.weight")


def check_huggingface_layout(name: str | os.PathLike) -> None:
    """Refuse a file, or a folder in another layout, which `from_pretrained` of a part would read as a damaged one.

    Args:
        name (`str` or `os.PathLike`): Folder, file or Hub id.

    Raises:
        ValueError: If it is one; the message names the functions that load it.
    """
    path = Path(name)
    found = None
    if path.is_file():
        found = "a file"
    elif path.is_dir() and not list(path.glob("model*.safetensors*")) and not list(path.glob("pytorch_model*")):
        others = sorted(file.name for ending in (".gguf", ".pth", ".pt") for file in path.glob(f"*{ending}"))
        found = f"a folder with {others[0]}" if others else None
    elif (file := path / "model.safetensors").is_file():
        try:
            with safe_open(file, framework="pt") as opened:
                found = "in the layout of nari-labs" if any(map(is_nari_name, opened.keys())) else None
        except (SafetensorError, OSError):
            return  # its reader says why
    if found is not None:
        raise ValueError(
            f"{str(name)!r} is {found}, and no checkpoint in the Hugging Face layout: load it with "
            "`Dia.from_pretrained` or `dia_hf.conversion.load_checkpoint`, or convert it, `dia-hf convert`."
        )


def check_model(name: str | os.PathLike) -> None:
    """Check that a checkpoint is on disk, or that the Hub can be reached.

    Args:
        name (`str` or `os.PathLike`): Folder, file or Hub id.

    Raises:
        ValueError: If a file of the folder is nested too deeply, or a field of it has a wrong type.
        FileNotFoundError: If it looks like a path and does not exist; the Hub is not asked then.
        OSError: If it is neither local nor downloaded, and the Hub does not answer within seconds or is disabled.

    Example:
    ```python
    >>> from dia_hf.hub import check_model
    >>> try:
    ...     check_model("./models/nowhere")
    ... except FileNotFoundError as error:
    ...     print(error)
    there is no folder or file './models/nowhere'; give one that there is, or a name on the Hub such as 'owner/model'.

    ```
    """
    text = os.fspath(name)
    if os.path.isdir(text):
        for folder in (text, os.path.join(text, "audio_tokenizer")):
            for file in _FIELDS:
                _check_json(Path(folder, file))
    if os.path.exists(text):
        return
    if isinstance(name, os.PathLike) or looks_like_path(text):
        raise FileNotFoundError(
            f"there is no folder or file {text!r}; give one that there is, or a name on the Hub such as 'owner/model'."
        )
    if isinstance(try_to_load_from_cache(text, "config.json"), str):
        return
    missing = f"{text!r} is neither a folder here nor among the models that were downloaded"
    if constants.HF_HUB_OFFLINE:
        raise OSError(f"{missing}, and the Hub is not to be asked (HF_HUB_OFFLINE); give a folder, or unset that.")
    if (reason := _ask_hub()) is not None:
        raise OSError(
            f"{missing}, and the Hub cannot be reached at {constants.ENDPOINT} ({reason}); check the network, or give "
            "a folder."
        )


def _check_json(file: Path) -> None:
    """Check nesting and field types, which transformers' readers do not; they report invalid JSON themselves."""
    try:
        if not file.is_file() or file.stat().st_size > _MAX_JSON:
            return
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return
    except RecursionError as error:
        raise ValueError(f"{str(file)!r} is nested too deeply to be read.") from error
    if is_deep(content):
        raise ValueError(f"{str(file)!r} is nested too deeply to be a checkpoint's.")
    fields = _FIELDS[file.name]
    if fields and not isinstance(content, dict):
        raise ValueError(f"{str(file)!r} holds {shortened(content)}; expected an object, fields by name.")
    for name, (kind, wanted) in fields.items():
        value = content.get(name)
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{str(file)!r}: the field `{name}` is {shortened(value)}; expected {wanted}.")


def _ask_hub() -> str | None:
    """Return the reason why the Hub does not answer, or `None` if it does, with any status."""
    outcome: list[str | None] = []

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=_SECONDS)
            outcome.append(None)
        except Exception as error:  # of the HTTP library of this release of huggingface_hub
            outcome.append(" ".join(str(error).split())[:200] or type(error).__name__)

    thread = threading.Thread(target=ask, daemon=True)  # a DNS lookup has no time limit
    thread.start()
    thread.join(_SECONDS)
    return outcome[0] if outcome else f"no answer in {_SECONDS:.0f} s"
