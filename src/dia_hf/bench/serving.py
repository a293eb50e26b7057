"""Load on a speech server: requests by the OpenAI speech API, and what a listener hears of the answers.

Open loop: requests arrive at the times of a Poisson process, whether earlier ones are answered or not, and all times
count from the planned arrival. So a server that stalls is charged for each request that arrives in the meantime. Closed
loop: a number of clients, each of which sends its next request when the last one is answered.

Called by `dia-hf bench --serve`. Tables and files are written by `tables.py`. The metrics are functions of recorded
times, without a clock.

Legend: N samples.
"""

from __future__ import annotations

import asyncio
import gc
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._extras import import_extra
from ..audio.effects import find_sound

__all__ = [
    "SENTENCES",
    "Answer",
    "AnswerFigures",
    "LoadFigures",
    "Percentiles",
    "ServingReport",
    "measure_answer",
    "measure_load",
    "measure_serving",
    "plan_arrivals",
    "speech_url",
]

PCM_RATE = 24_000
"""Rate in hertz of `response_format` "pcm", which has no header: clients of OpenAI's API assume it."""

SENTENCES = (
    "[S1] Hello, I am Dia.",
    "[S1] Good morning, my friend. [S2] Welcome, Dia.",
    "[S1] The cat and the dog sleep in the garden today.",
    "[S1] What do you want for breakfast? [S2] Coffee, bread and cheese, please.",
    "[S1] My brother and my sister read a book of a happy lion in the snow.",
    "[S1] I love this music. [S2] We can play it now, and sing all night.",
)
"""Texts of 1 to 6 s."""

_FIRST_BYTES = 2048  # of a wav file, in which its header ends
_PAUSE = 0.1  # seconds that a client of the closed loop waits after an error


@dataclass
class Answer:
    """Record of a request: times in seconds of one clock, and the audio.

    Args:
        arrival (`float`): When the request was to be sent.
        sent (`float`): When it was sent. The difference is the load generator's own delay.
        chunks (`list[tuple[float, bytes]]`): Time and content of each part of the body.
        end (`float`): When the answer, or the error, was complete.
        error (`str`, *optional*): Status such as "429", or name of the exception.
    """

    arrival: float
    sent: float
    chunks: list[tuple[float, bytes]] = field(default_factory=list)
    end: float = 0.0
    error: str | None = None


@dataclass
class AnswerFigures:
    """Figures of a request. Times are in seconds after the planned arrival; `None` if it did not come to that.

    Args:
        arrival (`float`): Planned arrival, in seconds after the beginning of the load.
        lag (`float`): Delay of the load generator in sending it.
        first_byte (`float`): First byte of the body.
        first_audible (`float`): Arrival of the first 10 ms above -50 dBFS.
        heard (`float`): When a player that starts with the first samples plays these 10 ms.
        end (`float`): End of the answer, or of the attempt.
        audio_seconds (`float`): Duration of the audio.
        num_underruns (`int`): How often that player, at real time, had nothing to play before the end.
        gap_seconds (`float`): How long in sum.
        error (`str`, *optional*): Status such as "429", name of an exception, or "no audio".
    """

    arrival: float
    lag: float
    first_byte: float | None
    first_audible: float | None
    heard: float | None
    end: float
    audio_seconds: float
    num_underruns: int
    gap_seconds: float
    error: str | None


