"""Score one benchmark's predictions: the general door of `calc_acc_aime.py` and `calc_acc_lcb.py`.

    python -m scripts.calc_acc --benchmark math500 --input_path math500_predictions.jsonl
    python -m scripts.calc_acc --benchmark aime24 --input_path a.jsonl --compare b.jsonl --grader paper
    python -m scripts.calc_acc --benchmark humanevalplus --input_path c.jsonl --cache_path cache/humanevalplus.jsonl
    python -m scripts.calc_acc --benchmark all --input_path outputs/eval/7b

A folder is what `infer_longcot.py --benchmark NAMES --output_dir` filled: each benchmark's `<name>.jsonl` in it is
graded, programs' verdicts kept in `<name>.jsonl.verdicts.jsonl`.

Final-answer maths is graded by both graders at once, code in the sandbox (its flags begin at `--cache_path`). Beside
X.jsonl it writes X.grades.jsonl and X.metrics.json, and for maths X.audit.md, where the strict and the published rules
disagree.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from promptcot_mamba.benchmarks import BENCHMARKS, Benchmark, problem_sets
from promptcot_mamba.benchmarks.code_scoring import CodeOptions, run_code
from promptcot_mamba.benchmarks.math_scoring import GRADERS
from promptcot_mamba.benchmarks.score_file import Options, run_math
from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.errors import InputError


@dataclass
class Arguments:
    benchmark: list[str] = flag(f"{', '.join(BENCHMARKS)}; of a folder several, paper or all")
    input_path: str = flag("rows with completion (or completions) and the problem's own keys", reads="any")
    expected_runs: int | None = flag(
        "samples each problem should have; default: as sampled, else its benchmark's n", default=None, least=1
    )
    strict_runs: bool = flag("exit with 1 where runs or problems are missing", default=False)
    markdown: bool = flag("write X.metrics.md too", default=False)
    grader: str | None = flag("maths: strict (default), or paper: the published rules", default=None, choices=GRADERS)
    compare: str | None = flag("maths: a second file, compared problem by problem", default=None, reads="any")


def score_file(args: Arguments, members: list[Benchmark], path: str, code: CodeOptions) -> int:
    """Grade one prediction file, of one benchmark or of several that its rows' sources tell apart."""
    if members[0].kind == "code":
        return run_code(path, members[0], code, args.expected_runs, args.strict_runs, args.markdown)
    options = Options(args.expected_runs, args.strict_runs, args.grader or "strict", args.compare, args.markdown)
    return run_math(path, members[0] if len(members) == 1 else None, options)


def check_flags(args: Arguments, sets: dict[str, list[Benchmark]], code: CodeOptions) -> None:
    """Raise InputError for a flag that nothing to be graded reads; where maths stands beside code each has its own."""
    kinds = {members[0].kind for members in sets.values()}
    if kinds == {"math"} and code != CodeOptions():
        raise InputError(f"--benchmark {' '.join(sets)} is maths: the sandbox's flags do not apply")
    for option in ("grader", "compare"):
        if kinds == {"code"} and getattr(args, option) is not None:
            raise InputError(f"--{option} is for maths; --benchmark {' '.join(sets)} is code")


def score_folder(args: Arguments, sets: dict[str, list[Benchmark]], code: CodeOptions) -> int:
    """Grade every prediction file of a folder; those of `all` and `paper` that are not there are passed over."""
    if args.compare is not None:
        raise InputError("--compare: takes two files; --input_path is a folder")
    folder = Path(args.input_path)
    there = {name: members for name, members in sets.items() if (folder / f"{name}.jsonl").is_file()}
    absent = [name for name in sets if name not in there]
    if not there or (absent and not {"all", "paper"} & set(args.benchmark)):
        raise InputError(f"{folder}: no {', '.join(f'{name}.jsonl' for name in absent)} to grade")
    # What reproduce_tables.sh says of any benchmarks: where their files lie, and what to do where tests are absent.
    check_flags(args, there, replace(code, data_dir=CodeOptions().data_dir, sample_tests=False))
    worst = 0
    for name, members in there.items():
        print(f"== {name}", flush=True)
        path = str(folder / f"{name}.jsonl")
        own = code if code.cache_path else replace(code, cache_path=f"{path}.verdicts.jsonl")
        worst = max(worst, score_file(args, members, path, own))
    return worst


def main() -> int:
    args, code = parse_args([Arguments, CodeOptions], description=__doc__)
    sets = problem_sets([part for name in args.benchmark for part in name.split(",")])
    if Path(args.input_path).is_dir():
        return score_folder(args, sets, code)
    if len(sets) > 1:
        raise InputError(f"--benchmark {' '.join(args.benchmark)}: several need a folder as --input_path")
    check_flags(args, sets, code)
    [members] = sets.values()
    return score_file(args, members, args.input_path, code)


if __name__ == "__main__":
    run_program(main)
