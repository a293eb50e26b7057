"""Training with guided attention: `dia-hf finetune`, but some heads are told which character of the text is spoken.

The teacher knows it for every frame (`places` of `clips.py`), and a loss tells it to one head of cross-attention in
some layers (Tachibana et al., Efficiently Trainable Text-to-Speech System, 2017, with a diagonal instead). A model that
knows where it is in the text learns to read in minutes.

    python guidance.py CLIPS MODEL --recipe recipe.yaml ...   # arguments of `dia-hf finetune`

Legend: B rows, T frames, S bytes of text.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from content_codec import NUM_PHASES, PHASE_CODEBOOK, SPECTRAL_CODEBOOKS
from dia_hf import cli
from dia_hf.rotary import apply_rotary
from dia_hf.training import DiaDataCollator, DiaTrainer

LAYERS, HEAD = (1, 2, 3), 0  # the guided head of each of these layers
WEIGHT = 0.5  # of the guidance, in the sum of all losses
HIDDEN = 0.8  # of the clips have other codes than their own in the input of these channels
DETAILS = slice(4, SPECTRAL_CODEBOOKS)
COMPILES = True  # the layers, which takes two minutes, and halves the time of a step on a CPU
REACH = 1  # bytes before and behind the right one that are right, too


class GuidedCollator(DiaDataCollator):
    """Adds `places` `[B, T]`: the byte of the text that each frame is of, from 1; 0 where it is none."""

    def _read_clip(self, index: int, feature: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        clip = super()._read_clip(index, feature)
        places = torch.zeros(len(clip["decoder_input_ids"]), dtype=torch.long)
        if (clip["input_ids"] != self.tokenizer.pad_token_id).any():
            known = torch.from_numpy(np.asarray(feature["places"], dtype=np.int64)) + 1
            known = torch.cat([known, known[-1:]])[: len(places)]  # EOS is of the last one
            places[: len(known)] = known
        clip_id = str(feature["id"])
        self._hide_details(clip["decoder_input_ids"], clip_id)
        shift = int(NUM_PHASES * self.chance.draw("phase", clip_id))
        for codes in (clip["decoder_input_ids"], clip["labels"]):
            phases = codes[:, PHASE_CODEBOOK]
            is_phase = (phases >= 0) & (phases < NUM_PHASES)
            phases.copy_(torch.where(is_phase, (phases + shift) % NUM_PHASES, phases))
        return clip | {"places": places}

    def _hide_details(self, inputs: torch.Tensor, clip_id: str) -> None:
        """Replace the details of most clips' input codes `[T, C]` by random ones.

        A few of them tell which clip it is, and the model would memorize clips instead of reading. Phases would tell
        it, too, but all of a clip can be moved by the same angle, for the input and for what is learned.
        """
        if self.chance.draw("hidden details", clip_id) < HIDDEN:
            details = inputs[:, DETAILS]
            num_codes = self.config.decoder_config.eos_token_id
            generator = torch.Generator().manual_seed(int(2**48 * self.chance.draw("details", clip_id)))
            others = torch.randint(num_codes, details.shape, generator=generator)
            details.copy_(torch.where(details < num_codes, others, details))

    def _join(self, clips: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        start, moved = 0, []
        for clip in clips:
            moved.append(clip | {"places": torch.where(clip["places"] > 0, clip["places"] + start, 0)})
            start += len(clip["input_ids"])
        return super()._join(moved)


class GuidedTrainer(DiaTrainer):
    """Adds to the loss how little the guided heads look at the byte that is spoken."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._places: dict[str, torch.Tensor] = {}
        self._losses: list[torch.Tensor] = []
        self.guidance: list[float] = []
        encoder, decoder = self.model.model.encoder.layers, self.model.model.decoder.layers
        for layer in LAYERS:
            attention = decoder[layer].cross_attention
            attention.forward = self._looking(attention, attention.forward)
        if COMPILES:
            for layer in [*encoder, *decoder]:
                layer.compile(dynamic=True)

    def _looking(self, attention: Any, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Return an attention's `forward` that is looked at."""

        @torch.compiler.disable(recursive=False)
        def attend(*args: Any, **kwargs: Any) -> Any:
            self._look(attention, args, kwargs)
            return forward(*args, **kwargs)

        return attend

    def _look(self, attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Compute the weights of the guided head, and their loss."""
        if not self._places:
            return
        places, mask = self._places["places"], self._places["mask"]
        query, key = (
            attention._split_heads(project(states))[:, HEAD]
            for project, states in ((attention.q_proj, args[0]), (attention.k_proj, kwargs["encoder_hidden_states"]))
        )
        if kwargs.get("rotary") is not None:
            query = apply_rotary(query[:, None], kwargs["rotary"])[:, 0]
            key = apply_rotary(key[:, None], kwargs["key_rotary"])[:, 0]
        weights = (query.float() @ key.float().mT).masked_fill(~mask, -torch.inf)
        is_known = places > 0
        weights = weights[is_known].log_softmax(-1)  # [P, S]
        near = places[is_known][:, None] - 1 + torch.arange(-REACH, REACH + 1, device=places.device)
        inside = (near >= 0) & (near < weights.shape[1])
        found = weights.gather(1, near.where(inside, 0)).masked_fill(~inside, -torch.inf).logsumexp(1)
        self._losses.append(-found.clamp(max=0).mean())

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Add the guidance to the loss."""
        inputs = dict(inputs)
        places = inputs.pop("places", None)
        if places is None or not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        of_frames = inputs.get("decoder_sequence_ids", inputs["decoder_attention_mask"])
        of_bytes = inputs.get("sequence_ids", inputs["attention_mask"])
        mask = (of_frames[:, :, None] == of_bytes[:, None, :]) & (of_bytes[:, None, :] > 0)
        self._places, self._losses = {"places": places, "mask": mask}, []
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        self._places = {}
        guidance = torch.stack(self._losses).mean()
        self.guidance.append(guidance.item())
        loss = loss + WEIGHT * guidance
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the mean of the guidance since the last log."""
        if "loss" in logs and self.guidance:
            logs["guidance"] = sum(self.guidance) / len(self.guidance)
            self.guidance = []
        super().log(logs, start_time)


if __name__ == "__main__":
    finetuning: Any = importlib.import_module("dia_hf.training.finetune")
    finetuning.DiaDataCollator, finetuning.DiaTrainer = GuidedCollator, GuidedTrainer
    sys.exit(cli.main(["finetune", *sys.argv[1:]]))
