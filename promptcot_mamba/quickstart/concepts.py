"""Seven integer concepts, each with the digit-by-digit chain of thought that works it out.

A concept takes one or two whole numbers from 0 to LIMIT and gives one. Its `work` is what a careful pupil would
write: one column or digit at a time, the result so far in brackets, so that no step asks for more than a
one-digit fact and a copy. The result in brackets closes every chain. The methods work for numbers of any length.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

LIMIT = 99  # two digits: half a million parameters learn them in about a minute on two cores


def _digits_from_right(number: int) -> list[int]:
    return [int(digit) for digit in reversed(str(number))]


def work_add(x: int, y: int) -> tuple[int, str]:
    """`347 + 58` -> `7 + 8 = 15 [5]; 4 + 5 + 1 = 10 [05]; 3 + 1 = 4 [405]`."""
    left, right = _digits_from_right(x), _digits_from_right(y)
    steps, written, carry = [], "", 0
    for column in range(max(len(left), len(right))):
        terms = [digits[column] for digits in (left, right) if column < len(digits)] + [carry] * (carry > 0)
        total = sum(terms)
        last = column + 1 == max(len(left), len(right))
        written = f"{total if last else total % 10}{written}"
        steps.append(f"{' + '.join(map(str, terms))} = {total} [{written}]")
        carry = total // 10
    return x + y, "; ".join(steps)


def work_subtract(x: int, y: int) -> tuple[int, str]:
    """`352 - 58` -> `12 - 8 = 4 [4]; 15 - 6 = 9 [94]; 3 - 1 = 2 [294]`: borrowed tens show."""
    left, right = _digits_from_right(x), _digits_from_right(y)
    steps, written, borrow = [], "", 0
    for column, digit in enumerate(left):
        taken = (right[column] if column < len(right) else 0) + borrow
        lent = 10 if digit < taken else 0
        difference = digit + lent - taken
        written = f"{difference}{written}"
        steps.append(f"{digit + lent} - {taken} = {difference} [{written}]")
        borrow = lent // 10
    return x - y, _strip_zeros(steps, x - y)


def _strip_zeros(steps: list[str], value: int) -> str:
    """Write the value without its leading zeros where the columns left some."""
    chain = "; ".join(steps)
    return chain if chain.endswith(f"[{value}]") else f"{chain} [{value}]"


def work_multiply(x: int, y: int) -> tuple[int, str]:
    """`47 * 8` (y has one digit) -> `7 * 8 = 56 [6]; 4 * 8 + 5 = 32 + 5 = 37 [376]`."""
    steps, written, carry = [], "", 0
    digits = _digits_from_right(x)
    for column, digit in enumerate(digits):
        product = digit * y
        total = product + carry
        written = f"{total if column + 1 == len(digits) else total % 10}{written}"
        worked = f"{digit} * {y} + {carry} = {product} + {carry} = {total}" if carry else f"{digit} * {y} = {total}"
        steps.append(f"{worked} [{written}]")
        carry = total // 10
    return x * y, "; ".join(steps)


def work_mod(x: int, y: int) -> tuple[int, str]:
    """`374 mod 6` -> `3 mod 6 = 3; 37 mod 6 = 1; 14 mod 6 = 2 [2]`: long division that keeps remainders only."""
    steps, remainder = [], 0
    for digit in str(x):
        partial = 10 * remainder + int(digit)
        remainder = partial % y
        steps.append(f"{partial} mod {y} = {remainder}")
    return remainder, f"{'; '.join(steps)} [{remainder}]"


def work_digit_sum(x: int) -> tuple[int, str]:
    """`374` -> `3; 3 + 7 = 10; 10 + 4 = 14 [14]`."""
    first, *rest = (int(digit) for digit in str(x))
    steps, total = [str(first)], first
    for digit in rest:
        steps.append(f"{total} + {digit} = {total + digit}")
        total += digit
    return total, f"{'; '.join(steps)} [{total}]"


def work_comparison(choose: Callable[[int, int], int], x: int, y: int) -> tuple[int, str]:
    """`max 347 352` -> `3 = 3; 4 < 5 [352]`: padded to one width, digits from the left up to the first that differ."""
    width = max(len(str(x)), len(str(y)))
    steps = []
    for left, right in zip(str(x).zfill(width), str(y).zfill(width), strict=True):
        sign = "=" if left == right else "<" if left < right else ">"
        steps.append(f"{left} {sign} {right}")
        if sign != "=":
            break
    return choose(x, y), f"{'; '.join(steps)} [{choose(x, y)}]"


Operands = tuple[int | None, ...]


@dataclass(frozen=True)
class Concept:
    """One concept: its words in a problem, its signs in a thought, how it is worked out, what it may meet.

    `draw(rng, x)` gives the operands to put with `x`, whose own place holds None; None alone where `x` is
    outside the concept.
    """

    name: str
    words: str  # "{} plus {}"
    signs: str  # "{} + {}"
    work: Callable[..., tuple[int, str]]
    draw: Callable[[random.Random, int], Operands | None]


def _either_order(rng: random.Random, other: int) -> Operands:
    return (None, other) if rng.random() < 0.5 else (other, None)


def _draw_subtraction(rng: random.Random, x: int) -> Operands:
    return (None, rng.randint(0, x)) if rng.random() < 0.5 else (rng.randint(x, LIMIT), None)


def _draw_factor(rng: random.Random, x: int) -> Operands | None:
    largest = min(9, LIMIT // max(x, 1))
    return (None, rng.randint(2, largest)) if largest >= 2 else None


def _draw_rival(rng: random.Random, x: int) -> Operands:
    """A number to compare with: half the time near x, so that later digits decide."""
    near = rng.randint(max(0, x - 9), min(LIMIT, x + 9))
    return _either_order(rng, near if rng.random() < 0.5 else rng.randint(0, LIMIT))


CONCEPTS = {
    concept.name: concept
    for concept in (
        Concept("add", "{} plus {}", "{} + {}", work_add, lambda rng, x: _either_order(rng, rng.randint(0, LIMIT - x))),
        Concept("subtract", "{} minus {}", "{} - {}", work_subtract, _draw_subtraction),
        Concept("multiply", "{} times {}", "{} * {}", work_multiply, _draw_factor),
        Concept(
            "mod", "the remainder of {} divided by {}", "{} mod {}", work_mod, lambda rng, x: (None, rng.randint(2, 9))
        ),
        Concept("digit_sum", "the digit sum of {}", "digits {}", work_digit_sum, lambda rng, x: (None,)),
        Concept("larger", "the larger of {} and {}", "max {} {}", partial(work_comparison, max), _draw_rival),
        Concept("smaller", "the smaller of {} and {}", "min {} {}", partial(work_comparison, min), _draw_rival),
    )
}


def draw_number(rng: random.Random) -> int:
    """A first number: one digit a third of the time, so that short ones are not rare."""
    return rng.randint(*rng.choice(((0, 9), (10, LIMIT), (10, LIMIT))))