@dataclass
class Percentiles:
    """Percentiles of a distribution: 99 % of the values are at most `p99`."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Percentiles | None:
        """Summarize the values that there are; returns `None` without one."""
        there = [value for value in values if value is not None]
        return cls(*map(float, np.percentile(there, [50, 95, 99]))) if there else None


@dataclass
class LoadFigures:
    """Figures of one load.

    Args:
        kind (`str`): "rate" (open loop, requests a second) or "concurrency" (closed loop, requests at once).
        load (`float`): Rate or concurrency.
        num_requests (`int`): Requests that were sent.
        errors (`dict[str, int]`): Number of failed requests by error.
        span_seconds (`float`): From the beginning to the end of the last answer.
        lag, first_byte, first_audible, heard, end (`Percentiles`, *optional*): As in `AnswerFigures`; of the requests
            without error, but `lag` of all.
        audio_per_second (`float`): Seconds of audio a second of the span.
        goodput (`float`): Requests without error and underrun, a second of the span.
        num_underruns (`int`): In sum.
        gap_seconds (`float`): In sum.
        requests (`list[AnswerFigures]`): Each request, in order of arrival.
    """

    kind: str
    load: float
    num_requests: int
    errors: dict[str, int]
    span_seconds: float
    lag: Percentiles | None
    first_byte: Percentiles | None
    first_audible: Percentiles | None
    heard: Percentiles | None
    end: Percentiles | None
    audio_per_second: float
    goodput: float
    num_underruns: int
    gap_seconds: float
    requests: list[AnswerFigures]


@dataclass
class ServingReport:
    """Figures of a server.

    Args:
        settings (`dict`): Address, format, seed and so on.
        loads (`list[LoadFigures]`): One entry a load, in the order in which they ran.
    """

    settings: dict[str, Any]
    loads: list[LoadFigures]


def plan_arrivals(rate: float, duration: float | None, num_requests: int | None, seed: int) -> list[float]:
    """Draw the arrivals of a Poisson process.

    Args:
        rate (`float`): Requests a second, on average.
        duration (`float`, *optional*): No arrival is later, in seconds.
        num_requests (`int`, *optional*): Number of arrivals; at least one of this and `duration` is given.
        seed (`int`): Seed of the process; the same seed gives the same order of gaps at each rate.

    Returns:
        `list[float]`: Times in seconds, ascending.

    Example:
    ```python
    >>> from dia_hf.bench.serving import plan_arrivals
    >>> [round(time, 2) for time in plan_arrivals(2.0, None, 3, seed=0)]
    [0.34, 0.85, 0.86]

    ```
    """
    if num_requests is None and duration is None:
        raise ValueError("neither `duration` nor `num_requests` is given; give one.")
    random, now = np.random.default_rng(seed), 0.0
    arrivals: list[float] = []
    while num_requests is None or len(arrivals) < num_requests:
        now += float(random.exponential()) / rate
        if duration is not None and now > duration:
            break
        arrivals.append(now)
    return arrivals


def measure_answer(answer: Answer, audio_format: str = "pcm", start: float = 0.0) -> AnswerFigures:
    r"""Measure what a listener hears of an answer.

    Args:
        answer (`Answer`): Record of the request.
        audio_format (`str`, defaults to `"pcm"`): "pcm" (24 kHz) or "wav"; 16-bit and mono in both.
        start (`float`, defaults to 0.0): Beginning of the load, on the clock of the record.

    Example:
    ```python
    >>> from dia_hf.bench.serving import Answer, measure_answer
    >>> second = b"\x00\x40\x00\xc0" * 12000
    >>> figures = measure_answer(Answer(0.0, 0.0, [(0.5, second), (2.0, second)], end=2.0))
    >>> figures.first_audible, figures.num_underruns, figures.gap_seconds
    (0.5, 1, 0.5)

    ```
    """
    body = b"".join(part for _, part in answer.chunks)
    error, begin_audio, end_audio, rate = answer.error, 0, len(body), PCM_RATE
    if audio_format == "wav" and error is None:
        try:
            begin_audio, end_audio, rate = _find_wav_audio(body)
        except ValueError as problem:
            error = str(problem)
    num_samples = 0 if error else (end_audio - begin_audio) // 2
    if num_samples == 0:
        error = error or "no audio"
    samples = np.frombuffer(body, "<i2", num_samples, begin_audio) if num_samples else np.zeros(0, "<i2")
    # Number of complete samples that are there after each part.
    lengths = np.cumsum([len(part) for _, part in answer.chunks]) - begin_audio
    times = [
        (when, min(num_samples, max(0, int(length)) // 2))
        for (when, _), length in zip(answer.chunks, lengths, strict=True)
    ]
    first_byte = next((when for when, part in answer.chunks if part), None)
    begin, end = find_sound(samples.astype(np.float32) / 32768, rate)
    plays, num_underruns, gap_seconds = _play(times, rate)
    first_audible = heard = None
    if end > begin:
        last = min(num_samples, begin + rate // 100) - 1  # of the first audible 10 ms
        part = next(place for place, (_, there) in enumerate(times) if there > last)
        first_audible = times[part][0]
        heard = _when_played(begin, plays, rate)

    def after_arrival(when: float | None) -> float | None:
        return None if when is None else when - answer.arrival

    return AnswerFigures(
        arrival=answer.arrival - start,
        lag=answer.sent - answer.arrival,
        first_byte=after_arrival(first_byte),
        first_audible=after_arrival(first_audible),
        heard=after_arrival(heard),
        end=answer.end - answer.arrival,
        audio_seconds=num_samples / rate,
        num_underruns=num_underruns,
        gap_seconds=gap_seconds,
        error=error,
    )


def _find_wav_audio(body: bytes) -> tuple[int, int, int]:
    """Return begin and end of the audio in a wav file, and its rate; a length of 0 or 0xFFFFFFFF is an unknown one."""
    place, rate = 12, 0
    if body[:4] == b"RIFF" and body[8:12] == b"WAVE":
        while len(body) >= place + 8 and place < _FIRST_BYTES:
            name, length = struct.unpack_from("<4sI", body, place)
            place += 8
            if name == b"data" and rate:
                return place, min(len(body), place + (length or len(body))), rate
            if name == b"fmt " and len(body) >= place + 16:
                kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body, place)
                if (kind, channels, bits) != (1, 1, 16) or not rate:
                    raise ValueError("wav is not 16-bit mono")
            place += length + length % 2
    raise ValueError("no wav")


def _play(times: Sequence[tuple[float, int]], rate: int) -> tuple[list[tuple[float, int]], int, float]:
    """Play samples at real time from the first ones on.

    Args:
        times (`Sequence[tuple[float, int]]`): Time, and number of samples that are there then.
        rate (`int`): Sampling rate in hertz.

    Returns:
        `tuple[list[tuple[float, int]], int, float]`: Stretches that are played without a gap, as time and number of
        the first sample; number of gaps; their sum in seconds.
    """
    plays: list[tuple[float, int]] = []
    gap_seconds, there_before = 0.0, 0
    for when, there in times:
        if there == there_before:
            continue
        if not plays:
            plays.append((when, 0))
        else:
            begun, first = plays[-1]
            dry = begun + (there_before - first) / rate
            if when > dry:
                gap_seconds += when - dry
                plays.append((when, there_before))
        there_before = there
    return plays, max(0, len(plays) - 1), gap_seconds


def _when_played(sample: int, plays: Sequence[tuple[float, int]], rate: int) -> float:
    begun, first = next(play for play in reversed(plays) if play[1] <= sample)
    return begun + (sample - first) / rate


def measure_load(kind: str, load: float, span_seconds: float, requests: Sequence[AnswerFigures]) -> LoadFigures:
    """Summarize the requests of one load; see `LoadFigures`."""
    fine = [request for request in requests if request.error is None]
    return LoadFigures(
        kind=kind,
        load=load,
        num_requests=len(requests),
        errors=dict(Counter(request.error for request in requests if request.error is not None)),
        span_seconds=span_seconds,
        lag=Percentiles.of(request.lag for request in requests),
        first_byte=Percentiles.of(request.first_byte for request in fine),
        first_audible=Percentiles.of(request.first_audible for request in fine),
        heard=Percentiles.of(request.heard for request in fine),
        end=Percentiles.of(request.end for request in fine),
        audio_per_second=sum(request.audio_seconds for request in fine) / span_seconds,
        goodput=sum(request.num_underruns == 0 for request in fine) / span_seconds,
        num_underruns=sum(request.num_underruns for request in fine),
        gap_seconds=sum(request.gap_seconds for request in fine),
        requests=sorted(requests, key=lambda request: request.arrival),
    )


def speech_url(url: str) -> str:
    """Return the address of the speech route.

    Args:
        url (`str`): Address of the server, with or without `/v1`, or of the route itself.

    Raises:
        ValueError: If it is no address.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url!r} is no address of a server; give one such as 'http://127.0.0.1:8000'.")
    url = url.rstrip("/")
    if url.endswith("/audio/speech"):
        return url
    return f"{url}{'' if url.endswith('/v1') else '/v1'}/audio/speech"


