"""The audit set: answers as long chains really end, labelled by reading, to try any maths grader on.

`audit_pairs.txt` was written, and its labels with it, before the grader was changed to agree with it. A third of the
pairs, chosen by a hash of their text, was kept aside while the grader was mended; both parts are reported.
`audit_afterwards.txt` was written when the grader was done, `audit_blind_1.txt` to `audit_blind_5.txt` by others who
had not read it; `audit_afterwards_2.txt` and `audit_afterwards_3.txt` by the last two of them, who then had.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.math.gold import Gold
from scripts.bench.pairs import Pair

AUDIT_FILE = Path(__file__).with_name("audit_pairs.txt")
LATER = ("afterwards", *(f"blind {number}" for number in range(1, 6)), "afterwards 2", "afterwards 3", "odd ones")
LATER_FILES = {name: Path(__file__).with_name(f"audit_{name.replace(' ', '_')}.txt") for name in LATER}
HELD_OUT_ONE_IN = 3
LINE_BREAK = "⏎"


@dataclass(frozen=True)
class Case:
    """One pair, the verdict it should get, and by which rule it was made."""

    kind: str
    pair: Pair
    equal: bool


def read_audit(path: Path = AUDIT_FILE) -> Iterator[Case]:
    """The cases of an audit file: `## kind`, `@ gold`, then `= same` and `! other` answers, `=t` and `!t` completions.

    Raises InputError, naming the line, for a line of another form and for an answer without a kind or gold above it.
    """
    kind = gold = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        mark, _, text = line.partition(" ")
        if mark == "##":
            kind, gold = text, None
        elif mark == "@":
            gold = Gold(text)
        elif mark in ("=", "!", "=t", "!t") and kind and gold:
            mode = "text" if mark.endswith("t") else "answer"
            yield Case(kind, Pair(gold, text.replace(LINE_BREAK, "\n"), mode), mark.startswith("="))
        elif mark and mark != "#":
            raise InputError(f"{path}:{number}: expected '## kind', '@ gold', '= answer' or '! answer', found {line!r}")


def is_held_out(case: Case) -> bool:
    """Whether a case belongs to the third kept aside; decided by its text alone, before any grader saw it."""
    text = f"{case.pair.gold.answer}\n{case.pair.prediction}"
    return hashlib.sha256(text.encode()).digest()[0] % HELD_OUT_ONE_IN == 0
