"""serve_slurm.sh on a Slurm of two nodes, with a server of a few lines in the place of vLLM's: both nodes
serve, with all their CPUs, and one serves on where the other is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.hosts import HOSTS
from tests.cluster.slurm import Slurm, wait_until
from tests.programs.train_helpers import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
# Answers with its host's name and the number of its CPUs.
VLLM = """#!/usr/bin/env python3
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{os.uname().nodename} {len(os.sched_getaffinity(0))}".encode())
http.server.HTTPServer(("0.0.0.0", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""
ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"


def test_a_lost_node_leaves_the_other_serving(slurm: Slurm, tmp_path: Path):
    (tmp_path / "vllm").write_text(VLLM)
    (tmp_path / "vllm").chmod(0o755)
    environment = {"MODEL": "model", "GPUS": "1", "PATH": f"{tmp_path}:{slurm.environment['PATH']}"}
    log = tmp_path / "log"
    script = ROOT / "scripts" / "cluster" / "serve_slurm.sh"
    job = slurm.submit(
        "--nodes=2", "--exclusive", "--no-requeue", f"--output={log}", script, environment=environment, cwd=tmp_path
    )
    urls = [f"http://{host}:8000" for host in HOSTS]

    def ask(url: str) -> str:
        return slurm.run("python3", "-c", ASK, url).stdout.strip()

    try:
        for host, url in zip(HOSTS, urls, strict=True):
            wait_until(lambda url=url, host=host: ask(url) == f"{host} 2", f"a server on {host} with two CPUs")
        assert f"--base_url {' '.join(urls)}" in log.read_text()
        slurm.crash_node("node-b")
        slurm.hosts.kill("node-b", "vllm")
        slurm.must("scontrol", "update", "nodename=node-b", "state=down", "reason=power")
        wait_until(lambda: slurm.field(job, "NodeList") == "node-a", "the job without its lost node")
        assert ask(urls[1]) == ""
        assert slurm.state(job) == "RUNNING"
        assert ask(urls[0]) == "node-a 2"
    finally:
        slurm.start_node("node-b")
        slurm.must("scontrol", "update", "nodename=node-b", "state=resume")
        slurm.must("scancel", job)
        wait_until(lambda: slurm.node_states() == ["idle", "idle"], "both nodes")
