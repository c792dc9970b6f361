"""Shared by the sampling tests: fake servers as child processes, problem files, a tiny checkpoint."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from tests.tiny import make_checkpoint

ROOT = Path(__file__).resolve().parents[2]


class ServerProcess:
    """A fake server in a child process; `url` is its base URL."""

    def __init__(self, module: str, **options: object):
        flags = [f"--{name}={value}" for name, value in options.items()]
        command = [sys.executable, "-m", module, *flags]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def started_servers(module: str) -> Iterator[Callable[..., ServerProcess]]:
    """The body of a fixture: yields a function that starts servers, and kills them all."""
    started: list[ServerProcess] = []

    def start(**options: object) -> ServerProcess:
        started.append(ServerProcess(module, **options))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture
def start_server() -> Iterator[Callable[..., ServerProcess]]:
    """Start fake servers; all are killed at the end of the test."""
    yield from started_servers("tests.sampling.fake_server")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "tiny-mamba2")


def write_problems(path: Path, count: int) -> Path:
    rows = [
        {"idx": i, "source": "made", "prompt": f"Find {i} + {i}.\n<think>\n", "answer": 2 * i} for i in range(count)
    ]
    write_jsonl(path, rows)
    return path


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def kill_when_grown(run: Callable[[], object], path: Path, by: int) -> None:
    """Call a function in a forked process, and `kill -9` that as soon as a file has grown by so many bytes: how fast
    the machine is does not matter."""
    process = multiprocessing.get_context("fork").Process(target=run)
    target = size(path) + by
    process.start()
    while process.is_alive() and size(path) < target:
        time.sleep(0.0005)
    process.kill()
    process.join()


def run_program(*flags: object, module: str = "infer_longcot", check: bool = False, **environment: str):
    """`python -m <module> flags...` as a child process, to its end."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, flags)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=check,
    )


def comparable(path: Path) -> list[dict]:
    """The rows of a prediction file without the one field that depends on the clock."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in read_jsonl(path)]
