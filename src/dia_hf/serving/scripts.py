"""Checks of a text for a client, without generating: turns, issues with their places, chunks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..speech.dia import Dia
from ..speech.dialogue import Dialogue
from ..speech.script import Turn, check_script, estimate_seconds, parse_script, remove_tags, split_prefix

__all__ = ["describe_script"]

_PLACE = re.compile(r"line (\d+), column (\d+): (.*)", re.DOTALL)


def describe_script(dia: Dia, text: str) -> dict[str, Any]:
    """Describe a text as it would be generated.

    Args:
        dia (`Dia`): Model and processor, whose limits decide on the chunks.
        text (`str`): The text; may be empty.

    Returns:
        `dict[str, Any]`: `turns`, each with `speaker`, `text`, `line`, `column`; `issues`, each with `line`, `column`
            and `message`; `chunks`, each with `turns` and its estimated `seconds`, none where the text cannot be
            generated; `seconds` of the whole. Lines and columns (in characters) are counted from 1. A voice can take
            some of a chunk's room, and so change the chunks.
    """
    tokenizer = dia.processor.tokenizer
    _, spoken = split_prefix(text, tokenizer.language_tokens)
    turns = parse_script(spoken, tokenizer.speaker_tokens)
    chunks: list[dict[str, Any]] = []
    try:
        if turns:
            dialogue = Dialogue(dia.model, dia.processor, text, seed=0)
            for part, seconds in zip(dialogue.chunks, dialogue.expected_seconds, strict=True):
                chunks.append({"turns": _describe_turns(part), "seconds": round(seconds, 2)})
    except ValueError:  # control characters, which are among the issues
        chunks = []
    issues = []
    for issue in check_script(spoken, tokenizer.speaker_ids, tokenizer.language_ids):
        place = _PLACE.fullmatch(issue)
        assert place is not None, issue
        issues.append({"line": int(place[1]), "column": int(place[2]), "message": place[3]})
    return {
        "turns": _describe_turns(turns),
        "issues": issues,
        "chunks": chunks,
        "seconds": round(sum(estimate_seconds(remove_tags(turn.text, tokenizer.language_tokens)) for turn in turns), 2),
    }


def _describe_turns(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    return [{"speaker": turn.speaker, "text": turn.text, "line": turn.line, "column": turn.column} for turn in turns]
