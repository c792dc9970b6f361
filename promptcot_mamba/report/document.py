"""A report as data: sections of blocks, rendered as one self-contained HTML page or as Markdown.

The page has no fonts or pictures from elsewhere and runs no script but one it names by hash. Its template escapes
whatever is put in, since models and data files wrote much of it; only `Plot` and `Markup` are markup of our own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup as Safe
from markupsafe import escape

from promptcot_mamba.jsonl import replace_atomically
from promptcot_mamba.report.tables import Table, render_markdown

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Paragraph:
    """Words; `style` may be `lead` or `note`."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Plot:
    """An SVG, also written as `<name>.svg` beside a Markdown file."""

    name: str
    title: str
    svg: str

    @property
    def titled(self) -> str:
        """The SVG with its title, for those who do not see it."""
        opening, rest = self.svg.split(">", 1)
        return f"{opening}><title>{escape(self.title)}</title>{rest}"


@dataclass(frozen=True)
class Tile:
    """A headline figure: the number, what it is, whether it reached its aim."""

    figure: str
    meaning: str
    verdict: str
    met: bool


@dataclass(frozen=True)
class Tiles:
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Excerpt:
    """Text as somebody or some model wrote it."""

    heading: str
    text: str


@dataclass(frozen=True)
class Chain:
    """One model's chain on a problem."""

    title: str
    thought: str
    answer: str
    right: bool


@dataclass(frozen=True)
class Chains:
    """A problem with the chains of several models side by side, and the right answer where there is one to show."""

    heading: str
    question: str
    chains: Sequence[Chain]
    gold: str = ""


@dataclass(frozen=True)
class Markup:
    """Markup of our own, for the page alone."""

    html: str


Block = Paragraph | Plot | Tiles | Excerpt | Chains | Markup | Table


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """`lead` stands between the title and the contents, `footer` at the end; `script_hash` is of the one script."""

    title: str
    sections: Sequence[Section]
    lead: Sequence[Block] = ()
    footer: str = ""
    script_hash: str = ""

    @property
    def plots(self) -> Iterator[Plot]:
        blocks = [*self.lead, *(block for section in self.sections for block in section.blocks)]
        return (block for block in blocks if isinstance(block, Plot))


def name_anchors(titles: Sequence[str]) -> list[str]:
    """An id for each heading, all different; no other element's id begins with `part-`."""
    found: list[str] = []
    for title in titles:
        name = "part-" + "".join(char if char.isalnum() else "-" for char in title.lower())
        number = sum(taken == name or taken.rpartition("--")[0] == name for taken in found)
        found.append(f"{name}--{number + 1}" if number else name)
    return found


def fence(text: str) -> str:
    """Text as a Markdown code block, behind a fence longer than any it holds."""
    marks = "```"
    while marks in text:
        marks += "`"
    return f"{marks}text\n{text}\n{marks}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Any] = {"kind": lambda block: type(block).__name__, "fence": fence, "table": render_markdown}
    environment.filters.update(filters, ours=Safe)
    return environment


def render_html(document: Document) -> str:
    """The whole page."""
    anchors = name_anchors([section.title for section in document.sections])
    parts: list[tuple[str, Section]] = list(zip(anchors, document.sections, strict=True))
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    return _render("page.html", document=document, parts=parts, style=style)


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


def write_document(folder: Path, document: Document) -> None:
    """Write `report.html`, `report.md` and the plots into a folder."""
    markdown = _render("page.md", document=document).rstrip("\n") + "\n"
    files = {"report.html": render_html(document), "report.md": markdown}
    files |= {f"{plot.name}.svg": f'<?xml version="1.0" encoding="utf-8"?>\n{plot.titled}\n' for plot in document.plots}
    for file_name, text in files.items():
        with replace_atomically(folder / file_name) as file:
            file.write(text)
