"""Write the quickstart's exercises, tokenizer and untrained Mamba-2, all from one seed.

    python -m scripts.quickstart.make_data --config configs/quickstart/data.yaml

Writes `phase1.jsonl`, `phase2.jsonl`, `control.jsonl` (rows `prompt, completion, domain, source`), `problems.jsonl`
(the test) with `tests/`, and `base/` (tokenizer and random weights in the transformers layout) to `--output_dir`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from promptcot_mamba.cli import parse_args, run_program
from promptcot_mamba.jsonl import read_jsonl, write_json, write_jsonl
from promptcot_mamba.quickstart.base import make_base
from promptcot_mamba.quickstart.splits import draw_test_rows, draw_training_rows, read_counts
from promptcot_mamba.run_info import write_run_info

TRAINING_SETS = ("phase1", "phase2", "control")
SHAPE = ("vocab_size", "hidden_size", "num_hidden_layers", "head_dim", "state_size", "n_groups", "chunk_size")


@dataclass
class Args:
    """Counts are JSON objects `{"source": rows}`."""

    phase1: str
    phase2: str
    control: str
    test: str
    output_dir: str = "outputs/quickstart/data"
    seed: int = 20
    tokenizer_rows: str | None = None  # more rows `prompt, completion` for the tokenizer to learn its words from
    vocab_size: int = 640
    hidden_size: int = 128
    num_hidden_layers: int = 4
    head_dim: int = 64
    state_size: int = 32
    n_groups: int = 1
    chunk_size: int = 64


def main() -> None:
    args = parse_args(Args, description=__doc__)
    folder = Path(args.output_dir)
    counts = {name: read_counts(name, getattr(args, name)) for name in (*TRAINING_SETS, "test")}
    sets = {name: draw_training_rows(counts[name], name, args.seed) for name in TRAINING_SETS}
    for name, rows in sets.items():
        write_jsonl(folder / f"{name}.jsonl", rows)
    problems, tests = draw_test_rows(counts["test"], args.seed)
    for name, content in tests.items():
        write_json(folder / "tests" / name, content)
    write_jsonl(folder / "problems.jsonl", problems)
    text = sets["phase1"] + (read_jsonl(args.tokenizer_rows) if args.tokenizer_rows else [])
    make_base(folder / "base", text, args.seed, {name: getattr(args, name) for name in SHAPE})
    write_run_info(folder / "problems.jsonl", vars(args), rows={name: len(rows) for name, rows in sets.items()})


if __name__ == "__main__":
    run_program(main)
