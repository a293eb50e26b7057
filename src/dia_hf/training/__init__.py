"""Training on prepared datasets, with transformers' Trainer.

`collator` makes batches (`voice_prompts` joins clips of one speaker first), `trainer` trains on them with AdamW or
`muon`, and `speak` generates samples meanwhile. `recipe` holds the settings of a run, from which `arguments` and
`callbacks` are made; `run_dir` and `checkpoint` manage its folder, `run_card` writes its model card, `lora` attaches
adapters, and `finetune` runs all of it. Needs `pip install "dia-hf[train]"`.
"""

from ..conversion.adapters import merge_adapter
from .collator import DiaDataCollator
from .finetune import finetune
from .lora import LORA_TARGET_MODULES, attach_lora
from .recipe import Recipe
from .speak import SpeakCallback
from .trainer import DiaTrainer
from .voice_prompts import add_voice_prompts

__all__ = [
    "LORA_TARGET_MODULES",
    "DiaDataCollator",
    "DiaTrainer",
    "Recipe",
    "SpeakCallback",
    "add_voice_prompts",
    "attach_lora",
    "finetune",
    "merge_adapter",
]
