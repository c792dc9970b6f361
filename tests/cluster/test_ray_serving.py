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
from pathlib import Path

import pytest

from promptcot_mamba.sampling.vllm_engine import EngineSettings, engine_arguments
from promptcot_mamba.sampling.vllm_server import serve_flags, write_distribution, write_plugin
from tests.cluster.hosts import ADDRESSES, HOSTS, WAIT_SECONDS, Hosts
from tests.cluster.ray_nodes import ADDRESS, RayNodes, missing_ray
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


@pytest.fixture(scope="module")
def nodes(hosts: Hosts, tmp_path_factory) -> Iterator[RayNodes]:
    if reason := missing_ray():
        pytest.skip(reason)
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("needs vllm")
    names = tmp_path_factory.mktemp("names")
    write_distribution(names)
    write_plugin(names)
    path = os.pathsep.join([str(names), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {"PYTHONPATH": path, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    made = RayNodes(hosts, {**own, "VLLM_NO_USAGE_STATS": "1"})
    yield made
    made.close()


def serve(nodes: RayNodes, checkpoint: Path, log: Path, *flags: str, **environment: str) -> subprocess.Popen:
    """`vllm serve` on the first node, one engine on each."""
    settings = EngineSettings(str(checkpoint), "float32", "float32", 69632, 8, on_cpu=True, cache_bytes=32 << 20)
    place = ["--data-parallel-size=2", "--data-parallel-size-local=1", f"--data-parallel-address={ADDRESSES[HOSTS[0]]}"]
    words = [*serve_flags(engine_arguments(settings, is_mamba2=True)), *place, "--data-parallel-backend=ray", *flags]
    environment = {**nodes.environment, "RAY_ADDRESS": ADDRESS, "VLLM_HOST_IP": ADDRESSES[HOSTS[0]], **environment}
    with log.open("w") as out:
        return subprocess.Popen(
            nodes.command(sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", *words, "--host=0.0.0.0"),
            env=environment, cwd=ROOT, stdout=out, stderr=out,
        )  # fmt: skip


def end(server: subprocess.Popen) -> None:
    server.kill()
    server.wait()


def test_the_cpu_build_as_it_is_stops(nodes: RayNodes, checkpoint: Path, tmp_path: Path):
    server = serve(nodes, checkpoint, tmp_path / "log")
    try:
        assert server.wait(WAIT_SECONDS) != 0
    finally:
        end(server)
    assert "AssertionError: No  found in Ray cluster." in (tmp_path / "log").read_text()


def test_two_nodes_serve_the_samples_of_one_engine(nodes: RayNodes, checkpoint: Path, plugin: Path, tmp_path: Path):
    data = write_problems(tmp_path / "problems.jsonl", 6)
    line = f"--data_path {data} --model_path {checkpoint} --temperature 0.8 --max_len 65536 --n 4 --use_mamba2 True"
    sample = [sys.executable, "infer_longcot.py", *line.split()]
    alone = subprocess.run([*sample, "--output_path", tmp_path / "alone.jsonl", "--n_gpus", "1"], cwd=ROOT)
    assert alone.returncode == 0

    log, path = tmp_path / "log", os.pathsep.join([str(plugin), nodes.environment["PYTHONPATH"]])
    server = serve(nodes, checkpoint, log, "--distributed-executor-backend=uni", PYTHONPATH=path)
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while nodes.run(sys.executable, "-c", ASK, "/v1/models").returncode:
            assert server.poll() is None, log.read_text()[-5000:]
            assert time.monotonic() < deadline
            time.sleep(1)
        done = nodes.run(
            *sample, "--output_path", tmp_path / "x.jsonl", "--base_url", f"{URL}/v1", "--concurrency", "8"
        )
        assert done.returncode == 0, done.stderr
        told = nodes.run(sys.executable, "-c", ASK, "/metrics").stdout
    finally:
        end(server)
    assert comparable(tmp_path / "x.jsonl") == comparable(tmp_path / "alone.jsonl")
    served = re.findall(r'^vllm:request_success_total\{engine="(\d)".*\} ([\d.]+)$', told, re.MULTILINE)
    assert {engine for engine, count in served if float(count)} == {"0", "1"}
