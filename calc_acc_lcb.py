"""Score sampled programs against LiveCodeBench's tests, in a sandbox, and print pass@1 over runs.

    python calc_acc_lcb.py --input_path data/livecodebench_test_predictions.jsonl --cache_path cache/livecodebench.jsonl

Verdicts are appended to the cache as they are found, so a stopped job resumes. Tests are read from `--tests_dir` in
the published layout (each row's `tests` names `fname` and `md5`), or from the row where it holds them. Beside X.jsonl
it writes X.grades.jsonl and X.metrics.json. `scripts.calc_acc` does the same for HumanEval and HumanEval+.
"""

from dataclasses import dataclass

from promptcot_mamba.benchmarks import get_benchmark
from promptcot_mamba.benchmarks.code_scoring import CodeOptions, run_code
from promptcot_mamba.cli import flag, parse_args, run_program


@dataclass
class Arguments:
    input_path: str = flag("rows: completion (or completions), question_id, tests", reads="file")
    expected_runs: int | None = flag(
        "samples each problem should have; default: as sampled, else 8", default=None, least=1
    )
    strict_runs: bool = flag("exit with 1 where runs or problems are missing", default=False)
    markdown: bool = flag("write X.metrics.md too", default=False)


def main() -> int:
    args, options = parse_args([Arguments, CodeOptions], description=__doc__)
    chosen = get_benchmark("livecodebench")
    return run_code(args.input_path, chosen, options, args.expected_runs, args.strict_runs, args.markdown)


if __name__ == "__main__":
    run_program(main)
