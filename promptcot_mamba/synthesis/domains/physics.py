"""Physics: a chain stands for a quantity, a number with its unit; 0.30 m and 30 cm agree, 0.30 and 0.30 m do not."""

from collections.abc import Sequence

from promptcot_mamba.grading.math.answers import extract_answer
from promptcot_mamba.jsonl import Row
from promptcot_mamba.synthesis.domains.base import Address, Domain
from promptcot_mamba.synthesis.domains.quantities import Quantity, read_quantity, same_quantity

INSTRUCTION = (
    r"Please reason step by step, and put your final answer, a number with its unit, within \boxed{}. "
    "If it has no unit, give the number alone."
)
# Relative: solvers round in between, and take 9.8 or 9.81 for g.
TOLERANCE = 0.01


def observe(chains: Sequence[Row], _workers: int | None) -> dict[Address, Quantity]:
    found = {(chain["id"], chain["run"]): read_completion(chain["completion"]) for chain in chains}
    return {address: quantity for address, quantity in found.items() if quantity is not None}


def read_completion(completion: str) -> Quantity | None:
    """The quantity in a completion's box; None where there is none, or no number with a known unit."""
    answer = extract_answer(completion).answer
    return None if answer is None else read_quantity(answer)


def same(a: Quantity, b: Quantity) -> bool:
    return same_quantity(a, b, TOLERANCE)


def describe(_chain: Row, quantity: Quantity) -> Row:
    return {"answer": quantity.text}


def check(row: Row, completions: Sequence[str], _workers: int | None) -> list[bool]:
    gold = read_quantity(row["answer"])
    found = map(read_completion, completions)
    return [gold is not None and quantity is not None and same(gold, quantity) for quantity in found]


DOMAIN = Domain(INSTRUCTION, observe, same, describe, check)
