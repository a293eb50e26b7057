"""Metrics for Prometheus, in a registry of each app."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Metrics"]

_SECONDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Metrics of a server.

    Args:
        engine (`SpeechEngine`): Read at each scrape: samples in the batch, requests that wait.

    Attributes:
        http_requests: Requests, by method, route and status.
        speech: Ended speech requests, by format and reason of the end.
        first_chunk, duration: Seconds from the request to the first chunk, and to the end.
        audio_seconds, input_tokens, output_frames, retries: Sums over speech requests.
    """

    def __init__(self, engine: Any) -> None:
        self.registry = registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self.http_requests = Counter("dia_http_requests", "Requests", labels, registry=registry)
        self.speech = Counter(
            "dia_speech_requests",
            "Ended speech requests; `disconnected` and `slow_reader` among the reasons",
            ("format", "reason"),
            registry=registry,
        )
        self.first_chunk = Histogram(
            "dia_first_chunk_seconds", "Time to the first chunk", buckets=_SECONDS, registry=registry
        )
        self.duration = Histogram("dia_speech_duration_seconds", "Time to the end", buckets=_SECONDS, registry=registry)
        self.audio_seconds = Counter("dia_audio_seconds", "Seconds of generated audio", registry=registry)
        self.input_tokens = Counter("dia_input_tokens", "Ids of texts", registry=registry)
        self.output_frames = Counter("dia_output_frames", "Generated frames", registry=registry)
        self.retries = Counter("dia_retries", "Implausible results that were generated again", registry=registry)
        for name, about, attribute in (
            ("dia_active_samples", "Samples in the batch", "num_active"),
            ("dia_queued_requests", "Requests that wait for the batch", "num_queued"),
            ("dia_max_batch_size", "Samples that the batch takes", "max_batch_size"),
        ):
            gauge = Gauge(name, about, registry=registry)
            gauge.set_function(lambda attribute=attribute: getattr(engine, attribute))  # type: ignore[misc]

    def record(
        self, handle: Any, format: str, reason: str, duration: float, first_chunk: float | None, seconds: float
    ) -> None:
        """Count a speech request that has ended.

        Args:
            handle (`SpeechHandle`): Its handle.
            format, reason (`str`): Format of the audio, and reason of the end.
            duration (`float`): Seconds that it took.
            first_chunk (`float`, *optional*): Seconds to the first chunk, if there was one.
            seconds (`float`): Seconds of its audio.
        """
        self.speech.labels(format, reason).inc()
        self.duration.observe(duration)
        if first_chunk is not None:
            self.first_chunk.observe(first_chunk)
        self.audio_seconds.inc(seconds)
        self.input_tokens.inc(handle.num_text_ids)
        self.output_frames.inc(handle.num_frames)
        self.retries.inc(handle.num_retries)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
