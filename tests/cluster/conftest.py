"""Clusters on one machine, for root on Linux with Debian's packages; skipped by name where a piece is missing."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from promptcot_mamba.sampling.vllm_server import write_distribution, write_plugin
from tests.cluster.hosts import Hosts, missing_pieces
from tests.cluster.ray_nodes import RayNodes, missing_ray
from tests.cluster.slurm import PROGRAMS, Slurm
from tests.programs.train_helpers import ROOT, make_work

LOCK = Path("/tmp/promptcot-cluster.lock")


@pytest.fixture(scope="package")
def hosts() -> Iterator[Hosts]:
    if "PYTEST_XDIST_WORKER" in os.environ:
        pytest.skip("one cluster a machine: scripts/test.sh --cluster runs these in one process")
    if reason := missing_pieces({"ip": "iproute2"}):
        pytest.skip(reason)
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pytest.skip(f"another run has the cluster ({LOCK})")
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit("SIGTERM"))  # an exit, after which all is removed
        made = Hosts()
        yield made
        made.close()
        signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="package")
def slurm(hosts: Hosts) -> Iterator[Slurm]:
    if reason := missing_pieces(PROGRAMS):
        pytest.skip(reason)
    made = Slurm(hosts)
    yield made
    made.close()


@pytest.fixture(scope="package")
def ray_cluster(hosts: Hosts, tmp_path_factory) -> Iterator[RayNodes]:
    """One for all: a node takes ten seconds to start. What vLLM's servers need of it is nothing to other programs."""
    if reason := missing_ray():
        pytest.skip(reason)
    names = tmp_path_factory.mktemp("names")
    write_distribution(names)
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


@pytest.fixture(scope="package")
def work(tmp_path_factory) -> Path:
    """A tiny checkpoint and its rows, as every training test has them."""
    return make_work(tmp_path_factory.mktemp("cluster"))
