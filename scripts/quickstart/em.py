"""PromptCoT 2.0's rounds at quickstart scale: do chosen rationales make a better problem generator?

    python -m scripts.quickstart.em --config configs/quickstart/em_study.yaml

For every seed a writer of workings and a generator of problems learn from a few worked problems, then choose workings
for many bare ones and learn from these, round by round. The family's exact solver says how many of each generator's
problems are sound; students say what they are worth. Every stage is one of the project's own programs; a rerun
continues where the last one stopped.
"""

import time

from promptcot_mamba.bench_record import report_record
from promptcot_mamba.cli import parse_args, run_program
from promptcot_mamba.quickstart.em import Arguments, run_study


def main() -> None:
    args = parse_args(Arguments, description=__doc__)
    from pathlib import Path

    from promptcot_mamba.quickstart.em_report import TITLE, figures, make_tables, measure

    started = time.monotonic()
    seed_runs, verdicts = run_study(args)
    told = measure(seed_runs)
    tables, results = make_tables(told, verdicts), figures(told, verdicts)
    report_record(args, Path(args.output_dir) / "em.json", title=TITLE, tables=tables, results=results)
    print(f"{time.monotonic() - started:.0f} s, this time")


if __name__ == "__main__":
    run_program(main)
