"""The published line on the production engine: killed, on two servers of which one dies, on two replicas.

Every road must end in the same samples, which is what makes placement a free choice.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from promptcot_mamba.run_info import side_path
from promptcot_mamba.sampling.vllm_engine import EngineSettings, engine_arguments
from promptcot_mamba.sampling.vllm_server import VllmServer
from tests.sampling.conftest import ROOT, comparable, write_problems
from tests.tiny import make_checkpoint

pytestmark = pytest.mark.slow
pytest.importorskip("vllm")
N = 8


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "tiny-mamba2")


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_problems(tmp_path_factory.mktemp("data") / "problems.jsonl", 6)


def command(problems: Path, output: Path, checkpoint: Path, *more: str) -> list[str]:
    """The published line, and `more`."""
    line = (
        f"--data_path {problems} --output_path {output} --model_path {checkpoint} --n_gpus 1 --temperature 0.8 "
        f"--repetition_penalty 1.1 --max_len 65536 --n {N} --max_retries 1 --use_mamba2 True"
    )
    return [sys.executable, "infer_longcot.py", *line.split(), *more]


def start(*arguments: object) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command(*arguments), cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> str:
    """Wait for a run to end well; return what it said."""
    said = process.communicate(timeout=500)[1]
    assert process.returncode == 0, said[-3000:]
    return said


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.fixture(scope="module")
def whole(problems: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """The samples of an uninterrupted run in one process."""
    output = tmp_path_factory.mktemp("whole") / "x.jsonl"
    finish(start(problems, output, checkpoint))
    rows = comparable(output)
    assert [(row["run"], row["idx"]) for row in rows] == [(run, index) for run in range(N) for index in range(6)]
    assert len({row["completion"] for row in rows}) == len(rows)
    return rows


def test_two_kills_change_nothing(problems: Path, checkpoint: Path, tmp_path: Path, whole: list[dict]):
    output = tmp_path / "x.jsonl"
    for share in (0.2, 0.6):
        process = start(problems, output, checkpoint, "--max_num_seqs", "6")
        while process.poll() is None and lines(output) < share * len(whole):
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert share * len(whole) <= lines(output) < len(whole)
    finish(start(problems, output, checkpoint))
    assert comparable(output) == whole
    assert lines(side_path(output, "attempts.jsonl")) == len(whole)


@pytest.fixture
def servers(checkpoint: Path, tmp_path: Path) -> Iterator[list[VllmServer]]:
    """Two real servers of the same checkpoint."""
    settings = EngineSettings(str(checkpoint), "float32", "float32", 69632, 8, on_cpu=True, cache_bytes=32 << 20)
    arguments = engine_arguments(settings, is_mamba2=True)
    both = [VllmServer(arguments, 1, tmp_path / f"server{index}.log", on_cpu=True) for index in range(2)]
    try:
        for server in both:
            server.start()
        yield both
    finally:
        for server in both:
            server.stop()


def test_one_of_two_servers_dies(problems, checkpoint, tmp_path: Path, servers: list[VllmServer], whole: list[dict]):
    output = tmp_path / "x.jsonl"
    urls = [server.base_url for server in servers]
    process = start(problems, output, checkpoint, "--base_url", *urls, "--concurrency", "4")
    while process.poll() is None and lines(output) < len(whole) // 4:
        time.sleep(0.005)
    servers[0].kill()
    said = finish(process)
    assert "asked again in" in said  # it was noticed
    assert comparable(output) == whole
    assert lines(side_path(output, "attempts.jsonl")) == len(whole)


def test_two_replicas(problems: Path, checkpoint: Path, tmp_path: Path, whole: list[dict]):
    output = tmp_path / "x.jsonl"
    said = finish(start(problems, output, checkpoint, "--n_gpus", "2", "--max_num_seqs", "8"))
    assert "vllm serve ready" in said
    assert comparable(output) == whole
    log = side_path(output, "server.log").read_text(encoding="utf-8")
    assert len(set(re.findall(r"EngineCore_DP\d", log))) == 2
    assert json.loads(side_path(output, "run.json").read_text())["complete"]
    time.sleep(1.0)
    left = subprocess.run(["pgrep", "-f", str(checkpoint)], capture_output=True, text=True).stdout.split()
    assert left == []  # nothing of the server outlives the run


def test_one_model_over_two_cores(problems: Path, checkpoint: Path, tmp_path: Path, whole: list[dict]):
    output = tmp_path / "x.jsonl"
    finish(start(problems, output, checkpoint, "--n_gpus", "2", "--tensor_parallel_size", "2"))
    assert comparable(output) == whole
