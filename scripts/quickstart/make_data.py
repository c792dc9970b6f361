"""Write the quickstart's exercises, tokenizer and untrained Mamba-2, all from one seed.

    python -m scripts.quickstart.make_data --config configs/quickstart/data.yaml

Writes `phase1.jsonl`, `phase2.jsonl`, `control.jsonl` (rows `prompt, completion, domain, source`), `problems.jsonl`
(the test) with `tests/`, and `base/` (tokenizer and random weights in the transformers layout) to `--output_dir`.
"""

from dataclasses import dataclass
from pathlib import Path

from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.jsonl import read_jsonl, write_json, write_jsonl
from promptcot_mamba.quickstart.base import make_base
from promptcot_mamba.quickstart.splits import draw_test_rows, draw_training_rows, read_counts
from promptcot_mamba.run_info import write_run_info

TRAINING_SETS = ("phase1", "phase2", "control")
SHAPE = ("vocab_size", "hidden_size", "num_hidden_layers", "head_dim", "state_size", "n_groups", "chunk_size")


@dataclass
class Args:
    """Counts are JSON objects `{"source": rows}`."""

    phase1: str = flag("exercises of phase 1")
    phase2: str = flag("of phase 2")
    control: str = flag("of the control")
    test: str = flag("problems of the test")
    output_dir: str = flag("where everything goes", default="outputs/quickstart/data", writes="folder")
    seed: int = flag("of exercises and weights", default=20)
    tokenizer_rows: str | None = flag("more rows for the tokenizer to learn its words from", default=None, reads="file")
    vocab_size: int = flag("tokens", default=640, least=300)
    hidden_size: int = flag("width", default=128, least=1)
    num_hidden_layers: int = flag("depth", default=4, least=1)
    head_dim: int = flag("of the SSM", default=64, least=1)
    state_size: int = flag("of the SSM", default=32, least=1)
    n_groups: int = flag("of the SSM", default=1, least=1)
    chunk_size: int = flag("of transformers' torch form", default=64, least=1)


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
