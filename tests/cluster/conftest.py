"""Clusters on one machine, for root on Linux with Debian's packages; skipped by name where a piece is missing."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import Hosts, missing_pieces
from tests.cluster.slurm import PROGRAMS, Slurm
from tests.programs.train_helpers import make_work

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
def work(tmp_path_factory) -> Path:
    """A tiny checkpoint and its rows, as every training test has them."""
    return make_work(tmp_path_factory.mktemp("cluster"))
