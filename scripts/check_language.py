"""Check language: `python scripts/check_language.py` lists offending lines; with any, it exits with 1.

Two rules. A docstring in src/ begins with a noun phrase or an imperative, not with a question word. And src/, docs/,
examples/ and the pages at the top use the field's terms: the phrases below have a plain one.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

OPENINGS = ("What", "Whatever", "Who", "Whoever", "Whose", "Which", "Whichever")
"""First words that a docstring must not have. Write "Return whether …", "Settings of …", "Requests that …"."""

PHRASES = {
    # What a page or docstring says today: what to say instead.
    r"people who live in": "the purpose in one sentence",
    r"voice to go on with": "voice to clone; voice cloning",
    r"goes? on where one pass": "long-form generation",
    r"fewer bits": "quantization; lower precision",
    r"how freely": "sampling parameters",
    r"who listens": "ASR model",
    r"whoever has ended|whoever waits|who has ended|who waits": "finished sequences; queued requests",
    r"speaks? with yesterday": "use stale weights",
    r"channel 0's to say": "restricts EOS to channel 0",
    r"what each (sample )?wants": "per-sample sampling parameters",
    r"drawn, and told": "random; printed",
    r"\bkeeps? voices\b|voices that stay": "manage saved voices",
    r"hear(ing)? it while it is spoken": "streaming",
    r"^#+ many at once": "batches",
    r"pass by pass|pass after pass": "chunk by chunk",
    r"slow loop|fast loop|frame loop": "reference path; fast path",
    r"who is in the batch": "requests in the batch",
    r"the host hears|nobody listens": "no consumer",
    r"by heart": "memorize",
    r"rules? of your own": "custom logits processors",
    r"the house\b|this house": "the project; the layout",
    # Names that were replaced.
    r"\buse_frame_loop\b": "use_fast_path",
    r"\bseconds_per_pass\b": "chunk_length_s",
    r"\bloss_slice_size\b": "loss_chunk_size",
    r"\bloss_of_head\b|\bIGNORED_LABEL\b": "fused linear cross-entropy; IGNORE_INDEX",
    r"\bFrameSettings\b|\bFrameRules\b|\bFrameRequests\b": "SamplingParams; SamplingSpec; RequestBatch",
    r"\bEagerSteps\b|\bGraphSteps\b": "EagerRunner; CudaGraphRunner",
    r"\bnum_spoken_frames\b": "num_valid_frames",
    r"\bwritten_whole\b": "atomic_write",
    r"\bcontenders?\b|\bopponents?\b": "candidate; baseline",
    r"\bdia_hf\.(frames|recognition|sound|registration|files|delay)\b": "engine; asr; audio.effects; auto; …",
    # British spelling.
    r"\b(colou?red|colour|behaviour|neighbour|normalis|recognis|licence|programme|favour|centre)\w*": None,
}
AMERICAN = re.compile(r"\b(colored|color)")  # what the pattern of British words also meets


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line number and text of each docstring of a file."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node.body[0].lineno, text


def texts() -> Iterator[Path]:
    """Yield the files whose phrases are checked."""
    for folder in ("src", "docs", "examples"):
        for pattern in ("*.py", "*.md", "*.yaml", "*.ipynb"):
            yield from sorted((ROOT / folder).rglob(pattern))
    yield from (ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"))


def findings() -> Iterator[str]:
    """Yield a line for each offense: place, what it is, and what to write instead."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        for line, text in docstrings(path):
            if text.split(maxsplit=1)[0] in OPENINGS:
                yield f"{path.relative_to(ROOT)}:{line}: docstring begins with {text.splitlines()[0][:50]!r}"
    for path in texts():
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if path.suffix == ".ipynb" and len(line) > 500:
                continue  # sound and pictures in base64
            for phrase, plain in PHRASES.items():
                for found in re.finditer(phrase, line, re.IGNORECASE):
                    if plain is None and AMERICAN.match(found[0].lower()):
                        continue
                    advice = plain or "American spelling"
                    yield f"{path.relative_to(ROOT)}:{number}: {found[0]!r}: {advice}"


def main() -> int:
    """Print all findings; return the exit status."""
    lines = list(findings())
    for line in lines:
        print(line)
    print(f"{len(lines)} to rewrite")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
