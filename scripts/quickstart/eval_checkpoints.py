"""Accuracy over a run's saved steps: every whole checkpoint sampled, graded, and put into one plot.

    python -m scripts.quickstart.eval_checkpoints --run_dir outputs/quickstart/phase2 \\
        --sampling configs/quickstart/sampling.yaml --data_path outputs/quickstart/data/problems.jsonl \\
        --tests_dir outputs/quickstart/data/tests

Writes `accuracy.md` and `accuracy.svg` to `--output_dir` (default: `<run_dir>/accuracy`), with each step's predictions
and grades beside them. Sampling and grading resume, so a rerun adds only the steps saved since.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.metrics import Estimate, clustered_mean, share_interval
from promptcot_mamba.jsonl import iter_jsonl, replace_atomically
from promptcot_mamba.quickstart.road import (
    GRADERS,
    family_file,
    grade_stages,
    run_command,
    sample_stage,
    split_families,
)
from promptcot_mamba.records import iter_problems
from promptcot_mamba.report.plots import draw_steps
from promptcot_mamba.report.tables import Table, format_share, render_markdown
from promptcot_mamba.run_info import side_path
from promptcot_mamba.training.run_folder import find_checkpoints


@dataclass
class Args:
    run_dir: str = flag("output folder of train.py", reads="folder")
    data_path: str = flag("problems, as for infer_longcot.py", reads="file")
    sampling: str = flag("recipe with infer_longcot.py's flags", reads="file")
    output_dir: str | None = flag("default: <run_dir>/accuracy", default=None, writes="folder")
    tests_dir: str | None = flag("tests of code problems, as for calc_acc_lcb.py", default=None, reads="folder")
    n: int = flag("samples a problem", default=1, least=1)


def evaluate_step(args: Args, checkpoint: Path, predictions: Path) -> None:
    """Sample and grade one checkpoint, as the programs themselves would; they resume. Raises ProgramFailedError."""
    name, tests = checkpoint.name, Path(args.tests_dir) if args.tests_dir else None
    recipe, problems = Path(args.sampling), Path(args.data_path)
    run_command(sample_stage(name, recipe, checkpoint, problems, predictions, args.n), None)
    for stage in grade_stages(name, predictions, tests, split_families(predictions), args.n):
        run_command(stage, None)


def read_scores(predictions: Path, source_of: dict[str, str]) -> dict[str, Estimate]:
    """`{source: share of right answers}` of one step's graded files; clustered by problem where n is above 1."""
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for family in GRADERS:
        grades = side_path(family_file(predictions, family), "grades.jsonl")
        if grades.exists():
            for _, grade in iter_jsonl(grades):
                problem = grade["problem_id"]
                scores[source_of[problem]][problem].append(float(grade["correct"]))
    return {source: estimate_share(problems) for source, problems in scores.items()}


def estimate_share(problems: dict[str, list[float]]) -> Estimate:
    if all(len(verdicts) == 1 for verdicts in problems.values()):
        return share_interval(round(sum(verdicts[0] for verdicts in problems.values())), len(problems))
    return clustered_mean(problems)


def write_accuracy(output_dir: Path, series: dict[str, list[tuple[int, Estimate]]]) -> str:
    """Write the table and the plot; return the table."""
    steps = sorted({step for points in series.values() for step, _ in points})
    shares = {source: dict(points) for source, points in series.items()}
    rows = [[str(step), *(format_share(shares[source][step]) for source in series)] for step in steps]
    table = render_markdown(Table(["step", *series], rows))
    for name, text in (
        ("accuracy.md", f"{table}\n\n![accuracy](accuracy.svg)\n"),
        ("accuracy.svg", draw_steps(series)),
    ):
        with replace_atomically(output_dir / name) as file:
            file.write(text)
    return table


def main() -> None:
    args = parse_args(Args, description=__doc__)
    output_dir = Path(args.output_dir or Path(args.run_dir) / "accuracy")
    checkpoints = find_checkpoints(Path(args.run_dir))
    if not checkpoints:
        raise InputError(f"--run_dir {args.run_dir}: no whole checkpoint-N here; train with --save_strategy steps")
    source_of = {problem.id: problem.source or "all" for problem in iter_problems(args.data_path)}
    series: dict[str, list[tuple[int, Estimate]]] = defaultdict(list)
    for step, checkpoint in checkpoints:
        predictions = output_dir / f"step-{step}.jsonl"
        evaluate_step(args, checkpoint, predictions)
        for source, share in read_scores(predictions, source_of).items():
            series[source].append((step, share))
    print(write_accuracy(output_dir, series))


if __name__ == "__main__":
    run_program(main)
