"""A process of two vanishes, or fails alone: the other ends, and says which it was and what became of it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from promptcot_mamba.errors import EXIT_LOST
from promptcot_mamba.training.watch import EXIT_FAILED
from tests.programs.train_helpers import HANG_SECONDS, free_port
from tests.training.test_ranks import start_two

PROGRAM = """
import os, signal, sys, time
import torch, torch.distributed as dist
from promptcot_mamba.training import ranks, watch
watch.BEAT_SECONDS, watch.LOST_AFTER_SECONDS, watch.BROKEN_AFTER_SECONDS = 0.5, 10.0, 3.0
dist.init_process_group("gloo", init_method="tcp://127.0.0.1:PORT", rank=int(sys.argv[2]), world_size=2)
def leave():
    HOW
ranks.LAST_WORD_SECONDS = 1.0
with watch.Watch(), ranks.fail_as_one():
    ones = torch.ones(1)
    ranks.sum_over_ranks(ones)
    if ranks.rank() == WHO:
        leave()
    if DEAF:  # as in a collective of NCCL's, which no broken connection ends
        time.sleep(600)
    ranks.sum_over_ranks(ones)
print("done")
"""
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
FROZEN = "os.kill(os.getpid(), signal.SIGSTOP)"  # as a host without a network: its connections stand, and say nothing


def run_two(folder: Path, who: int, how: str, deaf: bool = False) -> tuple[list[int], list[str]]:
    """Both exit statuses, and what was said by the one that stayed."""
    program = PROGRAM.replace("PORT", str(free_port())).replace("WHO", str(who)).replace("HOW", how)
    program = program.replace("DEAF", str(deaf))
    started = start_two(program, folder)
    stayed = started[1 - who]
    try:
        output, said = stayed.communicate(timeout=HANG_SECONDS)
        if how == FROZEN:
            started[who].send_signal(signal.SIGKILL)
        started[who].communicate(timeout=HANG_SECONDS)
    finally:
        for process in started:
            process.kill()
    assert output == ("done\n" if "sleep" in how else "")
    return [process.returncode for process in started], [line for line in said.splitlines() if "error: " in line]


@pytest.mark.parametrize(
    ("who", "how"),
    [
        (1, KILLED),
        pytest.param(0, KILLED, marks=pytest.mark.slow),
        pytest.param(0, FROZEN, marks=pytest.mark.slow),
        pytest.param(1, FROZEN, marks=pytest.mark.slow),
    ],
    ids=["killed", "first-killed", "first-frozen", "frozen"],
)
def test_who_vanishes_is_named(tmp_path: Path, who: int, how: str):
    statuses, errors = run_two(tmp_path, who, how)
    assert statuses[1 - who] == EXIT_LOST
    assert len(errors) == 1
    assert f"error: rank {who} on " in errors[0]
    assert errors[0].endswith("; the same command goes on from the last checkpoint")


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_an_error_of_one_ends_both(tmp_path: Path, who: int):
    """Nothing has vanished: the job has failed, and is not to be repeated."""
    statuses, errors = run_two(tmp_path, who, 'raise KeyError("layer.7")')
    assert statuses == [EXIT_FAILED, EXIT_FAILED]
    assert who == 0 or any("rank 1 on " in line and "ended: KeyError: 'layer.7'" in line for line in errors)


@pytest.mark.parametrize(
    ("who", "deaf"),
    [(1, True), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((0, True), (0, False), (1, False)))],
)
def test_a_full_disk_keeps_its_one_line(tmp_path: Path, who: int, deaf: bool):
    """And its status: a job that is repeated, as one that lost a host is, would find the disk full again."""
    statuses, errors = run_two(tmp_path, who, 'raise OSError(28, "No space left on device", "checkpoint-3")', deaf)
    assert statuses == [2, 2]
    assert errors == []  # the one with the full disk has said it


@pytest.mark.slow
def test_nobody_is_missed_where_all_are_there(tmp_path: Path):
    assert run_two(tmp_path, 1, "time.sleep(12)") == ([0, 0], [])
