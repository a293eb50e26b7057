"""Replicas under Ray Serve: the promises of the single server, and those that need several."""

import json
import re
import socket
import threading
from contextlib import ExitStack

import httpx
import pytest
import ray

from cluster.conftest import LONG
from dia_hf import Dia
from dia_hf.serving import Server, ServerStatus, create_app
from dia_hf.serving.voices import ServedVoices
from dia_hf.speech.engine import SpeechEngine
from waiting import wait_for


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The address of a server without Ray."""
    dia = Dia.from_pretrained()
    engine, status = SpeechEngine(dia, 2), ServerStatus()
    app = create_app(engine, ServedVoices(dia, tmp_path_factory.mktemp("voices")), status=status)
    server = Server(app, engine, status, port=0)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.stop()
    thread.join(60)


def total(cluster, name):
    """Return the sum of a metric over replicas and labels."""
    return sum(
        float(value) for _, text in cluster.metrics() for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M)
    )


def are_all_active(cluster):
    """Whether each replica generates speech now."""
    texts = [text for _, text in cluster.metrics()]
    return len(texts) == 2 and all(re.search(r"^dia_active_samples [1-9]", text, re.M) for text in texts)


@pytest.mark.parametrize("form", ["pcm", "wav", "mp3"])
def test_the_same_bytes(cluster, single, form):
    """A replica encoded or generated otherwise than the server without Ray."""
    body = cluster.body(seed=7, response_format=form, stream=False)
    alone = httpx.post(f"{single}/v1/audio/speech", json=body, timeout=60)
    there = [cluster.speak(seed=7, response_format=form, stream=False) for _ in range(4)]
    assert {one.content for one in there} == {alone.content}
    assert there[0].headers["content-type"] == alone.headers["content-type"]
    assert there[0].headers["x-output-tokens"] == alone.headers["x-output-tokens"]


def test_headers(cluster):
    """The proxy added a second request id, so that clients read "id, id"."""
    response = cluster.speak(headers={"x-request-id": "mine.1"}, seed=1)
    assert response.headers.get_list("x-request-id") == ["mine.1"]
    assert len(cluster.speak(seed=1).headers.get_list("x-request-id")) == 1


def test_a_stream_comes_in_pieces(cluster):
    """A proxy collected a stream, and sent it as a whole."""
    with cluster.stream(input=LONG, seed=1) as response:
        pieces = [len(piece) for piece in response.iter_raw()]
    assert len(pieces) > 5 and pieces[0] < sum(pieces) / 10


def test_times_of_words(cluster, single):
    """Replicas or adapters had no times of words, others than the server without Ray, or sent them at the end."""
    fields = {"seed": 7, "stream_format": "sse", "word_timestamps": True}

    def words_of(response):
        events = [json.loads(line.removeprefix("data: ")) for line in response.text.splitlines() if line]
        return [word for event in events for word in event.get("words", [])]

    alone = words_of(httpx.post(f"{single}/v1/audio/speech", json=cluster.body(**fields), timeout=60))
    assert [word["word"] for word in alone] == ["Hello,", "I", "am", "Dia."]
    assert [words_of(cluster.speak(**fields)) for _ in range(4)] == [alone] * 4
    assert words_of(cluster.speak(**fields, model="anna"))
    with cluster.http.stream("POST", "/dev/captioned_speech", json=cluster.body(input=LONG, seed=1)) as response:
        lines = [json.loads(line) for line in response.iter_lines()]
    assert len(lines) > 5 and sum(bool(line["timestamps"]) for line in lines) > 5


def test_errors(cluster):
    """An error of the application lost its JSON on the way through the proxy."""
    response = cluster.speak(input="")
    assert response.status_code == 400 and response.json()["error"]["param"] == "input"
    assert cluster.http.get("/v1/nonesuch").json()["error"]["message"].startswith("there is no such route")
    assert cluster.http.get("/-/healthz").text == "success"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_frees_its_place(cluster, stream):
    """A request whose client had gone was generated to its end, in a place that others waited for."""
    # Serve cancels the request, and tells it that the client has gone; either may come first.
    ended = r'dia_speech_requests_total{.*reason="(?:disconnected|canceled)".*}'
    before = total(cluster, ended)
    with socket.create_connection(("127.0.0.1", cluster.local.port), timeout=60) as connection:
        body = json.dumps(cluster.body(input=LONG * 4, stream=stream)).encode()
        head = f"POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        wait_for(lambda: total(cluster, "dia_active_samples") == 1)
    wait_for(lambda: total(cluster, ended) > before)
    wait_for(lambda: total(cluster, "dia_active_samples") == 0)


def test_a_voice_of_one_replica_is_that_of_all(cluster, tmp_path):
    """A voice was known to the replica only that had taken the upload."""
    speech = cluster.speak(input=LONG[:73], seed=3, response_format="wav", stream=False).content
    files = {"audio_sample": ("voice.wav", speech, "audio/wav")}
    answer = cluster.http.post("/v1/audio/voices", data={"name": "ben", "transcript": LONG[:73]}, files=files)
    assert answer.status_code == 200, answer.text
    # Four at once, as the queue takes them: a request counts as queued until a replica has been chosen.
    spoken = [future.result() for _ in "12" for future in cluster.speak_many(4, voice="ben")]
    assert [one.status_code for one in spoken] == [200] * 8
    cluster.http.delete(f"/v1/audio/voices/{answer.json()['id']}")
    assert {cluster.speak(voice="ben").status_code for _ in range(6)} == {400}


def test_adapters(cluster):
    """A request that named an adapter was spoken by the base model, or only with Serve's header."""
    assert "anna" in [model["id"] for model in cluster.http.get("/v1/models").json()["data"]]
    base = cluster.speak(seed=5, model="nobody").content
    header = {"serve_multiplexed_model_id": "anna"}
    adapted = {cluster.speak(seed=5, model="anna", headers=headers).content for headers in (None, header) for _ in "12"}
    assert len(adapted) == 1 and base not in adapted


