"""Shares of a machine; tests/cluster has the cluster itself."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("ray.serve")

import torch

from dia_hf.serving import local_cluster
from dia_hf.serving.local_cluster import LocalCluster, share_of_machine
from dia_hf.serving.ray import AppArguments


@given(st.integers(1, 50), st.integers(1, 200), st.integers(0, 9))
def test_replicas_fit_on_the_machine(replicas, cores, gpus):
    """Ray waited for ever for cores or GPUs that the machine does not have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_cluster, "cores_of_machine", lambda: cores)
        patch.setattr(torch.cuda, "device_count", lambda: gpus)
        share = share_of_machine(replicas, None)
        assert 0 < round(1000 * share["num_cpus"]) * replicas <= 1000 * cores
        if gpus:
            assert gpus * int(1 / share["num_gpus"] + 1e-9) >= replicas  # a replica is on one GPU
        assert share_of_machine(replicas, "cpu")["num_gpus"] == 0


def test_one_device_for_several_replicas():
    """All replicas shared the GPU of `--device cuda:1`, beside others that were idle."""
    with pytest.raises(ValueError, match=r"`--device cuda:1` names one device.* give cuda,"):
        share_of_machine(2, "cuda:1")


def test_a_port_in_use():
    """Ray was started before it was found that the port is taken, and the error did not name the port."""
    with local_cluster.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"127\.0\.0\.1:{port} cannot be listened on"):
            LocalCluster(AppArguments(), port=port)


def test_the_reason_of_a_replica_that_does_not_start(monkeypatch):
    """The command ended with "Failed to update the deployments", and the reason was somewhere in the log."""
    traceback = "Traceback:\n  File \"x\"\nValueError: there is no voice 'nobody'; there are alloy.\n\n"
    deployments = {"dia": SimpleNamespace(message=f"The deployment failed to start 3 times. Error:\n{traceback}")}

    def run(*_, **__):
        raise RuntimeError("Failed to update the deployments ['dia'].")

    cluster = LocalCluster(AppArguments(), port=0)
    status = SimpleNamespace(applications={"dia": SimpleNamespace(deployments=deployments)})
    monkeypatch.setattr(cluster, "_serve", SimpleNamespace(run=run, status=lambda: status))
    with pytest.raises(ValueError, match=r"cannot be started: ValueError: there is no voice 'nobody'; there are alloy"):
        cluster.deploy(AppArguments())
    deployments.clear()
    with pytest.raises(ValueError, match="cannot be started: Failed to update"):
        cluster.deploy(AppArguments())
