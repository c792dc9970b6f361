"""Judged samples -> rows to learn from: pairs of a right and a wrong answer to one prompt, and right answers alone.

Every problem and every sample is accounted for: it is in a row, or there is a reason why not.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from promptcot_mamba.chat_format import THINK_START
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row
from promptcot_mamba.log import logger
from promptcot_mamba.records import derive_seed
from promptcot_mamba.synthesis.distill import KEPT, place_in_band
from promptcot_mamba.synthesis.verdicts import Judged, Tried

# What becomes of a sample, and of a problem that gives no pair.
CUT_SHORT, EMPTY, REPEATED = "cut short", "empty", "repeats another"
BOTH, BAD_FORMAT = "the same text right and wrong", "right, but not one thought and an answer"
IN_A_PAIR, AN_ANSWER, NOT_DRAWN = "in a pair", "a right answer", "not drawn"
PAIRED, NO_RIGHT, NO_WRONG = "with a pair", "no usable right answer", "no usable wrong answer"
Pair = tuple[Judged, Judged]  # right, wrong


@dataclass(frozen=True)
class Choice:
    """How rows are chosen: at most so many `pairs` and `answers` a problem (0: none are wanted), how pairs are matched,
    pass rates between. `paired_only`: answers of those problems alone that have a pair.
    """

    pairs: int
    answers: int
    match: str
    band: tuple[float, float]
    seed: int
    paired_only: bool = False


@dataclass
class Accounts:
    """Counts by fate, of problems and of samples; one line a problem that was left out."""

    problems: Counter[str] = field(default_factory=Counter)
    samples: Counter[str] = field(default_factory=Counter)
    left_out: list[Row] = field(default_factory=list)

    def describe(self, what: str) -> str:
        counts: Counter[str] = getattr(self, what)
        return ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())


def usable(problem: Tried) -> tuple[list[Judged], list[Judged], Counter[str]]:
    """A problem's right and wrong samples that can be learned from, all different, and why the others cannot."""
    fates: Counter[str] = Counter()
    sides: dict[bool, dict[str, Judged]] = {True: {}, False: {}}
    for one in problem.samples:
        text = one.completion.strip().removeprefix(THINK_START).strip()  # who opens the thought makes no other answer
        if one.cut_short:
            fates[CUT_SHORT] += 1
        elif not text:
            fates[EMPTY] += 1
        elif one.right and not one.format_valid:
            fates[BAD_FORMAT] += 1
        elif text in sides[one.right]:
            fates[REPEATED] += 1
        else:
            sides[one.right][text] = one
    for text in sides[True].keys() & sides[False].keys():
        right, wrong = (sides[side].pop(text) for side in (True, False))
        fates[BOTH] += 2
        logger.warning(
            "problem %r: lines %d and %d hold the same answer, graded right and wrong; both are left out",
            problem.problem, right.line, wrong.line,
        )  # fmt: skip
    return list(sides[True].values()), list(sides[False].values()), fates


