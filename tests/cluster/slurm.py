"""A Slurm of two nodes on one machine: munged under its own user, slurmctld on the first host, a slurmd on each."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.cluster.hosts import ADDRESSES, HOSTS, SCRATCH, WAIT_SECONDS, Hosts

PROGRAMS = {
    **dict.fromkeys(("slurmctld", "slurmd", "sbatch", "scontrol"), "slurm-wlm"),
    "munged": "munge", "ip": "iproute2",
}  # fmt: skip
ENDS = ("CANCELLED", "COMPLETED", "FAILED", "NODE_FAIL", "TIMEOUT")
REQUEUE_SECONDS = 30
GPUS = 2  # of each node, by name alone: what Slurm gives away is no device
# As public clusters have it where it makes a difference: memory is given away too, a step is ended when one of its
# tasks has been gone for WaitTime. Timers are short, polls frequent.
CONFIG = """
ClusterName=promptcot
SlurmctldHost=node-a({address})
SlurmUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/%n.pid
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmdParameters=config_overrides
SlurmdTimeout=30
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=50
GresTypes=gpu
WaitTime=2
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,bf_interval=2,sched_interval=2,requeue_setup_env_fail
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=10
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
{nodes}
PartitionName=DEFAULT Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 OverTimeLimit=0
PartitionName=low Default=YES PreemptMode=REQUEUE GraceTime=120
PartitionName=brief PreemptMode=REQUEUE GraceTime=10 OverSubscribe=FORCE:20
PartitionName=shared PreemptMode=OFF OverSubscribe=FORCE:20
PartitionName=high PriorityTier=10 PreemptMode=OFF
"""


def wait_until(told: Callable[[], object], what: str, every: float = 0.1) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not told():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(every)


class Slurm:
    """The running cluster; jobs are submitted, asked about and awaited by number."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.folder = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}slurm-", dir="/tmp"))
        self._daemons: dict[str, subprocess.Popen] = {}
        with ExitStack() as undo:
            undo.callback(self.close)
            undo.push(self._note_logs)
            self._start()
            undo.pop_all()

    def _note_logs(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error:
            error.add_note(self.logs())

    def _start(self) -> None:
        self.folder.chmod(0o755)
        nodes = "\n".join(
            f"NodeName={host} NodeAddr={address} NodeHostname={host} CPUs=2 RealMemory=2000 Gres=gpu:{GPUS}"
            for host, address in ADDRESSES.items()
        )
        (self.folder / "state").mkdir()
        text = CONFIG.format(folder=self.folder, address=ADDRESSES[HOSTS[0]], nodes=nodes)
        self.config = self.folder / "slurm.conf"
        self.config.write_text(text)
        self._name_gpus()
        inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        self.environment = {**inherited, "SLURM_CONF": str(self.config)}
        self._start_munge()
        self._keep("slurmctld", self.hosts.command(HOSTS[0], "slurmctld", "-D", "-i", "-f", self.config))
        for host in HOSTS:
            self.start_node(host)
        wait_until(lambda: self.node_states() == ["idle", "idle"], "two idle nodes")

    def _name_gpus(self) -> None:
        """Slurm gives away device files that it never opens: copies of /dev/null."""
        null = Path("/dev/null").stat().st_rdev
        for number in range(GPUS):
            os.mknod(self.folder / f"gpu{number}", 0o666 | stat.S_IFCHR, null)
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/gpu[0-{GPUS - 1}]\n")

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        folder.mkdir(mode=0o755)
        user = pwd.getpwnam("munge")
        (folder / "key").write_bytes(os.urandom(128))
        (folder / "key").chmod(0o400)
        for path in (folder, folder / "key"):
            os.chown(path, user.pw_uid, user.pw_gid)
        flags = [f"--{name}={folder}/{name.split('-')[0]}" for name in ("socket", "key-file", "log-file", "pid-file",
                                                                        "seed-file")]  # fmt: skip
        as_munge = ("setpriv", "--reuid=munge", "--regid=munge", "--clear-groups")
        self._keep("munged", self.hosts.command(HOSTS[0], *as_munge, "munged", "--foreground", *flags))
        wait_until(lambda: (folder / "socket").exists(), "munged's socket")

    def _keep(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.out").open("a") as out:
            self._daemons[name] = subprocess.Popen(command, env=self.environment, stdout=out, stderr=out)

    def logs(self) -> str:
        """The last lines that each daemon wrote."""
        files = [*self.folder.glob("*.out"), *self.folder.glob("*.log"), *self.folder.glob("munge/log")]
        return "\n".join(f"{file.name}: {file.read_text(errors='replace')[-1500:]}" for file in files)

    def start_node(self, host: str) -> None:
        (self.folder / f"spool-{host}").mkdir(exist_ok=True)
        self._keep(host, self.hosts.command(host, "slurmd", "-D", "-N", host, "-f", self.config))

    def crash_node(self, host: str) -> None:
        """slurmd and all that runs below it, at once, as in a loss of power."""
        for text in ("slurmd", "slurmstepd", "train.py"):
            self.hosts.kill(host, text)

    def run(self, *words: object, **settings) -> subprocess.CompletedProcess[str]:
        return self.hosts.run(HOSTS[0], *words, env=self.environment, **settings)

    def must(self, *words: object, **settings) -> str:
        done = self.run(*words, **settings)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def node_states(self) -> list[str]:
        return self.run("sinfo", "-h", "-N", "-p", "low", "-o", "%t").stdout.split()

    def submit(self, *words: object, environment: dict[str, str] | None = None, **settings) -> int:
        """sbatch's job number."""
        done = self.hosts.run(
            HOSTS[0], "sbatch", "--parsable", *words, env={**self.environment, **(environment or {})}, **settings
        )
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    def field(self, job: int | str, name: str) -> str:
        """A field of `scontrol show job`."""
        found = re.search(rf"\b{name}=(\S*)", self.run("scontrol", "show", "job", job).stdout)
        return found[1] if found else ""

    def state(self, job: int | str) -> str:
        return self.field(job, "JobState")

    def wait_for(self, job: int, *states: str) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        ended = None
        while (state := self.state(job)) not in states:
            if state not in ENDS:  # an end may be seen for a moment before a requeue
                ended = None
            elif ended is None:
                ended = time.monotonic()
            if time.monotonic() > (deadline if ended is None else ended + REQUEUE_SECONDS):
                raise AssertionError(f"job {job} is {state}, never {states}")
            time.sleep(0.2)

    def close(self) -> None:
        for host in HOSTS:  # jobs, slurmds and slurmctld
            self.hosts.kill(host)
        for daemon in self._daemons.values():
            daemon.kill()
            daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
