"""Attention within packed rows, one sequence at a time: on a CPU faster than one product under a mask.

A mask makes attention compute all pairs of positions of a row, most of which belong to different sequences or to the
future. By itself, each sequence needs no mask, and kernels skip its future. Called by `modeling_dia.py`, whose masks
are the oracle (`tests/test_packing.py`).

Legend: B rows, T query positions of a row, S key positions, A query heads, K key-value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

__all__ = ["PackedRuns", "attend_to_runs", "find_runs"]


@dataclass(frozen=True)
class PackedRuns:
    """Where the sequences of packed rows begin and end, all rows one after another.

    Attributes:
        query_sizes, key_sizes (`tuple[int, ...]`): Lengths of all runs of equal ids, padding included; their sums are
            B·T and B·S.
        key_of (`tuple[int | None, ...]`): For each run of queries, the run of keys that it attends to; `None` for
            padding.
    """

    query_sizes: tuple[int, ...]
    key_sizes: tuple[int, ...]
    key_of: tuple[int | None, ...]


def find_runs(
    query_ids: torch.Tensor | None, key_ids: torch.Tensor | None, implementation: str | None
) -> PackedRuns | None:
    """Find the runs of packed sequences, where attention by runs computes what the mask does, and faster.

    Args:
        query_ids (`torch.LongTensor` of shape `[B, T]`, *optional*): Number of the sequence within its row, 0 for
            padding.
        key_ids (`torch.LongTensor` of shape `[B, S]`, *optional*): The same of the keys.
        implementation (`str`, *optional*): Attention implementation of the model.

    Returns:
        `PackedRuns`; `None` without ids, on another device than a CPU (where reading the ids would wait for the device,
        and many small kernels take longer), with another implementation than transformers' "sdpa", while compiling,
        where a sequence is not contiguous, and where one has no keys.

    Example:
    ```python
    >>> import torch
    >>> from dia_hf.packing import find_runs
    >>> find_runs(torch.tensor([[1, 1, 2, 0]]), torch.tensor([[1, 2, 2]]), "sdpa")
    PackedRuns(query_sizes=(2, 1, 1), key_sizes=(1, 2), key_of=(0, 1, None))

    ```
    """
    if query_ids is None or key_ids is None or query_ids.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    if implementation != "sdpa" or ALL_ATTENTION_FUNCTIONS.get("sdpa") is not sdpa_attention_forward:
        return None
    query_runs, key_runs = _runs_of(query_ids), _runs_of(key_ids)
    places = {run[:2]: place for place, run in enumerate(key_runs)}
    sequences = [run[:2] for run in query_runs if run[1] != 0]
    if len(places) < len(key_runs) or len(set(sequences)) < len(sequences) or not places.keys() >= set(sequences):
        return None
    return PackedRuns(
        query_sizes=tuple(length for *_, length in query_runs),
        key_sizes=tuple(length for *_, length in key_runs),
        key_of=tuple(places[row, number] if number else None for row, number, _ in query_runs),
    )


def _runs_of(ids: torch.Tensor) -> list[tuple[int, int, int]]:
    """Return row, id and length of each run of equal ids."""
    return [(row, number, len(list(run))) for row, line in enumerate(ids.tolist()) for number, run in groupby(line)]


def attend_to_runs(
    attend: Callable[..., tuple[torch.Tensor, torch.Tensor | None]],
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    runs: PackedRuns,
    **kwargs: Any,
) -> torch.Tensor:
    """Compute the attention of each sequence by itself.

    Args:
        attend (`Callable`): transformers' attention function.
        module (`nn.Module`): The attention layer; its `is_causal` applies to each sequence.
        query (`torch.Tensor` of shape `[B, A, T, D]`): Queries.
        key, value (`torch.Tensor` of shape `[B, K, S, D]`): Keys and values.
        runs (`PackedRuns`): From `find_runs`.
        kwargs: Of `attend`.

    Returns:
        `torch.Tensor` of shape `[B, T, A, D]`; 0 at padding.
    """

    def split(states: torch.Tensor, sizes: tuple[int, ...]) -> list[torch.Tensor]:
        pieces = states.transpose(1, 2).flatten(0, 1).split(sizes)
        return [piece.transpose(0, 1)[None] for piece in pieces]

    keys, values = split(key, runs.key_sizes), split(value, runs.key_sizes)
    attended = []
    for piece, place in zip(split(query, runs.query_sizes), runs.key_of, strict=True):
        if place is None:
            attended.append(torch.zeros_like(piece[0].transpose(0, 1), dtype=value.dtype))
        else:
            attended.append(attend(module, piece, keys[place], values[place], None, **kwargs)[0][0])
    return torch.cat(attended).unflatten(0, (len(query), -1))
