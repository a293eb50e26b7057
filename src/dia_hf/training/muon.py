"""Muon for the matrices of the layers, and `Trainer`'s optimizer for all else, as one optimizer.

Knows the names of Dia's layers, and nothing of data or losses; called by `trainer.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

__all__ = ["MuonBeside"]


def _is_hidden(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a matrix between two vectors of features, which is what Muon is for."""
    return ".layers." in name and parameter.ndim == 2 and parameter.requires_grad


class MuonBeside(Optimizer):
    """Muon for the matrices in a model's layers, another optimizer for the rest.

    Muon (Jordan et al., Muon: An optimizer for hidden layers, 2024) gives all directions of a matrix' momentum nearly
    the same length: those that few examples ask for are not drowned by those that all ask for (Wang et al., Muon
    Outperforms Adam in Tail-End Associative Memory Learning, 2025). Its steps are scaled to the size of AdamW's
    (Liu et al., Muon is Scalable for LLM Training, 2025: by 0.2 · √max(rows, columns)), so that a learning rate means
    the same for both.

    To schedulers, checkpoints and gradient clipping it is one optimizer, whose last group is Muon's.

    Args:
        other (`Optimizer`): Has not stepped yet, and holds all parameters; those that become Muon's are taken from it.
        model (`nn.Module`): A `DiaForConditionalGeneration`, or what wraps one.
        learning_rate (`float`): Of Muon.
        weight_decay (`float`, defaults to 0.0): Of Muon; decoupled, as AdamW's.

    Raises:
        ImportError: If torch has no Muon, before 2.9.
        ValueError: If no matrix of a layer is trained.

    Example:
    ```python
    >>> import torch
    >>> from dia_hf import MINIATURE, DiaForConditionalGeneration
    >>> from dia_hf.training.muon import MuonBeside
    >>> model = DiaForConditionalGeneration.from_pretrained(MINIATURE)
    >>> optimizer = MuonBeside(torch.optim.AdamW(model.parameters(), lr=2e-3), model, learning_rate=1e-3)
    >>> [group["lr"] for group in optimizer.param_groups]
    [0.002, 0.001]

    ```
    """

    def __init__(self, other: Optimizer, model: nn.Module, learning_rate: float, weight_decay: float = 0.0) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ImportError(f"Muon comes with torch 2.9, and this is {torch.__version__}; update torch.")
        matrices = [parameter for name, parameter in model.named_parameters() if _is_hidden(name, parameter)]
        if not matrices:
            raise ValueError("no matrix of a layer is trained, so that Muon has nothing to do; leave it out.")
        taken = set(map(id, matrices))
        for group in other.param_groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in taken]
        muon = torch.optim.Muon(matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self._parts = (other, muon)
        super().__init__(other.param_groups + muon.param_groups, {})
        self._share()

    def _share(self) -> None:
        """Let both work on the groups and the state that this one shows and saves."""
        for part, groups in zip(self._parts, (self.param_groups[:-1], self.param_groups[-1:]), strict=True):
            part.param_groups, part.state = groups, self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict()` gave."""
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step with both."""
        other, muon = self._parts
        loss = other.step(closure)
        muon.step()
        return loss
