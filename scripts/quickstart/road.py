"""Command lines of the road's programs, for the scripts that run them one after another."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from promptcot_mamba.jsonl import iter_jsonl, write_jsonl

ROOT = Path(__file__).resolve().parents[2]
PORT_FLAG = "--master_port="
GRADERS = {"maths": "calc_acc_aime.py", "code": "calc_acc_lcb.py"}


def python(*arguments: str | Path) -> list[str]:
    """A command line for this interpreter."""
    return [sys.executable, *map(str, arguments)]


def find_free_port() -> int:
    """A port nobody listens on now: two runs on one machine must not meet at the launcher's default."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train_command(processes: int, recipe: Path, start: Path, data: Path, output: Path) -> list[str]:
    """One SFT phase under the DeepSpeed launcher."""
    command = [str(Path(sys.executable).with_name("deepspeed")), f"--num_gpus={processes}"]
    command += [f"{PORT_FLAG}{find_free_port()}", "train.py"]
    command += ["--config", str(recipe), "--model_name_or_path", str(start)]
    return [*command, "--data_path", str(data), "--output_dir", str(output)]


def sample_command(recipe: Path | str, checkpoint: Path, problems: Path | str, predictions: Path) -> list[str]:
    command = python("infer_longcot.py", "--config", recipe, "--model_path", checkpoint)
    return [*command, "--data_path", str(problems), "--output_path", str(predictions)]


def family_file(predictions: Path, family: str) -> Path:
    return predictions.with_name(f"{predictions.stem}_{family}.jsonl")


def split_families(predictions: Path) -> list[str]:
    """Copy a prediction file's maths rows and code rows (those with `tests`) into two; return which families it has."""
    families = {family: [] for family in GRADERS}
    for _, row in iter_jsonl(predictions):
        families["code" if "tests" in row else "maths"].append(row)
    present = {family: rows for family, rows in families.items() if rows}
    for family, rows in present.items():
        write_jsonl(family_file(predictions, family), rows)
    return list(present)


def grade_command(family: str, predictions: Path, tests: Path | str | None, expected_runs: int) -> list[str]:
    """The command that grades one family's file; verdicts on programs are shared by the files of its folder."""
    rows = family_file(predictions, family)
    command = python(GRADERS[family], "--input_path", rows, "--expected_runs", str(expected_runs))
    if family == "code":
        command += ["--tests_dir", str(tests)] if tests else []
        command += ["--cache_path", str(predictions.with_name("verdicts.jsonl"))]
    return command
