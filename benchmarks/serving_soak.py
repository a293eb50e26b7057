"""Soak of the server: mixed requests at saturation, each answer compared with the same request alone.

    python benchmarks/serving_soak.py [--minutes 30]

A fixed pool of requests is answered one at a time first: the references. Then more clients than the batch has slots
send requests of the pool in all formats, as a stream, whole, or as events; one in ten is canceled midway. Lossless
answers must have the samples of the reference, within 1 LSB of 16 bits; lossy ones, and those with another speed, its
duration, rate and loudness over time.

The server is that of `dia-hf serve` with the model in float64: in lower precision, rounding depends on the batch,
and an answer may differ without being another request's. Needs Linux (/proc). Writes results/serving_soak.md; exits
with 1 if a request was lost or mixed up, a slot was not freed, or the memory grew.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import random
import re
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from serving_load import RESULTS, TEXTS, Served, describe_machine, serve, wrap

BATCH_SIZE = 8
NUM_CLIENTS = 16  # the queue is never empty
NUM_IN_POOL = 24
BASELINE_SECONDS = 120.0  # after which the memory is compared
SAMPLE_SECONDS = 10.0
GROWTH = 1.05  # allowed
TIMEOUT = 600.0  # seconds without a byte
CANCELED = 0.1  # share of the requests
LOSSLESS, LOSSY = ("pcm", "wav", "flac"), ("mp3", "opus", "aac")
MODES = ("stream", "whole", "events")
PADDING = 2400  # samples that mp3 and aac add at most
LEAST_SIMILARITY = 0.9  # of loudness, where samples cannot be compared
VOICES = {
    "one": "Good morning, my friend. The cat and the dog sleep in the garden.",
    "two": "Hello, I am Dia. My brother and my sister read a book today.",
}
LONG_TEXTS = (" ".join(TEXTS[2:9]), " ".join([*TEXTS[5:], *TEXTS[:4]]))


def run_server(voices: str, port_file: str) -> None:
    """Run the server in this process, until SIGTERM."""
    from dia_hf import Dia
    from dia_hf.serving import Server, ServerSettings, ServerStatus, create_app
    from dia_hf.serving.voices import ServedVoices
    from dia_hf.speech import SpeechEngine

    warnings.simplefilter("ignore")
    dia = Dia.from_pretrained(compute_dtype="float64", device="cpu")
    engine = SpeechEngine(dia, BATCH_SIZE, 4 * BATCH_SIZE)
    status = ServerStatus(is_ready=False)
    server = Server(create_app(engine, ServedVoices(dia, voices), ServerSettings(), status), engine, status, port=0)
    Path(port_file).write_text(str(server.port), "utf-8")
    threading.Thread(target=server.warm_up, daemon=True).start()
    server.run()
    engine.close(0)


def make_pool(recording: bytes) -> list[dict[str, Any]]:
    """Return bodies of requests, all different; the recording speaks the first of `VOICES`."""
    prompt = {"audio_prompt": base64.b64encode(recording).decode(), "audio_prompt_transcript": VOICES["one"]}
    options: Iterator[dict[str, Any]] = cycle(
        [
            {},
            {"voice": "one"},
            {"temperature": 0.8, "top_p": 0.9},
            {"voices": {"S1": "one", "S2": "two"}},
            {"speed": 1.25},
            prompt,
            {"cfg_scale": 2.0, "cfg_filter_top_k": 20},
            {"max_seconds": 1.7},
            {"voice": "two", "speed": 0.8},
        ]
    )
    texts, rates = cycle([*TEXTS, *LONG_TEXTS]), cycle([16_000, 24_000, 48_000])
    return [
        {"input": next(texts), "seed": 100 + number, "sample_rate": next(rates), **next(options)}
        for number in range(NUM_IN_POOL)
    ]


class WrongAnswerError(Exception):
    """Answer that is not that of its request."""


def take_audio(body: Mapping[str, Any], response: httpx.Response, content: bytes) -> bytes:
    """Check the form of a complete answer, and return its audio.

    Raises:
        WrongAnswerError: If it is an error, incomplete, or of another request.
    """
    if response.status_code != 200:
        raise WrongAnswerError(f"status {response.status_code}: {content[:200]!r}")
    if (seed := response.headers["x-seed"]) != str(body["seed"]):
        raise WrongAnswerError(f"seed {seed} instead of {body['seed']}")
    if body.get("stream_format") != "sse":
        return content
    events = [json.loads(line[6:]) for line in content.decode().splitlines() if line.startswith("data: ")]
    if not events or events[-1]["type"] != "speech.audio.done" or events[-1]["seed"] != body["seed"]:
        raise WrongAnswerError(f"events end with {events[-1:]}")
    return b"".join(base64.b64decode(event["audio"]) for event in events[:-1])


def decode(form: str, audio: bytes, rate: int) -> np.ndarray:
    """Return the samples `[N]` of encoded audio as integers of 16 bits.

    Raises:
        WrongAnswerError: If the rate is another one.
    """
    from dia_hf.serving.recordings import read_recording

    if form == "pcm":
        return np.frombuffer(audio, "<i2").astype(np.int64)
    waveform, found = read_recording(audio, max_seconds=120.0)
    if found != rate:
        raise WrongAnswerError(f"{form} at {found} Hz instead of {rate}")
    return np.rint(waveform[0].astype(np.float64) * 32768).astype(np.int64)


def similarity(samples: np.ndarray, reference: np.ndarray, rate: int) -> float:
    """Return the correlation of the loudness of 10 ms with the reference's, which may begin earlier by `PADDING`."""
    size = rate // 100
    heard, meant = (
        np.sqrt(np.square(audio[: len(audio) // size * size].reshape(-1, size)).mean(-1) + 1.0)
        for audio in (samples.astype(float), reference.astype(float))
    )
    heard = np.pad(heard, (0, PADDING // size))
    shifted = (heard[lag : lag + len(meant)] for lag in range(PADDING // size + 1))
    return max(float(np.corrcoef(each, meant[: len(each)])[0, 1]) for each in shifted)


def check_audio(body: Mapping[str, Any], samples: np.ndarray, reference: np.ndarray) -> int | None:
    """Compare an answer with the reference; return the largest difference where samples are compared.

    libav's filter for the speed chooses where to cut, and a difference of 1e-8 can change the choice.

    Raises:
        WrongAnswerError: If it is the audio of another request.
    """
    form, rate = body["response_format"], body["sample_rate"]
    if not 0 <= len(samples) - len(reference) <= (PADDING if form in ("mp3", "aac") else 0):
        raise WrongAnswerError(f"{len(samples)} samples instead of {len(reference)}")
    if form in LOSSLESS and "speed" not in body:
        differences = np.abs(samples - reference)
        if differences.max() > 1:
            begin = np.argmax(differences > 1) / rate
            raise WrongAnswerError(f"samples differ by up to {differences.max()} LSB, from {begin:.2f} s on")
        return int(differences.max())
    if (found := similarity(samples, reference, rate)) < LEAST_SIMILARITY:
        raise WrongAnswerError(f"the correlation with the reference is {found:.2f}")
    return None


@dataclass
class MemorySample:
    """State of the server.

    Args:
        seconds (`float`): Since the beginning of the load.
        rss (`int`): Resident memory in bytes.
        num_files, num_threads (`int`): Open file descriptors; threads.
        num_active (`int`): Slots of the batch that are taken.
    """

    seconds: float
    rss: int
    num_files: int
    num_threads: int
    num_active: int


@dataclass
class Tally:
    """What became of the requests; `checked` by format and mode."""

    num_sent: int = 0
    num_canceled: int = 0
    num_compared: int = 0  # sample by sample
    num_identical: int = 0
    audio_seconds: float = 0.0
    checked: Counter = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    mixed_up: list[str] = field(default_factory=list)
    memory: list[MemorySample] = field(default_factory=list)

    @property
    def num_checked(self) -> int:
        """Number of complete answers that were right."""
        return sum(self.checked.values())


class Soak:
    """Clients of a server.

    Args:
        served (`Served`): The server.
        seed (`int`): Seed of the order of requests.
    """

    def __init__(self, served: Served, seed: int) -> None:
        self.served, self.random, self.tally = served, random.Random(seed), Tally()
        self.url = f"{served.url}/v1/audio/speech"
        self.pool: list[dict[str, Any]] = []
        self.references: list[np.ndarray] = []
        self.seconds: list[float] = [1.0]  # of the last answers, from which the times of cancelations are drawn

    def prepare(self) -> None:
        """Save the voices, and generate the references, one at a time."""
        with httpx.Client(timeout=TIMEOUT) as client:
            for name, transcript in VOICES.items():
                body = {"input": f"[S1] {transcript}", "seed": 7, "response_format": "wav", "stream": False}
                recording = client.post(self.url, json=body).raise_for_status().content
                form = {"name": name, "transcript": transcript}
                client.post(
                    f"{self.served.url}/v1/audio/voices", data=form, files={"audio_sample": recording}
                ).raise_for_status()
                if name == "one":
                    self.pool = make_pool(recording)
            for body in self.pool:
                self.references.append(self._reference(client, body))

    def _reference(self, client: httpx.Client, body: dict[str, Any]) -> np.ndarray:
        """Return the samples of a request; take another seed while the miniature loses the text, with a voice."""
        while True:
            whole = {**body, "response_format": "wav", "stream": False}
            response = client.post(self.url, json=whole)
            samples = decode("wav", take_audio(whole, response, response.content), body["sample_rate"])
            if len(samples) >= body["sample_rate"]:
                return samples
            body["seed"] += 1000

    async def run(self, seconds: float) -> None:
        """Send requests for a time; then wait until all are answered, and the slots are free."""
        begin = time.monotonic()
        clients = [self._run_client(begin + seconds) for _ in range(NUM_CLIENTS)]
        await asyncio.gather(self._watch(begin, seconds), *clients)

    async def _run_client(self, end: float) -> None:
        async with httpx.AsyncClient(timeout=TIMEOUT) as client:
            while time.monotonic() < end:
                await self._request(client)

    async def _request(self, client: httpx.AsyncClient) -> None:
        tally, draw = self.tally, self.random
        number, form, mode = draw.randrange(len(self.pool)), draw.choice([*LOSSLESS, *LOSSY]), draw.choice(MODES)
        body = {**self.pool[number], "response_format": form, "stream": mode != "whole"}
        if mode == "events":
            body["stream_format"] = "sse"
        patience = draw.uniform(0, float(np.median(self.seconds))) if draw.random() < CANCELED else None
        name = f"request {tally.num_sent}, {number} of the pool, {form}, {mode}"
        tally.num_sent += 1
        begin = time.monotonic()
        try:
            response, content = await asyncio.wait_for(self._answer(client, body), patience)
        except asyncio.TimeoutError:
            tally.num_canceled += 1
            return
        except Exception as error:  # of any kind: the others go on
            tally.lost.append(f"{name}: {type(error).__name__}: {error}")
            print("LOST", tally.lost[-1], flush=True)
            return
        self.seconds = [*self.seconds[-99:], time.monotonic() - begin]
        try:
            difference = await asyncio.to_thread(self._check, number, body, response, content)
        except Exception as error:
            (tally.mixed_up if response.status_code == 200 else tally.lost).append(f"{name}: {error}")
            print("WRONG", name, error, flush=True)
            return
        tally.checked[form, mode] += 1
        tally.audio_seconds += len(self.references[number]) / body["sample_rate"]
        if difference is not None:
            tally.num_compared += 1
            tally.num_identical += difference == 0

    async def _answer(self, client: httpx.AsyncClient, body: Mapping[str, Any]) -> tuple[httpx.Response, bytes]:
        async with client.stream("POST", self.url, json=body) as response:
            return response, b"".join([part async for part in response.aiter_raw()])

    def _check(self, number: int, body: Mapping[str, Any], response: httpx.Response, content: bytes) -> int | None:
        samples = decode(body["response_format"], take_audio(body, response, content), body["sample_rate"])
        return check_audio(body, samples, self.references[number])

    async def _watch(self, begin: float, seconds: float) -> None:
        for number in range(1, int(seconds / SAMPLE_SECONDS) + 1):
            await asyncio.sleep(begin + number * SAMPLE_SECONDS - time.monotonic())
            sample = await asyncio.to_thread(self.sample, begin)
            self.tally.memory.append(sample)
            print(
                f"{sample.seconds:6.0f} s: {sample.rss / 2**20:.1f} MiB, {sample.num_files} files, "
                f"{sample.num_threads} threads, {sample.num_active} active; {self.tally.num_sent} sent, "
                f"{self.tally.num_checked} right, {self.tally.num_canceled} canceled, {len(self.tally.lost)} lost, "
                f"{len(self.tally.mixed_up)} wrong",
                flush=True,
            )

    def sample(self, begin: float) -> MemorySample:
        """Read the state of the server."""
        proc = Path(f"/proc/{self.served.process.pid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        return MemorySample(
            seconds=time.monotonic() - begin,
            rss=int(status["VmRSS"].split()[0]) * 1024,
            num_files=len(os.listdir(proc / "fd")),
            num_threads=int(status["Threads"]),
            num_active=int(self.read_metrics()["dia_active_samples"]),
        )

    def read_metrics(self) -> dict[str, float]:
        """Return the server's metrics by name and labels."""
        text = httpx.get(f"{self.served.url}/metrics", timeout=60).raise_for_status().text
        return {name: float(value) for name, value in re.findall(r"^([^# ]\S*) (\S+)$", text, re.MULTILINE)}

    def wait_until_free(self, seconds: float = 30.0) -> dict[str, float]:
        """Return the metrics when no slot is taken and nothing waits, or after a time."""
        end = time.monotonic() + seconds
        while True:
            metrics = self.read_metrics()
            taken = metrics["dia_active_samples"] + metrics["dia_queued_requests"]
            if taken == 0 or time.monotonic() > end:
                return metrics
            time.sleep(0.5)


def _nearest(memory: list[MemorySample], seconds: float) -> MemorySample:
    return min(memory, key=lambda each: abs(each.seconds - seconds))


def _median_rss(memory: list[MemorySample], seconds: float) -> float:
    """Return the median of the samples in the minute around a time."""
    return float(np.median([each.rss for each in memory if abs(each.seconds - seconds) <= 31]))


def write_results(
    soak: Soak, metrics: Mapping[str, float], args: argparse.Namespace, seconds: float
) -> tuple[str, bool]:
    """Return the page, and whether all went well."""
    from dia_hf.bench import tables

    tally, memory = soak.tally, soak.tally.memory
    early, last = _nearest(memory, min(BASELINE_SECONDS, seconds / 2)), memory[-1]
    growth = _median_rss(memory, last.seconds - 30) / _median_rss(memory, early.seconds)
    taken = int(metrics["dia_active_samples"] + metrics["dia_queued_requests"])
    reasons: Counter = Counter()
    for name, value in metrics.items():
        if name.startswith("dia_speech_requests_total{"):
            reasons[re.search(r'reason="(\w+)"', name)[1]] += int(value)  # type: ignore[index]
    failed = reasons["error"] + reasons["slow_reader"]
    is_fine = not (tally.lost or tally.mixed_up or taken or failed) and growth <= GROWTH
    shown = [each for each in memory if each in (early, last) or round(each.seconds / 10) % 30 == 0]
    rows = [
        "| minutes | resident memory, MiB | files | threads |",
        "|---|---|---|---|",
        *(
            f"| {each.seconds / 60:.1f} | {_median_rss(memory, min(each.seconds, last.seconds - 30)) / 2**20:.1f} "
            f"| {each.num_files} | {each.num_threads} |"
            for each in shown
        ),
    ]
    answers = [
        f"| right answers | {' | '.join(MODES)} |",
        "|---" * (len(MODES) + 1) + "|",
        *(
            f"| {form} | {' | '.join(str(tally.checked[form, mode]) for mode in MODES)} |"
            for form in (*LOSSLESS, *LOSSY)
        ),
    ]
    results = [
        "| figure | value | aim |",
        "|---|---|---|",
        f"| requests sent | {tally.num_sent} | |",
        f"| answered, and right | {tally.num_checked} | |",
        f"| canceled midway | {tally.num_canceled} | |",
        f"| lost | {len(tally.lost)} | 0 |",
        f"| mixed up | {len(tally.mixed_up)} | 0 |",
        f"| failed, by the server's own count | {failed} | 0 |",
        f"| slots taken and requests queued afterwards | {taken} | 0 |",
        f"| memory at the end / after {early.seconds / 60:.1f} minutes | {growth:.3f} | ≤ {GROWTH:g} |",
    ]
    active = np.mean([each.num_active for each in memory])
    method = (
        f"`python benchmarks/serving_soak.py --minutes {args.minutes:g} --seed {args.seed}`: the server of `dia-hf "
        f"serve --max-batch-size {BATCH_SIZE}` with the embedded miniature, the model in float64, and "
        f"{NUM_CLIENTS} clients that send {len(soak.pool)} different requests in random order, in all formats and "
        "modes. Each complete answer is "
        "compared with the same request alone, on the same server, before: pcm, wav and flac sample by sample, the "
        "others, and those with another speed, by duration and loudness over time. "
        "Server and clients are two processes on the same cores. " + describe_machine(tables.environment("cpu"))
    )
    notes = (
        f"{tally.audio_seconds / seconds:.1f} s of audio a second on average, canceled requests not counted; "
        f"{active:.1f} of {BATCH_SIZE} slots taken. Of the {tally.num_compared} answers that were "
        f"compared by samples, {tally.num_identical} are identical; the others differ by 1 LSB. Ended requests "
        "by the server's count, references included: "
        f"{', '.join(f'{name} {number}' for name, number in reasons.items())}. Memory is the median of the samples "
        f"of a minute; the highest single one was {max(each.rss for each in memory) / 2**20:.1f} MiB."
    )
    found = "\n".join(f"- {line}" for line in [*tally.lost, *tally.mixed_up][:20])
    paragraphs = ["# Half an hour of mixed requests" if args.minutes == 30 else "# Soak", wrap(method)]
    paragraphs += ["\n".join(results), wrap(notes), "\n".join(answers), "\n".join(rows), *([found] if found else [])]
    return "\n\n".join(paragraphs) + "\n", is_fine


def main() -> int:
    """Run the soak, and write the page."""
    if sys.argv[1:2] == ["--server"]:
        run_server(*sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="of load (30)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of requests (0)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder (results)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as voices, serve([__file__, "--server", voices]) as served:
        soak = Soak(served, args.seed)
        soak.prepare()
        seconds = [len(each) / body["sample_rate"] for each, body in zip(soak.references, soak.pool, strict=True)]
        print(f"references: {', '.join(f'{each:.1f}' for each in seconds)} s", flush=True)
        begin = time.monotonic()
        asyncio.run(soak.run(60 * args.minutes))
        page, is_fine = write_results(soak, soak.wait_until_free(), args, time.monotonic() - begin)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "serving_soak.md").write_text(page, "utf-8")
    print(page)
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
