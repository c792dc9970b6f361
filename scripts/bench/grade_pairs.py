"""Grade bare pairs of gold and predicted answers, to audit a grader or to grade what another program sampled.

    python -m scripts.bench.grade_pairs --input pairs.jsonl --output verdicts.jsonl --grader strict

A pair is `id, gold, pred`, `mode` (`answer`: the content of a box, `text`: a whole completion) and, where its
benchmark defines them, `answer_type`, `tolerance`, `unit`, `multiple`. A verdict is `id, equal, reason,
seconds`.
"""

import time
from dataclasses import dataclass

from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row, iter_jsonl, write_jsonl
from promptcot_mamba.log import logger
from scripts.bench import pairs


@dataclass
class Arguments:
    input: str = flag("pairs, one JSON object a line")
    output: str = flag("verdicts, in the order of the pairs")
    grader: str = flag("which decides", default="strict", choices=pairs.GRADERS)


def grade_row(row: Row, where: str, grader: str) -> Row:
    """One verdict; raises InputError, naming the line, for a pair without its keys."""
    try:
        pair = pairs.read_pair(row)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    started = time.perf_counter()
    verdict = pairs.grade_pair(pair, grader)
    seconds = round(time.perf_counter() - started, 6)
    return {"id": row.get("id"), "equal": verdict.equal, "reason": verdict.reason, "seconds": seconds}


def main() -> int:
    args = parse_args(Arguments, description=__doc__)
    verdicts = [grade_row(row, f"{args.input}:{number}", args.grader) for number, row in iter_jsonl(args.input)]
    if not verdicts:
        raise InputError(f"{args.input}: the file is empty, expected one pair a line")
    write_jsonl(args.output, verdicts)
    equal = sum(verdict["equal"] for verdict in verdicts)
    logger.info(
        "%s: %d pairs, %d equal, %.2f s", args.output, len(verdicts), equal, sum(v["seconds"] for v in verdicts)
    )
    return 0


if __name__ == "__main__":
    run_program(main)
