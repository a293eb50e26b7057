"""Evaluation of a model, or of audio that exists, by judges: a recognizer, a speaker model, DNSMOS, and its timing.

`sentences.py` reads the texts and references, `evaluate.py` generates, `judge.py` measures, `results.py` summarizes.
The command is `dia-hf evaluate`. Needs `pip install "dia-hf[evaluate]"`, and for the judges `"dia-hf[judges]"`.
"""

from ..asr.recognizers import HeardWord
from .evaluate import evaluate, evaluate_audio
from .metrics import METRICS, Measure, Metric
from .results import EvaluationReport, SentenceReport, SourceReport
from .sentences import Prompt, Sentence, read_sentences

__all__ = [
    "METRICS",
    "EvaluationReport",
    "HeardWord",
    "Measure",
    "Metric",
    "Prompt",
    "Sentence",
    "SentenceReport",
    "SourceReport",
    "evaluate",
    "evaluate_audio",
    "read_sentences",
]
