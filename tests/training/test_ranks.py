"""Processes acting as one, seen from a group of one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch.distributed as dist

from promptcot_mamba.training.ranks import part
from tests.programs.train_helpers import ROOT, child_environment


def test_parting_takes_the_group_down(tmp_path: Path):
    part()  # without a group there is nothing to do
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    part()
    assert not dist.is_initialized()


SLOW_START = """
import sys, time
from datetime import timedelta
import torch.distributed as dist
from promptcot_mamba.errors import InputError
from promptcot_mamba.training.ranks import agree, first_does, rank, together
dist.init_process_group("gloo", timeout=timedelta(seconds=2), init_method="file://" + sys.argv[1],
                        rank=int(sys.argv[2]), world_size=2)
def encode():
    time.sleep(5)
    return "store"
assert first_does(encode) == "store"
assert together(lambda: rank(), only_if=rank() == 1) == (1 if rank() == 1 else None)
def refuse():
    raise InputError("row 3 is bad")
try:
    first_does(refuse)
except InputError as error:
    print(error)
dist.barrier()
"""


def test_waiting_for_one_process_outlasts_the_groups_time_out(tmp_path):
    """Work of 5 s in the first process, a time-out of 2 s on every collective: both go on, with the same error."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SLOW_START, str(tmp_path / "rendezvous"), str(number)], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=child_environment(),
        )
        for number in range(2)
    ]  # fmt: skip
    for process in started:
        output, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors[-2000:]
        assert output == "row 3 is bad\n"
