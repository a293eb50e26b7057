"""Judges of audio beside the recognizer: speaker models, which embed voices, and DNSMOS, which estimates its quality.

Resemblyzer and DNSMOS have their weights in their packages and work offline; other speaker models are transformers',
by folder or Hub id. Legend: N samples, D dimensions.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from .._extras import import_extra
from ..audio.io import resample
from ..hub import check_model
from .metrics import Measure

__all__ = ["DNSMOS", "RESEMBLYZER", "QualityJudge", "SpeakerModel", "load_quality_judge", "load_speaker_model"]

RESEMBLYZER = "resemblyzer"
"""Name of Resemblyzer for `load_speaker_model`."""
DNSMOS = "dnsmos"
"""Name of DNSMOS for `load_quality_judge`."""

_RESEMBLYZER_INSTALL = (
    '`pip install "dia-hf[judges]"`, then `pip install --no-deps Resemblyzer` (its dependency webrtcvad needs a '
    "compiler, and is replaced by webrtcvad-wheels)"
)


class SpeakerModel(Protocol):
    """Interface of a speaker model.

    Attributes:
        sampling_rate (`int`): Rate of its input in hertz.
    """

    sampling_rate: int

    def embed(self, waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
        """Embed the voice of `[N]` samples, float32 in [-1, 1], N above 0; returns `[D]` of length 1."""
        ...


class QualityJudge(Protocol):
    """Interface of an estimator of quality."""

    def measure(self, waveform: np.ndarray, sampling_rate: int) -> dict[str, Measure]:
        """Measure the quality of `[N]` samples, float32 in [-1, 1], N above 0; returns metrics of `METRICS`."""
        ...


def load_speaker_model(name: str | os.PathLike, device: Any = "cpu") -> SpeakerModel:
    """Load a speaker model.

    Args:
        name (`str` or `os.PathLike`): "resemblyzer", offline; or folder or Hub id of a model of transformers with an
            x-vector head, such as "microsoft/wavlm-base-plus-sv".
        device (`str`, `int` or `torch.device`, defaults to `"cpu"`): Device.

    Raises:
        ImportError: If a package of Resemblyzer is missing.
        OSError: If there is no such model.
        ValueError: If the model has no x-vector head.
    """
    if str(name) == RESEMBLYZER:
        return _Resemblyzer(device)
    check_model(name)
    return _XVector(name, device)


def load_quality_judge(name: str = DNSMOS) -> QualityJudge:
    """Load an estimator of quality.

    Args:
        name (`str`, defaults to "dnsmos"): "dnsmos", offline.

    Raises:
        ImportError: If speechmos or a package of it is missing: `pip install "dia-hf[judges]"`.
        ValueError: If there is no such estimator.
    """
    if name != DNSMOS:
        raise ValueError(f"there is no estimator of quality {name!r}; give {DNSMOS!r}.")
    return _Dnsmos()


class _Resemblyzer:
    """Resemblyzer: LSTM with the generalized end-to-end loss (Wan et al., 2018), trained on English voices."""

    sampling_rate = 16000

    def __init__(self, device: Any) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a module of scipy that it imports by an old name
                resemblyzer = import_extra("resemblyzer")
        except ImportError as error:
            raise ImportError(f"{error.__cause__}; Resemblyzer is installed by {_RESEMBLYZER_INSTALL}.") from error
        self._encoder = resemblyzer.VoiceEncoder(torch.device(device), verbose=False)
        self._normalize, self._target = resemblyzer.normalize_volume, resemblyzer.audio.audio_norm_target_dBFS

    def embed(self, waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
        """See `SpeakerModel`. The volume is normalized, as in its own preparation; silence is not cut out."""
        samples = resample(np.asarray(waveform, dtype=np.float32), sampling_rate, self.sampling_rate)
        if samples.any():  # the volume of silence is -inf
            samples = self._normalize(samples, self._target, increase_only=True)
        return np.nan_to_num(self._encoder.embed_utterance(samples))


class _XVector:
    """Speaker model of transformers with an x-vector head."""

    def __init__(self, name: str | os.PathLike, device: Any) -> None:
        from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioXVector
        from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_XVECTOR_MAPPING_NAMES

        kind = AutoConfig.from_pretrained(name).model_type
        if kind not in MODEL_FOR_AUDIO_XVECTOR_MAPPING_NAMES:
            known = ", ".join(sorted(MODEL_FOR_AUDIO_XVECTOR_MAPPING_NAMES))
            raise ValueError(f"{str(name)!r} is a {kind} and embeds no speakers; give a model of {known}.")
        self._extractor = AutoFeatureExtractor.from_pretrained(name)
        self._model = AutoModelForAudioXVector.from_pretrained(name).eval().to(device)
        self.sampling_rate: int = self._extractor.sampling_rate

    @torch.inference_mode()
    def embed(self, waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
        """See `SpeakerModel`."""
        samples = resample(np.asarray(waveform, dtype=np.float32), sampling_rate, self.sampling_rate)
        # Five layers of time delay over frames of 20 ms follow: shorter audio is repeated.
        needed = self.sampling_rate // 2
        if len(samples) < needed:
            samples = np.tile(samples, -(-needed // len(samples)))
        inputs = self._extractor(samples, sampling_rate=self.sampling_rate, return_tensors="pt").to(self._model.device)
        return torch.nn.functional.normalize(self._model(**inputs).embeddings[0].float(), dim=-1).cpu().numpy()


class _Dnsmos:
    """DNSMOS P.835 and P.808 (Reddy et al., 2022), of the package speechmos."""

    sampling_rate = 16000

    def __init__(self) -> None:
        onnxruntime = import_extra("onnxruntime")
        for package in ("librosa", "requests"):
            import_extra(package)
        dnsmos = import_extra("speechmos.dnsmos")
        self._window = int(dnsmos.INPUT_LENGTH * self.sampling_rate)
        folder = Path(str(dnsmos.__file__)).parent / "dnsmos_models"
        models = [str(folder / name) for name in ("sig_bak_ovr.onnx", "model_v8.onnx")]
        self._estimate = dnsmos.DNSMOS(*models)
        # Its own sessions take all cores, and keep them busy while they wait.
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        sessions = [onnxruntime.InferenceSession(model, options) for model in models]
        self._estimate.onnx_sess, self._estimate.p808_onnx_sess = sessions

    def measure(self, waveform: np.ndarray, sampling_rate: int) -> dict[str, Measure]:
        """See `QualityJudge`.

        Shorter audio is repeated to fill the window of 9.01 s. speechmos repeats it further, and averages windows that
        begin at other places of the same audio; these cost ten times as much.
        """
        samples = resample(np.asarray(waveform, dtype=np.float32), sampling_rate, self.sampling_rate).clip(-1, 1)
        if len(samples) < self._window:
            samples = np.resize(samples, self._window)
        found = self._estimate(samples, self.sampling_rate, False)
        names = {"dnsmos": "ovrl", "dnsmos_sig": "sig", "dnsmos_bak": "bak", "dnsmos_p808": "p808"}
        return {name: Measure(float(found[f"{own}_mos"])) for name, own in names.items()}
