"""A Ray cluster of two nodes for the tests of this folder, which goes with the last of them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from promptcot_mamba.sampling.vllm_server import write_plugin
from tests.cluster.hosts import Hosts
from tests.cluster.ray.nodes import RayNodes, missing_ray
from tests.programs.train_helpers import ROOT


@pytest.fixture(scope="package")
def ray_cluster(hosts: Hosts, tmp_path_factory) -> Iterator[RayNodes]:
    """One for all: a node takes ten seconds to start. What vLLM's servers need of it is nothing to other programs."""
    if reason := missing_ray():
        pytest.skip(reason)
    names = tmp_path_factory.mktemp("names")
    write_plugin(names)
    path = os.pathsep.join([str(names), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {"PYTHONPATH": path, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    made = RayNodes(hosts, {**own, "VLLM_NO_USAGE_STATS": "1"})
    yield made
    made.close()


@pytest.fixture
def ray_nodes(ray_cluster: RayNodes) -> RayNodes:
    """Two nodes, whatever the last test took away."""
    ray_cluster.make_whole()
    return ray_cluster
