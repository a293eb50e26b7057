"""Fingerprints of models and voices: names do not identify them."""

from __future__ import annotations

import hashlib

import torch

from .voices import Voice

__all__ = ["fingerprint_of_model", "fingerprint_of_voice"]


def fingerprint_of_model(model: torch.nn.Module) -> str:
    """Return a fingerprint of the weights: sixteen values of each, dtype and class. A name does not identify them."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        digest.update(f"{name} {type(weight.data).__name__} {weight.dtype} {tuple(weight.shape)}".encode())
        if type(weight.data) is torch.Tensor:  # not quantized
            values = weight.detach().flatten()[:: max(1, weight.numel() // 16)][:16]
            digest.update(values.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def fingerprint_of_voice(voice: Voice) -> str:
    """Return a fingerprint of a voice: its codes and its transcript."""
    return hashlib.sha256(voice.codes.numpy().tobytes() + voice.transcript.encode()).hexdigest()[:16]
