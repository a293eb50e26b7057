"""Model cards of checkpoints that this package writes: metadata, a table of facts, and how to run the model.

Called by `convert.py` and `dia_hf.training.model_card`.
"""

from __future__ import annotations

from collections.abc import Mapping

from huggingface_hub import ModelCardData

__all__ = ["HOW_TO_RUN", "make_model_card"]

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
