"""train.py with rows held in slices: the losses of one process, sharded, continued after a kill, refused by name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs.train_helpers import (
    HANG_SECONDS,
    ROOT,
    ZERO2,
    child_environment,
    flags_for,
    free_port,
    make_work,
    read_curve,
    run_train,
    start_train,
    wait_for_step,
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_work(tmp_path_factory.mktemp("slices"), n_groups=2)


@pytest.fixture(scope="module")
def alone(work: Path) -> Path:
    result = run_train(flags_for(work, "alone", eval_data_path=work / "sums.jsonl"))
    assert result.returncode == 0, result.stderr[-3000:]
    return work / "alone"


def read_validation(output_dir: Path) -> list[dict]:
    """The log entries of validation."""
    rows = [json.loads(line) for line in (output_dir / "train_log.jsonl").read_text().splitlines()]
    return [row for row in rows if "eval_loss" in row]


def torchrun(flags: dict[str, object], processes: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    command += [f"--master_port={free_port()}", str(ROOT / "train.py")]
    command += [f"--{name}={value}" for name, value in flags.items()]
    return subprocess.run(
        command, cwd=ROOT, env=child_environment(), capture_output=True, text=True, timeout=HANG_SECONDS
    )


def assert_same_curve(one: Path, other: Path) -> None:
    for expected, got in zip(read_curve(one), read_curve(other), strict=True):
        assert got["loss"] == pytest.approx(expected["loss"], rel=1e-6)
        assert got["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-5)
        assert got["documents"] == expected["documents"]
        assert got["labelled_tokens"] == expected["labelled_tokens"]
    for expected, got in zip(read_validation(one), read_validation(other), strict=True):
        losses = {name: value for name, value in expected.items() if name.endswith("_loss")}
        assert losses == pytest.approx({name: got[name] for name in losses}, rel=1e-6)


def test_two_processes_hold_each_row_and_learn_what_one_learns(work: Path, alone: Path):
    result = torchrun(flags_for(work, "two", sequence_parallel_size=2, eval_data_path=work / "sums.jsonl"), 2)
    assert result.returncode == 0, result.stderr[-3000:]
    assert_same_curve(alone, work / "two")
    assert read_validation(work / "two")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequence_parallel_size": 2}, "--sequence_parallel_size 2: must divide the number of processes, 1"),
        ({"sequence_parallel_size": 0}, "--sequence_parallel_size 0: must divide"),
    ],
)
def test_a_size_that_does_not_fit_is_one_line(work: Path, changes: dict[str, object], message: str):
    result = run_train(flags_for(work, "refused", **changes))
    assert result.returncode == 2
    assert message in result.stderr
    assert not (work / "refused").exists()


@pytest.mark.slow
def test_unpacked_rows_are_refused(work: Path):
    result = torchrun(flags_for(work, "refused", sequence_parallel_size=2, packing=False), 2)
    assert result.returncode != 0
    assert "--sequence_parallel_size 2: rows must be packed" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("config", [ZERO2, "configs/deepspeed_zero3.json"])
@pytest.mark.parametrize("changes", [{}, {"gradient_checkpointing": True, "loss_average": "examples"}])
def test_sharded_slices_train_alike_and_survive_a_kill(work: Path, config: str, changes: dict[str, object]):
    name = f"{Path(config).stem}-{len(changes)}"
    alone = work / f"alone-{len(changes)}"
    if not alone.exists():
        assert run_train(flags_for(work, alone.name, **changes)).returncode == 0
    flags = flags_for(work, name, deepspeed=config, sequence_parallel_size=2, **changes)
    process = start_train(flags, processes=2)
    wait_for_step(work / name, 4, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    result = run_train(flags, processes=2)
    assert result.returncode == 0, result.stderr[-3000:]
    assert_same_curve(alone, work / name)


@pytest.mark.slow
def test_slices_beside_data_parallelism(work: Path, alone: Path):
    flags = flags_for(work, "four", sequence_parallel_size=2, eval_data_path=work / "sums.jsonl")
    flags["gradient_accumulation_steps"] = int(flags["gradient_accumulation_steps"]) // 2
    result = torchrun(flags, 4)
    assert result.returncode == 0, result.stderr[-3000:]
    assert_same_curve(alone, work / "four")
