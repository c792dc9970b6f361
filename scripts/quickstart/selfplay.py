"""Phase 3 at quickstart scale: does a model gain from preferences between its own verified chains?

    python -m scripts.quickstart.selfplay --config configs/quickstart/selfplay_study.yaml

After bash scripts/quickstart.sh, in its folder: from its phase 2, and for every seed, new problems are sampled and
graded; one arm learns preferences between the samples, one the right samples alone, one goes on with phase 2, all at
equal compute. Every stage is one of the project's own programs; a rerun continues where the last one stopped.
"""

import time

from promptcot_mamba.bench_record import report_record
from promptcot_mamba.cli import parse_args, run_program
from promptcot_mamba.quickstart.selfplay import Arguments, run_study


def main() -> None:
    args = parse_args(Arguments, description=__doc__)
    from pathlib import Path

    from promptcot_mamba.quickstart.selfplay_report import TITLE, figures, make_tables

    started = time.monotonic()
    verdicts, told = run_study(args)
    results, tables = figures(verdicts, told), make_tables(verdicts, told)
    report_record(args, Path(args.output_dir) / "selfplay.json", title=TITLE, tables=tables, results=results)
    print(f"{time.monotonic() - started:.0f} s, this time")


if __name__ == "__main__":
    run_program(main)
