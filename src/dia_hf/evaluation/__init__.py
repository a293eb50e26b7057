"""How well a model says what it is given: judged by a speech recogniser, against recordings where there are some.

`sentences.py` reads what to say, `evaluate.py` speaks and measures, `report.py` sums up. The command line is
`dia-hf evaluate`. Needs `pip install "dia-hf[evaluate]"`.
"""

from .evaluate import evaluate
from .report import EvaluationReport, Heard, SentenceReport
from .sentences import Sentence, read_sentences

__all__ = ["EvaluationReport", "Heard", "Sentence", "SentenceReport", "evaluate", "read_sentences"]