async def measure_serving(
    url: str,
    rates: Sequence[float] = (),
    concurrencies: Sequence[int] = (),
    duration: float | None = None,
    num_requests: int | None = None,
    texts: Sequence[str] = SENTENCES,
    fields: Mapping[str, Any] | None = None,
    api_key: str | None = None,
    seed: int = 0,
    warmup: int = 1,
    timeout: float = 60.0,
    say: Callable[[str], None] = lambda line: None,
) -> ServingReport:
    """Send requests to a server, one load after the other.

    Args:
        url (`str`): See `speech_url`.
        rates (`Sequence[float]`, *optional*): Open loop: requests a second.
        concurrencies (`Sequence[int]`, *optional*): Closed loop: requests at once.
        duration (`float`, *optional*): Seconds in which requests of a load are sent; all are waited for.
        num_requests (`int`, *optional*): Number of requests of a load. At least one of both is given.
        texts (`Sequence[str]`, defaults to `SENTENCES`): Texts; drawn by the seed.
        fields (`Mapping[str, Any]`, *optional*): Further fields of the requests, such as `voice`. `response_format` is
            "pcm", unless it is "wav" here.
        api_key (`str`, *optional*): Key of the server.
        seed (`int`, defaults to 0): Seed of arrivals and texts.
        warmup (`int`, defaults to 1): Requests before, one after the other, which do not count.
        timeout (`float`, defaults to 60.0): Seconds after which an answer that sends nothing is given up.
        say (`Callable[[str], None]`, *optional*): Receives a line before each load.

    Raises:
        ValueError: If there are no loads or texts, or the format is another.
        ImportError: If httpx is not installed.
        OSError: If the server does not answer the first request, or with an error.
    """
    httpx = import_extra("httpx")
    if not texts or not (rates or concurrencies):
        raise ValueError(
            f"there are {len(texts)} texts and {len(rates) + len(concurrencies)} loads; give some of each."
        )
    body = {"model": "dia", "voice": "alloy", "response_format": "pcm", **(fields or {})}
    if body["response_format"] not in ("pcm", "wav"):
        raise ValueError(f"the format {body['response_format']!r} cannot be measured; use 'pcm' or 'wav'.")
    url = speech_url(url)
    headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
    options = {"headers": headers, "timeout": timeout, "verify": httpx.create_ssl_context()}
    # One client for each request under way: with httpx 0.28, a client looks at all its connections at each request, and
    # 80 of them take a whole core.
    idle: list[Any] = []
    loads = []
    async with AsyncExitStack() as clients:
        gc.collect()
        gc.freeze()  # a full collection of the objects of PyTorch and transformers takes 0.3 s
        clients.callback(gc.unfreeze)

        async def send(text: str, arrival: float) -> Answer:
            client = idle.pop() if idle else await clients.enter_async_context(httpx.AsyncClient(**options))
            answer = await _send(client, url, {**body, "input": text}, arrival)
            idle.append(client)
            return answer

        for number in range(warmup):
            answer = await send(texts[number % len(texts)], time.perf_counter())
            if answer.error is not None:
                raise OSError(f"{url} does not answer a first request with audio: {answer.error}.")
        for kind, load in [*(("rate", rate) for rate in rates), *(("concurrency", many) for many in concurrencies)]:
            say(f"{kind} {load:g}")
            start = time.perf_counter()
            random = np.random.default_rng([seed, 1])
            drawn = (texts[int(random.integers(len(texts)))] for _ in iter(int, 1))
            if kind == "rate":
                answers = await _open_loop(send, drawn, plan_arrivals(load, duration, num_requests, seed), start)
            else:
                answers = await _closed_loop(send, drawn, int(load), duration, num_requests, start)
            span = max((answer.end for answer in answers), default=start) - start
            measured = [measure_answer(answer, body["response_format"], start) for answer in answers]
            loads.append(measure_load(kind, load, max(span, 1e-9), measured))
    settings = {"url": url, "duration": duration, "num_requests": num_requests, "seed": seed, "warmup": warmup, **body}
    return ServingReport({**settings, "num_texts": len(texts)}, loads)


