"""From recordings and their transcripts to a model that speaks like them.

`source.py` reads rows of any source, `texts.py` and `encoding.py` make text and codes of them as `settings.py` says,
`report.py` says what became of each, and `prepare.py` puts these together.
`collator.py` makes batches (`voice_prompts.py` joins clips of one speaker before that), `trainer.py` trains on them
(`muon.py` is the optimiser that it adds) and `speak.py` lets the model be heard meanwhile. `recipe.py` says how a run
goes and `run_folder.py` where it keeps itself, `lora.py` attaches and merges adapters, `finetune.py` puts all of it
together. Needs `pip install "dia-hf[train]"`.
"""

from .collator import DiaDataCollator
from .finetune import finetune
from .lora import LORA_TARGET_MODULES, attach_lora, merge_adapter
from ..data.prepare import load_prepared, prepare_dataset
from .recipe import Recipe
from ..data.config import PrepareSettings
from .speak import SpeakCallback
from .trainer import DiaTrainer
from .voice_prompts import add_voice_prompts

__all__ = [
    "LORA_TARGET_MODULES",
    "DiaDataCollator",
    "DiaTrainer",
    "PrepareSettings",
    "Recipe",
    "SpeakCallback",
    "add_voice_prompts",
    "attach_lora",
    "finetune",
    "load_prepared",
    "merge_adapter",
    "prepare_dataset",
]
