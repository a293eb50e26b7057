"""Metrics of several replicas."""

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client.parser import text_string_to_metric_families

from dia_hf.serving.metrics import Metrics
from dia_hf.serving.replica_metrics import merge_metrics
from serving.fakes import FakeEngine


def test_each_series_names_its_replica():
    """Series of two replicas were one, or their names and types were lost."""
    texts = {}
    for name, number in (("a", 1), ("b", 2)):
        metrics = Metrics(FakeEngine())
        metrics.retries.inc(number)
        metrics.first_chunk.observe(number)
        texts[name] = metrics.text().decode()
    families = {one.name: one for one in text_string_to_metric_families(merge_metrics(texts).decode())}
    alone = {one.name: one for one in text_string_to_metric_families(texts["a"])}
    assert {name: one.type for name, one in families.items()} == {name: one.type for name, one in alone.items()}
    retries = {one.labels["replica"]: one.value for one in families["dia_retries"].samples if one.name[-5:] == "total"}
    assert retries == {"a": 1, "b": 2}
    assert len(families["dia_first_chunk_seconds"].samples) == 2 * len(alone["dia_first_chunk_seconds"].samples)
