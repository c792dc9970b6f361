"""slurm_sft.sbatch on a Slurm of two nodes, with a program of a few lines in the place of train.py: who hears
of what, and what becomes of the job for each way in which the program may end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.jobs import Case, Job, make_folder, submit
from tests.cluster.slurm import Slurm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SHORT = "error: --time: 00:10:00 leaves no step before the signal to stop (--signal=TERM@600); give a longer --time"


def tell(job: Job) -> None:
    """As --signal=TERM@600 does: to the tasks."""
    job.slurm.must("scancel", "--signal=TERM", job.number)


def tell_script(job: Job) -> None:
    """As --signal=B:USR1@600 does."""
    job.slurm.must("scancel", "--signal=USR1", "--batch", job.number)


def cancel(job: Job) -> None:
    job.slurm.must("scancel", job.number)


def limit(job: Job) -> None:
    job.end_in(61)


MINUTES = {"flags": ("--time=5",), "environment": {"SBATCH_SIGNAL": "TERM@10"}}
# A program that failed, or that was killed for its memory, would fail again: only a stop is requeued. Time that is up
# is one, also where a step or a checkpoint takes longer than the lead: Slurm then kills the tasks.
CASES = {
    "75": Case(("exits", "75"), restarts=1),
    "1": Case(("exits", "1"), state="FAILED"),
    "2": Case(("exits", "2"), state="FAILED"),
    "killed": Case(("killed",), state="FAILED"),
    "not-requeueable": Case(("exits", "75"), state="FAILED", flags=("--no-requeue",)),
    "told-and-saves": Case(("saves",), tell, restarts=1, saved=2),
    "told-and-dies": Case(("dies",), tell, restarts=1),
    "script-told": Case(("saves",), tell_script, restarts=1, saved=2),
    "cancelled": Case(("saves",), cancel, state="CANCELLED", saved=2),
    "short": Case(("saves",), state="FAILED", says=SHORT, flags=("--time=10",)),
    "time-up": Case(("saves",), limit, restarts=1, saved=2, **MINUTES),
    "time-up-and-deaf": Case(("deaf",), limit, restarts=1, **MINUTES),
}


def test_preempted_jobs_give_way_and_come_back(slurm: Slurm, tmp_path: Path):
    """With a grace time: the deaf one is taken away at its end."""
    folder = make_folder(tmp_path)
    jobs = {how: submit(slurm, folder, how, flags=("-p", "brief")) for how in ("saves", "dies", "deaf")}
    for job in jobs.values():
        job.wait_for_tasks()
    urgent = slurm.submit("-p", "high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "true")
    slurm.wait_for(urgent, "COMPLETED")
    for how, job in jobs.items():
        slurm.wait_for(job.number, "COMPLETED")
        assert job.restarts == 1
        assert job.log.count("saved\n") == (2 if how == "saves" else 0)


@pytest.fixture(scope="module")
def jobs(slurm: Slurm, tmp_path_factory) -> dict[str, Job]:
    """All at once, on shared CPUs: most of their time is Slurm's own."""
    folder = make_folder(tmp_path_factory.mktemp("jobs"))
    made = {name: case.submit(slurm, folder) for name, case in CASES.items()}
    for name, case in CASES.items():
        if case.deed:
            made[name].wait_for_tasks()
            case.deed(made[name])
    return made


@pytest.mark.parametrize("name", CASES)
def test_what_becomes_of_a_job(jobs: dict[str, Job], name: str):
    CASES[name].check(jobs[name])


def test_a_job_that_may_not_go_back_says_what_goes_on(jobs: dict[str, Job]):
    job = jobs["not-requeueable"]
    [line] = [line for line in job.log.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: job {job.number} was not requeued (")
    assert line.endswith("); the same command goes on from the last checkpoint")


def test_what_is_refused_starts_nothing(jobs: dict[str, Job], slurm: Slurm):
    assert jobs["short"].started() == []
    assert slurm.field(jobs["short"].number, "ExitCode") == "2:0"


def test_nodes_without_gpus_and_all_their_cpus(slurm: Slurm, tmp_path: Path):
    job = submit(slurm, make_folder(tmp_path), "exits", "0", flags=("--cpus-per-task=2",))
    slurm.wait_for(job.number, "COMPLETED")
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "OMP_NUM_THREADS", "host")
    seen = sorted([*(task[name] for name in names), task["cpus"]] for task in job.started())
    assert seen == [["0", "0", "2", "1", "2", "node-a", 2], ["1", "0", "2", "1", "2", "node-b", 2]]
