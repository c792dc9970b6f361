"""Synthesis closed into a loop at quickstart scale: what do problems add that a model wrote and another solved?

    python -m scripts.quickstart.closed_loop --config configs/quickstart/closed_loop.yaml

A generator learns concepts -> rationale -> problem from real composed problems; it writes new ones for new concept
sets, the family's exact solver judges them, and a teacher trained on the real ones solves them by majority. Students
learn phase 2 from a small part of the real ones, with and without the synthesized ones, in equally many steps, from
several seeds. Every stage is one of the project's own programs, run as its printed command line; a rerun continues
where the last one stopped.
"""

import time

from promptcot_mamba.bench_record import report_record
from promptcot_mamba.cli import parse_args, run_program
from promptcot_mamba.quickstart.closed_loop import Arguments, close


def main() -> None:
    args = parse_args(Arguments, description=__doc__)
    from promptcot_mamba.quickstart.closed_loop_report import TITLE, make_tables, read_results, write_report

    started = time.monotonic()
    loop, verdicts = close(args)
    results = read_results(loop.work, verdicts, loop.times, args.threshold)
    tables = make_tables(results)
    report_record(args, loop.folder / "closed_loop.json", title=TITLE, tables=tables, results=results.figures())
    print(f"{time.monotonic() - started:.0f} s, this time")
    write_report(loop.folder, tables, results)
    print(f"report: {loop.folder / 'report.html'} and report.md; of the synthesis alone: {loop.work / 'report.html'}")


if __name__ == "__main__":
    run_program(main)
