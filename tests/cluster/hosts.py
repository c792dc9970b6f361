"""Two hosts on one machine: network namespaces with their own interfaces, addresses and names, joined by a bridge.

They share the file system, as nodes share storage; what one must not see is given another path. All of it goes with
`close`, whatever happened in between: the processes of a namespace first, then the namespace, then the bridge.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

HOSTS = ("node-a", "node-b")
BRIDGE = "promptcot0"
SUBNET = "10.213.77"
ADDRESSES = {host: f"{SUBNET}.{number}" for number, host in enumerate(HOSTS, start=11)}
SCRATCH = "promptcot-cluster-"  # what the folders of daemons begin with
NAMES = Path("/tmp/promptcot-cluster-hosts")  # what /etc/hosts is on both
WAIT_SECONDS = 600  # for what takes seconds on an idle machine


def missing_pieces(programs: dict[str, str]) -> str:
    """Why a cluster cannot be had on this machine, with what to install; empty where it can. {program: package}."""
    if os.geteuid() != 0:
        return "needs root: namespaces, munged and slurmd are started by it"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    lacking = sorted({package for program, package in programs.items() if not shutil.which(program, path=path)})
    if lacking:
        return f"needs: apt-get install {' '.join(lacking)}"
    if run("unshare", "--net", "--uts", "true").returncode:
        return "needs network namespaces, which this machine does not allow"
    return ""


def run(*command: object, **settings) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, timeout=WAIT_SECONDS, **settings)


def must(*command: object, **settings) -> str:
    done = run(*command, **settings)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


class Hosts:
    """The two hosts; `command` makes any command one of a host's."""

    def __init__(self) -> None:
        self.close()  # what a killed test left
        with ExitStack() as unless_made:
            unless_made.callback(self.close)
            self._make()
            unless_made.pop_all()

    def _make(self) -> None:
        must("ip", "link", "add", BRIDGE, "type", "bridge")
        must("ip", "link", "set", BRIDGE, "up")
        names = "".join(f"{address} {host}\n" for host, address in ADDRESSES.items())
        NAMES.write_text(f"127.0.0.1 localhost\n{names}")
        for host, address in ADDRESSES.items():
            must("ip", "netns", "add", host)
            must("ip", "link", "add", f"pc-{host}", "type", "veth", "peer", "name", "eth0", "netns", host)
            must("ip", "link", "set", f"pc-{host}", "master", BRIDGE, "up")
            for words in ("addr add " + address + "/24 dev eth0", "link set eth0 up", "link set lo up"):
                must("ip", "-n", host, *words.split())

    def command(self, host: str, *words: object) -> list[str]:
        """`words`, run on a host, under its name and with its /etc/hosts.

        Not by `ip netns exec`, which mounts /sys anew and hides the control groups from slurmd.
        """
        enter = f'hostname {host} && mount --bind {NAMES} /etc/hosts && exec "$@"'
        inside = ["unshare", "--uts", "--mount", "sh", "-c", enter, "sh"]
        return ["nsenter", f"--net=/run/netns/{host}", *inside, *map(str, words)]

    def run(self, host: str, *words: object, **settings) -> subprocess.CompletedProcess[str]:
        return run(*self.command(host, *words), **settings)

    def unplug(self, host: str) -> None:
        """The cable goes: nobody is told."""
        must("ip", "link", "set", f"pc-{host}", "down")

    def plug(self, host: str) -> None:
        """Back in, and heard by the others: for a moment they remember that nobody answered."""
        must("ip", "link", "set", f"pc-{host}", "up")
        for other in HOSTS:
            must(*self.command(other, "ip", "neigh", "flush", "all"))

    def processes(self, host: str) -> list[int]:
        return [int(pid) for pid in run("ip", "netns", "pids", host).stdout.split()]

    def kill(self, host: str, text: str = "") -> None:
        """SIGKILL for a host's processes whose command line holds `text`."""
        for pid in self.processes(host):
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if text in line:
                    os.kill(pid, signal.SIGKILL)
            except (OSError, ProcessLookupError):
                continue  # it ended by itself

    def close(self) -> None:
        for host in HOSTS:
            deadline = time.monotonic() + WAIT_SECONDS
            while self.processes(host) and time.monotonic() < deadline:
                self.kill(host)
                time.sleep(0.05)
            run("ip", "netns", "delete", host)
            run("ip", "link", "delete", f"pc-{host}")
        run("ip", "link", "delete", BRIDGE)
        NAMES.unlink(missing_ok=True)
        for folder in Path("/tmp").glob(f"{SCRATCH}*/"):
            shutil.rmtree(folder, ignore_errors=True)
