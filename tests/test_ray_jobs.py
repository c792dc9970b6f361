"""Jobs on a Ray cluster, without ray: which are sent, done again, given up, and what is said in one line.

tests/cluster/ray/test_jobs.py does the same on two real nodes.
"""

from __future__ import annotations

import errno
import operator
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptcot_mamba import ray_jobs
from promptcot_mamba.benchmarks import get_benchmark
from promptcot_mamba.benchmarks.code_scoring import CodeOptions, run_code
from promptcot_mamba.data.workers import do_all
from promptcot_mamba.errors import EXIT_LOST, InputError
from promptcot_mamba.ray_jobs import LOST_MOST, RayCluster
from tests.fake_ray import RayTaskError, install
from tests.grading.lcb_files import make_folder, read


def square() -> partial:
    return partial(pow, exp=2)


def divide() -> object:
    return operator.floordiv


@given(lose=st.lists(st.integers(0, LOST_MOST), max_size=30), most=st.integers(1, 9))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_job_is_done_whatever_is_lost(monkeypatch, lose: list[int], most: int):
    with monkeypatch.context() as patch:
        ray = install(patch, lose=list(lose))
        patch.setattr(ray_jobs, "describe_node", lambda _: [])  # takes longer than all jobs
        cluster = RayCluster("auto", most)
        asked = ray.sent
        got = list(cluster.results(square, ((n, (n,)) for n in range(len(lose)))))
        assert sorted(got) == [(n, n * n) for n in range(len(lose))]
        assert ray.sent - asked == len(lose) + sum(lose)
        assert ray.most <= max(most, 2)  # 2: the nodes, asked at the start
        assert ray.cancelled == []


def test_a_job_that_ends_one_worker_after_another_is_given_up(monkeypatch):
    ray = install(monkeypatch, lose=[0, LOST_MOST + 1])
    cluster = RayCluster("auto")
    with pytest.raises(
        InputError, match=r"^--ray_address auto: a job lost 4 workers \(out of memory\?\): The node died\.$"
    ):
        list(cluster.results(square, ((n, (n,)) for n in range(20))))
    assert ray.cancelled  # what was under way


def test_what_a_job_raises_travels(monkeypatch):
    install(monkeypatch)
    cluster = RayCluster("auto")
    with pytest.raises(ZeroDivisionError) as caught:
        list(cluster.results(divide, ((n, (n, 0)) for n in range(3))))
    assert isinstance(caught.value.__cause__, RayTaskError)  # whose text is the worker's traceback


