"""Second moments of the inputs of the decoder's linear layers, from speech that the model generates itself.

Called by `quantization.py`, for rounding with small errors of the layers' outputs.

Legend: B texts, T frames, C channels, I width of a layer's input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from .tokenization_dia import DiaTokenizer

__all__ = ["TEXTS", "input_moments"]

TEXTS = (
    "[S1] The train to the coast was an hour late, so we walked along the river. [S2] Did you at least find a cafe?",
    "[S1] Three hundred and forty people signed the letter. [S2] That many? (laughs) I would have guessed twelve.",
    "[S1] Please turn left after the bridge, then keep going until you see a blue house with a crooked chimney.",
    "[S1] What do you think of the new plan? [S2] Honestly, I think it is too expensive. [S1] So do I.",
    "[S1] My grandmother used to bake bread every Friday, and the whole street would smell of it.",
    "[S1] Careful, the plate is hot! [S2] Ouch. (sighs) You might have told me a second earlier.",
    "[S1] Scientists have measured the depth of the lake again, and found that it has lost four meters since May.",
    "[S1] Good evening, and welcome back. [S2] Thanks for having me, it has been quite a year.",
)
"""Texts that are spoken for calibration."""

INPUTS = {
    "self_attention.q_proj": ("self_attention.q_proj", "self_attention.k_proj", "self_attention.v_proj"),
    "self_attention.o_proj": ("self_attention.o_proj",),
    "cross_attention.q_proj": ("cross_attention.q_proj",),
    "cross_attention.o_proj": ("cross_attention.o_proj",),
    "mlp.gate_up_proj": ("mlp.gate_up_proj",),
    "mlp.down_proj": ("mlp.down_proj",),
}
"""Linear layers of a decoder layer, by the first one that reads each input."""

_FRAMES = 400
_SAMPLING = {"do_sample": True, "guidance_scale": 3.0, "temperature": 1.2, "top_p": 0.95, "top_k": 45}
_ROWS = 2048  # inputs multiplied at a time


class _StopForward(Exception):  # noqa: N818 (no error)
    """Ends a forward pass whose rest is not needed."""


@torch.no_grad()
def input_moments(model: Any, texts: Sequence[str] = TEXTS) -> Iterator[dict[str, torch.Tensor]]:
    """Generate speech, read it again, and yield the second moments of the inputs of one decoder layer after another.

    The speech is sampled with the published parameters and a fixed seed: 4.6 s of each text, or less if it ends. All
    frames count, with the text and, for guidance, without; frames after the end do not. Memory holds the moments of one
    layer at a time.

    Args:
        model (`DiaForConditionalGeneration`): Model whose decoder's linear layers are plain.
        texts (`Sequence[str]`, defaults to `TEXTS`): Texts.

    Yields:
        `dict[str, torch.Tensor]`: Sum of x xᵀ over inputs x, `[I, I]`, float32, for each name in `INPUTS`.
    """
    hidden, arguments, keywords, keep = _first_inputs(model, *_speak(model, texts))
    for layer in model.model.decoder.layers:
        moments: dict[str, torch.Tensor] = {}
        handles = [layer.get_submodule(name).register_forward_pre_hook(_adder(moments, name, keep)) for name in INPUTS]
        try:
            hidden = layer(hidden, *arguments, **keywords)
        finally:
            for handle in handles:
                handle.remove()
        yield moments


def _adder(moments: dict[str, torch.Tensor], name: str, keep: torch.Tensor) -> Callable[..., None]:
    def add(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        width = inputs[0].shape[-1]
        total = moments[name] = torch.zeros(width, width, device=inputs[0].device)
        for rows in inputs[0][keep].split(_ROWS):
            rows = rows.float()
            total.addmm_(rows.T, rows)

    return add


def _speak(model: Any, texts: Sequence[str]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the encoded texts, and the delayed codes `[B, T, C]` of their speech."""
    encoded = DiaTokenizer()(list(texts), padding=True, return_tensors="pt").to(model.device)
    text = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    decoder = model.config.decoder_config
    ids = {name: getattr(decoder, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    num_frames = min(_FRAMES, decoder.max_position_embeddings - 1)
    config = GenerationConfig(**ids, **_SAMPLING, max_new_tokens=num_frames)
    generator = torch.Generator(model.device).manual_seed(0)
    return text, model.generate(**text, generation_config=config, generator=generator)


def _first_inputs(
    model: Any, text: dict[str, torch.Tensor], codes: torch.Tensor
) -> tuple[torch.Tensor, tuple[Any, ...], dict[str, Any], torch.Tensor]:
    """Return what the first decoder layer reads, conditional rows first, and the mask `[2 B, T]` of its frames."""
    seen: list[Any] = []

    def stop(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        seen.extend((arguments, keywords))
        raise _StopForward

    handle = model.model.decoder.layers[0].register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model(
            input_ids=torch.cat([text["input_ids"], torch.zeros_like(text["input_ids"])]),
            attention_mask=text["attention_mask"].repeat(2, 1),
            decoder_input_ids=codes.repeat(2, 1, 1),
            use_cache=False,
        )
    except _StopForward:
        pass
    finally:
        handle.remove()
    (hidden, *arguments), keywords = seen
    keep = (codes != model.config.decoder_config.pad_token_id).any(-1).repeat(2, 1)
    return hidden, tuple(arguments), keywords, keep
