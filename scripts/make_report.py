"""Graded predictions and measured records -> docs/RESULTS.md and one self-contained report.html.

    python -m scripts.make_report
    python -m scripts.make_report --evaluation PromptCoT-Mamba-7B=outputs/eval/7b --loss phase1=outputs/sft/phase1

An evaluation is a model's name and the folder of its graded predictions (`X.jsonl`, `X.grades.jsonl`,
`X.metrics.json`). A name that the paper's tables hold is shown in its row, any other in the table of everything graded.
"""

from dataclasses import dataclass
from pathlib import Path

from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import replace_atomically
from promptcot_mamba.report.evaluations import load_evaluation
from promptcot_mamba.report.page import render_report
from promptcot_mamba.report.results import load_records, render_results

LOG_FILE = "train_log.jsonl"


@dataclass
class Arguments:
    evaluation: list[str] = flag("NAME=FOLDER of graded predictions", factory=list)
    loss: list[str] = flag("NAME=FOLDER of a training run", factory=list)
    records: str = flag("folder of measured records", default="docs/records", reads="folder")
    results: str = flag("the Markdown document to write", default="docs/RESULTS.md", writes="file")
    output: str = flag("the page to write", default="outputs/report/report.html", writes="file")
    samples: int = flag("most samples in the page", default=1000, least=0)


def parse_named(flag: str, values: list[str]) -> dict[str, Path]:
    """NAME=FOLDER values; raises InputError for one without name or folder, a repeated name (rows are found without
    its case), a missing folder."""
    named: dict[str, Path] = {}
    for value in values:
        name, _, folder = value.partition("=")
        if not name or not folder:
            raise InputError(f"--{flag} {value}: expected NAME=FOLDER")
        if again := next((other for other in named if other.casefold() == name.casefold()), None):
            raise InputError(f"--{flag} {value}: {again} was already named, as {named[again]}")
        if not Path(folder).is_dir():
            raise InputError(f"--{flag} {value}: no such folder")
        named[name] = Path(folder)
    return named


def main() -> None:
    args = parse_args(Arguments, description=__doc__)
    folders = parse_named("evaluation", args.evaluation)
    losses = {name: folder / LOG_FILE for name, folder in parse_named("loss", args.loss).items()}
    evaluations = [load_evaluation(name, folder) for name, folder in folders.items()]
    records = load_records(Path(args.records))
    document = render_results(evaluations, records, losses)
    page = render_report(evaluations, records, losses, args.samples)
    for path, text in ((args.results, document), (args.output, page)):
        with replace_atomically(path) as file:
            file.write(text)
        print(f"{path}: {len(text.encode()) / 1e6:.2f} MB")


if __name__ == "__main__":
    run_program(main)
