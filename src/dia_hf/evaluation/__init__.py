"""How well a model says what it is given: judged by a speech recognizer, against recordings where there are some.

`sentences.py` reads what to say, `evaluate.py` speaks and measures, `results.py` sums up. The command line is
`dia-hf evaluate`. Needs `pip install "dia-hf[evaluate]"`.
"""

from .evaluate import evaluate
from .results import EvaluationReport, SentenceReport, Transcript
from .sentences import Sentence, read_sentences

__all__ = ["EvaluationReport", "Sentence", "SentenceReport", "Transcript", "evaluate", "read_sentences"]
