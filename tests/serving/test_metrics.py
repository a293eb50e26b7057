"""Metrics after requests."""

from prometheus_client.parser import text_string_to_metric_families

from serving.fakes import RATE, Script


def values_of(server):
    response = server.http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(response.text)
    samples = (sample for family in families for sample in family.samples)
    return {(one.name, *sorted(one.labels.items())): one.value for one in samples}


def test_counts(serve):
    """A count was missing, doubled, or of another server in the process."""
    server, other = serve(Script(num_retries=2)), serve()
    server.speak(response_format="pcm")
    server.speak(response_format="pcm", stream=False)
    server.speak(input="")
    server.engine.script = Script(error=RuntimeError("NaN"))
    server.speak(stream=False)
    values = values_of(server)
    assert values["dia_speech_requests_total", ("format", "pcm"), ("reason", "stop")] == 2
    assert values["dia_speech_requests_total", ("format", "mp3"), ("reason", "error")] == 1
    assert values["dia_audio_seconds_total",] == 3 * 4 * 5120 / RATE
    assert values["dia_output_frames_total",] == 3 * 40 and values["dia_retries_total",] == 4
    assert values["dia_first_chunk_seconds_count",] == values["dia_speech_duration_seconds_count",] == 3
    assert values["dia_active_samples",] == 0 and values["dia_max_batch_size",] == 8
    statuses = {dict(key[1:])["status"]: value for key, value in values.items() if key[0] == "dia_http_requests_total"}
    assert statuses == {"200": 2, "400": 1, "500": 1}
    assert not any(key[0] == "dia_speech_requests_total" for key in values_of(other))


def test_labels_are_bounded(serve):
    """Each path and method that a client invents made a series, until the memory was full."""
    server = serve()
    for number in range(20):
        server.http.request(f"M{number}", f"/path-{number}")
        server.http.get(f"/v1/models/{number}")
    keys = [key for key in values_of(server) if key[0] == "dia_http_requests_total"]
    assert len(keys) == 2
    assert {dict(key[1:])["method"] for key in keys} == {"other", "GET"}
