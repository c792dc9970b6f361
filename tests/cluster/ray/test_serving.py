"""`vllm serve --data-parallel-backend ray` on two Ray nodes: an engine on each, sampled through one --base_url.

vLLM's CPU build names no resource of Ray that it runs on (`ray_device_key`), so as it is it stops before it starts an
engine. A plugin of one line, which lives here, names CPUs; everything else is vLLM's own.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from promptcot_mamba.sampling.vllm_engine import EngineSettings, engine_arguments
from promptcot_mamba.sampling.vllm_server import serve_flags
from tests.cluster.hosts import ADDRESSES, HOSTS, WAIT_SECONDS
from tests.cluster.ray.nodes import ADDRESS, RayNodes
from tests.programs.train_helpers import ROOT
from tests.sampling.conftest import comparable, write_problems
from tests.tiny import make_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
URL = f"http://{HOSTS[0]}:8000"
ASK = f"import sys, urllib.request; print(urllib.request.urlopen('{URL}' + sys.argv[1], timeout=10).read().decode())"
CPUS_FOR_RAY = """
def use():
    from vllm.platforms import current_platform
    type(current_platform).ray_device_key = "CPU"
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "tiny-mamba2")


@pytest.fixture(scope="module")
def plugin(tmp_path_factory) -> Path:
    """A folder for PYTHONPATH with the plugin and what makes vLLM find it."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "cpus_for_ray.py").write_text(CPUS_FOR_RAY)
    info = folder / "cpus_for_ray-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cpus-for-ray\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[vllm.general_plugins]\ncpus_for_ray = cpus_for_ray:use\n")
    return folder


@contextmanager
def serve(nodes: RayNodes, checkpoint: Path, log: Path, *flags: str, **environment: str) -> Iterator[subprocess.Popen]:
    """`vllm serve` on the first node, one engine on each."""
    settings = EngineSettings(str(checkpoint), "float32", "float32", 69632, 8, on_cpu=True, cache_bytes=32 << 20)
    place = ["--data-parallel-size=2", "--data-parallel-size-local=1", f"--data-parallel-address={ADDRESSES[HOSTS[0]]}"]
    words = [*serve_flags(engine_arguments(settings, is_mamba2=True)), *place, "--data-parallel-backend=ray", *flags]
    environment = {**nodes.environment, "RAY_ADDRESS": ADDRESS, "VLLM_HOST_IP": ADDRESSES[HOSTS[0]], **environment}
    command = nodes.command(sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", *words, "--host=0.0.0.0")
    with log.open("w") as out:
        server = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=out, stderr=out)
    try:
        yield server
    finally:
        server.kill()
        server.wait()


def test_two_nodes_serve_the_samples_of_one_engine(ray_nodes: RayNodes, checkpoint: Path, plugin: Path, tmp_path: Path):
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("needs vllm")
    data = write_problems(tmp_path / "problems.jsonl", 6)
    line = f"--data_path {data} --model_path {checkpoint} --temperature 0.8 --max_len 65536 --n 4 --use_mamba2 True"
    sample = [sys.executable, "infer_longcot.py", *line.split()]
    alone_words = [*sample, "--output_path", tmp_path / "alone.jsonl", "--n_gpus", "1"]
    with serve(ray_nodes, checkpoint, tmp_path / "stock") as stock:  # as it is: it stops
        assert subprocess.run(alone_words, cwd=ROOT, check=False).returncode == 0
        assert stock.wait(WAIT_SECONDS) != 0
    assert "AssertionError: No  found in Ray cluster." in (tmp_path / "stock").read_text()

    log, path = tmp_path / "log", os.pathsep.join([str(plugin), ray_nodes.environment["PYTHONPATH"]])
    with serve(ray_nodes, checkpoint, log, "--distributed-executor-backend=uni", PYTHONPATH=path) as server:
        deadline = time.monotonic() + WAIT_SECONDS
        while ray_nodes.run(sys.executable, "-c", ASK, "/v1/models").returncode:
            assert server.poll() is None, log.read_text()[-5000:]
            assert time.monotonic() < deadline
            time.sleep(1)
        done = ray_nodes.run(
            *sample, "--output_path", tmp_path / "x.jsonl", "--base_url", f"{URL}/v1", "--concurrency", "8"
        )
        assert done.returncode == 0, done.stderr
        told = ray_nodes.run(sys.executable, "-c", ASK, "/metrics").stdout
    assert comparable(tmp_path / "x.jsonl") == comparable(tmp_path / "alone.jsonl")
    served = re.findall(r'^vllm:request_success_total\{engine="(\d)".*\} ([\d.]+)$', told, re.MULTILINE)
    assert {engine for engine, count in served if float(count)} == {"0", "1"}
