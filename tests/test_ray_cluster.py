"""Shares of a Ray cluster; `tests/cluster` runs on one."""

from types import SimpleNamespace

import pytest

from dia_hf.ray_cluster import resources_of


def cluster_of(*nodes):
    """Return the part of Ray that tells of machines, each given as its CPUs and GPUs."""
    known = [{"Alive": True, "Resources": {"CPU": float(cpus), "GPU": float(gpus)}} for cpus, gpus in nodes]
    return SimpleNamespace(nodes=lambda: [*known, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}])


@pytest.mark.parametrize(
    ("nodes", "num_actors", "device", "expected"),
    [
        ([(16, 2), (16, 2)], None, None, (4, {"num_cpus": 1, "num_gpus": 1})),
        ([(16, 2)], 1, "cuda", (1, {"num_cpus": 1, "num_gpus": 1})),
        ([(16, 2)], 2, "cpu", (2, {"num_cpus": 8})),
        ([(8, 0)], None, None, (1, {"num_cpus": 8})),
        ([(8, 0)], 3, None, (3, {"num_cpus": 2})),
        ([(4, 0), (4, 0)], None, None, (1, {"num_cpus": 4})),
        ([(4, 0), (2, 0)], 2, None, (2, {"num_cpus": 2})),
    ],
)
def test_each_actor_has_a_share_that_one_machine_has(nodes, num_actors, device, expected):
    """An actor asked for the cores of two machines, and waited for them without end."""
    assert resources_of(cluster_of(*nodes), num_actors, device) == expected


def test_a_cluster_that_is_too_small():
    """More actors than GPUs shared them, and ran out of memory."""
    with pytest.raises(ValueError, match="`num_actors` is 3, and the cluster has 2 GPUs; give at most as many"):
        resources_of(cluster_of((16, 2)), 3, None)
    with pytest.raises(ValueError, match="`num_actors` is 9, and the cluster has 8 CPUs"):
        resources_of(cluster_of((8, 0)), 9, None)
