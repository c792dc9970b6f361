"""train.py under a Slurm of two nodes: told to leave at any moment, preempted, robbed of each node, and at the end the
losses of the run that nothing happened to. `-s` prints the table of docs/many_nodes.md."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.hosts import HOSTS
from tests.cluster.slurm import Slurm, wait_until
from tests.programs.train_helpers import ROOT, ZERO2, child_environment, flags_for, losses, write_examples

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
STEPS = 120  # of a tenth of a second: longer than it takes to be told of the moments below
SAVE_STEPS = 10


def submit(slurm: Slurm, work: Path, output: str, **changes: object) -> tuple[int, Path]:
    """The job of a run of two processes, one a node, and its folder."""
    same = {"deepspeed": ZERO2, "gradient_accumulation_steps": 1, "max_steps": STEPS, "save_steps": SAVE_STEPS}
    flags = [f"--{name}={value}" for name, value in flags_for(work, output, **same, **changes).items()]
    nodes = ("--gpus-per-node=0", "--ntasks-per-node=1", "--nodes=2", "--cpus-per-task=1")
    script = ROOT / "scripts" / "cluster" / "slurm_sft.sbatch"
    log = f"--output={work / output}.log"
    return slurm.submit(*nodes, log, script, *flags, environment=child_environment(), cwd=ROOT), work / output


@pytest.fixture(scope="module")
def whole(slurm: Slurm, work: Path) -> Path:
    """The run that nothing happens to."""
    write_examples(work / "sums.jsonl", 4000, sources=("add", "sum"))
    job, output = submit(slurm, work, "whole")
    slurm.wait_for(job, "COMPLETED")
    assert [step for step, _ in losses(output)] == list(range(1, STEPS + 1))
    return output


@dataclass
class Run:
    """The run that everything happens to."""

    slurm: Slurm
    job: int
    output: Path
    cache: Path
    attempt: int = 0
    earlier: int = 0  # characters of the log, which grows with each attempt

    @property
    def log(self) -> str:
        """What the present attempt has said."""
        path = self.output.with_suffix(".log")
        return path.read_text()[self.earlier :] if path.exists() else ""

    def step(self) -> int:
        """The last one of this attempt; 0 before the first."""
        return int(([0, *re.findall(r"^step (\d+)/", self.log, re.MULTILINE)])[-1])

    def kept(self) -> int:
        """The step of the last checkpoint; 0 without one."""
        return max((int(path.name.rpartition("-")[2]) for path in self.output.glob("checkpoint-*")), default=0)

    def begin(self, attempt: int) -> None:
        self.attempt = attempt
        wait_until(self._has_tasks, f"attempt {attempt + 1}")
        self.earlier += len(self.log)

    def _has_tasks(self) -> bool:
        return f"{self.job}.0" in self.slurm.run("squeue", "-h", "-s", "-j", self.job, "-o", "%i").stdout

    def restarts(self) -> int:
        return int(self.slurm.field(self.job, "Restarts") or 0)

    def is_training(self) -> bool:
        return self.log.count("\nstep ") >= 2

    def is_beyond_a_checkpoint(self) -> bool:
        before, _, after = self.log.rpartition("\nsaved ")
        return bool(before) and after.count("\nstep ") >= 2

    def tell(self) -> None:
        self.slurm.must("scancel", "--signal=TERM", self.job)

    def preempt(self) -> None:
        urgent = self.slurm.submit("-p", "high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "true")
        self.slurm.wait_for(urgent, "COMPLETED")

    def crash(self, host: str) -> None:
        self.slurm.crash_node(host)
        self.slurm.must("scontrol", "update", f"nodename={host}", "state=down", "reason=power")
        wait_until(lambda: self.restarts() == self.attempt + 1, "a requeue")
        self.slurm.start_node(host)
        self.slurm.must("scontrol", "update", f"nodename={host}", "state=resume")


@dataclass(frozen=True)
class Event:
    """Something that ends an attempt, and when. `saves`: the step of that moment is in a checkpoint afterwards."""

    name: str
    seen: Callable[[Run], object]
    deed: Callable[[Run], None] = Run.tell
    saves: bool = True


EVENTS = (
    Event("set-up", lambda _: True),
    Event("tokenising", lambda run: [*run.cache.glob(".*.tmp/tokens.bin")]),
    Event("loading", lambda run: "data: " in run.log),
    Event("in a step", Run.is_training),
    Event("preempted in a step", Run.is_training, Run.preempt),
    # The first node runs the batch script, the group's store and the process that saves.
    *(Event(f"{host} lost", Run.is_beyond_a_checkpoint, lambda run, host=host: run.crash(host), saves=False)
      for host in reversed(HOSTS)),
    Event("saving", lambda run: run.step() and [*run.output.glob(".writing-checkpoint-*")]),
)  # fmt: skip


def test_every_moment(slurm: Slurm, work: Path, whole: Path):
    run = Run(slurm, *submit(slurm, work, "told", token_cache=work / "cold"), work / "cold")
    for attempt, event in enumerate(EVENTS):
        run.begin(attempt)
        wait_until(lambda event=event: event.seen(run), event.name, every=0.01)
        before, kept, began = run.step(), run.kept(), time.time()
        event.deed(run)
        wait_until(lambda: run.restarts() == run.attempt + 1, f"a requeue after {event.name}")
        print(f"{event.name} | step {before} | checkpoint {run.kept()} | {time.time() - began:.0f} s")
        assert run.kept() >= (before if event.saves else kept)
    slurm.wait_for(run.job, "COMPLETED")
    assert run.restarts() == len(EVENTS)
    assert losses(run.output) == losses(whole)
