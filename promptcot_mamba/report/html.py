"""One self-contained HTML page: no scripts, no fonts or pictures from elsewhere.

Whatever a model or a data file wrote goes through `escape`; only this package's own tags and plots are raw.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from promptcot_mamba.report.tables import Table

WIDE = 7  # more columns than that are set smaller, to be seen at once

STYLE = """
:root { --ink: #1c2430; --soft: #5c6878; --line: #dfe4ea; --paper: #ffffff; --back: #f4f6f8; --accent: #1f5fa8;
  --good: #1a7f4b; --bad: #b3382c; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 72px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 8px; letter-spacing: -0.01em; }
h2 { font-size: 20px; margin: 44px 0 10px; }
p { margin: 8px 0; max-width: 78ch; }
.lead { color: var(--soft); font-size: 17px; } .note { color: var(--soft); font-size: 14px; max-width: none; }
.note code { overflow-wrap: anywhere; }
nav { font-size: 14px; margin: 14px 0 0; } nav a { color: var(--accent); margin-right: 14px; text-decoration: none; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(250px, 1fr)); gap: 16px; margin: 28px 0 8px; }
.tile, .card { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px; }
.tile b { display: block; font-size: 32px; line-height: 1.15; font-weight: 650; font-variant-numeric: tabular-nums; }
.tile span { display: block; color: var(--soft); font-size: 14px; margin-top: 4px; }
.tile .met { color: var(--good); font-weight: 600; } .tile .missed { color: var(--bad); font-weight: 600; }
.card { overflow-x: auto; margin: 12px 0; }
.card svg { display: block; max-width: 100%; height: auto; margin: 0 auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 8px; border-bottom: 1px solid var(--line); text-align: right; white-space: pre; }
th { color: var(--soft); font-weight: 600; font-size: 13px; }
th.text, td.text { text-align: left; } td.text { white-space: normal; }
table.wide, table.wide th { font-size: 12px; } table.wide th, table.wide td { padding: 7px 5px; }
table.wide td.text { min-width: 17ch; }
tr.own td { background: #eef4fb; font-weight: 500; }
tr:last-child td { border-bottom: 0; }
.chain { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 16px; }
.question { font-weight: 600; margin: 2px 0 14px; max-width: none; }
.card h3 { font-size: 14px; margin: 0 0 2px; color: var(--soft); font-weight: 600; }
.chain h3 { font-size: 14px; margin: 0 0 6px; color: var(--soft); font-weight: 600; }
pre { margin: 0; padding: 12px 14px; background: var(--back); border-radius: 8px; white-space: pre-wrap;
  overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre .thought { color: var(--soft); }
.right { color: var(--good); } .wrong { color: var(--bad); }
footer { margin-top: 48px; color: var(--soft); font-size: 14px; }
footer code { font-size: 13px; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class Tile:
    """A headline figure: the number, what it is, whether it reached its aim."""

    figure: str
    meaning: str
    verdict: str
    met: bool


def render_page(title: str, body: Iterable[str]) -> str:
    """A whole page; `body` is markup."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def render_heading(text: str, level: int = 2) -> str:
    return f'<h{level} id="{anchor(text)}">{escape(text)}</h{level}>'


def anchor(text: str) -> str:
    """The name by which a heading is linked to; no other element's id begins so."""
    return "part-" + "".join(char if char.isalnum() else "-" for char in text.lower())


def render_contents(titles: Iterable[str]) -> str:
    """Links to headings of the page."""
    links = [f'<a href="#{anchor(title)}">{escape(title)}</a>' for title in titles]
    return f"<nav>{' '.join(links)}</nav>"


def render_paragraph(text: str, style: str = "") -> str:
    return f'<p class="{style}">{escape(text)}</p>' if style else f"<p>{escape(text)}</p>"


def render_card(markup: str) -> str:
    """A white box around markup: a plot or a table."""
    return f'<div class="card">{markup}</div>'


def render_table(table: Table) -> str:
    def cells(tag: str, row: Sequence[str]) -> str:
        classes = [' class="text"' if column in table.text_columns else "" for column in range(len(row))]
        return "".join(f"<{tag}{style}>{escape(cell)}</{tag}>" for style, cell in zip(classes, row, strict=True))

    opening = ['<tr class="own">' if place in table.own_rows else "<tr>" for place in range(len(table.rows))]
    rows = "\n".join(f"{tag}{cells('td', row)}</tr>" for tag, row in zip(opening, table.rows, strict=True))
    head = f"<thead><tr>{cells('th', table.header)}</tr></thead>"
    style = ' class="wide"' if len(table.header) > WIDE else ""
    return render_card(f"<table{style}>\n{head}\n<tbody>\n{rows}\n</tbody>\n</table>")


def render_tiles(tiles: Iterable[Tile]) -> str:
    boxes = [
        f'<div class="tile"><b>{escape(tile.figure)}</b><span>{escape(tile.meaning)}</span>'
        f'<span class="{"met" if tile.met else "missed"}">{escape(tile.verdict)}</span></div>'
        for tile in tiles
    ]
    return f'<div class="tiles">{"".join(boxes)}</div>'


def render_chain(title: str, thought: str, answer: str, right: bool) -> str:
    """One model's chain on one problem: thought dimmed, answer plain, verdict in the heading."""
    verdict = '<span class="right">right</span>' if right else '<span class="wrong">wrong</span>'
    text = f'<span class="thought">{escape(thought)}</span>\n{escape(answer)}'
    return f"<div><h3>{escape(title)} · {verdict}</h3><pre>{text}</pre></div>"
