r"""infer_longcot.py over many benchmarks with one start of the engine: each with its own recipe and file.

    python -m scripts.sample_all --benchmarks aime math500 --output_dir outputs/eval/7b -- --model_path MODEL --n 2

Flags after `--` are infer_longcot.py's, the same for every benchmark, and win over the recipes. Each benchmark's file
is the one that infer_longcot.py alone would write; whatever stops it, a rerun of the same command continues.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import infer_longcot
from promptcot_mamba.cli import parse_args, run_program
from promptcot_mamba.errors import InputError
from promptcot_mamba.sampling.arguments import SamplingArguments
from promptcot_mamba.sampling.backend import Backend
from promptcot_mamba.sampling.engines import make_backend
from promptcot_mamba.sampling.plan import Plan
from promptcot_mamba.sampling.shared import SharedEngine


@dataclass
class Arguments:
    """Flags of scripts.sample_all, before `--`."""

    benchmarks: list[str] = field(
        metadata={"help": "names of recipes and problem files: <name>.yaml, <name>_test.jsonl"}
    )
    output_dir: str = field(metadata={"help": "predictions: <name>.jsonl"})
    data_dir: str = field(default="data", metadata={"help": "folder of the problem files"})
    recipes: str = field(default="configs/eval", metadata={"help": "folder of the recipes"})


def sampling_flags(args: Arguments, benchmark: str, more: list[str]) -> list[str]:
    """infer_longcot.py's command line for one benchmark. Raises InputError where its recipe or problems are missing."""
    recipe, problems = Path(args.recipes) / f"{benchmark}.yaml", Path(args.data_dir) / f"{benchmark}_test.jsonl"
    if not recipe.is_file():
        known = ", ".join(sorted(path.stem for path in recipe.parent.glob("*.yaml")))
        raise InputError(f"--benchmarks {benchmark}: no recipe {recipe}; known: {known}")
    if not problems.is_file():
        raise InputError(f"--data_dir: no {problems}; python -m scripts.prepare_problems writes it")
    output = Path(args.output_dir) / f"{benchmark}.jsonl"
    return ["--config", str(recipe), "--data_path", str(problems), "--output_path", str(output), *more]


def count_samples(flags: list[str]) -> int:
    """How many samples a command line asks for."""
    args = parse_args(SamplingArguments, flags)
    with Path(args.data_path).open("rb") as file:
        return args.n * sum(1 for _ in file)


def main(argv: list[str] | None = None, make: Callable[[Plan], Backend] = make_backend) -> int:
    argv = sys.argv[1:] if argv is None else argv
    split = argv.index("--") if "--" in argv else len(argv)
    args = parse_args(Arguments, argv[:split], description=__doc__)
    commands = {name: sampling_flags(args, name, argv[split + 1 :]) for name in args.benchmarks}
    engine = SharedEngine(max(map(count_samples, commands.values())), make)
    try:
        for name, flags in commands.items():
            print(f"== {name}", flush=True)
            if status := infer_longcot.main(flags, make_backend=engine):
                return status
    finally:
        engine.close()
    return 0


if __name__ == "__main__":
    run_program(main)
