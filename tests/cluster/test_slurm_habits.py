"""slurm_sft.sbatch as users of public clusters call it: what they are used to from scripts that start a launcher a
node, from containers' and centres' pages, works or is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.hosts import HOSTS
from tests.cluster.jobs import NO_GPUS, SCRIPT, TWO_NODES, Job, make_folder, submit
from tests.cluster.slurm import Slurm, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TWO = {("0", "0", "2"), ("1", "0", "2")}
FOUR = {("0", "0", "4"), ("1", "1", "4"), ("2", "0", "4"), ("3", "1", "4")}


def ranks(job: Job) -> set[tuple[str, str, str]]:
    return {(task["RANK"], task["LOCAL_RANK"], task["WORLD_SIZE"]) for task in job.started()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


@pytest.mark.parametrize(
    "flags",
    [
        ("--gpus-per-node=2", "--ntasks-per-node=2"),
        ("--gres=gpu:2", "--ntasks-per-node=2", "--exclusive"),
        ("--gpus-per-node=2", "--ntasks-per-node=2", "--gpus-per-task=1"),
        ("--gpus-per-node=2", "--ntasks-per-node=2", "--gpus=4", "--hint=nomultithread", "--mem=0"),
    ],
    ids=["gpus-per-node", "gres", "gpus-per-task", "all"],
)
def test_every_task_sees_the_gpus_of_its_node(slurm: Slurm, folder: Path, flags: tuple[str, ...]):
    """LOCAL_RANK names its own; with --gpus-per-task Slurm would show each one alone, as its first."""
    job = submit(slurm, folder, "exits", "0", nodes=(*TWO_NODES, *flags))
    slurm.wait_for(job.number, "COMPLETED")
    assert ranks(job) == FOUR
    assert {task["CUDA_VISIBLE_DEVICES"] for task in job.started()} == {"0,1"}
    assert {task["LOCAL_SIZE"] for task in job.started()} == {"2"}


def test_one_task_a_node_for_a_launcher_is_refused(slurm: Slurm, folder: Path):
    """One process would train on a GPU of eight, and say nothing of it."""
    job = submit(slurm, folder, "exits", "0", nodes=(*TWO_NODES, "--gres=gpu:2", "--ntasks-per-node=1"))
    slurm.wait_for(job.number, "FAILED")
    assert job.log == (
        "error: --ntasks-per-node=1, but a node has 2 GPUs, each for a task of its own; give --ntasks-per-node=2\n"
    )


def test_a_clean_environment_still_has_what_the_script_says(slurm: Slurm, folder: Path):
    """--export=NONE, a rule of some centres, holds for srun too."""
    job = submit(slurm, folder, "exits", "0", flags=("--export=NONE",))
    slurm.wait_for(job.number, "COMPLETED")
    assert ranks(job) == TWO
    assert {task["MASTER_ADDR"] for task in job.started()} == {HOSTS[0]}


def test_submitted_from_within_another_job(slurm: Slurm, folder: Path):
    """Whose cores, memory and array stand in the environment."""
    inside = ("srun", "--nodes=1", "--ntasks=1", "--mem=70", "--cpu-bind=map_cpu:0")
    environment = {**slurm.environment, "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "RANK": "9"}
    words = (*NO_GPUS, "--mem-per-cpu=60", SCRIPT, "exits", "75")
    done = slurm.hosts.run(HOSTS[0], *inside, "sbatch", "--parsable", *words, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    job = Job(slurm, folder, int(done.stdout))
    slurm.wait_for(job.number, "COMPLETED")
    assert job.restarts == 1, job.log
    assert ranks(job) == TWO


def test_one_job_of_an_array_is_requeued_alone(slurm: Slurm, folder: Path):
    """The last one has the number of the whole array."""
    array = submit(slurm, folder, "second", flags=("--array=0-1",)).number
    wait_until(lambda: slurm.field(f"{array}_1", "JobState") == "COMPLETED", "the end of the second")
    assert [slurm.field(f"{array}_{number}", "Restarts") for number in (0, 1)] == ["0", "1"]
    assert slurm.state(f"{array}_0") == "RUNNING"
    slurm.must("scancel", array)


def test_submitted_from_elsewhere(slurm: Slurm, folder: Path, tmp_path_factory):
    """By a path, in a folder of one's own: said, and mended by --chdir."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    lost = submit(slurm, elsewhere, "exits", "0")
    slurm.wait_for(lost.number, "FAILED")
    assert lost.log == f"error: {elsewhere}: no train.py; submit from the repository, or with --chdir\n"
    number = slurm.submit(*NO_GPUS, f"--chdir={folder}", SCRIPT, "exits", "0", cwd=elsewhere)
    slurm.wait_for(number, "COMPLETED")
    assert ranks(Job(slurm, folder, number)) == TWO


def test_what_is_compiled_stays_on_the_node(slurm: Slurm, folder: Path):
    """Unless the user knows a better place."""
    own = submit(slurm, folder, "exits", "0")
    named = submit(slurm, folder, "exits", "0", environment={"TRITON_CACHE_DIR": "/scratch/me"})
    for job in (own, named):
        slurm.wait_for(job.number, "COMPLETED")
    assert {task["TRITON_CACHE_DIR"] for task in own.started()} == {"/tmp/promptcot-0/triton"}
    assert {task["TORCH_EXTENSIONS_DIR"] for task in own.started()} == {"/tmp/promptcot-0/torch_extensions"}
    assert {task["TRITON_CACHE_DIR"] for task in named.started()} == {"/scratch/me"}
