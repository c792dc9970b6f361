"""train.py under a Slurm of two nodes: told to leave at any moment, robbed of a node, and each time the losses of the
run that nothing happened to. `-s` prints the table of docs/many_nodes.md."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.hosts import HOSTS
from tests.cluster.slurm import Slurm, wait_until
from tests.programs.train_helpers import ROOT, ZERO2, child_environment, flags_for, losses, write_examples

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
STEPS = 120  # of a tenth of a second: longer than it takes to be told of the moments below


def submit(slurm: Slurm, work: Path, output: str, *words: str, **changes: object) -> tuple[int, Path]:
    """The job of a run of two processes, one a node, and its folder."""
    settings = {"deepspeed": ZERO2, "gradient_accumulation_steps": 1, "max_steps": STEPS, "save_steps": 30, **changes}
    flags = [f"--{name}={value}" for name, value in flags_for(work, output, **settings).items()]
    nodes = ("--gpus-per-node=0", "--ntasks-per-node=1", "--nodes=2", "--cpus-per-task=1")
    log = work / f"{output}.log"
    environment = child_environment()
    script = ROOT / "scripts" / "cluster" / "slurm_sft.sbatch"
    job = slurm.submit(*nodes, f"--output={log}", *words, script, *flags, environment=environment, cwd=ROOT)
    return job, work / output


@pytest.fixture(scope="module")
def whole(slurm: Slurm, work: Path) -> Path:
    """The run that nothing happens to."""
    write_examples(work / "sums.jsonl", 4000, sources=("add", "sum"))
    job, output = submit(slurm, work, "whole")
    slurm.wait_for(job, "COMPLETED")
    assert [step for step, _ in losses(output)] == list(range(1, STEPS + 1))
    return output


def count_losses(output: Path) -> int:
    log = output / "train_log.jsonl"
    return log.read_text().count('"loss"') if log.exists() else 0


def moments(work: Path, output: Path) -> dict[str, Callable[[], object]]:
    """What is seen at each moment at which the job is told to leave, in this order."""
    log = work / f"{output.name}.log"

    def said(text: str) -> bool:
        """Whether the present attempt has said so: the log grows with each."""
        return log.exists() and text in log.read_text().rpartition("requeueing")[2]

    return {
        "set-up": lambda: True,
        "tokenising": lambda: [*(work / "cold").glob(".*.tmp/tokens.bin")],
        "loading": lambda: said("data: "),
        "in a step": lambda: count_losses(output) >= 2,
        "saving": lambda: [*output.glob(".writing-checkpoint-*")],
    }


def restarts(slurm: Slurm, job: int) -> int:
    return int(slurm.field(job, "Restarts") or 0)


def has_step(slurm: Slurm, job: int) -> bool:
    return f"{job}.0" in slurm.run("squeue", "-h", "-s", "-j", job, "-o", "%i").stdout


def test_told_to_leave_at_any_moment(slurm: Slurm, work: Path, whole: Path):
    job, output = submit(slurm, work, "told", token_cache=work / "cold", save_steps=20)
    for number, (moment, seen) in enumerate(moments(work, output).items()):
        wait_until(lambda: has_step(slurm, job), f"attempt {number + 1}")
        wait_until(seen, moment)
        before, began = count_losses(output), time.time()
        slurm.must("scancel", "--signal=TERM", job)
        wait_until(lambda: restarts(slurm, job) == number + 1, f"a requeue after {moment}")  # noqa: B023
        kept = sorted(int(path.name.rpartition("-")[2]) for path in output.glob("checkpoint-*"))
        print(f"{moment} | step {before} | {kept} | {time.time() - began:.0f} s")
        assert (kept and kept[-1] >= before) or not before
    slurm.wait_for(job, "COMPLETED")
    assert losses(output) == losses(whole)


def test_preempted(slurm: Slurm, work: Path, whole: Path):
    job, output = submit(slurm, work, "preempted", save_steps=1000)
    wait_until(lambda: count_losses(output) >= 2, "a step")
    urgent = slurm.submit("-p", "high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "true")
    slurm.wait_for(urgent, "COMPLETED")
    assert [*output.glob("checkpoint-*")]
    slurm.wait_for(job, "COMPLETED")
    assert restarts(slurm, job) == 1
    assert losses(output) == losses(whole)


@pytest.mark.parametrize("host", HOSTS)
def test_a_node_that_fails(slurm: Slurm, work: Path, whole: Path, host: str):
    """The first one runs the batch script, the group's store and the process that saves."""
    job, output = submit(slurm, work, f"failed-{host}", save_steps=5)
    wait_until(lambda: count_losses(output) >= 10, "a step beyond a checkpoint")
    slurm.crash_node(host)
    slurm.must("scontrol", "update", f"nodename={host}", "state=down", "reason=power")
    wait_until(lambda: restarts(slurm, job) == 1, "a requeue")
    slurm.start_node(host)
    slurm.must("scontrol", "update", f"nodename={host}", "state=resume")
    slurm.wait_for(job, "COMPLETED")
    assert losses(output) == losses(whole)
