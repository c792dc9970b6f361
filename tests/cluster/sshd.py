"""sshd on each host, with its own keys, and a client on the PATH that knows them: nothing of the machine's is used."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.cluster.hosts import ADDRESSES, HOSTS, SCRATCH, Hosts, must
from tests.cluster.slurm import wait_until

PROGRAMS = {"sshd": "openssh-server", "ssh": "openssh-client", "pdsh": "pdsh", "ip": "iproute2"}


class Sshd:
    """`path` is the folder to put before PATH: an `ssh` that reaches the hosts by name, as root, without a password."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts, self.folder = hosts, Path(tempfile.mkdtemp(prefix=f"{SCRATCH}sshd-", dir="/tmp"))
        self.path = self.folder / "bin"
        self._daemons: dict[str, subprocess.Popen] = {}
        with ExitStack() as unless_made:
            unless_made.callback(self.close)
            self._start()
            unless_made.pop_all()

    def _start(self) -> None:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd insists
        for name in ("host", "user"):
            must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name)
        public = (self.folder / "host.pub").read_text().rsplit(" ", 1)[0]
        (self.folder / "known").write_text("".join(f"{host} {public}\n" for host in HOSTS))
        (self.folder / "config").write_text(
            f"Host *\n  IdentityFile {self.folder}/user\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.folder}/known\n  GlobalKnownHostsFile /dev/null\n"
        )
        self.path.mkdir()
        (self.path / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {self.folder}/config "$@"\n')
        (self.path / "ssh").chmod(0o755)
        for host in HOSTS:
            self.start(host)

    def start(self, host: str, *first: str) -> None:
        """`first`: shell commands after which this host sees other files than the rest of the machine."""
        options = {
            "HostKey": self.folder / "host", "AuthorizedKeysFile": self.folder / "user.pub", "StrictModes": "no",
            "PidFile": "none", "UsePAM": "no", "ListenAddress": ADDRESSES[host], "PermitRootLogin": "yes",
            "MaxStartups": 100,
        }  # fmt: skip
        flags = [f"-o{name}={value}" for name, value in options.items()]
        sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
        script = " && ".join([*first, 'exec "$@"'])
        words = ["sh", "-c", script, "sh", sshd, "-D", "-e", "-f", "/dev/null", *flags]
        with (self.folder / f"{host}.log").open("a") as log:
            if host in self._daemons:
                self._daemons[host].kill()
                self._daemons[host].wait()
            self._daemons[host] = subprocess.Popen(self.hosts.command(host, *words), stdout=log, stderr=log)
        wait_until(lambda: self.hosts.run(HOSTS[0], self.path / "ssh", host, "true").returncode == 0, f"sshd on {host}")

    def close(self) -> None:
        for daemon in self._daemons.values():
            daemon.kill()
            daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
