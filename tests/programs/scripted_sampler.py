"""In place of `infer_longcot.py`: answers that depend on problem, seed and run, in the rows that it writes."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from promptcot_mamba.records import Sample, derive_seed, iter_problems

RUNS = 4


def answer(problem, rng: random.Random) -> str:
    right = rng.random() < 0.5
    if "tests" in problem.fields:
        return f"```python\na, b = map(int, input().split())\nprint(a {'+' if right else '-'} b)\n```"
    gold = int(problem.fields["reference_solution"].rpartition("#### ")[2])
    return f"So it is $\\boxed{{{gold if right else gold + 1}}}$."


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("config", "model_path", "data_path", "output_path", "seed"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    assert (Path(args.model_path) / "config.json").is_file(), f"{args.model_path}: no model"
    rows = []
    for problem in iter_problems(args.data_path):
        for run in range(RUNS):
            rng = random.Random(derive_seed(int(args.seed), problem.id, run))
            text = f"<think>\nThought {rng.random()}\n</think>\n{answer(problem, rng)}"
            sample = Sample(problem.id, run, 0, int(args.seed), text, "stop", 9, 30, 0.1, True, problem.prompt, "think")
            rows.append(sample.to_row(problem))
    write_jsonl(args.output_path, rows)
    with Path(args.output_path).with_suffix(".calls").open("a") as file:
        file.write(f"{args.model_path}\n")
    assert read_jsonl(args.output_path)


if __name__ == "__main__":
    main()
