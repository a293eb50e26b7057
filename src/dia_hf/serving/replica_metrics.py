"""Metrics of several replicas as one text for Prometheus, each series with the label `replica`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

__all__ = ["merge_metrics"]


class _Merged(Collector):
    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for replica, text in self.texts.items():
            for family in text_string_to_metric_families(text):
                merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    merged.add_sample(sample.name, {"replica": replica, **sample.labels}, sample.value)
        yield from families.values()


def merge_metrics(texts: Mapping[str, str]) -> bytes:
    """Merge metrics.

    Args:
        texts (`Mapping[str, str]`): Name of a replica to its metrics in Prometheus' text format.

    Returns:
        `bytes`: All of them in this format.
    """
    registry = CollectorRegistry()
    registry.register(_Merged(texts))
    return generate_latest(registry)
