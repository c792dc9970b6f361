"""Score one benchmark's predictions: the general door of `calc_acc_aime.py` and `calc_acc_lcb.py`.

    python -m scripts.calc_acc --benchmark math500 --input_path math500_predictions.jsonl
    python -m scripts.calc_acc --benchmark aime24 --input_path a.jsonl --compare b.jsonl --grader paper
    python -m scripts.calc_acc --benchmark humanevalplus --input_path c.jsonl --cache_path cache/humanevalplus.jsonl

Final-answer maths is graded by both graders at once, code in the sandbox (its flags begin at `--cache_path`). Beside
X.jsonl it writes X.grades.jsonl and X.metrics.json, and for maths X.audit.md, where the strict and the published rules
disagree.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from promptcot_mamba.benchmarks import BENCHMARKS, Benchmark, get_benchmark
from promptcot_mamba.benchmarks.code_scoring import CodeOptions, run_code
from promptcot_mamba.benchmarks.score_file import Options, run_math
from promptcot_mamba.cli import parse_args, run_program
from promptcot_mamba.errors import InputError


@dataclass
class Arguments:
    benchmark: str = field(metadata={"help": ", ".join(BENCHMARKS)})
    input_path: str = field(metadata={"help": "rows with completion (or completions) and the problem's own keys"})
    expected_runs: int | None = field(default=None, metadata={"help": "samples each problem should have"})
    strict_runs: bool = field(default=False, metadata={"help": "exit with 1 where runs are missing"})
    markdown: bool = field(default=False, metadata={"help": "write X.metrics.md too"})
    grader: str | None = field(
        default=None, metadata={"help": "maths: strict (default), or paper: the published rules"}
    )
    compare: str | None = field(default=None, metadata={"help": "maths: a second file, compared problem by problem"})


def score_maths(args: Arguments, benchmark: Benchmark, code: CodeOptions) -> int:
    if code != CodeOptions():
        raise InputError(f"--benchmark {benchmark.name} is maths: the sandbox's flags do not apply")
    grader = args.grader or "strict"
    options = Options(args.expected_runs, args.strict_runs, grader, args.compare, args.markdown)
    return run_math(args.input_path, benchmark, options)


def score_code(args: Arguments, benchmark: Benchmark, code: CodeOptions) -> int:
    for flag in ("grader", "compare"):
        if getattr(args, flag) is not None:
            raise InputError(f"--{flag} is for maths; --benchmark {benchmark.name} is code")
    return run_code(args.input_path, benchmark, code, args.expected_runs, args.strict_runs, args.markdown)


SCORERS = {"math": score_maths, "code": score_code}


def main() -> int:
    args, code = parse_args([Arguments, CodeOptions], description=__doc__)
    benchmark = get_benchmark(args.benchmark)
    return SCORERS[benchmark.kind](args, benchmark, code)


if __name__ == "__main__":
    run_program(main)