def test_the_page(cluster):
    """Replicas had no page, or one whose files only one of them had."""
    page = cluster.http.get("/ui/")
    assert page.status_code == 200
    files = set(re.findall(r'(?:src|href)="\./((?:assets|static)/[^"]+)"', page.text))
    assert files
    assert {cluster.http.get(f"/ui/{name}").status_code for name in files for _ in range(4)} == {200}


def test_metrics(cluster):
    """Each scrape showed another replica, so that counters went up and down."""
    cluster.speak(seed=1)
    answer = cluster.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    for name in ("dia_max_batch_size", "dia_http_requests_total"):
        found = set(re.findall(rf'^{name}{{.*?replica="(\w+)".*}} \d', answer.text, re.M))
        assert found and found <= {replica for replica, _ in cluster.metrics()}
    assert len(re.findall("^dia_max_batch_size", answer.text, re.M)) == 2


def test_a_full_queue(cluster):
    """A proxy answered a full queue with plain text, or with 503, or let requests wait without a bound."""
    responses = [future.result() for future in cluster.speak_many(40, input=LONG[:300])]
    refused = [one for one in responses if one.status_code != 200]
    assert refused and len(refused) < 40
    for response in refused:
        assert response.status_code == 429 and response.headers["retry-after"] == "1"
        assert response.json()["error"]["code"] == "queue_full"


@pytest.mark.parametrize("fields", [{}, {"stream_format": "sse"}])
def test_a_replica_that_dies_takes_only_its_own_requests(cluster, fields):
    """A killed replica ended all requests, or its streams looked complete, or the next requests failed."""
    with ExitStack() as stack:
        parts, received = [], []
        while not (parts and are_all_active(cluster)):
            assert len(parts) < 8
            response = stack.enter_context(cluster.stream(input=LONG * 4, seed=len(parts), **fields))
            parts.append(response.iter_raw())
            received.append(next(parts[-1]))
        ray.kill(next(iter(cluster.replicas().values())), no_restart=True)
        complete = []
        for place, part in enumerate(parts):
            try:
                received[place] += b"".join(part)
                complete.append(place)
            except httpx.RemoteProtocolError:
                pass
    assert 0 < len(complete) < len(parts)
    assert {cluster.speak(seed=seed).status_code for seed in range(10)} == {200}


def test_a_request_without_an_answer_yet_is_told(cluster):
    """A client whose replica died before the first byte got plain text, or an empty answer."""
    futures = cluster.speak_many(4, input=LONG * 2, stream=False)
    wait_for(lambda: are_all_active(cluster))
    ray.kill(next(iter(cluster.replicas().values())), no_restart=True)
    responses = [future.result() for future in futures]
    lost = [one for one in responses if one.status_code != 200]
    assert 0 < len(lost) < 4
    for response in lost:
        assert response.status_code == 503 and response.headers["retry-after"]
        assert response.json()["error"]["code"] == "replica_lost"


def repeat_requests(cluster, statuses, is_over):
    while not is_over.is_set():
        statuses.append(cluster.speak().status_code)


def test_a_rolling_update_loses_no_request(cluster):
    """Requests failed while replicas were replaced by those of another version."""
    statuses, is_over = [], threading.Event()
    threads = [threading.Thread(target=repeat_requests, args=(cluster, statuses, is_over)) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        before = set(cluster.replicas())
        cluster.deploy(max_input=5000)
        wait_for(lambda: not before & set(cluster.replicas()))
    finally:
        is_over.set()
        for thread in threads:
            thread.join(60)
    assert set(statuses) == {200} and len(statuses) > 20
    assert "5,000" in cluster.speak(input="[S1] Hello. " * 500).json()["error"]["message"]


def test_scaling_to_zero_and_back(cluster):
    """An idle application kept its replicas, or a request to it failed instead of starting one."""
    before = cluster.arguments
    scaling = {
        "min_replicas": 0,
        "max_replicas": 2,
        "initial_replicas": 1,
        "upscale_delay_s": 0,
        "downscale_delay_s": 0.5,
        "downscale_to_zero_delay_s": 0.5,
        "look_back_period_s": 1,
        "metrics_interval_s": 0.2,
    }
    try:
        cluster.deploy(deployment={**before.deployment, "autoscaling_config": scaling})
        wait_for(lambda: not cluster.replicas())
        assert cluster.speak().status_code == 200
        assert cluster.replicas()
    finally:
        cluster.deploy(**dict(before))
