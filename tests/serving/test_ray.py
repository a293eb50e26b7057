"""The application and a replica, without a cluster; tests/cluster has what needs one."""

import asyncio
import inspect

import httpx
import pytest

pytest.importorskip("ray.serve")

from pydantic import ValidationError
from ray.serve import Application

from dia_hf import MINIATURE
from dia_hf.serving.ray import DEPLOYMENT, AppArguments, SpeechReplica, app


def test_serve_reads_the_arguments():
    """Serve passed a dict where the annotation of the builder was a string, and no argument was checked."""
    (parameter,) = inspect.signature(app).parameters.values()
    assert parameter.annotation is AppArguments


def test_arguments_of_the_command_line():
    """`serve run dia_hf.serving.ray:app max_batch_size=4` gives texts."""
    arguments = AppArguments.model_validate({"max_batch_size": "4", "num_gpus": "0.5", "open_metrics": "true"})
    assert arguments.max_batch_size == 4 and arguments.num_gpus == 0.5 and arguments.open_metrics is True


@pytest.mark.parametrize(
    ("field", "value"),
    [("batch_size", 4), ("max_batch_size", 0), ("replicas", 0), ("max_seconds", -1), ("num_cpus", 0)],
)
def test_wrong_arguments(field, value):
    """A misspelled argument had no effect."""
    with pytest.raises(ValidationError, match=field):
        AppArguments.model_validate({field: value})


def test_keys_are_not_shown():
    """The keys were in the text of the arguments, which logs and errors repeat."""
    assert "secret" not in repr(AppArguments(api_keys=["secret"]))


def test_defaults_of_the_deployment():
    """Serve's default of five requests a replica would leave most of the batch empty."""
    options = AppArguments(max_batch_size=16, replicas=3).deployment_options()
    assert options["max_ongoing_requests"] > 16 and options["max_queued_requests"] == 64
    assert options["num_replicas"] == 3
    scaled = {"autoscaling_config": {"min_replicas": 0, "max_replicas": 4}, "max_ongoing_requests": 99}
    options = AppArguments(max_batch_size=10, deployment=scaled).deployment_options()
    assert options["autoscaling_config"] == {"min_replicas": 0, "max_replicas": 4, "target_ongoing_requests": 6}
    assert "num_replicas" not in options and options["max_ongoing_requests"] == 99


@pytest.mark.parametrize("adapters", [{}, {"anna": "/nonesuch"}])
def test_the_application(adapters):
    """An option was unknown to Serve, which is found only when the application is built."""
    built = app(AppArguments(adapters=adapters, deployment={"max_replicas_per_node": 1}))
    assert isinstance(built, Application) and built._bound_deployment.name == DEPLOYMENT


@pytest.fixture(scope="module")
def replica(tmp_path_factory):
    made = SpeechReplica(
        AppArguments(model=MINIATURE, max_batch_size=1, voices=str(tmp_path_factory.mktemp("voices")), warmup=False)
    )
    yield made
    made.engine.close(0)


def test_a_replica_speaks(replica):
    """A replica had other routes than the server without Ray."""
    asgi = replica.__serve_build_asgi_app__()

    async def speak():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(asgi), base_url="http://replica") as client:
            body = {"input": "Hello.", "response_format": "wav", "max_seconds": 0.3}
            timed = {**body, "stream_format": "sse", "word_timestamps": True, "max_seconds": 2}
            return [
                await client.post("/v1/audio/speech", json=body),
                await client.get("/v1/models"),
                await client.post("/v1/audio/speech", json=timed),
            ]

    speech, models, timed = asyncio.run(speak())
    assert '"word": "Hello."' in timed.text
    assert speech.status_code == 200 and speech.content[:4] == b"RIFF"
    assert models.json()["data"][0]["id"] == "miniature"


def test_health(tmp_path):
    """A replica whose engine had ended took requests that were never answered."""
    made = SpeechReplica(AppArguments(max_batch_size=1, voices=str(tmp_path), warmup=False))
    asyncio.run(made.check_health())
    made.engine.close(0)
    with pytest.raises(RuntimeError, match="thread of the engine"):
        asyncio.run(made.check_health())
