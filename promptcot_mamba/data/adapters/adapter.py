"""What an adapter is: where a data set lies, which columns it has, how one raw row becomes a canonical one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptcot_mamba.data.canonical import CanonicalRow, UnusableRowError
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row


@dataclass(frozen=True)
class Adapter:
    """One published data set (or one general shape).

    `convert(raw, context)` returns the canonical row, or the rows of a conversation; it raises UnusableRowError where
    this row holds no example, and InputError where the row does not have the shape the adapter was written for.
    `open_context(find, folder)` runs once before the workers start: it may look up companion data sets with
    `find(repo, patterns)` and write what `convert` needs under `folder`; `load_context(folder)` opens that in each
    worker.
    """

    name: str
    repo: str | None  # on the hub; None for shapes without a home
    files: tuple[str, ...]  # default patterns inside the repository or local folder; none: its training rows
    columns: tuple[str, ...]  # required
    optional: tuple[str, ...]  # read too where a file has them
    licence: str
    convert: Callable[[Row, Any], CanonicalRow | Sequence[CanonicalRow]]
    open_context: Callable[[Callable[[str, Sequence[str]], list[Path]], Path], None] | None = None
    load_context: Callable[[Path], Any] | None = None
    keeps_rendered: bool = False  # whether prompts that a chat format wrote are trained on as they are, by default


def text_of(raw: Row, column: str, missing_reason: str) -> str:
    """A column's text; UnusableRowError(missing_reason) if it is null or blank, InputError if it is not text."""
    value = raw.get(column)
    if value is None:
        raise UnusableRowError(missing_reason)
    if not isinstance(value, str):
        raise InputError(f"column {column!r} must be text, found {type(value).__name__}; did the schema change?")
    if not value.strip():
        raise UnusableRowError(missing_reason)
    return value


def optional_text(raw: Row, *columns: str) -> str | None:
    """The first of these columns that holds a value, as text."""
    for column in columns:
        value = raw.get(column)
        if value is not None and value != "":
            return str(value)
    return None
