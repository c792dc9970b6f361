"""Processes acting as one, seen from a group of one."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from promptcot_mamba.training.ranks import fail_as_one, part
from tests.programs.train_helpers import HANG_SECONDS, ROOT, child_environment, free_port


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


def start_two(program: str, folder: Path) -> list[subprocess.Popen]:
    """Two processes of one group; each is told where they meet, and its number."""
    return [
        subprocess.Popen(
            [sys.executable, "-c", program, str(folder / "rendezvous"), str(number)], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=child_environment(),
        )
        for number in range(2)
    ]  # fmt: skip


def test_waiting_for_one_process_outlasts_the_groups_time_out(tmp_path):
    """Work of 5 s in the first process, a time-out of 2 s on every collective: both go on, with the same error."""
    started = start_two(SLOW_START, tmp_path)
    for process in started:
        output, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors[-2000:]
        assert output == "row 3 is bad\n"


FULL_DISK = """
import errno, os, sys, time
import torch, torch.distributed as dist
from promptcot_mamba.training import ranks
ranks.LAST_WORD_SECONDS = 1.0
dist.init_process_group("gloo", init_method="tcp://127.0.0.1:PORT", rank=int(sys.argv[2]), world_size=2)
ones = torch.ones(1)
ranks.sum_over_ranks(ones)
with ranks.fail_as_one():
    if ranks.rank() in FULL:
        time.sleep(WAIT)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "checkpoint-3")
    if WAIT:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "checkpoint-3/part")
    ranks.sum_over_ranks(ones)
"""


@pytest.mark.parametrize(("full", "wait"), [((0,), 0), ((1,), 0), ((0, 1), 0), ((1,), 0.5)])
def test_a_full_disk_of_one_process_ends_both_with_one_line(tmp_path: Path, full: tuple[int, ...], wait: float):
    """The other stands in a collective, and would speak of a lost connection; or it writes into the same folder, which
    the one has just removed."""
    program = FULL_DISK.replace("FULL", str(full)).replace("PORT", str(free_port())).replace("WAIT", str(wait))
    started = start_two(program, tmp_path)
    ended = [process.communicate(timeout=HANG_SECONDS) for process in started]
    assert [process.returncode for process in started] == [2, 2]
    said = "".join(errors for _, errors in ended)
    lines = [line for line in said.splitlines() if "error:" in line or "Traceback" in line]
    assert lines == ["error: checkpoint-3: No space left on device; free some space and run the same command again"]


def test_what_is_no_full_disk_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="a bug"), fail_as_one():
        raise RuntimeError("a bug")
    with pytest.raises(OSError, match="a full disk"), fail_as_one():  # alone: the program tells it
        raise OSError(errno.ENOSPC, "a full disk")