async def _send(client: Any, url: str, body: Mapping[str, Any], arrival: float) -> Answer:
    answer = Answer(arrival, time.perf_counter())
    try:
        async with client.stream("POST", url, json=body) as response:
            if response.status_code != 200:
                answer.error = str(response.status_code)
            async for part in response.aiter_raw():
                if answer.error is None:
                    answer.chunks.append((time.perf_counter(), part))
    except Exception as error:  # of any kind: one request must not end the load
        answer.error = type(error).__name__
    answer.end = time.perf_counter()
    return answer


async def _open_loop(send: Any, texts: Any, arrivals: Sequence[float], start: float) -> list[Answer]:
    sent = []
    for arrival in arrivals:
        await asyncio.sleep(max(0.0, start + arrival - time.perf_counter()))
        sent.append(asyncio.create_task(send(next(texts), start + arrival)))
    return list(await asyncio.gather(*sent))


async def _closed_loop(
    send: Any, texts: Any, num_clients: int, duration: float | None, num_requests: int | None, start: float
) -> list[Answer]:
    answers: list[Answer] = []
    num_sent = 0

    async def run_client() -> None:
        nonlocal num_sent
        while num_requests is None or num_sent < num_requests:
            now = time.perf_counter()
            if duration is not None and now - start > duration:
                break
            num_sent += 1
            answers.append(await send(next(texts), now))
            if answers[-1].error is not None:
                await asyncio.sleep(_PAUSE)

    await asyncio.gather(*(run_client() for _ in range(num_clients)))
    return answers
