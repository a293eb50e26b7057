"""Muon for the weight matrices of the layers combined with `Trainer`'s optimizer for all other parameters.

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
    """Whether a parameter is a trained weight matrix of a layer, for which Muon is designed."""
    return ".layers." in name and parameter.ndim == 2 and parameter.requires_grad


class MuonBeside(Optimizer):
    """Muon for the weight matrices of a model's layers, another optimizer for the other parameters.

    Muon (Jordan et al., Muon: An optimizer for hidden layers, 2024) orthogonalizes the momentum of a matrix, so that
    directions with gradients from few examples get updates as large as common ones (Wang et al., Muon Outperforms Adam
    in Tail-End Associative Memory Learning, 2025). Updates are scaled to the size of AdamW's by 0.2 · √max(rows,
    columns) (Liu et al., Muon is Scalable for LLM Training, 2025), so that learning rates are comparable.

    Schedulers, checkpoints and gradient clipping see a single optimizer, whose last group is Muon's.

    Args:
        other (`Optimizer`): Optimizer with all parameters, before its first step; Muon's are removed from it.
        model (`nn.Module`): `DiaForConditionalGeneration`, possibly wrapped.
        learning_rate (`float`): Learning rate of Muon.
        weight_decay (`float`, defaults to 0.0): Weight decay of Muon, decoupled as in AdamW.

    Raises:
        ImportError: If torch is older than 2.9 and has no Muon.
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
            raise ImportError(f"Muon needs torch 2.9, but this is {torch.__version__}; update torch.")
        matrices = [parameter for name, parameter in model.named_parameters() if _is_hidden(name, parameter)]
        if not matrices:
            raise ValueError(
                "no matrix of a layer is trained, so that Muon has no parameters; leave out `muon_learning_rate`."
            )
        taken = set(map(id, matrices))
        for group in other.param_groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in taken]
        muon = torch.optim.Muon(matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self._parts = (other, muon)
        super().__init__(other.param_groups + muon.param_groups, {})
        self._share()

    def _share(self) -> None:
        """Let both optimizers use the parameter groups and the state of this one."""
        for part, groups in zip(self._parts, (self.param_groups[:-1], self.param_groups[-1:]), strict=True):
            part.param_groups, part.state = groups, self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the result of `state_dict()`."""
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step with both optimizers."""
        other, muon = self._parts
        loss = other.step(closure)
        muon.step()
        return loss
