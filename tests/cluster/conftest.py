"""A Ray cluster of two replicas of the miniature on this machine, and clients of it."""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

pytest.importorskip("ray.serve")

import ray
import torch
from ray import serve

from dia_hf import MINIATURE, DiaForConditionalGeneration
from dia_hf.serving.local_cluster import LocalCluster
from dia_hf.serving.ray import AppArguments
from dia_hf.training.lora import attach_lora
from waiting import wait_for

LONG = " ".join(["[S1] It rained all day. [S2] Then we should stay at home."] * 4)
"""A text whose speech takes about a second to generate."""


@pytest.fixture(scope="session")
def adapter(tmp_path_factory):
    """An adapter that changes what the model says."""
    model = attach_lora(DiaForConditionalGeneration.from_pretrained(MINIATURE), {"r": 4})
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    return folder


class Cluster:
    """The cluster, and requests to it."""

    def __init__(self, local, arguments):
        self.local, self.arguments = local, arguments
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{local.port}", timeout=120, limits=httpx.Limits())

    def body(self, **fields):
        return {"input": "[S1] Hello, I am Dia.", "response_format": "pcm", **fields}

    def speak(self, headers=None, **fields):
        return self.http.post("/v1/audio/speech", json=self.body(**fields), headers=headers)

    def stream(self, **fields):
        return self.http.stream("POST", "/v1/audio/speech", json=self.body(**fields))

    def speak_many(self, number, **fields):
        """Send requests at once; return a future of each response."""
        pool = ThreadPoolExecutor(number)
        futures = [pool.submit(self.speak, seed=seed, **fields) for seed in range(number)]
        pool.shutdown(wait=False)
        return futures

    def deploy(self, **changes):
        """Deploy another version, and remember it."""
        self.arguments = self.arguments.model_copy(update=changes)
        self.local.deploy(self.arguments)

    def replicas(self):
        """Return the actors of the replicas by name."""
        names = ray.util.list_named_actors(all_namespaces=True)
        return {
            one["name"]: ray.get_actor(one["name"], namespace=one["namespace"])
            for one in names
            if one["name"].startswith("SERVE_REPLICA")
        }

    def metrics(self):
        """Return the metrics of all replicas: pairs of an id and a text."""
        return serve.get_app_handle("dia").broadcast("own_metrics").results(timeout_s=60)

    def wait_until_healthy(self):
        wait_for(lambda: serve.status().applications["dia"].status == "RUNNING" and len(self.replicas()) == 2)


@pytest.fixture(scope="session")
def _shared(tmp_path_factory, adapter):
    environment = {"PYTHONPATH": os.pathsep.join(_paths()), "RAY_AUTH_MODE": "disabled"}
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="dia") as folder:  # short: sockets
        for name, value in environment.items():
            patch.setenv(name, value)
        arguments = AppArguments(
            max_batch_size=2,
            max_queue=4,
            replicas=2,
            num_cpus=0.5,
            shutdown_timeout=60,
            voices=str(tmp_path_factory.mktemp("voices")),
            adapters={"anna": str(adapter)},
            ui=True,
            deployment={"graceful_shutdown_wait_loop_s": 0.1, "health_check_period_s": 0.5},
        )
        local = LocalCluster(arguments, port=0, temp_dir=folder)
        try:
            local.start()
            yield Cluster(local, arguments)
        finally:
            local.close()


def _paths():
    return [os.path.abspath("src"), *filter(None, [os.environ.get("PYTHONPATH")])]


@pytest.fixture
def cluster(_shared):
    """The cluster with two replicas that are idle."""
    _shared.wait_until_healthy()
    return _shared
