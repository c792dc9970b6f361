"""Predictions and their grades -> pairs for `train.py --objective dpo`, and right answers for plain SFT.

    python -m scripts.make_preferences --input_path maths.jsonl code.jsonl --output_path pairs.jsonl \\
        --sft_path right.jsonl

Reads what `infer_longcot.py` sampled and `calc_acc` wrote beside it (X.grades.jsonl): maths counts as right by the
strict verdict, code by its tests. Without gold answers, `--by majority` takes for right what most samples say. Rows of
pairs are `prompt, chosen, rejected`; rows of right answers (rejection sampling) are `prompt, completion`. Beside each
stands X.run.json with what became of every problem and sample; beside the first X.left_out.jsonl, problem by problem.
"""

from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row, write_jsonl
from promptcot_mamba.log import logger
from promptcot_mamba.run_info import side_path, write_run_info
from promptcot_mamba.synthesis.preferring import MATCHES, Accounts, Choice, choose_rows
from promptcot_mamba.synthesis.stage import file_fingerprint
from promptcot_mamba.synthesis.verdicts import Tried, judge_by_gold, judge_by_majority


@dataclass
class Arguments:
    input_path: list[str] = flag("prediction files, as infer_longcot.py writes them", reads="file")
    output_path: str | None = flag("pairs go here", default=None, writes="file")
    sft_path: str | None = flag("right answers go here", default=None, writes="file")
    grades_path: list[str] | None = flag(
        "grades of each prediction file; default: X.grades.jsonl beside it", default=None, reads="file"
    )
    by: str = flag("what tells right from wrong", default="gold", choices=["gold", "majority"])
    threshold: float = flag(
        "by majority: least share of a problem's samples that must agree", default=0.5, above=0, most=1
    )
    pairs: int = flag("most pairs a problem", default=1, least=1)
    match: str = flag(
        "which right answer meets which wrong one; short_over_long also teaches to be short",
        default="random",
        choices=list(MATCHES),
    )
    answers: int = flag("most right answers a problem, in --sft_path", default=1, least=1)
    paired_only: bool = flag("right answers of those problems alone that gave a pair", default=False)
    min_pass_rate: float = flag("least share of right samples, cut ones counted", default=0.0, least=0, most=1)
    max_pass_rate: float = flag("greatest share of right samples", default=1.0, least=0, most=1)
    skip_ungraded: bool = flag("leave problems out that lack a grade, instead of stopping", default=False)
    workers: int | None = flag("by majority, code: sandboxes at work at once", default=None, least=1)
    seed: int = flag("of the choice", default=0)

    def __post_init__(self) -> None:
        if self.output_path is None and self.sft_path is None:
            raise InputError("--output_path or --sft_path: at least one says where rows go")
        if self.output_path is not None and self.output_path == self.sft_path:
            raise InputError(f"--sft_path {self.sft_path}: that is --output_path; pairs and answers are two files")
        if self.min_pass_rate > self.max_pass_rate:
            raise InputError(f"--min_pass_rate {self.min_pass_rate}: is above --max_pass_rate {self.max_pass_rate}")
        if self.grades_path is not None and self.by == "majority":
            raise InputError("--grades_path: a majority needs no grades; leave it out, or use --by gold")
        if self.grades_path is not None and len(self.grades_path) != len(self.input_path):
            raise InputError(
                f"--grades_path: {len(self.grades_path)} files for {len(self.input_path)} of --input_path; one each"
            )
        for path in {*self.input_path} & {self.output_path, self.sft_path}:
            raise InputError(f"--input_path {path}: would be overwritten; write somewhere else")

    def find_grades(self, number: int) -> Path:
        """The grades of the input file with this number. Raises InputError where there are none."""
        if self.grades_path is not None:
            return Path(self.grades_path[number])
        found = side_path(self.input_path[number], "grades.jsonl")
        if not found.is_file():
            raise InputError(
                f"{found}: no such file; grade {self.input_path[number]} with calc_acc_aime.py, calc_acc_lcb.py or "
                "scripts.calc_acc, name its grades with --grades_path, or use --by majority"
            )
        return found


def read_problems(args: Arguments) -> list[Tried]:
    """Every input file's problems with verdicts. Raises InputError for a problem that two files hold; another problem
    of the same name, as files that number their rows have, is named after its file."""
    problems: dict[str, Tried] = {}
    for number, path in enumerate(args.input_path):
        if args.by == "gold":
            found = judge_by_gold(path, args.find_grades(number), args.skip_ungraded)
        else:
            found = judge_by_majority(path, args.threshold, args.workers)
        logger.info("%s: %s samples of %s problems", path, f"{sum(len(t.samples) for t in found):,}", f"{len(found):,}")
        for one in found:
            name, earlier = one.problem, problems.get(one.problem)
            if earlier is not None and earlier.prompt != one.prompt:
                name = f"{Path(path).stem}/{one.problem}"
            if name in problems:
                raise InputError(f"{path}: problem {name!r} is in an earlier --input_path too; give it once")
            problems[name] = replace(one, problem=name)
    return list(problems.values())


def refuse_empty(rows: list[Row], path: str | None, what: str, accounts: Accounts) -> None:
    if path is not None and not rows:
        raise InputError(
            f"{path}: no {what} is possible; problems: {accounts.describe('problems')}; samples: "
            f"{accounts.describe('samples')}; sample more of them (--n, --temperature) or widen the pass rates"
        )


def main() -> None:
    args = parse_args(Arguments, description=__doc__)
    problems = read_problems(args)
    band = (args.min_pass_rate, args.max_pass_rate)
    most = (args.pairs if args.output_path else 0, args.answers if args.sft_path else 0)
    choice = Choice(*most, args.match, band, args.seed, args.paired_only)
    pairs, answers, accounts = choose_rows(problems, choice)
    refuse_empty(pairs, args.output_path, "pair", accounts)
    refuse_empty(answers, args.sft_path, "right answer", accounts)

    files = [*args.input_path]
    if args.by == "gold":
        files += [str(args.find_grades(number)) for number in range(len(args.input_path))]
    told = {
        "inputs": {path: file_fingerprint(Path(path)) for path in files},
        "problems": dict(accounts.problems),
        "samples": dict(accounts.samples),
    }
    outputs = {path: rows for path, rows in ((args.output_path, pairs), (args.sft_path, answers)) if path is not None}
    for number, (path, rows) in enumerate(outputs.items()):
        write_jsonl(path, rows)
        if number == 0:
            write_jsonl(side_path(path, "left_out.jsonl"), accounts.left_out)
        sources = Counter(str(row.get("source")) for row in rows)
        write_run_info(path, asdict(args), **told, rows=len(rows), sources=dict(sources))
        print(f"{path}: {len(rows):,} rows")
    print(f"problems: {accounts.describe('problems')}\nsamples: {accounts.describe('samples')}")


if __name__ == "__main__":
    run_program(main)
