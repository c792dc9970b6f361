"""The curriculum's ablations at quickstart scale: arms of equal steps, several seeds, paired differences.

    python -m scripts.quickstart.run_ablations --config configs/quickstart/ablations.yaml

Each arm trains two phases with the project's own programs and is scored on the quickstart's composed problems, maths
and code. Arms that share a phase 1 share its checkpoint. A rerun continues where the last one stopped. The same arms
for the 7B recipe are data recipes: `configs/ablations/README.md`.
"""

import time
from pathlib import Path

from promptcot_mamba.bench_record import report_record
from promptcot_mamba.cli import parse_args, run_program
from promptcot_mamba.quickstart.ablations import (
    Arguments,
    check_test,
    collect,
    describe_results,
    make_table,
    read_arms,
    share_cores,
)


def main() -> None:
    args = parse_args(Arguments, description=__doc__)
    arms = read_arms(args.arms)
    check_test(args.test)
    share_cores(args.jobs)
    started = time.monotonic()
    found = collect(args, arms)
    title, results = "Ablations of the curriculum at quickstart scale", describe_results(args, arms, found)
    tables = [make_table(args, arms, found)]
    report_record(args, Path(args.output_dir) / "ablations.json", title=title, tables=tables, results=results)
    print(f"{(time.monotonic() - started) / 60:.1f} minutes, this time")


if __name__ == "__main__":
    run_program(main)
