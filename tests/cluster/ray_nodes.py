"""A Ray cluster of two nodes on one machine: a head on the first host, a second node on the other, two CPUs each."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.cluster.hosts import ADDRESSES, HOSTS, SCRATCH, WAIT_SECONDS, Hosts
from tests.cluster.slurm import wait_until
from tests.programs.train_helpers import ROOT

PORT = 6379
ADDRESS = f"{ADDRESSES[HOSTS[0]]}:{PORT}"
CPUS = 2  # of each node


def missing_ray() -> str:
    return "" if importlib.util.find_spec("ray") else f"needs: {sys.executable} -m pip install ray"


class RayNodes:
    """The running nodes; programs run on the first host."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.folder = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}ray-", dir="/tmp"))  # short: sockets lie in it
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.environment = {**os.environ, **quiet}
        self._started: list[subprocess.Popen] = []
        try:
            self.start(HOSTS[0])
            self.start(HOSTS[1])
        except BaseException as error:
            error.add_note(self.logs())
            self.close()
            raise

    def start(self, host: str, instead: dict[Path, Path] | None = None) -> None:
        """A node, and wait until it has joined: `ray start` in the foreground, so that it ends with its host.

        `instead`: {folder: the one that this node sees in its place}.
        """
        if host == HOSTS[0]:
            where = ["--head", f"--port={PORT}", f"--temp-dir={self.folder}", "--include-dashboard=false"]
        else:
            where = [f"--address={ADDRESS}"]
        own = [f"--node-ip-address={ADDRESSES[host]}", f"--num-cpus={CPUS}", "--object-store-memory=200000000"]
        words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *where, *own]
        for folder, other in (instead or {}).items():
            words = ["sh", "-c", f'mount --bind {other} {folder} && exec "$@"', "sh", *words]
        with (self.folder / f"{host}.out").open("a") as out:
            command = self.hosts.command(host, *words)
            self._started.append(subprocess.Popen(command, env=self.environment, cwd=ROOT, stdout=out, stderr=out))
        wait_until(lambda: host in self.alive(), f"{host} in the Ray cluster")

    def alive(self) -> list[str]:
        """The names of the nodes that the cluster knows as alive."""
        ask = (
            "import ray; ray.init(%r, logging_level='ERROR', log_to_driver=False); "
            "print(*[node['NodeManagerHostname'] for node in ray.nodes() if node['Alive']])"
        )
        return self.run(sys.executable, "-c", ask % ADDRESS, check=False).stdout.split()

    def lose(self, host: str) -> None:
        """Every process of a node, at once; and wait until the cluster knows."""
        self.hosts.kill(host)
        wait_until(lambda: host not in self.alive(), f"{host} gone from the Ray cluster")

    def command(self, *words: object) -> list[str]:
        return self.hosts.command(HOSTS[0], *words)

    def run(self, *words: object, check: bool = False) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words), cwd=ROOT, env=self.environment, capture_output=True, text=True,
            timeout=WAIT_SECONDS, check=check,
        )  # fmt: skip

    def logs(self) -> str:
        return "\n".join(
            f"{file.name}: {file.read_text(errors='replace')[-2000:]}" for file in self.folder.glob("*.out")
        )

    def close(self) -> None:
        for host in HOSTS:
            self.hosts.kill(host)
        for process in self._started:
            process.kill()
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
