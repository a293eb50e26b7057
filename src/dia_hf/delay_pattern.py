"""The delay pattern as pure functions on codes.

In every step Dia predicts one token for each channel, but channel c is delayed by `delay_pattern[c]` frames, so that a
frame's finer codebooks are predicted after its coarser ones. With the pattern [0, 1, 3] and the codes a, b:

    frames in time          the same, delayed (^ beginning, . padding: a free slot)

    channel 0   ^ a b       ^ a b . . .
    channel 1   ^ a b       ^ ^ a b . .
    channel 2   ^ a b       ^ ^ ^ ^ a b

A slot that holds a code or a beginning is *forced*; one that holds padding is *free*, and the model fills it. This
module imports only torch. The processor, generation and training use it.

Legend: B batch, T frames, D the largest delay, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["apply_delay", "num_prompt_frames", "num_valid_frames", "revert_delay", "valid_codes"]


def _check_codes(codes: torch.Tensor, delay_pattern: Sequence[int]) -> None:
    if not isinstance(codes, torch.Tensor) or codes.is_floating_point() or codes.is_complex():
        kind = f"of {codes.dtype}" if isinstance(codes, torch.Tensor) else f"a {type(codes).__name__}"
        raise TypeError(f"codes are {kind}; expected an integer torch.Tensor [batch, frames, {len(delay_pattern)}].")
    if codes.ndim != 3 or codes.shape[-1] != len(delay_pattern):
        raise ValueError(
            f"codes have the shape {tuple(codes.shape)}; expected [batch, frames, {len(delay_pattern)}], one channel "
            f"for each entry of the delay pattern {list(delay_pattern)}."
        )


def _gather_frames(codes: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Pick frame `frames[t, c]` of channel c for every t; frames beyond either edge read the edge."""
    index = frames.clamp(0, codes.shape[1] - 1).expand(codes.shape[0], -1, -1)
    return codes.gather(1, index)


def apply_delay(
    codes: torch.Tensor, delay_pattern: Sequence[int], bos_token_id: int, pad_token_id: int
) -> torch.Tensor:
    """Delay every channel by its entry of the pattern.

    `delayed[b, t, c] = codes[b, t - delay_pattern[c], c]`, the beginning-of-speech token where that lies before the
    first frame, padding where it lies after the last.

    Args:
        codes (`torch.Tensor` of shape `[B, T, C]`, integer): Codes in time, T at least 1.
        delay_pattern (`Sequence[int]` of length C): Frames of delay, each 0 or more.
        bos_token_id (`int`): Token before the first frame.
        pad_token_id (`int`): Token after the last frame.

    Returns:
        `torch.Tensor` of shape `[B, T + D, C]`, of the dtype and on the device of `codes`.

    Raises:
        ValueError: If `codes` is not `[B, T, C]`.

    Example:
    ```python
    >>> import torch
    >>> from dia_hf.delay_pattern import apply_delay
    >>> apply_delay(torch.tensor([[[7, 7, 7], [1, 2, 3], [4, 5, 6]]]), [0, 1, 3], bos_token_id=7, pad_token_id=9)[0].T
    tensor([[7, 1, 4, 9, 9, 9],
            [7, 7, 2, 5, 9, 9],
            [7, 7, 7, 7, 3, 6]])

    ```
    """
    _check_codes(codes, delay_pattern)
    num_frames = codes.shape[1]
    delays = torch.tensor(delay_pattern, device=codes.device)
    source = torch.arange(num_frames + max(delay_pattern), device=codes.device)[:, None] - delays
    delayed = _gather_frames(codes, source)
    return delayed.masked_fill(source < 0, bos_token_id).masked_fill(source >= num_frames, pad_token_id)


def revert_delay(delayed: torch.Tensor, delay_pattern: Sequence[int]) -> torch.Tensor:
    """Revert the delay of every channel: the inverse of `apply_delay`.

    Args:
        delayed (`torch.Tensor` of shape `[B, T + D, C]`, integer): Delayed codes.
        delay_pattern (`Sequence[int]` of length C): Frames of delay.

    Returns:
        `torch.Tensor` of shape `[B, T, C]`: frames that are complete in all channels; T is 0 if there is none.

    Raises:
        ValueError: If `delayed` is not `[B, T + D, C]`.
    """
    _check_codes(delayed, delay_pattern)
    num_frames = max(delayed.shape[1] - max(delay_pattern), 0)
    delays = torch.tensor(delay_pattern, device=delayed.device)
    return _gather_frames(delayed, torch.arange(num_frames, device=delayed.device)[:, None] + delays)


def num_prompt_frames(delayed: torch.Tensor, pad_token_id: int) -> int:
    """Count the leading frames without a free slot in any channel of any row: the frames that a model can read.

    Args:
        delayed (`torch.Tensor` of shape `[B, T, C]`, integer): Delayed codes, padding in the free slots.
        pad_token_id (`int`): Token of a free slot.

    Returns:
        `int`: Frames before the first free slot.
    """
    is_complete = (delayed != pad_token_id).all(dim=-1).all(dim=0)
    return int(is_complete.cumprod(0).sum())


def num_valid_frames(
    delayed: torch.Tensor, delay_pattern: Sequence[int], eos_token_id: int, pad_token_id: int
) -> torch.Tensor:
    """Count each row's valid frames: complete in all channels, before channel 0's end of speech.

    Args:
        delayed (`torch.Tensor` of shape `[B, T, C]`, integer): Delayed codes without a prompt: generated ones.
        delay_pattern (`Sequence[int]` of length C): Frames of delay.
        eos_token_id (`int`): End of speech in channel 0.
        pad_token_id (`int`): Padding after a row has ended, in any channel.

    Returns:
        `torch.LongTensor` of shape `[B]`: Frames in time, as `revert_delay` returns them.

    Raises:
        ValueError: If `delayed` is not `[B, T, C]`.
    """
    _check_codes(delayed, delay_pattern)
    delays = torch.tensor(delay_pattern, device=delayed.device)
    num_tokens = (delayed != pad_token_id).cumprod(dim=1).sum(dim=1)
    num_before_end = (delayed[:, :, 0] != eos_token_id).cumprod(dim=1).sum(dim=1)
    return torch.minimum((num_tokens - delays).amin(dim=1), num_before_end).clamp(min=0)


def valid_codes(
    delayed: torch.Tensor, delay_pattern: Sequence[int], eos_token_id: int, pad_token_id: int
) -> list[torch.Tensor]:
    """Revert the delay and cut each row after its last valid frame.

    Args:
        delayed, delay_pattern, eos_token_id, pad_token_id: See `num_valid_frames`.

    Returns:
        `list[torch.Tensor]` of length B, each of shape `[T_b, C]`: Codes in time, on the device of `delayed`.

    Raises:
        ValueError: If `delayed` is not `[B, T, C]`.

    Example:
    ```python
    >>> import torch
    >>> from dia_hf.delay_pattern import valid_codes
    >>> delayed = torch.tensor([[[1, 7], [2, 3], [8, 4], [9, 8]]])  # 7: beginning, 8: end, 9: padding
    >>> valid_codes(delayed, [0, 1], eos_token_id=8, pad_token_id=9)
    [tensor([[1, 3],
            [2, 4]])]

    ```
    """
    lengths = num_valid_frames(delayed, delay_pattern, eos_token_id, pad_token_id).tolist()
    return [row[:length] for row, length in zip(revert_delay(delayed, delay_pattern), lengths, strict=True)]
