"""slurm_sft.sbatch where there is no Slurm: what it makes of the words of different Slurms, with its commands
replaced by ones that say what they were told. tests/cluster runs it on a real one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FACTS = (
    "JobId=101 ArrayJobId=100 ArrayTaskId=1 JobName=EndTime=never UserId=me(1000) Priority=1 Requeue=1 Restarts=0 "
    "JobState=RUNNING Reason=None TimeLimit=1-00:00:00 EndTime=2099-01-01T00:00:00 PreemptTime=None NumNodes=2 "
    "JOB_GRES=gpu:16   Nodes=n[1-2] CPU_IDs=0-63 Mem=0 GRES= MinCPUsNode=8 TresPerNode=gres:gpu:8 "
)
WAITING = "JobId=100 ArrayJobId=100 ArrayTaskId=2-9%1 JobState=PENDING Reason=None EndTime=Unknown"  # the array's rest


def run(folder: Path, facts: str = FACTS, status: int = 0, requeue: str = "true", **environment: str):
    """The script in a repository of one empty program; `status` is srun's, `requeue` a shell command."""
    (folder / "train.py").touch()
    (folder / "facts").write_text(f"{WAITING}\n{facts}\n")
    stand_ins = {
        "srun": f'echo "srun $@"; env | grep -E "^(SLURM|SRUN)_" | sort; exit {status}',
        "scontrol": f'case "$*" in *"show job"*) cat {folder}/facts ;; *hostnames*) printf "n1\\nn2\\n" ;; '
        f'*) echo "scontrol $@" >> {folder}/told; {requeue} ;; esac',
    }
    for name, words in stand_ins.items():
        (folder / name).write_text(f"#!/bin/sh\n{words}\n")
        (folder / name).chmod(0o755)
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SRUN", "SBATCH"))},
        "PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "101", "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_TASKS_PER_NODE": "8(x2)", "SLURM_CPUS_PER_TASK": "8", **environment,
    }  # fmt: skip
    command = ["bash", str(ROOT / "scripts/cluster/slurm_sft.sbatch"), "--max_steps", "3"]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=60, check=False)


def told(folder: Path) -> list[str]:
    return (folder / "told").read_text().splitlines() if (folder / "told").exists() else []


@pytest.mark.parametrize(
    "given",
    [
        "", "gpu:8(IDX:0-7)", "gpu:a100:8(IDX:0-7)", "gpu:nvidia_h100_80gb_hbm3:8(IDX:0-7),nvme:1",
        "nvme:1,gpu:8(IDX:0-7)", "gpu:a100_1g.5gb:8(IDX:0-7)", "nvme:4(CNT:4)",
    ],
)  # fmt: skip
def test_as_many_gpus_as_tasks(tmp_path: Path, given: str):
    done = run(tmp_path, FACTS.replace(" GRES=", f" GRES={given}"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("srun --kill-on-bad-exit=0 --wait=0 --export=ALL bash -c ")
    assert "train --max_steps 3\n" in done.stdout


@pytest.mark.parametrize("given", ["gpu:4(IDX:0-3)", "gpu:a100:4(IDX:0,2,4,6)", "nvme:8,gpu:h100:4(IDX:0-3)"])
def test_another_number_of_gpus_is_named(tmp_path: Path, given: str):
    """Also where the second of two nodes has it."""
    unlike = f" GRES=gpu:8(IDX:0-7)   Nodes=n2 CPU_IDs=0-63 Mem=0 GRES={given}"
    for facts in (FACTS.replace(" GRES=", f" GRES={given}"), FACTS.replace(" GRES=", unlike)):
        done = run(tmp_path, facts)
        assert done.returncode == 2
        assert done.stderr == (
            "error: --ntasks-per-node=8, but a node has 4 GPUs, each for a task of its own; give --ntasks-per-node=4\n"
        )
        assert not done.stdout


@pytest.mark.parametrize(
    ("status", "preempted", "requeued"),
    [
        (0, "None", False), (1, "None", False), (2, "None", False), (137, "None", False), (75, "None", True),
        (143, "None", True), (134, "None", True), (1, "2026-11-29T07:00:00", True), (1, "", False), (75, "", True),
    ],
)  # fmt: skip
def test_what_is_requeued(tmp_path: Path, status: int, preempted: str, requeued: bool):
    """A member of an array by its own name; on a partition without preemption nothing is said of it."""
    facts = FACTS.replace("PreemptTime=None ", f"PreemptTime={preempted} " if preempted else "")
    done = run(tmp_path, facts, status)
    assert done.returncode == status
    assert told(tmp_path) == (["scontrol requeue 100_1"] if requeued else [])


def test_a_job_alone_has_its_number(tmp_path: Path):
    """Whatever array the job was submitted from."""
    facts = FACTS.replace("ArrayJobId=100 ArrayTaskId=1 ", "")
    run(tmp_path, facts, 75, SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="3")
    assert told(tmp_path) == ["scontrol requeue 101"]


def test_a_refused_requeue_is_told_from_a_stop(tmp_path: Path):
    done = run(tmp_path, status=75, requeue="echo Access/permission denied >&2; exit 1")
    assert done.returncode == 75
    error = "error: job 100_1 was not requeued (Access/permission denied); the same command goes on from the last "
    assert done.stderr == f"{error}checkpoint\n"


def test_without_slurm_it_says_how_it_is_started(tmp_path: Path):
    done = run(tmp_path, SLURM_JOB_ID="")
    assert done.returncode == 2
    assert done.stderr == f"error: no job: sbatch {ROOT}/scripts/cluster/slurm_sft.sbatch ...\n"


def test_requeues_end_somewhere(tmp_path: Path):
    done = run(tmp_path, status=75, SLURM_RESTART_COUNT="3", MAX_REQUEUES="3")
    assert told(tmp_path) == []
    assert done.stderr == "error: stopped (status 75), after 3 requeues (MAX_REQUEUES): not requeued again\n"


def test_srun_takes_nothing_from_the_job_before(tmp_path: Path):
    left = {
        "SLURM_CPU_BIND": "quiet,mask_cpu:0x1", "SLURM_CPU_BIND_LIST": "0x1", "SLURM_MEM_PER_NODE": "4096",
        "SLURM_MEM_PER_CPU": "1024", "SLURM_GPUS_PER_NODE": "8", "SLURM_GPUS_PER_TASK": "1",
        "SLURM_GPU_BIND": "single:1", "SLURM_TRES_PER_TASK": "cpu=8,gres/gpu=1",
    }  # fmt: skip
    done = run(tmp_path, **left)
    assert done.returncode == 0, done.stderr
    kept = [line for line in done.stdout.splitlines() if line.startswith(("SLURM_", "SRUN_"))]
    assert kept == [
        "SLURM_CPUS_PER_TASK=8", "SLURM_JOB_ID=101", "SLURM_JOB_NODELIST=n[1-2]", "SLURM_TASKS_PER_NODE=8(x2)",
        "SRUN_CPUS_PER_TASK=8",
    ]  # fmt: skip
