"""Score one benchmark's predictions: the general door of `calc_acc_aime.py` and `calc_acc_lcb.py`.

    python -m scripts.calc_acc --benchmark math500 --input_path math500_predictions.jsonl
    python -m scripts.calc_acc --benchmark aime24 --input_path a.jsonl --compare b.jsonl --grader paper

Final-answer maths is graded by both graders at once, code in the sandbox. Beside X.jsonl it writes X.grades.jsonl and
X.metrics.json, and for maths X.audit.md, where the strict and the published rules disagree.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from promptcot_mamba.benchmarks import BENCHMARKS, get_benchmark
from promptcot_mamba.benchmarks.score_file import Options, run_math
from promptcot_mamba.cli import parse_args, run_program


@dataclass
class Arguments:
    benchmark: str = field(metadata={"help": ", ".join(BENCHMARKS)})
    input_path: str = field(metadata={"help": "rows with completion (or completions) and the problem's own keys"})
    expected_runs: int | None = field(default=None, metadata={"help": "samples each problem should have"})
    strict_runs: bool = field(default=False, metadata={"help": "exit with 1 where runs are missing"})
    grader: str = field(default="strict", metadata={"help": "strict, or paper for the published rules"})
    compare: str | None = field(default=None, metadata={"help": "a second file, compared problem by problem"})
    markdown: bool = field(default=False, metadata={"help": "write X.metrics.md too"})


def main() -> int:
    args = parse_args(Arguments, description=__doc__)
    benchmark = get_benchmark(args.benchmark)
    options = Options(args.expected_runs, args.strict_runs, args.grader, args.compare, args.markdown)
    return run_math(args.input_path, benchmark, options)


if __name__ == "__main__":
    run_program(main)
