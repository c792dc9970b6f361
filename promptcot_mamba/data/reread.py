"""Rows read a second time, as the first pass read them: for what is made of their text after the mixture is chosen."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from promptcot_mamba.chat_format import THINK_START, with_open_thought
from promptcot_mamba.chat_markup import whole_text
from promptcot_mamba.data.adapters import Adapter
from promptcot_mamba.data.canonical import CanonicalRow, UnusableRowError
from promptcot_mamba.data.conversation import Reading, render_row
from promptcot_mamba.data.row_files import Chunk, iter_rows
from promptcot_mamba.data.sources import FoundSource, SourceSpec
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row

ROWS_FILE = "rows.jsonl"


def as_asked(row: CanonicalRow, spec: SourceSpec, adapter: Adapter) -> CanonicalRow:
    """The row with what the recipe says of its source; raises InputError where it has no published chat text."""
    if spec.published_prompt and row.rendered is None:
        raise InputError(f"sources.{spec.name}: adapter {spec.adapter!r} has no published chat text here")
    if not spec.keeps_rendered(adapter) and row.rendered is not None:
        row = replace(row, rendered=None)
    if spec.thought_opened:
        row = replace(row, completion=with_open_thought(THINK_START, row.completion))
    return row


def reread(
    sources: Sequence[FoundSource],
    jobs: Sequence[tuple[int, str, Chunk]],
    contexts: dict[str, Path],
    reading: Reading,
) -> Iterator[tuple[SourceSpec, Adapter, str, CanonicalRow]]:
    """`(source, its adapter, place, row)` of every row that holds an example; the others were counted before."""
    for source in sources:
        spec, adapter = source.spec, source.spec.make_adapter(reading)
        context: Any = adapter.load_context(contexts[spec.name]) if adapter.load_context else None
        columns = (*adapter.columns, *adapter.optional)
        for chunk in (chunk for _, name, chunk in jobs if name == spec.name):
            for place, raw in iter_rows(chunk, columns, on_bad_line=lambda _: None):
                try:
                    found = adapter.convert(raw, context)
                except UnusableRowError:
                    continue
                for row in [found] if isinstance(found, CanonicalRow) else found:
                    where = place.replace(chunk.shown, Path(chunk.shown).name, 1)
                    yield spec, adapter, where, as_asked(row, spec, adapter)


def iter_texts(
    rows: Iterator[tuple[SourceSpec, Adapter, str, CanonicalRow]], chosen: dict[str, set[bytes]]
) -> Iterator[Row]:
    """Each chosen row once, as text that `train.py --data_path` reads: the prompt rendered, the completion, its origin.

    `chosen`: the ids of a source's rows in the mixture. Rows that a mixture repeats are written once.
    """
    for spec, adapter, where, row in rows:
        if row.id not in chosen[spec.name]:
            continue
        chosen[spec.name].discard(row.id)  # an equal row later was dropped
        prompt, completion = render_row(row, spec.instruction)
        yield {
            "id": row.id.hex(), "prompt": whole_text(prompt), "completion": completion, "domain": row.domain,
            "source": row.meta.get("source") or spec.name,
            "licence": row.meta.get("licence") or spec.licence or adapter.licence, "place": where,
        }  # fmt: skip
