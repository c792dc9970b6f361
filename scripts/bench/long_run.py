"""Chains of 65,536 tokens trained for real: train.py on one process, and on two that hold each row in slices.

    python -m scripts.bench.long_run --record docs/records/long_run.json

A tiny Mamba-2 learns from chains just under `--length` tokens. The sliced run is killed (SIGKILL, all processes) after
half of its steps and continued by the same command. Losses are compared step by step. What rows of this length add to
the first process's peak of resident memory is measured against the same command on rows of a 64th of the length.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from promptcot_mamba.bench_record import RecordTable, report_record
from promptcot_mamba.chat_format import render_prompt
from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.jsonl import write_jsonl
from promptcot_mamba.log import logger
from promptcot_mamba.quickstart.base import make_base

ROOT = Path(__file__).resolve().parents[2]
SHORTER = 64
SHAPE = {
    "vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 4, "state_size": 32, "head_dim": 32, "n_groups": 2,
    "expand": 2, "conv_kernel": 4, "chunk_size": 64,
}  # fmt: skip


@dataclass
class Arguments:
    length: int = flag("tokens of a row, at most", default=65_536)
    slices: int = flag("processes that hold a row together", default=2)
    steps: int = flag("optimizer steps, a row each", default=6)
    record: str | None = flag("also write the record here", default=None)


def make_rows(count: int, tokens: int, tokenizer: Any) -> list[dict[str, str]]:
    """Chains of 95 to 100 % of so many tokens: running sums of fresh numbers."""
    draw, rows = random.Random(0), []
    for number in range(count):
        lines, total, left = [], 0, draw.uniform(0.95, 0.99) * tokens - 100
        while left > 0:
            a = draw.randint(0, 10**6)
            total = (total + a) % 997
            lines.append(f"{a} more is {total} mod 997.\n")
            left -= len(tokenizer(lines[-1], add_special_tokens=False).input_ids)
        completion = f"<think>\n{''.join(lines)}</think>\nThe answer is \\boxed{{{total}}}."
        rows.append(
            {"id": f"chain{number}", "prompt": render_prompt(f"Sum series {number}."), "completion": completion}
        )
    return rows


def train(work: Path, name: str, length: int, args: Arguments, processes: int, kill_after: int | None = None) -> int:
    """Run train.py into `work/name`; kill all of it once so many steps are logged. Returns the exit status."""
    flags = {
        "model_name_or_path": work / "model", "data_path": work / f"chains{length}.jsonl", "output_dir": work / name,
        "token_cache": work / "cache", "max_length": length, "max_steps": args.steps, "num_train_epochs": 99,
        "learning_rate": 1e-3, "warmup_steps": 1, "save_steps": 1, "save_total_limit": 2, "report_to": "none",
        "gradient_checkpointing": True, "sequence_parallel_size": processes, "use_cpu": True, "bf16": False,
    }  # fmt: skip
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, str(ROOT / "train.py"), *(f"--{key}={value}" for key, value in flags.items())]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    with (work / f"{name}.out").open("a") as out:
        child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT)
        while child.poll() is None:
            if kill_after is not None and len(read_log(work / name)) >= kill_after:
                # The launcher's processes lead sessions of their own: its death alone would leave them training.
                for process in (launched := psutil.Process(child.pid).children(recursive=True)):
                    process.kill()
                child.kill()
                psutil.wait_procs(launched)
                kill_after = None
            time.sleep(0.05)
    return child.returncode


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The steps that a run's log holds."""
    path = folder / "train_log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [row for row in map(json.loads, lines) if "loss" in row]


def measure(args: Arguments, work: Path) -> dict[str, Any]:
    """The runs' logs, and what a row of full length adds to a process's memory, in bytes."""
    from transformers import AutoTokenizer

    sample = {"prompt": render_prompt("Sum series 0."), "completion": "12345 more is 678 mod 997.\n" * 9}
    make_base(work / "model", [sample], seed=0, shape=SHAPE)
    tokenizer = AutoTokenizer.from_pretrained(work / "model")
    short = args.length // SHORTER
    for length in (args.length, short):
        write_jsonl(work / f"chains{length}.jsonl", make_rows(args.steps, length, tokenizer))
    found: dict[str, Any] = {}
    for arm, processes in (("alone", 1), ("sliced", args.slices)):
        for name, length in ((f"{arm}_short", short), (arm, args.length)):
            killed = args.steps // 2 if name == "sliced" else None
            status = train(work, name, length, args, processes, killed)
            if killed is not None:
                logger.info("killed after step %d (exit status %d), continuing", len(read_log(work / name)), status)
                found["killed_at"] = len(read_log(work / name))
                status = train(work, name, length, args, processes)
            if status:
                raise RuntimeError(f"train.py ended with {status}:\n{(work / f'{name}.out').read_text()[-3000:]}")
            found[name] = read_log(work / name)
        peaks = [max(row["peak_memory_gb"] for row in found[name]) for name in (arm, f"{arm}_short")]
        found[f"{arm}_added_gb"] = peaks[0] - peaks[1]
    return found


def make_tables(args: Arguments, found: dict[str, Any]) -> list[RecordTable]:
    rows = [
        [
            str(one["step"]), f"{one['labelled_tokens']:,.0f}", f"{one['loss']:.6f}", f"{other['loss']:.6f}",
            f"{abs(one['loss'] / other['loss'] - 1):.0e}", f"{abs(one['grad_norm'] / other['grad_norm'] - 1):.0e}",
        ]
        for one, other in zip(found["alone"], found["sliced"], strict=True)
    ]  # fmt: skip
    curve = RecordTable(
        f"Loss of every step: a row on one process, and in {args.slices} slices, killed with SIGKILL after step "
        f"{found['killed_at']} and continued by the same command. A row holds a chain of up to {args.length:,} tokens.",
        ["step", "labelled tokens", "alone", "sliced", "loss apart", "gradient norm apart"], rows,
    )  # fmt: skip
    added = {arm: found[f"{arm}_added_gb"] for arm in ("alone", "sliced")}
    memory = RecordTable(
        f"What rows of {args.length:,} tokens add to the first process's peak of resident memory, against the same "
        f"command on rows of {args.length // SHORTER:,}.",
        ["run", "GB a process", "of one process's"],
        [[arm, f"{value:.3f}", f"{value / added['alone']:.2f}"] for arm, value in added.items()],
    )
    return [curve, memory]


def main() -> None:
    args = parse_args(Arguments, description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args, Path(folder))
    title = f"Chains of {args.length:,} tokens, trained in slices"
    report_record(args, title=title, tables=make_tables(args, found), results=found)


if __name__ == "__main__":
    run_program(main)
