"""Killed at random moments of its life (encoding, stepping, saving, exporting), the same command ends with the same
losses and weights, bit for bit. Every kill costs a start, so this runs when asked for; `-s` prints the table."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from promptcot_mamba.training.run_folder import finished_step
from tests.programs.train_helpers import (
    HANG_SECONDS,
    ROOT,
    ZERO2,
    child_environment,
    flags_for,
    free_port,
    losses,
    train_command,
    write_examples,
)
from tests.tiny import make_checkpoint

pytestmark = pytest.mark.slow
CONFIGS = [ZERO2, "configs/deepspeed_zero2_offload.json", "configs/deepspeed_zero3.json"]
STEPS = 60
KILLS = {"encoding": 4, "any moment": 4, "stepping": 4, "saving": 5, "exporting": 3}  # in this order; 20 in all
POLL_SECONDS = 0.001


def moments(work: Path, output: Path) -> dict[str, tuple[Callable[[], object], float]]:
    """When each kind of kill may come: from when its sign is seen, within so many seconds more."""
    start, begun = count_losses(output), time.time()

    def is_written(folder: Path, pattern: str) -> bool:  # now; not what an earlier kill left
        return any(path.stat().st_mtime > begun for path in folder.glob(pattern))

    return {
        "encoding": (lambda: is_written(work / "cold", ".*.tmp/tokens.bin"), 0.5),
        "any moment": (lambda: time.time() - begun > 5, 15),
        "stepping": (lambda: count_losses(output) > start, 0.2),
        "saving": (lambda: is_written(output, ".writing-checkpoint-*"), 0.05),
        "exporting": (lambda: is_written(output, ".writing-export"), 0.003),
    }


def count_losses(output: Path) -> int:
    log = output / "train_log.jsonl"
    return log.read_text().count('"loss"') if log.exists() else 0


def start_two(flags: dict[str, object]) -> subprocess.Popen[str]:
    """Two processes as the launcher starts them, without its own two, whose start would be half of the test."""
    one, other = (f'RANK={rank} LOCAL_RANK={rank} "$@"' for rank in range(2))
    both = f"{other} & other=$!; {one}; status=$?; wait $other || status=$?; exit $status"
    place = {"WORLD_SIZE": "2", "LOCAL_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return subprocess.Popen(
        ["sh", "-c", both, "sh", *train_command(flags)], cwd=ROOT, env=child_environment() | place, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def run_two(flags: dict[str, object]) -> None:
    process = start_two(flags)
    said, _ = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 0, said[-3000:]


def kill_once(flags: dict[str, object], work: Path, output: Path, kind: str, draw: random.Random) -> bool:
    """Start the command and kill both processes at a moment of this kind; False if they ended before one came."""
    seen, longest = moments(work, output)[kind]
    process = start_two(flags)
    deadline = time.monotonic() + HANG_SECONDS
    while not seen() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    try:
        said, _ = process.communicate(timeout=draw.uniform(0, longest))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    assert process.returncode == 0, said[-3000:]
    return False


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: Path(path).stem)
def test_killed_anywhere_ends_the_same(tmp_path: Path, config: str):
    make_checkpoint(tmp_path / "model")
    write_examples(tmp_path / "sums.jsonl", 6000, sources=("add", "sum"))
    assert (ROOT / config).exists()
    settings = {
        "deepspeed": config, "gradient_accumulation_steps": 1, "save_steps": 2, "save_total_limit": 2,
        "max_steps": STEPS,
    }  # fmt: skip
    run_two(flags_for(tmp_path, "whole", **settings))

    draw, output, killed, reached = random.Random(7), tmp_path / "killed", Counter(), []
    flags = flags_for(tmp_path, "killed", **settings, token_cache=tmp_path / "cold")  # encodes anew
    for kind, wanted in KILLS.items():
        for _ in range(wanted):
            if finished_step(output):  # killed after the last word, or not at all: it has to have an end again
                unfinish(output)
            killed[kind] += kill_once(flags, tmp_path, output, kind, draw)
            reached.append(count_losses(output))
    run_two(flags)
    print(f"\n{Path(config).stem}: killed {dict(killed)}, at steps {reached}")
    assert losses(output) == losses(tmp_path / "whole"), reached
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (output, tmp_path / "whole"))
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert sum(killed.values()) >= 18, killed  # an export is milliseconds: some are over before the kill


# train.py as it is, but that a signal comes as the first file of the export is copied.
TOLD = """
import os, runpy, shutil, signal, sys

def copyfile(source, target, copy=shutil.copyfile):
    if target.parent.name == ".writing-export" and not [*target.parent.iterdir()]:
        print("exporting", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGTERM)
    return copy(source, target)

shutil.copyfile = copyfile
runpy.run_path("train.py", run_name="__main__")
"""


def test_told_to_leave_while_exporting_the_run_ends_well(tmp_path: Path):
    """The export is finished and said to be: there is nothing to requeue."""
    make_checkpoint(tmp_path / "model")
    write_examples(tmp_path / "sums.jsonl", 40)
    flags = flags_for(tmp_path, "told", max_steps=2)
    command = [sys.executable, "-c", TOLD, *train_command(flags)[2:]]
    done = subprocess.run(command, cwd=ROOT, env=child_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "exporting" in done.stderr
    assert finished_step(tmp_path / "told") == 2
    assert load_file(tmp_path / "told" / "model.safetensors")
    again = subprocess.run(train_command(flags), cwd=ROOT, env=child_environment(), capture_output=True, text=True)
    assert "finished at step 2; nothing to do" in again.stderr


def unfinish(output: Path) -> None:
    """As a run killed before its export."""
    run_file = output / "run.json"
    run_file.write_text(json.dumps(json.loads(run_file.read_text()) | {"finished": None}))
    (output / "model.safetensors").unlink()
