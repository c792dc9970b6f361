"""Score sampled AIME answers, or any final-answer maths told apart by `source`, and print the table over runs.

    python calc_acc_aime.py --input_path data/aime_test_predictions.jsonl --expected_runs 16

Beside X.jsonl it writes X.grades.jsonl (one verdict a sample), X.metrics.json and X.audit.md (where the strict and the
published rules disagree). `scripts.calc_acc` does the same for one named benchmark, code included.
"""

from dataclasses import dataclass

from promptcot_mamba.benchmarks.math_scoring import GRADERS
from promptcot_mamba.benchmarks.score_file import Options, run_math
from promptcot_mamba.cli import flag, parse_args, run_program


@dataclass
class Arguments:
    input_path: str = flag("rows: completion (or completions), reference_solution, source", reads="file")
    expected_runs: int = flag("samples each problem should have", default=16, least=1)
    strict_runs: bool = flag("exit with 1 where runs or problems are missing", default=False)
    grader: str = flag("paper: the published rules", default="strict", choices=GRADERS)
    compare: str | None = flag("a second file, compared problem by problem", default=None, reads="file")
    markdown: bool = flag("write X.metrics.md too", default=False)


def main() -> int:
    args = parse_args(Arguments, description=__doc__)
    options = Options(args.expected_runs, args.strict_runs, args.grader, args.compare, args.markdown)
    return run_math(args.input_path, None, options)


if __name__ == "__main__":
    run_program(main)
