"""Speakers of a dialogue: who says each turn by the voice, and how much a voice is the one that it should be.

A turn is the audio from its first word to its last, by an alignment that knows nothing of the judged system. Its
embedding is compared with those of the speakers' voices, which come from the first of these that there is:

- the voice prompts;
- the turns of the reference recording, for other sources than it;
- the other turns of the same audio: a turn belongs to the speaker whose other turns are most alike.

Legend: D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from .._extras import import_extra
from ..asr.recognizers import HeardWord
from ..asr.wer import align_words, spelled_words, word_errors
from ..speech.script import parse_script
from ..tokenization_dia import SPEAKER_TAG
from .metrics import Measure

__all__ = [
    "ScriptTurn",
    "attribute",
    "count_cpwer",
    "measure_speakers",
    "split_turns",
    "voices_of_turns",
    "words_by_transcript",
]

_FIRST_SPEAKER = "[S1]"  # of a text without tags


@dataclass(frozen=True)
class ScriptTurn:
    """Turn of a text: what a speaker says before another one speaks.

    Args:
        speaker (`str`): Tag.
        text (`str`): Text without tags.
        words (`list[str]`): Its words, with apostrophes; at least one.
    """

    speaker: str
    text: str
    words: list[str]


def split_turns(text: str) -> list[ScriptTurn]:
    """Split a text with speaker tags into turns that have words; neighboring turns of a speaker are one.

    Example:
    ```python
    >>> from dia_hf.evaluation.speakers import split_turns
    >>> [(turn.speaker, turn.words) for turn in split_turns("[S1] Hello. [S1] You? [S2] (laughs) [S2] Yes!")]
    [('[S1]', ['hello', 'you']), ('[S2]', ['yes'])]

    ```
    """
    tags = list(dict.fromkeys(SPEAKER_TAG.findall(text))) or [_FIRST_SPEAKER]
    first = tags[0] if text.lstrip().startswith(tags[0]) else _FIRST_SPEAKER
    spoken = [turn for turn in parse_script(text, [first, *tags]) if spelled_words(turn.text)]
    turns = []
    for speaker, some in groupby(spoken, key=lambda turn: turn.speaker):
        whole = " ".join(turn.text for turn in some)
        turns.append(ScriptTurn(speaker, whole, spelled_words(whole)))
    return turns


def words_by_transcript(words: Sequence[str], heard: Sequence[HeardWord]) -> list[tuple[float, float] | None]:
    """Find the times of a text's words by those of the transcript that they are aligned with.

    Args:
        words (`Sequence[str]`): Words of the text.
        heard (`Sequence[HeardWord]`): Words of the transcript.

    Returns:
        `list[tuple[float, float] | None]`: Beginning and end of each word in seconds; `None` for one not heard.
    """
    pieces = [(piece, word) for word in heard for piece in spelled_words(word.text)]
    times: list[tuple[float, float] | None] = [None] * len(words)
    for place, other in align_words(words, [piece for piece, _ in pieces]):
        if place is not None and other is not None:
            times[place] = (pieces[other][1].start, pieces[other][1].end)
    return times


def voices_of_turns(turns: Sequence[ScriptTurn], embeddings: Sequence[np.ndarray | None]) -> dict[str, np.ndarray]:
    """Return the mean embedding `[D]` of each speaker's turns, of length 1, for speakers with an embedding."""
    voices = {}
    for speaker in dict.fromkeys(turn.speaker for turn in turns):
        own = [one for turn, one in zip(turns, embeddings, strict=True) if turn.speaker == speaker and one is not None]
        if own:
            mean = np.mean(own, axis=0)
            voices[speaker] = mean / max(np.linalg.norm(mean), 1e-9)
    return voices


