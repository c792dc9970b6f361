"""What programs print: each chain's program run on its problem's inputs, in the sandbox.

A problem's inputs were written by a model, so some may break the statement. An input on which most of the problem's
programs fail says nothing of any of them and is left out of the comparison. A program that fails on another is wrong.
"""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from promptcot_mamba.grading.code.extract import extract_program
from promptcot_mamba.grading.code.grading import SandboxPool
from promptcot_mamba.grading.sandbox.sandbox import Sandbox
from promptcot_mamba.jsonl import Row

FAILED = None
Prints = tuple[str | None, ...]  # one text an input; FAILED where the program fails, or the input is left out


def observe_programs(chains: Sequence[Row], workers: int | None = None) -> dict[tuple[str, int], Prints]:
    """(id, run) -> what the chain's program prints on each of its problem's inputs; only of programs that work.

    `chains` have `inputs` and a `completion`. Raises SandboxRefusedError where no sandbox can be made.
    """
    programs = {(chain["id"], chain["run"]): extract_program(chain["completion"]).code for chain in chains}
    inputs = {chain["id"]: tuple(chain["inputs"]) for chain in chains}
    jobs = sorted({(name, code) for (name, _), code in programs.items() if code is not None})
    if not jobs:
        return {}
    with SandboxPool(workers) as pool, ThreadPoolExecutor(pool.workers) as executor:
        printed = executor.map(lambda job: pool.run(lambda box: run_program(box, job[1], inputs[job[0]])), jobs)
        prints = dict(zip(jobs, printed, strict=True))
    by_problem: dict[str, dict[tuple[str, int], Prints]] = defaultdict(dict)
    for own, code in programs.items():
        if code is not None:
            by_problem[own[0]][own] = prints[own[0], code]
    return {own: texts for each in by_problem.values() for own, texts in keep_working(each).items()}


def run_program(sandbox: Sandbox, code: str, inputs: Sequence[str]) -> Prints:
    """One run an input, each in a fresh process; stops at nothing, so that all programs can be compared."""
    return tuple(_print_once(sandbox, code, given) for given in inputs)


def _print_once(sandbox: Sandbox, code: str, given: str) -> str | None:
    outcome = sandbox.run({"mode": "stdin", "code": code, "prelude": True}, given.encode("utf-8", "surrogatepass"))
    if outcome.reason is not None:
        return FAILED
    try:
        text = outcome.stdout.decode("utf-8")
    except UnicodeDecodeError:
        return FAILED
    return "\n".join(line.strip() for line in text.strip().split("\n"))  # the graders' view of an output


def keep_working(prints: dict[tuple[str, int], Prints]) -> dict[tuple[str, int], Prints]:
    """Of one problem's programs those that fail on no sound input and print something.

    An input is sound if at least half of the programs end well on it; the others become FAILED for all.
    """
    by_input = zip(*prints.values(), strict=True)
    sound = [2 * sum(text is not FAILED for text in texts) >= len(texts) for texts in by_input]
    kept = {}
    for own, each in prints.items():
        compared = [text for text, fine in zip(each, sound, strict=True) if fine]
        if any(compared) and FAILED not in compared:
            kept[own] = tuple(text if fine else FAILED for text, fine in zip(each, sound, strict=True))
    return kept
