"""Evaluation of a model with a speech recognizer: word errors, lengths and codes, compared with references if given.

`sentences.py` reads the texts and references, `evaluate.py` generates and measures, `results.py` summarizes. The
command is `dia-hf evaluate`. Needs `pip install "dia-hf[evaluate]"`.
"""

from .evaluate import evaluate
from .results import EvaluationReport, SentenceReport, Transcript
from .sentences import Sentence, read_sentences

__all__ = ["EvaluationReport", "Sentence", "SentenceReport", "Transcript", "evaluate", "read_sentences"]
