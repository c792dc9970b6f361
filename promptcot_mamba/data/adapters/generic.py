"""Rows of any shape that people use, told by their columns (`data/shapes.py`), or by a map of columns."""

from collections.abc import Mapping, Sequence

from promptcot_mamba.data.adapters.adapter import Adapter
from promptcot_mamba.data.canonical import DOMAINS, CanonicalRow
from promptcot_mamba.data.conversation import Reading
from promptcot_mamba.data.shapes import EXTRA, MESSAGES, PAIR, SHAPES, Shape, read_row, recognise, shape_of
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row

FIELDS = ("prompt", "completion", "messages", "thought", "domain", "gold", "finish_reason")
ANY_SHAPE = tuple(dict.fromkeys(name for shape in SHAPES for name in (*shape.marked, *shape.optional)))


def make_generic(
    columns: Mapping[str, str] | None = None, domain: str | None = None, reading: Reading | None = None
) -> Adapter:
    """An adapter for rows whose shape their columns tell, or `columns` (field -> column): a pair, or `messages`.

    Rows without a `domain` column are of `domain`, None: by the form of their answer. Raises InputError for a field or
    domain that does not exist.
    """
    columns = dict(columns or {})
    reading = reading or Reading()
    for field in columns:
        if field not in FIELDS:
            raise InputError(f"columns: unknown field {field!r}; known: {', '.join(FIELDS)}")
    if domain is not None and domain not in DOMAINS:
        raise InputError(f"domain: unknown domain {domain!r}; known: {', '.join(DOMAINS)}")
    if "messages" in columns and {*PAIR.marked, "thought"} & set(columns):
        raise InputError("columns: 'messages' is a whole conversation; leave out prompt, completion and thought")
    shape = MESSAGES if "messages" in columns else PAIR
    mapped = {field: columns.get(field, field) for field in shape.marked} if columns else {}
    known: dict[tuple[str, ...], Shape] = {}

    def convert(raw: Row, _context: None) -> Sequence[CanonicalRow]:
        if mapped:
            return read_row(raw, shape, reading, columns, domain)
        names = tuple(raw)
        if names not in known:
            known[names] = recognise(names)
        return read_row(raw, shape_of(raw, known[names]), reading, None, domain)

    return Adapter(
        name="generic",
        repo=None,
        files=(),
        # A column the map names must be there; a default one only where the field cannot be missing.
        columns=tuple(dict.fromkeys((*mapped.values(), *columns.values()))),
        optional=tuple(name for name in (*EXTRA, *(() if mapped else ANY_SHAPE)) if name not in columns.values()),
        licence="see its publisher",
        convert=convert,
        keeps_rendered=True,
    )
