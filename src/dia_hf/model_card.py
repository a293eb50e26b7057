"""Model cards: the README.md of a saved checkpoint, and how to run one.

Called by the model's `save_pretrained`, by the conversion and by `finetune`, which write cards of their own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import ModelCardData, try_to_load_from_cache

from .assets import MINIATURE
from .atomic_write import atomic_write
from .hub import is_hub_id

__all__ = ["HOW_TO_RUN", "make_model_card", "write_model_card"]

HOW_TO_RUN = """\
```python
from transformers import AutoProcessor
from dia_hf import DiaForConditionalGeneration

processor = AutoProcessor.from_pretrained("this/folder")
model = DiaForConditionalGeneration.from_pretrained("this/folder")
inputs = processor(text=["[S1] Hello. [S2] Hi!"], return_tensors="pt")
codes = model.generate(**inputs, max_new_tokens=256)
processor.save_audio(processor.batch_decode(codes), "hello.wav")
```

or `dia-hf generate --model this/folder "[S1] Hello. [S2] Hi!"`.
"""

# Checkpoints whose license is known; that of others is for their owners to state.
_LICENSES = dict.fromkeys((MINIATURE, "nari-labs/Dia-1.6B", "nari-labs/Dia-1.6B-0626"), "apache-2.0")

_CHECKPOINT = re.compile(r"checkpoint-\d+")  # the folders in which `Trainer` keeps the state of a run

_CARD = """\
---
{about}
---

# Dia

A text-to-dialogue model in the layout of Hugging Face Transformers.{base} To run it, this folder needs the processor's
files, too: `processor.save_pretrained("this/folder")`.

## How to run it

{how}"""


def make_model_card(
    title: str, facts: Mapping[str, str], note: str = "", how: str = HOW_TO_RUN, base_model: str | None = None
) -> str:
    """Return a model card as Markdown.

    Args:
        title (`str`): Heading.
        facts (`Mapping[str, str]`): Rows of the table below it.
        note (`str`, defaults to `""`): Paragraph after the table.
        how (`str`, *optional*): How to run the model.
        base_model (`str`, *optional*): Hub id of the model that it was trained from.
    """
    metadata = ModelCardData(
        base_model=base_model,
        library_name="transformers",
        pipeline_tag="text-to-speech",
        tags=["dia", "text-to-speech", "dialogue"],
    )
    rows = [f"| {name} | {fact} |" for name, fact in facts.items()]
    head = ["---", metadata.to_yaml(), "---", "", f"# {title}", "", "| | |", "|---|---|", *rows, ""]
    return "\n".join([*head, *([note, ""] if note else []), "## How to run it", "", how])


def write_model_card(folder: str | os.PathLike, name: str) -> None:
    """Write a short model card where a folder holds no README.md; one that exists is left as it is.

    No card goes into the `checkpoint-<step>` folders of a `Trainer`: they are the state of a run and are not published.
    They are known by their name, because `Trainer` saves its final model by the same call.

    Args:
        folder (`str` or `os.PathLike`): Folder of the checkpoint.
        name (`str`): Name of the checkpoint that the model was loaded from (`config._name_or_path`). A Hub id that was
            downloaded is given as base model; any other name may be a path of this machine, and is left out.

    Raises:
        OSError: If the file cannot be written.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from dia_hf import MINIATURE
    >>> from dia_hf.model_card import write_model_card
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_model_card(folder, MINIATURE)
    ...     "license: apache-2.0" in Path(folder, "README.md").read_text("utf-8")
    True

    ```
    """
    file = Path(folder, "README.md")
    if os.path.lexists(file) or _CHECKPOINT.fullmatch(Path(os.path.abspath(folder)).name):
        return
    # A relative path of a folder that no longer exists looks like a Hub id, but is in no cache.
    is_known = is_hub_id(name) and (name in _LICENSES or isinstance(try_to_load_from_cache(name, "config.json"), str))
    about = ModelCardData(
        base_model=name if is_known else None,
        library_name="transformers",
        license=_LICENSES.get(name),
        pipeline_tag="text-to-speech",
        tags=["dia", "text-to-speech", "dialogue"],
    )
    base = f" It was loaded from `{name}`." if is_known else ""
    if name == MINIATURE:
        base = " It was loaded from the embedded miniature of `dia_hf`."
    card = _CARD.format(about=about.to_yaml(), base=base, how=HOW_TO_RUN)
    with atomic_write(file) as beside:
        beside.write_text(card, "utf-8")