def attribute(
    turns: Sequence[ScriptTurn],
    embeddings: Sequence[np.ndarray | None],
    voices: Mapping[str, np.ndarray] | None,
) -> list[str | None] | None:
    """Return the speaker of each turn by its voice.

    Args:
        turns (`Sequence[ScriptTurn]`): Turns.
        embeddings (`Sequence[np.ndarray | None]` of shape `[D]`): Of each turn; `None` without audio.
        voices (`Mapping[str, np.ndarray]`, *optional*): Embedding of each speaker; the other turns unless given.

    Returns:
        `list[str | None]`, *optional*: Tags; `None` for a turn without audio, or the only one of its speaker where it
        is compared with other turns; `None` instead of the list with fewer than two speakers to choose from.
    """
    chosen: list[str | None] = []
    for place, embedding in enumerate(embeddings):
        known = voices
        if known is None:
            others = [None if i == place else one for i, one in enumerate(embeddings)]
            known = voices_of_turns(turns, others)
            if turns[place].speaker not in known and len({turn.speaker for turn in turns}) > 1:
                chosen.append(None)
                continue
        if len(known) < 2:
            return None
        chosen.append(None if embedding is None else max(known, key=lambda speaker: float(known[speaker] @ embedding)))
    return chosen


def measure_speakers(
    turns: Sequence[ScriptTurn],
    embeddings: Sequence[np.ndarray | None],
    voices: Mapping[str, np.ndarray] | None,
) -> dict[str, Measure]:
    """Measure `attribution` and `sim`, as far as there are voices.

    A turn without audio is in the wrong voice, and has no similarity. Arguments as for `attribute`.
    """
    measures = {}
    if (chosen := attribute(turns, embeddings, voices)) is not None:
        judged = [
            (turn.speaker, speaker)
            for turn, speaker, embedding in zip(turns, chosen, embeddings, strict=True)
            if speaker is not None or embedding is None
        ]
        if judged:
            measures["attribution"] = Measure(sum(own == speaker for own, speaker in judged), len(judged))
    if voices is not None:
        alike = [
            float(voices[turn.speaker] @ embedding)
            for turn, embedding in zip(turns, embeddings, strict=True)
            if embedding is not None and turn.speaker in voices
        ]
        if alike:
            measures["sim"] = Measure(sum(alike), len(alike))
    return measures


def count_cpwer(
    turns: Sequence[ScriptTurn],
    chosen: Sequence[str | None],
    heard: str,
    words: Callable[[str], list[str]],
) -> Measure:
    """Count the errors of the concatenated minimum-permutation word error rate (Watanabe et al., 2020).

    The words of the transcript belong to the turn that they are aligned with, and so to the speaker whose voice it has.
    The texts of each speaker are then compared with the transcripts of each voice, one to one, so that the errors are
    fewest; the transcript of a voice too many counts as inserted.

    Args:
        turns (`Sequence[ScriptTurn]`): Turns.
        chosen (`Sequence[str | None]`): Speaker of each turn by its voice; `None` is a voice of its own.
        heard (`str`): Transcript.
        words (`Callable`): Normalizer, one of `dia_hf.asr.wer.NORMALIZERS`.
    """
    optimize = import_extra("scipy.optimize")
    said = [word for turn in turns for word in turn.words]
    owners = [place for place, turn in enumerate(turns) for _ in turn.words]
    pieces = heard.split()
    spelled = [(piece, place) for place, text in enumerate(pieces) for piece in spelled_words(text)]
    turn_of_piece = [-1] * len(pieces)
    for reference, hypothesis in align_words(said, [piece for piece, _ in spelled]):
        if reference is not None and hypothesis is not None and turn_of_piece[spelled[hypothesis][1]] < 0:
            turn_of_piece[spelled[hypothesis][1]] = owners[reference]
    voices: dict[str | None, list[str]] = {}
    current = 0
    for piece, place in zip(pieces, turn_of_piece, strict=True):  # inserted words belong to the turn before
        current = place if place >= 0 else current
        voices.setdefault(chosen[current], []).append(piece)
    speakers: dict[str, list[str]] = {}
    for turn in turns:
        speakers.setdefault(turn.speaker, []).append(turn.text)
    texts, transcripts = [" ".join(some) for some in speakers.values()], [" ".join(some) for some in voices.values()]
    size = max(len(texts), len(transcripts))
    texts, transcripts = (some + [""] * (size - len(some)) for some in (texts, transcripts))
    errors = np.array([[word_errors(text, own, words).errors for own in transcripts] for text in texts])
    rows, columns = optimize.linear_sum_assignment(errors)
    return Measure(float(errors[rows, columns].sum()), sum(len(words(text)) for text in texts))
