"""How often the 95 % intervals hold the truth, by simulation: of avg@n, and of the difference of two systems.

    python -m scripts.bench.coverage

Benchmarks of `--problems` problems x `--n` samples are drawn with known mean accuracies: each problem's own accuracy
comes from a beta distribution (by the sum of its parameters: a small sum means problems that are solved always or
never) or is logit-normal (by its standard deviation). For pairs, two systems' accuracies on a problem are correlated
through a Gaussian copula, and in some rows their spreads differ. Beside the intervals of `grading.metrics` stands the
t interval over problems. A third table has benchmarks of `--large` problems, a last one such as are mostly solved
always or never. Eight minutes on one core at the default draws.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import betaincinv, expit, ndtr

from promptcot_mamba.bench_record import RecordTable, report_record
from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.metrics import clustered_mean, compare_paired, t_interval

MEANS = (0.02, 0.05, 0.1, 0.3, 0.5, 0.8, 0.95)
SPREADS = (("beta", 0.6), ("beta", 1.0), ("beta", 2.0), ("beta", 10.0), ("logit", 1.0), ("logit", 2.0))
PAIRS = ((0.02, 0.02), (0.02, 0.05), (0.05, 0.1), (0.1, 0.1), (0.3, 0.4), (0.5, 0.5), (0.8, 0.9), (0.95, 0.95))
PAIRED_SPREADS = (("beta", 1.0), ("beta", 2.0), ("logit", 2.0))
CORRELATIONS = (0.0, 0.5, 0.9)
MIXED_SPREADS = ((("beta", 1.0), ("beta", 10.0)), (("beta", 10.0), ("beta", 1.0)), (("beta", 1.0), ("logit", 2.0)))
MIXED_CORRELATIONS = (0.0, 0.9)
LARGE_MEANS = (0.1, 0.3, 0.57, 0.9)
LARGE_PAIRS = ((0.1, 0.1), (0.3, 0.4), (0.57, 0.6), (0.9, 0.95))
SETTLED = ((100, 0.2), (200, 0.1), (400, 0.05))  # problems, and the share that is solved neither always nor never
SHIFTS = (0.0, 0.3, -0.3)  # how much oftener the second system solves those
NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
Spread = tuple[str, float]


@dataclass
class Arguments:
    output: str = flag("where the tables go, as JSON", default="docs/records/coverage.json")
    problems: int = flag("problems of a simulated benchmark", default=30)
    n: int = flag("samples a problem", default=16)
    large: int = flag("problems of a larger benchmark", default=400, least=2)
    draws: int = flag("simulated benchmarks a cell", default=2000)


def accuracies(normals: np.ndarray, mean: float, spread: Spread) -> np.ndarray:
    """Per-problem accuracies of this mean and spread, increasing in the standard normals that choose them."""
    kind, size = spread
    if kind == "beta":
        return betaincinv(mean * size, (1 - mean) * size, np.clip(ndtr(normals), 1e-12, 1 - 1e-12))
    low, high = -50.0, 50.0
    for _ in range(80):  # the centre at which the accuracies' mean is `mean`, by bisection
        centre = (low + high) / 2
        reached = float(expit(centre + size * NODES) @ NODE_WEIGHTS) / math.sqrt(2 * math.pi)
        low, high = (centre, high) if reached < mean else (low, centre)
    return expit(centre + size * normals)


def scores(right: np.ndarray, n: int) -> dict[str, list[float]]:
    return {str(place): [1.0] * int(count) + [0.0] * (n - int(count)) for place, count in enumerate(right)}


Cell = tuple[float, float]  # coverage in percent: our interval's and the t interval's


def headline_cell(spread: Spread, mean: float, args: Arguments) -> Cell:
    """Coverage of avg@n's interval at one mean."""
    rng = address(spread, mean)
    covered = np.zeros(2)
    for _ in range(args.draws):
        right = rng.binomial(args.n, accuracies(rng.standard_normal(args.problems), mean, spread))
        for place, one in enumerate((clustered_mean(scores(right, args.n)), t_interval(right / args.n, 0))):
            covered[place] += one.low <= mean <= one.high
    ours, plain = 100 * covered / args.draws
    return float(ours), float(plain)


def paired_cell(
    spreads: tuple[Spread, Spread], correlation: float, means: tuple[float, float], args: Arguments
) -> Cell:
    """Coverage of a paired difference's interval at one pair of means."""
    rng = address(spreads[0], correlation, *means, *([] if spreads[0] == spreads[1] else [spreads[1][1]]))
    covered = np.zeros(2)
    first, second = means
    for _ in range(args.draws):
        normals = rng.standard_normal(args.problems)
        others = correlation * normals + math.sqrt(1 - correlation**2) * rng.standard_normal(args.problems)
        a = rng.binomial(args.n, accuracies(normals, first, spreads[0]))
        b = rng.binomial(args.n, accuracies(others, second, spreads[1]))
        found = compare_paired(scores(a, args.n), scores(b, args.n)).difference
        for place, one in enumerate((found, t_interval((b - a) / args.n, 0))):
            covered[place] += one.low - 1e-12 <= second - first <= one.high + 1e-12
    ours, plain = 100 * covered / args.draws
    return float(ours), float(plain)


