"""Speaker models and DNSMOS, offline."""

import sys

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMForXVector

from dia_hf import Dia
from dia_hf.evaluation.judges import load_quality_judge, load_speaker_model
from dia_hf.evaluation.metrics import METRICS

RATE = 16000
TEXT = "Good morning, my father. I will eat soup today."


@pytest.fixture(scope="module")
def voices():
    """Two sentences in each voice of the miniature."""
    dia = Dia.from_pretrained(compute_dtype="float32", device="cpu")
    texts = [f"[S{number}] {text}" for number in (1, 2) for text in (TEXT, "We want bread and cheese. Thank you.")]
    return dia.generate(texts, temperature=0, cfg_scale=1)


def test_resemblyzer_tells_voices_apart(voices, monkeypatch):
    """The weights were downloaded, or two sentences of a speaker were less alike than two speakers."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = load_speaker_model("resemblyzer")
    embeddings = [model.embed(waveform, RATE) for waveform in voices]
    assert all(np.linalg.norm(one) == pytest.approx(1, abs=1e-4) for one in embeddings)
    alike = np.array(embeddings) @ np.array(embeddings).T
    assert min(alike[0, 1], alike[2, 3]) > max(alike[:2, 2:].ravel()) + 0.1
    twice = model.embed(np.repeat(voices[0], 2), 2 * RATE)
    assert twice @ embeddings[0] > 0.95


@pytest.mark.parametrize("waveform", [np.zeros(RATE), np.zeros(1), np.full(40, 0.5), np.ones(RATE)])
def test_resemblyzer_of_odd_audio(waveform):
    """Silence or a click had an embedding of NaN, which no voice is compared with."""
    assert np.isfinite(load_speaker_model("resemblyzer").embed(waveform.astype(np.float32), RATE)).all()


def test_without_resemblyzer(monkeypatch):
    """The error named an installation that ends with a missing compiler."""
    monkeypatch.setitem(sys.modules, "resemblyzer", None)
    with pytest.raises(ImportError, match=r"dia-hf\[judges\].* `pip install --no-deps Resemblyzer`"):
        load_speaker_model("resemblyzer")


def test_a_speaker_model_of_transformers(tmp_path, tone):
    """Another rate was not resampled, the embedding had another length than 1, or short audio was an error."""
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = WavLMConfig(
        **size, conv_dim=(8,) * 7, tdnn_dim=(8, 8, 8, 8, 16), xvector_output_dim=6, num_conv_pos_embeddings=4
    )
    WavLMForXVector(config).eval().save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE).save_pretrained(tmp_path)
    model = load_speaker_model(tmp_path)
    assert model.sampling_rate == RATE
    embedding = model.embed(tone(1, 8000), 8000)
    assert embedding.shape == (6,) and np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)
    assert np.isfinite(model.embed(tone(0.1, RATE)[:100], RATE)).all()


def test_a_model_without_speakers(tmp_path):
    """A model of another kind was used with random weights for its embeddings."""
    Dia.from_pretrained().model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is a dia and embeds no speakers; give a model of .*wavlm"):
        load_speaker_model(tmp_path)


def test_dnsmos(voices):
    """Noise had no worse quality than the speech it was added to, or a score was none of 1 to 5."""
    judge = load_quality_judge()
    clean = judge.measure(voices[0], RATE)
    noise = np.random.default_rng(0).normal(0, 0.1, len(voices[0])).astype(np.float32)
    noisy = judge.measure(voices[0] + noise, RATE)
    assert set(clean) == set(noisy) == {"dnsmos", "dnsmos_sig", "dnsmos_bak", "dnsmos_p808"} <= set(METRICS)
    assert all(1 <= measure.value <= 5 for measure in clean.values())
    assert noisy["dnsmos"].value < clean["dnsmos"].value - 0.2
    assert noisy["dnsmos_bak"].value < clean["dnsmos_bak"].value - 0.5


@pytest.mark.parametrize("package", ["speechmos.dnsmos", "onnxruntime", "librosa"])
def test_without_the_packages_of_dnsmos(monkeypatch, package):
    """A package that speechmos needs and does not ask for was not named."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"cannot be imported .*dia-hf\[judges\]"):
        load_quality_judge()
    with pytest.raises(ValueError, match="no estimator of quality 'pesq'"):
        load_quality_judge("pesq")
