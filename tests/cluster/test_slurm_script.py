"""slurm_sft.sbatch on a Slurm of two nodes, with a program of a few lines in the place of train.py: who hears
of what, and what becomes of the job for each way in which the program may end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.slurm import Slurm, wait_until
from tests.programs.train_helpers import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SCRIPT = ROOT / "scripts" / "cluster" / "slurm_sft.sbatch"
NO_GPUS = ("--gpus-per-node=0", "--ntasks-per-node=1", "--nodes=2", "--cpus-per-task=1")
# Says what it sees; ends as told the first time, and with 0 once the job has been requeued.
PROGRAM = """
import os, signal, sys, time
if sys.argv[1] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[1] == "saves":
    def save(number, frame):
        time.sleep(3)
        print("saved", flush=True)
        sys.exit(75)
    signal.signal(signal.SIGTERM, save)
facts = [os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "OMP_NUM_THREADS")]
print("started", *facts, len(os.sched_getaffinity(0)), os.uname().nodename, flush=True)
if os.environ.get("SLURM_RESTART_COUNT", "0") != "0":
    sys.exit(0)
if sys.argv[1] == "exits":
    sys.exit(int(sys.argv[2]) if os.environ["RANK"] == "1" or sys.argv[2] == "75" else 0)
if sys.argv[1] == "killed":
    time.sleep(2)
    os.kill(os.getpid(), signal.SIGKILL) if os.environ["RANK"] == "1" else sys.exit(75)
time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text('PATH="$PWD/.venv/bin:$PATH"\n')
    (tmp_path / ".venv" / "bin" / "python").write_text('#!/bin/sh\nexec python3 "$@"\n')
    (tmp_path / ".venv" / "bin" / "python").chmod(0o755)
    (tmp_path / "train.py").write_text(PROGRAM)
    return tmp_path


def submit(slurm: Slurm, folder: Path, *words: str, flags: tuple[str, ...] = (), signal: str | None = None) -> int:
    environment = {"SBATCH_SIGNAL": signal} if signal else {}
    return slurm.submit(*NO_GPUS, *flags, SCRIPT, *words, environment=environment, cwd=folder)


def log_of(folder: Path, job: int) -> str:
    path = folder / f"promptcot-sft-{job}.log"
    return path.read_text() if path.exists() else ""


def wait_for_tasks(folder: Path, job: int, count: int = 2) -> None:
    wait_until(lambda: log_of(folder, job).count("started") == count, f"{count} tasks of job {job}")


def test_nodes_without_gpus_and_all_their_cpus(slurm: Slurm, folder: Path):
    job = submit(slurm, folder, "exits", "0", flags=("--cpus-per-task=2",))
    slurm.wait_for(job, "COMPLETED")
    started = sorted(line for line in log_of(folder, job).splitlines() if line.startswith("started"))
    assert started == ["started 0 0 2 1 2 2 node-a", "started 1 0 2 1 2 2 node-b"]


@pytest.mark.parametrize(
    ("words", "requeued"),
    [(("exits", "75"), True), (("exits", "1"), False), (("exits", "2"), False), (("killed",), False)],
    ids=["75", "1", "2", "killed"],
)
def test_only_a_stop_is_requeued(slurm: Slurm, folder: Path, words: tuple[str, ...], requeued: bool):
    """A program that failed, or that was killed for its memory, would fail again."""
    job = submit(slurm, folder, *words)
    slurm.wait_for(job, "COMPLETED" if requeued else "FAILED")
    assert slurm.field(job, "Restarts") == str(int(requeued))
    assert ("requeueing" in log_of(folder, job)) == requeued


@pytest.mark.parametrize("program", ["saves", "dies"])
def test_sigterm_requeues_with_or_without_something_to_save(slurm: Slurm, folder: Path, program: str):
    job = submit(slurm, folder, program)
    wait_for_tasks(folder, job)
    slurm.must("scancel", "--signal=TERM", job)  # to the tasks, as --signal=TERM@600 does
    slurm.wait_for(job, "COMPLETED")
    assert slurm.field(job, "Restarts") == "1"
    assert log_of(folder, job).count("saved") == (2 if program == "saves" else 0)


@pytest.mark.parametrize("program", ["saves", "dies", "deaf"])
def test_preempted_jobs_give_way_and_come_back(slurm: Slurm, folder: Path, program: str):
    job = submit(slurm, folder, program)
    wait_for_tasks(folder, job)
    urgent = slurm.submit("-p", "high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "true")
    slurm.wait_for(urgent, "COMPLETED")
    slurm.wait_for(job, "COMPLETED")
    assert slurm.field(job, "Restarts") == "1"
    assert log_of(folder, job).count("saved") == (2 if program == "saves" else 0)


def test_cancelled_jobs_stay_cancelled(slurm: Slurm, folder: Path):
    job = submit(slurm, folder, "saves")
    wait_for_tasks(folder, job)
    slurm.must("scancel", job)
    wait_until(lambda: slurm.node_states() == ["idle", "idle"], "the end of the job")
    assert slurm.state(job) == "CANCELLED"
    assert "requeueing" not in log_of(folder, job)


def test_a_time_limit_below_the_signals_lead_is_named(slurm: Slurm, folder: Path):
    job = submit(slurm, folder, "saves", flags=("--time=10",))
    slurm.wait_for(job, "FAILED")
    said = log_of(folder, job)
    assert said.startswith("error: --time: 00:10:00 leaves no step before the signal to stop (--signal=TERM@600); give")
    assert "started" not in said
    assert slurm.field(job, "ExitCode") == "2:0"


@pytest.mark.parametrize("program", ["saves", "deaf"])
def test_time_that_is_up_requeues(slurm: Slurm, folder: Path, program: str):
    """Also where a step or a checkpoint takes longer than the lead: Slurm then kills the tasks."""
    job = submit(slurm, folder, program, flags=("--time=2",), signal="TERM@10")
    slurm.wait_for(job, "COMPLETED")
    assert slurm.field(job, "Restarts") == "1"