def full_disk() -> object:
    def job(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    return job


def test_workers_of_a_cluster_give_results_in_order_and_say_a_full_disk(monkeypatch):
    install(monkeypatch, lose=[1])
    cluster = RayCluster("auto")
    assert do_all(square, [(n,) for n in range(9)], 1, "squares", cluster) == [n * n for n in range(9)]
    with pytest.raises(InputError, match=r"^squares: the disk is full"):
        do_all(full_disk, [(0,)], 1, "squares", cluster)


def test_no_node_left_is_one_line(monkeypatch):
    ray = install(monkeypatch)
    cluster = RayCluster("auto")
    monkeypatch.setattr(ray, "wait", lambda refs, **_: ([], refs))
    monkeypatch.setattr(ray, "_nodes", [{**node, "Alive": False} for node in ray.nodes()])
    with pytest.raises(InputError, match="no node with a CPU is left"):
        list(cluster.results(square, [(0, (0,))]))


LOST_HEAD = """
import socket, sys, time
from promptcot_mamba import ray_jobs
from tests.fake_ray import FakeRay
with socket.create_server(("127.0.0.1", 0)) as head:
    address = "127.0.0.1:%d" % head.getsockname()[1]
    sys.modules["ray"] = FakeRay(head=address)
    ray_jobs.HEAD_ASKED_SECONDS, ray_jobs.HEAD_LOST_SECONDS = 0.2, 1.0
    cluster = ray_jobs.RayCluster("auto")
    time.sleep(1.5)
    print("heard", address, flush=True)
if sys.argv[1] == "closed":
    cluster.close()
    time.sleep(1.5)
    sys.exit("closed")
time.sleep(600)
"""


def test_a_lost_head_ends_the_program_in_one_line():
    """While it listens nothing happens, though the program does nothing; nor once the cluster was closed."""
    for how, status in (("open", EXIT_LOST), ("closed", 1)):
        done = subprocess.run(
            [sys.executable, "-c", LOST_HEAD, how], cwd=ray_jobs.ROOT, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == status, done.stderr
        told, address = done.stdout.split()
        assert told == "heard"
        [line] = done.stderr.splitlines()[-1:]
        if how == "closed":
            assert line == "closed"
            assert "error" not in done.stderr
            continue
        assert line.startswith(f"error: --ray_address auto: its head at {address} has not answered for ")
        assert line.endswith("; start the cluster and the same command again, which goes on from what is done")


def test_a_node_of_another_version_is_one_line_and_the_connection_is_closed(monkeypatch):
    ray = install(monkeypatch)
    here = ray_jobs.describe_node(ray_jobs.PACKAGES)
    theirs = [line.replace("this repository\t", "this repository\tx") for line in here]
    answers = iter([here, theirs])
    monkeypatch.setattr(ray_jobs, "describe_node", lambda _: next(answers))
    with pytest.raises(InputError, match=r"^--ray_address auto: .*: this repository is x.*; copy it from there$"):
        RayCluster("auto")
    assert not ray.open


def test_a_node_that_joins_later_is_looked_at_too(monkeypatch):
    install(monkeypatch)
    cluster = RayCluster("auto")
    monkeypatch.setattr(ray_jobs, "describe_node", lambda _: [f"{socket.gethostname()}\tnumpy\t1.0"])
    with pytest.raises(InputError, match=r": numpy is 1\.0, on "):
        list(cluster.results(square, [(0, (0,))]))


def test_files_and_folders_must_be_seen(monkeypatch, tmp_path: Path):
    install(monkeypatch)
    cluster = RayCluster("auto")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    cluster.share({"--output_dir": tmp_path / "out"}, [tmp_path / "rows.jsonl"])
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]  # the token is gone
    found = ray_jobs._find_fault([], None, files=[(str(tmp_path / "rows.jsonl"), 4)])
    assert found.endswith("all nodes must read the same files")
    found = ray_jobs._find_fault([], None, files=[(str(tmp_path / "none.jsonl"), 3)])
    assert found.startswith(f"{tmp_path}/none.jsonl: {socket.gethostname()} does not see it")


@pytest.mark.parametrize("address", ["node-a", "node-a:", ":6379", "ray://node-a:10001", "node-a:port", ""])
def test_no_address_is_one_line(address: str):
    with pytest.raises(InputError, match=r"^--ray_address .*: expected HOST:PORT of ray start --head, or auto$"):
        ray_jobs._check_address(address)


def test_nobody_at_an_address_is_one_line():
    with socket.socket() as taken:  # bound, not listening: refused
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(InputError, match=r": cannot be reached \(.*\); is ray start --head running\?$"):
            ray_jobs._check_address(f"127.0.0.1:{taken.getsockname()[1]}")
    with pytest.raises(InputError, match="cannot be reached"):
        ray_jobs._check_address("127.0.0.1:99999")


def test_grading_on_a_cluster_gives_the_verdicts_of_one_machine(monkeypatch, tmp_path: Path):
    folder = make_folder(tmp_path)
    options = {"tests_dir": str(folder / "tests"), "workers": 1}
    found = []
    for address in (None, "auto"):
        install(monkeypatch)
        run_code(str(folder / "p.jsonl"), get_benchmark("livecodebench"), CodeOptions(**options, ray_address=address))
        found.append(
            [(row["problem_id"], row["run"], row["reason"], row["key"]) for row in read(folder / "p.grades.jsonl")]
        )
    assert found[0] == found[1]
    assert {reason for *_, reason, _ in found[1]} == {"right", "wrong_answer"}


def test_a_missing_ray_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    with pytest.raises(InputError, match=r"^--ray_address auto: needs ray on every node; pip install ray$"):
        RayCluster("auto")
