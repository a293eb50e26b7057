"""Rotary position embedding, shared by the reference path (`modeling_dia.py`) and the fast path (`engine/decoder.py`).

Legend: B batch, T positions, A heads, D head width.
"""

from __future__ import annotations

import torch

__all__ = ["apply_rotary", "rotary_embedding"]


def rotary_embedding(position_ids: torch.Tensor, head_dim: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute cosine and sine of the angles of rotary embedding (Su et al., RoFormer, 2021, eq. 15).

    They are computed in every forward pass, in fp32: a buffer would be rounded by `model.to(torch.bfloat16)`.

    Args:
        position_ids (`torch.Tensor` of shape `[B, T]`, integer): Positions.
        head_dim (`int`): Width of a head, D.
        theta (`float`): Base of the wavelengths.

    Returns:
        `tuple` of two `torch.Tensor` of shape `[B, 1, T, D]`, float32, which broadcast over heads: the cosine of each
        element's angle, and the signed sine that multiplies its partner in the pair.
    """
    exponents = torch.arange(0, head_dim, 2, device=position_ids.device, dtype=torch.float32) / head_dim
    angles = position_ids[:, None, :, None].float() * (1.0 / theta**exponents)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def apply_rotary(states: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotate each pair (i, i + D/2) of `states`, in fp32.

    Args:
        states (`torch.Tensor` of shape `[B, A, T, D]`): Queries or keys.
        rotary (`tuple`): From `rotary_embedding`, or of any shape that broadcasts to that of `states`.

    Returns:
        `torch.Tensor` of the shape and dtype of `states`.
    """
    cos, sin = rotary
    exact = states.float()
    first, second = exact.chunk(2, dim=-1)
    return (exact * cos + torch.cat((second, first), dim=-1) * sin).to(states.dtype)
