"""Jobs of slurm_sft.sbatch with a program of a few lines in the place of train.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.slurm import Slurm, wait_until
from tests.programs.train_helpers import ROOT

SCRIPT = ROOT / "scripts" / "cluster" / "slurm_sft.sbatch"
TWO_NODES = ("--nodes=2", "--cpus-per-task=1")
NO_GPUS = (*TWO_NODES, "--gpus-per-node=0", "--ntasks-per-node=1")
# Says what it sees; ends as told the first time, and with 0 once the job has been requeued.
PROGRAM = """
import json, os, signal, sys, time
how = sys.argv[1]
if how == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if how == "saves":
    def save(number, frame):
        time.sleep(1)
        print("saved", flush=True)
        sys.exit(75)
    signal.signal(signal.SIGTERM, save)
names = ("RANK LOCAL_RANK WORLD_SIZE LOCAL_SIZE OMP_NUM_THREADS MASTER_ADDR CUDA_VISIBLE_DEVICES TRITON_CACHE_DIR "
         "TORCH_EXTENSIONS_DIR").split()
seen = {name: os.environ.get(name) for name in names}
facts = {"cpus": len(os.sched_getaffinity(0)), "host": os.uname().nodename, **seen}
print("started", json.dumps(facts), flush=True)
if os.environ.get("SLURM_RESTART_COUNT", "0") != "0":
    sys.exit(0)
first = os.environ["RANK"] == "0"
if how == "exits":  # 75: all agree on it
    sys.exit(int(sys.argv[2]) if not first or sys.argv[2] == "75" else 0)
if how == "killed":
    time.sleep(2)
    sys.exit(75) if first else os.kill(os.getpid(), signal.SIGKILL)
if how == "second" and os.environ["SLURM_ARRAY_TASK_ID"] == "1":  # of an array
    sys.exit(75)
time.sleep(600)
"""


@dataclass
class Job:
    """A submitted job; `number` is sbatch's."""

    slurm: Slurm
    folder: Path
    number: int

    @property
    def log(self) -> str:
        path = self.folder / f"promptcot-sft-{self.number}.log"
        return path.read_text() if path.exists() else ""

    @property
    def restarts(self) -> int:
        return int(self.slurm.field(self.number, "Restarts") or 0)

    def started(self) -> list[dict[str, str]]:
        """What each task saw when it started, the first attempt's first."""
        lines = [line.split(" ", 1)[1] for line in self.log.splitlines() if line.startswith("started {")]
        return [json.loads(line) for line in lines]

    def wait_for_tasks(self, count: int = 2) -> None:
        wait_until(lambda: len(self.started()) == count, f"{count} tasks of job {self.number}")

    def end_in(self, seconds: int) -> None:
        """Its time limit, in seconds from now: Slurm's own flag counts minutes, and 2 are left to the next attempt."""
        assert seconds > 60
        self.slurm.must("scontrol", "update", f"jobid={self.number}", f"EndTime=now+{seconds}")


@dataclass(frozen=True)
class Case:
    """A job, what is done to it once both its tasks have started, and what is to become of it."""

    words: tuple[str, ...]
    deed: Callable[[Job], object] | None = None
    state: str = "COMPLETED"
    restarts: int = 0
    saved: int = 0  # times, by both tasks together
    says: str = ""
    flags: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def submit(self, slurm: Slurm, folder: Path) -> Job:
        flags = ("--partition=shared", *self.flags)
        return submit(slurm, folder, *self.words, flags=flags, environment=self.environment)

    def check(self, job: Job) -> None:
        job.slurm.wait_for(job.number, self.state)
        assert job.restarts == self.restarts, job.log
        assert job.log.count("saved\n") == self.saved, job.log
        assert self.says in job.log


def make_folder(folder: Path) -> Path:
    """A repository of one program, with an environment of its own."""
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").write_text('PATH="$PWD/.venv/bin:$PATH"\n')
    (folder / ".venv" / "bin" / "python").write_text('#!/bin/sh\nexec python3 "$@"\n')
    (folder / ".venv" / "bin" / "python").chmod(0o755)
    (folder / "train.py").write_text(PROGRAM)
    return folder


def submit(
    slurm: Slurm, folder: Path, *words: str, flags: tuple[str, ...] = (), nodes: tuple[str, ...] = NO_GPUS,
    environment: dict[str, str] | None = None,
) -> Job:  # fmt: skip
    number = slurm.submit(*nodes, *flags, SCRIPT, *words, environment=environment, cwd=folder)
    return Job(slurm, folder, number)
