"""The application: text in, waveform out."""

from .dia import Dia

__all__ = ["Dia"]
