"""The checks of `benchmarks/serving_soak.py` on an answer."""

import base64
import json

import httpx
import numpy as np
import pytest

from dia_hf.audio.encoders import StreamEncoder
from serving_soak import WrongAnswerError, check_audio, decode, make_pool, take_audio

RATE = 16_000


def speech(seed: int, num_samples: int = 2 * RATE) -> np.ndarray:
    """Noise in syllables, `[N]`, 16 bits."""
    random = np.random.default_rng(seed)
    loudness = np.repeat(random.uniform(0, 8000, num_samples // 1600), 1600)
    return np.rint(np.clip(random.standard_normal(len(loudness)), -3, 3) * loudness).astype(np.int64)


def body(form: str, **changes: object) -> dict:
    return {"input": "[S1] Hello.", "seed": 7, "sample_rate": RATE, "response_format": form, **changes}


def response(**headers: str) -> httpx.Response:
    return httpx.Response(200, headers={"x-seed": "7", **headers})


@pytest.mark.parametrize("form", ["pcm", "wav", "flac", "mp3", "opus", "aac"])
def test_an_answer_is_that_of_its_request_alone(form):
    """Answers that were mixed up passed, if they were as long as their own would have been; right ones did not."""
    own, other = speech(0), speech(1)
    encoder = StreamEncoder(form, RATE)
    encoded = encoder.encode((own / 32767).astype(np.float32)) + encoder.finish()
    samples = decode(form, encoded, RATE)
    check_audio(body(form), samples, own)
    with pytest.raises(WrongAnswerError, match=r"differ|correlation"):
        check_audio(body(form), samples, other)
    with pytest.raises(WrongAnswerError, match="samples instead of"):
        check_audio(body(form), samples, own[: RATE // 2])


def test_one_lsb_is_no_difference():
    """The codec's chunks depend on the load, which can change the last bit: right answers counted as wrong."""
    own = speech(0)
    assert check_audio(body("wav"), own, own) == 0
    assert check_audio(body("wav"), own + 1, own) == 1
    with pytest.raises(WrongAnswerError, match=r"2 LSB, from 0\.50 s"):
        check_audio(body("wav"), own + 2 * (np.arange(len(own)) >= RATE // 2), own)


def test_events_without_an_end_are_an_error():
    """Events that broke off counted as a complete answer."""
    delta = f"data: {json.dumps({'type': 'speech.audio.delta', 'audio': base64.b64encode(b'ab').decode()})}\n\n"
    done = f"data: {json.dumps({'type': 'speech.audio.done', 'seed': 7})}\n\n"
    request = body("pcm", stream_format="sse")
    assert take_audio(request, response(), (delta + done).encode()) == b"ab"
    with pytest.raises(WrongAnswerError, match="events end"):
        take_audio(request, response(), delta.encode())


def test_another_seed_is_another_request():
    """The answer to another request with the same text passed."""
    with pytest.raises(WrongAnswerError, match="seed 8 instead of 7"):
        take_audio(body("pcm"), response(**{"x-seed": "8"}), b"")


def test_the_pool_has_no_request_twice():
    """Two requests of the pool were the same, so that an exchange of their answers went unnoticed."""
    pool = [json.dumps({**each, "seed": 0}) for each in make_pool(b"recording")]
    assert len(set(pool)) == len(pool)
