"""Score sampled AIME answers (or any final-answer maths, told apart by `source`) and print the table over runs.

python calc_acc_aime.py --input_path data/aime_test_predictions.jsonl --expected_runs 16
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from promptcot_mamba.benchmarks.scoring import benchmark_of, grade_all
from promptcot_mamba.cli import parse_args, run_program
from promptcot_mamba.grading.metrics import clustered_mean, run_spread
from promptcot_mamba.grading.predictions import missing_runs, read_predictions
from promptcot_mamba.jsonl import write_jsonl
from promptcot_mamba.log import get_logger
from promptcot_mamba.run_info import side_path

logger = get_logger(__name__)


@dataclass
class Arguments:
    input_path: str = field(metadata={"help": "prediction rows: prompt, completion, reference_solution, source"})
    expected_runs: int = field(default=16, metadata={"help": "samples a problem should have"})
    strict_runs: bool = field(default=False, metadata={"help": "exit with 1 where runs are missing"})


def main() -> int:
    args = parse_args(Arguments, description=__doc__)
    predictions = read_predictions(args.input_path)
    lacking = missing_runs(predictions, args.expected_runs)
    for name, runs in lacking.items():
        logger.warning("%s: problem %s lacks runs %s", args.input_path, name, ", ".join(map(str, runs)))
    graded = list(grade_all(predictions, lambda row: benchmark_of(row, args.input_path, None)))
    write_jsonl(side_path(args.input_path, "grades.jsonl"), (grade.to_row() for _, grade in graded))
    scores: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for prediction, grade in graded:
        scores[prediction.source][grade.problem_id][grade.run] = float(grade.correct)
    print(
        f"{'source':<14} {'avg@n':>7} {'95% interval':>16} {'mean ± SD over runs':>20} {'problems':>9} {'samples':>8}"
    )
    for source, problems in scores.items():
        mean = clustered_mean({name: list(runs.values()) for name, runs in problems.items()})
        spread = run_spread(problems)
        interval = f"{100 * mean.low:.1f} – {100 * mean.high:.1f}"
        runs = f"{100 * spread.mean:.1f} ± {100 * spread.sd:.1f}"
        print(f"{source:<14} {100 * mean.mean:>7.1f} {interval:>16} {runs:>20} {mean.problems:>9} {mean.samples:>8}")
    return 1 if lacking and args.strict_runs else 0


if __name__ == "__main__":
    run_program(main)
