"""`report.md` beside the shards: what went in, what was left out and why, with plots."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from promptcot_mamba.data.filters import REASONS
from promptcot_mamba.data.prepare import CONTAMINATED_FILE, NEAR_FILE, Result, lengths_by_source
from promptcot_mamba.jsonl import iter_jsonl, replace_atomically

REPORT_FILE = "report.md"
PLOTS_FOLDER = "plots"
SHOWN_CONTAMINATED = 20
COLOURS = ("#3b6fb6", "#d98032", "#4d9a57", "#b4485a", "#7a62a8", "#8a6d4b", "#5fa8b8", "#9a9a3c")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns after the first are numbers."""
    marks = ["---", *("---:" for _ in header[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, marks, *rows))


def number_text(value: float) -> str:
    """With separators, without a fraction."""
    return f"{value:,.0f}"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def count_shared(path: Path) -> dict[str, dict[str, set[str]]]:
    """benchmark -> `rows` and `problems` named in a file of hits."""
    found: dict[str, dict[str, set[str]]] = {}
    for _, hit in iter_jsonl(path):
        entry = found.setdefault(hit["benchmark"], {"rows": set(), "problems": set()})
        entry["rows"].add(f"{hit['source']} {hit['row']} {hit['id']}")
        entry["problems"].add(hit["problem"])
    return found


def _draw(path: Path, draw, height: float = 3.6) -> None:
    """Draw one figure into a file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    with replace_atomically(path, "wb") as file:
        figure.savefig(file, dpi=120, format="png", metadata={"Software": None})


def draw_plots(result: Result, folder: Path) -> list[tuple[str, str]]:
    """Write the plots; return `(file name, caption)` of each."""
    folder.mkdir(parents=True, exist_ok=True)
    lengths = lengths_by_source(result)
    longest = max(max((int(part.max()) for part in lengths.values() if len(part)), default=1), 2)

    def draw_lengths(axes) -> None:
        bins = np.linspace(0, longest, 61)
        for number, (name, part) in enumerate(lengths.items()):
            share = np.full(len(part), 100 / max(len(part), 1))
            colour = COLOURS[number % len(COLOURS)]
            axes.hist(part, bins=bins, weights=share, histtype="step", label=name, color=colour, linewidth=1.6)
        axes.set_xlabel("tokens of one example, prompt and completion")
        axes.set_ylabel("% of the source's examples")
        axes.set_xlim(0, longest)
        axes.figure.legend(loc="outside upper center", ncols=3, frameon=False)

    reasons = [reason for reason in REASONS if any(tally["dropped"].get(reason) for tally in result.tallies.values())]

    def draw_drops(axes) -> None:
        left = np.zeros(len(reasons))
        for number, (name, tally) in enumerate(result.tallies.items()):
            widths = np.array([tally["dropped"].get(reason, 0) for reason in reasons], dtype=float)
            axes.barh(reasons, widths, left=left, color=COLOURS[number % len(COLOURS)], label=name)
            left += widths
        for position, total in enumerate(left):
            axes.annotate(f" {total:,.0f}", (total, position), va="center", fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_xlabel("rows dropped")
        axes.figure.legend(loc="outside upper center", ncols=3, frameon=False)

    def draw_fill(axes) -> None:
        capacity = result.recipe.max_length
        fill = [100 * shard["tokens"] / (shard["rows"] * capacity) for shard in result.shards]
        axes.plot(range(len(fill)), fill, "o-", color=COLOURS[0], markersize=4, linewidth=1)
        axes.axhline(99, color="#888888", linewidth=0.8, linestyle="--")
        axes.set_ylim(min([*fill, 98.0]) - 0.5, 100.2)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("shard")
        axes.set_ylabel(f"% of rows x {capacity:,} filled")

    plots = [("lengths.png", "Length of the examples, by source")]
    _draw(folder / "lengths.png", draw_lengths)
    if reasons:
        plots.append(("drops.png", "Rows left out, by reason and source"))
        _draw(folder / "drops.png", draw_drops, height=1.8 + 0.3 * len(reasons))
    plots.append(("fill.png", "How full the packed rows of each shard are"))
    _draw(folder / "fill.png", draw_fill, height=2.6)
    return plots


def _sections(result: Result, output: Path) -> list[str]:
    counts, recipe = result.manifest["counts"], result.recipe
    lengths = lengths_by_source(result)
    total = counts["documents"]
    sources = [
        [
            name,
            number_text(entry["read"]),
            number_text(sum(entry["dropped"].values())),
            number_text(entry["available"]),
            number_text(entry["in_mixture"]),
            _percent(entry["in_mixture"], total),
            number_text(lengths[name].sum()),
            _percent(lengths[name].sum(), counts["tokens"]),
            number_text(np.median(lengths[name])),
            number_text(np.percentile(lengths[name], 99)),
        ]
        for name, entry in counts["sources"].items()
    ]
    header = ("source", "rows read", "left out", "usable", "in mixture", "share", "tokens", "share", "median", "99 %")
    fill = counts["tokens"] / (counts["rows"] * recipe.max_length)
    parts = [
        "# What is in these shards",
        f"{number_text(total)} examples of {number_text(counts['tokens'])} tokens, {number_text(counts['labels'])} of "
        f"them under the loss, in {number_text(counts['rows'])} rows of {recipe.max_length:,} "
        f"({100 * fill:.2f} % full) and {len(result.shards)} shards.",
        table(header, sources),
        "A source's rows may enter more than once (epochs above 1) or in part; `left out` counts the latter too.",
        "## Left out, and why",
    ]
    names = list(counts["sources"])
    reasons = [[f"`{reason}`: {REASONS[reason]}"] for reason in REASONS]
    for line, reason in zip(reasons, REASONS, strict=True):
        dropped = [counts["sources"][name]["dropped"].get(reason, 0) for name in names]
        line += [*map(number_text, dropped), number_text(sum(dropped))]
    parts.append(table(("reason", *names, "all"), [line for line in reasons if line[-1] != "0"]))
    samples: dict[str, str] = {}
    for name, tally in result.tallies.items():
        for reason, places in tally["samples"].items():
            samples.setdefault(reason, f"- `{reason}`: {name}, {', '.join(f'`{place}`' for place in places)}")
    if samples:
        shown = "\n".join(samples[reason] for reason in REASONS if reason in samples)
        parts += ["One place to look for each; all of them are in `dropped.parquet`:", shown]
    parts += ["## Origins and licences"]
    for name in ("origins", "licences"):
        rows = [
            [
                one,
                number_text(held["documents"]),
                number_text(held["tokens"]),
                _percent(held["tokens"], counts["tokens"]),
            ]
            for one, held in counts[name].items()
        ]
        parts.append(table((name.removesuffix("s"), "examples", "tokens", "share"), rows))
    return parts + _contamination(result, output)


def _contamination(result: Result, output: Path) -> list[str]:
    problems = result.manifest["benchmarks"]["problems"]
    parts = ["## Contamination"]
    if not problems:
        return [*parts, "No benchmark was compared with: none was given."]
    removed, near = count_shared(output / CONTAMINATED_FILE), count_shared(output / NEAR_FILE)
    empty: dict[str, set[str]] = {"rows": set(), "problems": set()}
    rows = [
        [
            name,
            number_text(count),
            *(
                number_text(len(found.get(name, empty)[key]))
                for found in (removed, near)
                for key in ("rows", "problems")
            ),
        ]
        for name, count in problems.items()
    ]
    header = ("benchmark", "problems", "rows removed", "problems hit", "rows near one", "problems touched")
    parts += [
        "Removed: a prompt or an answer that holds a problem, however respelled (its share of the problem's rare word "
        f"pairs and triples, and how alike the two are, stand in `{CONTAMINATED_FILE}` with the words in common). "
        f"Kept, and listed in `{NEAR_FILE}`: a part of one. `--keep_rows ID` keeps a removed row.",
        table(header, rows),
    ]
    first = [hit for _, hit in zip(range(SHOWN_CONTAMINATED), iter_jsonl(output / CONTAMINATED_FILE), strict=False)]
    if first:
        shown = "\n".join(
            f"- `{hit['id']}` ({hit['source']}): {hit['benchmark']} {hit['problem']} "
            f"({hit['kind']}, share {hit['share']:.2f}, {hit['alike']:.0f} % alike)"
            for _, hit in first
        )
        parts += [f"The first {len(first)}:", shown]
    return parts


def write_report(result: Result, output: Path) -> Path:
    """Write `report.md` and its plots beside the shards."""
    parts = _sections(result, output)
    plots = draw_plots(result, output / PLOTS_FOLDER)
    parts += ["## Plots", *(f"![{caption}]({PLOTS_FOLDER}/{name})" for name, caption in plots)]
    seconds = [[name, f"{value:.1f}"] for name, value in result.seconds.items()]
    parts += ["## Seconds", table(("step", "seconds"), seconds)]
    path = output / REPORT_FILE
    with replace_atomically(path) as file:
        file.write("\n\n".join(parts) + "\n")
    return path
