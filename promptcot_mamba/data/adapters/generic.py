"""Any JSONL or Parquet file: a column map says which column is the prompt, the completion, and what else there is."""

from __future__ import annotations

from collections.abc import Mapping

from promptcot_mamba.chat_format import extract_question
from promptcot_mamba.data.adapters.adapter import Adapter, optional_text, text_of
from promptcot_mamba.data.adapters.promptcot import open_completion
from promptcot_mamba.data.canonical import DOMAINS, CanonicalRow, UnusableRowError
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row

FIELDS = ("prompt", "completion", "domain", "gold", "finish_reason")
REQUIRED = ("prompt", "completion")


def make_generic(columns: Mapping[str, str] | None = None, domain: str = "other") -> Adapter:
    """An adapter for rows whose columns are named by `columns` (field -> column; a field is its own default).

    Rows without a `domain` column are of `domain`. Raises InputError for a field or domain that does not exist.
    """
    columns = dict(columns or {})
    for field in columns:
        if field not in FIELDS:
            raise InputError(f"columns: unknown field {field!r}; known: {', '.join(FIELDS)}")
    if domain not in DOMAINS:
        raise InputError(f"domain: unknown domain {domain!r}; known: {', '.join(DOMAINS)}")
    column = {field: columns.get(field, field) for field in FIELDS}

    def convert(raw: Row, _context: None) -> CanonicalRow:
        prompt = text_of(raw, column["prompt"], "no_prompt")
        question = extract_question(prompt)
        if not question:
            raise UnusableRowError("no_prompt")
        own_domain = optional_text(raw, column["domain"])
        return CanonicalRow(
            prompt=question,
            completion=open_completion(prompt, text_of(raw, column["completion"], "no_completion")),
            domain=own_domain if own_domain in DOMAINS else domain,
            gold=optional_text(raw, column["gold"]),
            finish_reason=optional_text(raw, column["finish_reason"]),
        )

    return Adapter(
        name="generic",
        repo=None,
        files=("*.parquet", "*.jsonl"),
        # A column the map names must be there; a default one only where the field cannot be missing.
        columns=tuple(column[field] for field in FIELDS if field in REQUIRED or field in columns),
        optional=tuple(column[field] for field in FIELDS if field not in REQUIRED and field not in columns),
        licence="see its publisher",
        convert=convert,
    )