def settled_cell(problems: int, open_share: float, shift: float, args: Arguments) -> Cell:
    """Coverage of a paired difference where all but a few problems are solved always or never, as many as not."""
    rng = address(("settled", problems), open_share, SHIFTS.index(shift))
    covered = np.zeros(2)
    true = open_share * math.copysign(abs(shift) - shift**2 / 2, shift)  # of uniform accuracies, cut at 0 and 1
    for _ in range(args.draws):
        place = rng.random(problems)
        first = np.where(place < open_share, rng.random(problems), np.round(rng.random(problems)))
        second = np.where(place < open_share, np.clip(first + shift, 0, 1), first)
        a, b = rng.binomial(args.n, first), rng.binomial(args.n, second)
        found = compare_paired(scores(a, args.n), scores(b, args.n)).difference
        for column, one in enumerate((found, t_interval((b - a) / args.n, 0))):
            covered[column] += one.low <= true <= one.high
    ours, plain = 100 * covered / args.draws
    return float(ours), float(plain)


def name_spreads(spreads: tuple[Spread, Spread]) -> str:
    """`beta 1`, or `beta 1 and beta 10` where the systems differ."""
    return " and ".join(dict.fromkeys(f"{kind} {size:g}" for kind, size in spreads))


def address(spread: Spread, *place: float) -> np.random.Generator:
    """The random numbers of one cell, whichever others are drawn beside it."""
    return np.random.default_rng([len(spread[0]), *(round(1000 * value) for value in (spread[1], *place))])


def make_table(caption: str, first: str, columns: list[str], rows: dict[str, list[Cell]]) -> RecordTable:
    cells = [
        [name, kind, *(f"{cell[place]:.1f}" for cell in row)]
        for name, row in rows.items()
        for place, kind in enumerate(("ours", "t"))
    ]
    return RecordTable(caption, [first, "interval", *columns], cells)


def main() -> int:
    args = parse_args(Arguments, description=__doc__)
    if min(args.problems, args.n, args.draws) < 2:
        raise InputError("--problems, --n and --draws must be at least 2")
    single = {f"{kind} {size:g}": [headline_cell((kind, size), mean, args) for mean in MEANS] for kind, size in SPREADS}
    alike = [((spread, spread), correlation) for spread in PAIRED_SPREADS for correlation in CORRELATIONS]
    mixed = [(spreads, correlation) for spreads in MIXED_SPREADS for correlation in MIXED_CORRELATIONS]
    paired = {
        f"{name_spreads(spreads)}, {correlation:g}": [paired_cell(spreads, correlation, pair, args) for pair in PAIRS]
        for spreads, correlation in alike + mixed
    }
    wide = replace(args, problems=args.large)
    large = {
        f"{kind} {size:g}": [headline_cell((kind, size), mean, wide) for mean in LARGE_MEANS]
        + [paired_cell(((kind, size),) * 2, 0.9, pair, wide) for pair in LARGE_PAIRS]
        for kind, size in PAIRED_SPREADS
    }
    settled = measure_settled(args)
    write(single, paired, large, settled, args)
    return 0


def measure_settled(args: Arguments) -> dict[str, list[Cell]]:
    return {
        f"{problems}, {100 * share:g} %": [settled_cell(problems, share, shift, args) for shift in SHIFTS]
        for problems, share in SETTLED
    }


def settled_table(settled: dict[str, list[Cell]]) -> RecordTable:
    caption = (
        "Coverage of a paired difference where most problems are solved always or never, and the second system solves "
        "the others oftener by so much."
    )
    columns = [f"{100 * shift:+g} points" if shift else "alike" for shift in SHIFTS]
    return make_table(caption, "problems, others", columns, settled)


def write(
    single: dict[str, list[Cell]],
    paired: dict[str, list[Cell]],
    large: dict[str, list[Cell]],
    settled: dict[str, list[Cell]],
    args: Arguments,
) -> None:
    """Print the tables and write the record."""
    means, pairs = [f"{100 * mean:g} %" for mean in MEANS], [f"{100 * a:g} / {100 * b:g} %" for a, b in PAIRS]
    caption = f"Coverage of avg@n's 95 % interval, {args.problems} problems x {args.n}."
    tables = [
        make_table(caption, "spread", means, single),
        make_table("Coverage of a paired difference's 95 % interval.", "spread, correlation", pairs, paired),
        make_table(
            f"Coverage with {args.large} problems: of means, and of differences at correlation 0.9.",
            "spread",
            [f"{100 * mean:g} %" for mean in LARGE_MEANS] + [f"{100 * a:g} / {100 * b:g} %" for a, b in LARGE_PAIRS],
            large,
        ),
        settled_table(settled),
    ]
    results = {
        f"{kind}, {name}": dict(zip(("ours", "t"), map(list, zip(*row, strict=True)), strict=True))
        for kind, rows in (
            ("mean", single),
            ("difference", paired),
            (f"{args.large} problems", large),
            ("settled", settled),
        )
        for name, row in rows.items()
    }
    report_record(args, args.output, title="Coverage of intervals", tables=tables, results=results)


if __name__ == "__main__":
    run_program(main)