def match_at_random(right: list[Judged], wrong: list[Judged], rng: random.Random) -> Iterator[Pair]:
    """Every pair once, in an order in which no sample comes back before the others of its side have come."""
    right, wrong = rng.sample(right, len(right)), rng.sample(wrong, len(wrong))
    shared = math.lcm(len(right), len(wrong))
    for at in range(len(right) * len(wrong)):
        yield right[at % len(right)], wrong[(at + at // shared) % len(wrong)]


def match_by_length(right: list[Judged], wrong: list[Judged], rng: random.Random) -> Iterator[Pair]:
    """Pairs of the least difference in length first, each sample once; equals in a random order."""
    pairs = [(abs(one.tokens - other.tokens), rng.random(), one, other) for one in right for other in wrong]
    used: set[int] = set()
    for _, _, one, other in sorted(pairs, key=lambda pair: pair[:2]):
        if not used & {one.run, other.run}:
            used |= {one.run, other.run}
            yield one, other


def match_short_over_long(right: list[Judged], wrong: list[Judged], _: random.Random) -> Iterator[Pair]:
    """The shortest right against the longest wrong, then the next: teaches to be short as well as right."""
    return zip(
        sorted(right, key=lambda one: (one.tokens, one.run)),
        sorted(wrong, key=lambda one: (-one.tokens, one.run)),
        strict=False,
    )


MATCHES: dict[str, Callable[[list[Judged], list[Judged], random.Random], Iterator[Pair]]] = {
    "random": match_at_random,
    "near_length": match_by_length,
    "short_over_long": match_short_over_long,
}


def choose_rows(problems: Sequence[Tried], choice: Choice) -> tuple[list[Row], list[Row], Accounts]:
    """Pairs, right answers, and what became of everything. Raises InputError for a row without a prompt."""
    pairs: list[Row] = []
    answers: list[Row] = []
    accounts = Accounts()
    for problem in problems:
        right, wrong, fates = usable(problem)
        reason = why_left_out(problem, choice.band)
        chosen: list[Pair] = []
        told: list[Judged] = []
        if reason is None:
            rng = random.Random(derive_seed(choice.seed, problem.problem))
            if right and wrong:
                chosen = list(islice(MATCHES[choice.match](right, wrong, rng), choice.pairs))
            if (right and wrong) or not choice.paired_only:
                told = rng.sample(right, min(len(right), choice.answers))
            reason = NO_RIGHT if not right else NO_WRONG if not wrong else None
        pairs += [pair_row(problem, *pair) for pair in chosen]
        answers += [answer_row(problem, one) for one in told]
        paired = {one.run for pair in chosen for one in pair}
        fates[IN_A_PAIR] = len(paired)
        fates[AN_ANSWER] = len({one.run for one in told} - paired)
        rest = len(right) + len(wrong) - fates[IN_A_PAIR] - fates[AN_ANSWER]
        fates[NOT_DRAWN if chosen or told or reason is None else reason] += rest
        accounts.samples += fates
        accounts.problems[reason or PAIRED] += 1
        if reason is not None:
            row = {"problem_id": problem.problem, "reason": reason, "samples": len(problem.samples)}
            accounts.left_out.append(row | {"pass_rate": problem.pass_rate, "answers": len(told)})
    assert accounts.problems.total() == len(problems)
    assert accounts.samples.total() == sum(len(problem.samples) for problem in problems)
    return pairs, answers, accounts


def why_left_out(problem: Tried, band: tuple[float, float]) -> str | None:
    """Why nothing of a problem may be used."""
    if problem.unjudged is not None:
        return problem.unjudged
    place = place_in_band(problem.pass_rate, band)
    return None if place == KEPT else place


def described(problem: Tried, one: Judged) -> Row:
    """What every row says: the prompt as it was sent, and where it comes from."""
    prompt = one.row.get("prompt") or one.row.get("question")
    if not isinstance(prompt, str) or not prompt.strip():
        name = problem.problem
        raise InputError(f"{problem.path}:{one.line}: problem {name!r} has no 'prompt' to learn an answer to")
    told = {name: one.row[name] for name in ("source", "domain") if isinstance(one.row.get(name), str)}
    return {"prompt": prompt, **told, "problem_id": problem.problem, "pass_rate": problem.pass_rate}


def pair_row(problem: Tried, right: Judged, wrong: Judged) -> Row:
    """As `train.py --objective dpo` and TRL read it."""
    return {
        "id": f"{problem.problem}/{right.run}-{wrong.run}",
        **described(problem, right),
        "chosen": right.completion,
        "rejected": wrong.completion,
        "chosen_run": right.run,
        "rejected_run": wrong.run,
    }


def answer_row(problem: Tried, one: Judged) -> Row:
    """As `train.py` reads it."""
    name = f"{problem.problem}/{one.run}"
    return {"id": name, **described(problem, one), "completion": one.completion, "run": one.run}
