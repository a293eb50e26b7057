"""Results that must be equal on every release of transformers and PyTorch: codes by each path, loss and gradients.

`tests/make_references.py` writes them to `tests/reference/releases.json`. Codes are generated in float64:
processors add in different orders, and where two codes are almost as likely, float32 takes one or the other.
"""

import torch
from transformers import LogitsProcessor, LogitsProcessorList, pipeline

from dia_hf import MINIATURE, DiaForConditionalGeneration, DiaProcessor
from tiny import checkpoint_gradients

TEXT = "[S1] Hello, I am Dia. [S2] Welcome, Dia."
DRAWS = {
    "greedy": {"do_sample": False, "guidance_scale": 3.0, "top_k": 45},
    "seeded": {"do_sample": True, "guidance_scale": 3.0, "top_k": 45, "temperature": 1.0, "top_p": 0.95},
}


class SameScores(LogitsProcessor):
    """A logits processor of the caller's that changes nothing."""

    def __call__(self, input_ids, scores):
        return scores


# Paths to codes: the fast path, and arguments with which a call runs in transformers' loop.
WAYS = {
    "fast loop": {"use_fast_path": True},
    "transformers' loop": {"use_fast_path": False},
    "without a cache": {"use_cache": False},
    "dictionary": {"return_dict_in_generate": True},
    "dictionary of scores": {"return_dict_in_generate": True, "output_scores": True},
    "static cache": {"cache_implementation": "static", "disable_compile": True},
    "caller's processor": {"logits_processor": LogitsProcessorList([SameScores()])},
    "max_time": {"max_time": 1e6},
}


def load_exact(kind: type = DiaForConditionalGeneration) -> torch.nn.Module:
    """Load the miniature as float64."""
    return kind.from_pretrained(MINIATURE, dtype=torch.float64)


def speak(draw: str, way: str, model: DiaForConditionalGeneration, processor: DiaProcessor) -> torch.Tensor:
    """Generate codes `[T, C]`."""
    inputs = processor(text=[TEXT], return_tensors="pt")
    torch.manual_seed(7)
    codes = model.generate(**inputs, max_new_tokens=70, **DRAWS[draw], **WAYS[way])
    return codes[0] if isinstance(codes, torch.Tensor) else codes.sequences[0]


def speak_in_pipeline(draw: str) -> torch.Tensor:
    """Generate samples `[N]`."""
    torch.manual_seed(7)
    speech = pipeline("text-to-speech", model=MINIATURE, dtype=torch.float64)
    output = speech(TEXT, generate_kwargs={"max_new_tokens": 70, **DRAWS[draw]})
    return torch.from_numpy(output["audio"])


def train(checkpointing: bool) -> dict[str, float]:
    """Compute the loss of a random batch, and the norms of some gradients."""
    model = DiaForConditionalGeneration.from_pretrained(MINIATURE).train()
    if checkpointing:
        checkpoint_gradients(model)
    draw = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 1024, (2, 21, 9), generator=draw)
    texts = torch.randint(3, 128, (2, 12), generator=draw)
    loss = model(texts, torch.ones_like(texts), decoder_input_ids=codes[:, :-1], labels=codes[:, 1:]).loss
    loss.backward()
    picked = ("encoder.embedding.weight", "decoder.layers.0.self_attention.k_proj.weight", "decoder.norm.weight")
    norms = {name: model.get_parameter(f"model.{name}").grad.norm().item() for name in picked}
    return {"loss": loss.item(), **norms}
