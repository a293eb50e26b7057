"""Write what the tests expect of the embedded miniature. To be run when its weights were replaced.

    make references    # or: python tests/make_references.py

`tests/reference/miniature.jsonl` has texts and the codes `[T, C]` that transformers' own Dia says greedily in
float64, in time, without BOS and EOS. `tests/reference/releases.json` has results that are equal on every release of
transformers and PyTorch; it was made with transformers 5.24.0 and PyTorch 2.13.0.
"""

import json
from pathlib import Path

import torch
from transformers.models.dia.modeling_dia import DiaForConditionalGeneration as TheirModel

from dia_hf import MINIATURE, DiaProcessor
from dia_hf.delay_pattern import revert_delay
from parity.releases import DRAWS, load_exact, speak, train

FOLDER = Path(__file__).parent / "reference"
TEXTS = (
    "[S1] Hello, I am Dia. [S2] Welcome, Dia.",
    "[S1] The quick brown fox jumps over the lazy dog.",
    "[S2] Where did you put the keys to the garden door?",
    "[S1] We meet on Tuesday, March 3, at noon.",
    "[S2] Please send the letters to my mother before Friday.",
    "[S1] It rained all day. [S2] Then we should stay at home and read.",
)


def spoken_codes(model: torch.nn.Module, processor: DiaProcessor, texts: list[str]) -> list[torch.Tensor]:
    """Generate greedily; return each text's codes `[T, C]` in time, without EOS and delay."""
    inputs = processor(text=texts, padding=True, return_tensors="pt")
    delayed = model.generate(**inputs, do_sample=False, guidance_scale=None, max_length=200)
    spoken = []
    for row in delayed:
        ends = (row[:, 0] == model.config.decoder_config.eos_token_id).nonzero()
        if len(ends) == 0:
            raise ValueError(f"one of {texts} does not end within 200 frames.")
        spoken.append(revert_delay(row[None], model.config.delay_pattern)[0][1 : int(ends[0])])
    return spoken


def main() -> None:
    """Write both files."""
    processor = DiaProcessor.from_pretrained(MINIATURE)
    theirs, ours = load_exact(TheirModel), load_exact()
    lines = [{"text": text, "codes": spoken_codes(theirs, processor, [text])[0].tolist()} for text in TEXTS]
    (FOLDER / "miniature.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    codes = {draw: speak(draw, "fast loop", ours, processor).tolist() for draw in DRAWS}
    results = {"codes": codes, "training": train(checkpointing=False)}
    (FOLDER / "releases.json").write_text(json.dumps(results) + "\n", "utf-8")


if __name__ == "__main__":
    main()
