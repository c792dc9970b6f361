"""Running train.py as users do: a child process, alone or under the deepspeed launcher, on a tiny model and data."""

from __future__ import annotations

import json
import os
import random
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import small_disk
from tests.tiny import make_checkpoint

ROOT = Path(__file__).resolve().parent.parent.parent
ZERO2 = "configs/promptcot_mamba_7b_config.json"
HANG_SECONDS = 500
STEPS = 7


def write_examples(path: Path, count: int, seed: int = 0, sources: tuple[str, ...] = ("add",)) -> Path:
    """Sums with thoughts of very different lengths."""
    draw = random.Random(seed)
    with path.open("w") as file:
        for index in range(count):
            a, b = draw.randint(0, 99), draw.randint(0, 99)
            thought = f"{a} + {b} = {a + b}\n" * draw.randint(1, 9)
            row = {
                "id": f"ex{index}",
                "source": sources[index % len(sources)],
                "prompt": f"<|im_start|>user\nFind {a} plus {b}.<|im_end|>\n<|im_start|>assistant\n<think>\n",
                "completion": f"{thought}</think>\nThe answer is \\boxed{{{a + b}}}.",
            }
            file.write(json.dumps(row) + "\n")
    return path


def make_work(folder: Path, **config_fields: int) -> Path:
    """A folder with a tiny checkpoint (`model`) and sums of two sources (`sums.jsonl`)."""
    make_checkpoint(folder / "model", **config_fields)
    write_examples(folder / "sums.jsonl", 40, sources=("add", "sum"))
    return folder


def run_alone(work: Path) -> Path:
    """The run that all others must equal: one process, no DeepSpeed."""
    result = run_train(flags_for(work, "alone"))
    assert result.returncode == 0, result.stderr[-3000:]
    return work / "alone"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train_command(flags: dict[str, object], processes: int | None = None) -> list[str]:
    """`train.py` with these flags; under the deepspeed launcher where `processes` is given."""
    train = [str(ROOT / "train.py"), *(f"--{name}={value}" for name, value in flags.items())]
    if processes is None:
        return [sys.executable, *train]
    deepspeed = Path(sys.executable).parent / "deepspeed"
    return [sys.executable, str(deepspeed), f"--num_gpus={processes}", f"--master_port={free_port()}", *train]


def child_environment() -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # as in an activated environment
    return {**inherited, "PATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}


def run_train(
    flags: dict[str, object], processes: int | None = None, most_bytes: int | None = None
) -> subprocess.CompletedProcess[str]:
    """`most_bytes`: no file may grow longer; the kernel then says EFBIG where a full disk says ENOSPC."""

    def limit() -> None:
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    return subprocess.run(
        train_command(flags, processes),
        preexec_fn=limit,
        cwd=ROOT,
        env=child_environment() if most_bytes is None else small_disk.ENVIRONMENT | child_environment(),
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )


def read_curve(output_dir: Path) -> list[dict]:
    """The log entries of the training steps."""
    rows = [json.loads(line) for line in (output_dir / "train_log.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


def losses(output_dir: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in read_curve(output_dir)]


def have_the_same_losses(one: Path, two: Path) -> None:
    """Step by step, to 1e-6 of the loss."""
    for (step, ours), (other, theirs) in zip(losses(one), losses(two), strict=True):
        assert step == other
        assert ours == pytest.approx(theirs, rel=1e-6)


def have_the_same_curves(one: Path, two: Path) -> None:
    """And the norms of their gradients."""
    have_the_same_losses(one, two)
    norms = [[row["grad_norm"] for row in read_curve(folder)] for folder in (one, two)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)


def flags_for(work: Path, output: str, **changes: object) -> dict[str, object]:
    """A short run over `work`'s model and sums into its folder `output`."""
    return {
        "model_name_or_path": work / "model",
        "data_path": work / "sums.jsonl",
        "output_dir": work / output,
        "token_cache": work / "cache",
        "max_length": 256,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "max_steps": STEPS,
        "save_steps": 3,
        "report_to": "none",
        **changes,
    }


def start_train(flags: dict[str, object], processes: int | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        train_command(flags, processes),
        cwd=ROOT,
        env=child_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_step(output: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + HANG_SECONDS
    log = output / "train_log.jsonl"
    while not (log.exists() and log.read_text().count('"loss"') >= step):
        assert process.poll() is None, f"ended early: {process.communicate()[0][-3000:]}"
        assert time.monotonic() < deadline
        time.sleep(0.01)
