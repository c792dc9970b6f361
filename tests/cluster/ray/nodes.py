"""A Ray cluster of two nodes on one machine: a head on the first host, a second node on the other, two CPUs each."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.cluster.hosts import ADDRESSES, HOSTS, SCRATCH, Hosts, must
from tests.cluster.slurm import wait_until
from tests.programs.train_helpers import ROOT

PORT = 6379
ADDRESS = f"{ADDRESSES[HOSTS[0]]}:{PORT}"
CPUS = 2  # of each node


def missing_ray() -> str:
    return "" if importlib.util.find_spec("ray") else f"needs: {sys.executable} -m pip install ray"


# Connected for good, because connecting takes seconds: answers each line with the names of the nodes that are alive.
WATCH = """
import sys, ray
ray.init(sys.argv[1], logging_level="ERROR", log_to_driver=False)
for _ in sys.stdin:
    print(*[node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]], flush=True)
"""


class RayNodes:
    """The running nodes; programs run on the first host, unless told otherwise. `environment`: what they all have
    besides this process's."""

    def __init__(self, hosts: Hosts, environment: dict[str, str] | None = None) -> None:
        self.hosts = hosts
        self.folder = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}ray-", dir="/tmp"))  # short: sockets lie in it
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.environment = {**os.environ, **quiet, **(environment or {})}
        self._started: dict[str, subprocess.Popen] = {}
        self._watch: subprocess.Popen[str] | None = None
        with ExitStack() as undo:
            undo.callback(self.close)
            undo.push(self._note_logs)
            self.start(HOSTS[0])
            self.start(HOSTS[1])
            undo.pop_all()

    def _note_logs(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error:
            error.add_note(self.logs())

    def start(self, host: str) -> None:
        """A node, and wait until it has joined: `ray start` in the foreground, so that it ends with its host."""
        if host == HOSTS[0]:
            where = ["--head", f"--port={PORT}", f"--temp-dir={self.folder}", "--include-dashboard=false"]
        else:
            where = [f"--address={ADDRESS}"]
        own = [f"--node-ip-address={ADDRESSES[host]}", f"--num-cpus={CPUS}", "--object-store-memory=200000000"]
        words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *where, *own]
        out_file = self.folder / f"{host}.out"
        with out_file.open("w") as out:
            command = self.hosts.command(host, *words)
            self._started[host] = subprocess.Popen(command, env=self.environment, cwd=ROOT, stdout=out, stderr=out)
        if host == HOSTS[0]:
            wait_until(lambda: "Ray runtime started" in out_file.read_text(), "a Ray head")
        wait_until(lambda: host in self.alive(), f"{host} in the Ray cluster")

    @contextmanager
    def second_sees(self, folder: Path, other: Path) -> Iterator[None]:
        """The second node, and whatever it starts, sees another folder in the place of one."""
        inside = ["nsenter", f"--mount=/proc/{self._started[HOSTS[1]].pid}/ns/mnt"]
        must(*inside, "mount", "--bind", other, folder)
        try:
            yield
        finally:
            must(*inside, "umount", "--lazy", folder)

    def alive(self) -> list[str]:
        """The names of the nodes that the cluster knows as alive."""
        if self._watch is None or self._watch.poll() is not None:
            self._watch = subprocess.Popen(
                self.command(sys.executable, "-c", WATCH, ADDRESS), env=self.environment, cwd=ROOT, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        assert self._watch.stdin is not None
        assert self._watch.stdout is not None
        print(file=self._watch.stdin, flush=True)
        return self._watch.stdout.readline().split()

    def lose_second(self) -> None:
        """Every process of the second node, at once; and wait until the cluster knows."""
        self.hosts.kill(HOSTS[1])
        wait_until(lambda: HOSTS[1] not in self.alive(), "the loss of a node")

    def lose_head(self) -> None:
        self.hosts.kill(HOSTS[0])
        self._started[HOSTS[0]].wait()

    def make_whole(self) -> None:
        """Two nodes, whatever was lost."""
        if self._started[HOSTS[0]].poll() is not None:
            self._end()
            self.start(HOSTS[0])
        if HOSTS[1] not in self.alive():
            self.start(HOSTS[1])

    def command(self, *words: object, host: str = HOSTS[0]) -> list[str]:
        return self.hosts.command(host, *words)

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        return self.hosts.run(HOSTS[0], *words, cwd=ROOT, env=self.environment)

    def logs(self) -> str:
        return "\n".join(
            f"{file.name}: {file.read_text(errors='replace')[-2000:]}" for file in self.folder.glob("*.out")
        )

    def _end(self) -> None:
        for host in HOSTS:
            self.hosts.kill(host)
        for process in filter(None, [*self._started.values(), self._watch]):
            process.kill()
            process.wait()

    def close(self) -> None:
        self._end()
        shutil.rmtree(self.folder, ignore_errors=True)
