"""Killed at random moments of its life (encoding, loading, stepping, saving, exporting), the same command ends with the
same losses and weights, bit for bit. Every kill costs a start, so this runs when asked for."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from promptcot_mamba.training.run_folder import read_run
from tests.programs.train_helpers import (
    HANG_SECONDS,
    ROOT,
    ZERO2,
    flags_for,
    losses,
    run_train,
    start_train,
    write_examples,
)  # fmt: skip
from tests.tiny import make_checkpoint

pytestmark = pytest.mark.slow
KILLS = 20
CONFIGS = [ZERO2, "configs/deepspeed_zero2_offload.json", "configs/deepspeed_zero3.json"]


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: Path(path).stem)
def test_killed_anywhere_ends_the_same(tmp_path: Path, config: str):
    make_checkpoint(tmp_path / "model")
    write_examples(tmp_path / "sums.jsonl", 4000, sources=("add", "sum"))
    assert (ROOT / config).exists()
    settings = {"deepspeed": config, "gradient_accumulation_steps": 1, "save_steps": 1, "save_total_limit": 2}
    started = time.monotonic()
    whole = run_train(flags_for(tmp_path, "whole", **settings), processes=2)
    seconds = time.monotonic() - started
    assert whole.returncode == 0, whole.stderr[-3000:]

    draw, output, moments = random.Random(7), tmp_path / "killed", []
    flags = flags_for(tmp_path, "killed", **settings, token_cache=tmp_path / "other_cache")  # encodes anew
    for _ in range(KILLS):
        process = start_train(flags, processes=2)
        try:
            process.communicate(timeout=draw.uniform(0.2, 1.1) * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        moments.append(len(losses(output)) if (output / "train_log.jsonl").exists() else 0)
        if (read_run(output) or {}).get("finished"):
            break
    last = run_train(flags, processes=2)
    assert last.returncode == 0, last.stderr[-3000:]
    assert len(moments) > 1, "never killed: the moments were too late"
    assert losses(output) == losses(tmp_path / "whole"), moments
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (output, tmp_path / "whole"))
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert seconds < HANG_SECONDS
