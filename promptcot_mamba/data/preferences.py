"""Preference rows: one prompt, a chosen answer and a rejected one, as two documents that stay beside one another.

The shapes that people have: `prompt` (or `question`, `instruction` and `input`, `conversations`...) with `chosen` and
`rejected` as texts; the answers as messages after a prompt that is text or messages; or both as whole conversations
(TRL's "explicit" and "implicit prompt" formats). A side is read as any other row is (`shapes.py`), so that a
preference's prompt is rendered as in supervised training.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from promptcot_mamba.data.canonical import CanonicalRow, UnusableRowError
from promptcot_mamba.data.conversation import Reading
from promptcot_mamba.data.dataset import Selection, TokenRows, TrainRow
from promptcot_mamba.data.messages import THOUGHTS
from promptcot_mamba.data.pack import pack_lengths
from promptcot_mamba.data.row_files import Chunk, iter_rows
from promptcot_mamba.data.rows import Example, Formats, render_checked, stem
from promptcot_mamba.data.shapes import ASKED, CHATS, MESSAGES, PAIR, VERDICTS, read_row
from promptcot_mamba.data.tokens import TokenStore
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row
from promptcot_mamba.records import problem_id

SIDES = ("chosen", "rejected")
LOOKS = "{prompt, chosen, rejected}, texts or messages, or {chosen, rejected} as whole conversations"


def _begins_conversation(answer: Any) -> bool:
    """Whether an answer is a list of messages that holds the question too."""
    first = answer[0] if isinstance(answer, list) and answer else None
    return isinstance(first, Mapping) and str(first.get("role", first.get("from"))).lower() not in ("assistant", "gpt")


def read_side(raw: Row, side: str, reading: Reading) -> CanonicalRow:
    """The prompt and one answer of a preference row. Raises InputError or UnusableRowError as `read_row`.

    A column `reasoning` beside two answers says why one is preferred; it is the thought of neither. Nor is a `label`
    a verdict on one of them.
    """
    raw = {name: value for name, value in raw.items() if name not in (*THOUGHTS, *VERDICTS)}
    answer = [raw[side]] if isinstance(raw[side], Mapping) else raw[side]
    reading = replace(reading, loss_on="last")
    if _begins_conversation(answer):
        rest = {name: value for name, value in raw.items() if name not in (*SIDES, *CHATS)}
        return read_row({**rest, "messages": answer}, MESSAGES, reading)[0]
    told = [name for name in (*ASKED, *CHATS) if name in raw]
    asked = next((name for name in told if raw[name] is not None), told[0] if told else None)
    if asked is None:
        raise InputError(f"no 'prompt', and {side!r} is no whole conversation; expected {LOOKS}")
    one = {**raw, side: answer}
    if asked == "instruction" and isinstance(raw.get("input"), str):
        one[asked] = f"{raw[asked]}\n\n{raw['input']}".strip()
    return read_row(one, PAIR, reading, {"prompt": asked, "completion": side})[0]


def read_pair(raw: Row, reading: Reading) -> tuple[CanonicalRow, CanonicalRow]:
    """Both sides of a row. Raises InputError for other columns, sides that are equal or answer different prompts."""
    missing = [side for side in SIDES if side not in raw]
    if missing:
        raise InputError(f"missing key {missing[0]!r}; found {', '.join(raw) or 'nothing'}; expected {LOOKS}")
    chosen, rejected = (read_side(raw, side, reading) for side in SIDES)
    if (chosen.prompt, chosen.history) != (rejected.prompt, rejected.history):
        raise InputError("'chosen' and 'rejected' answer different prompts")
    if chosen.completion == rejected.completion:
        raise InputError("'chosen' and 'rejected' are the same answer, which says nothing; leave the row out")
    return chosen, rejected


def iter_preferences(
    files: Sequence[Path], reading: Reading | None = None, formats: Formats | None = None
) -> Iterator[Example]:
    """Two examples a row, its chosen side first; their ids are the row's own and the side's name.

    Raises InputError naming file and row for a row that is no preference, and a file without rows.
    """
    reading = reading or Reading()
    for file in files:
        number = 0
        for number, (where, raw) in enumerate(iter_rows(Chunk(file)), start=1):
            try:
                pair = read_pair(raw, reading)
            except (UnusableRowError, InputError) as error:
                raise InputError(f"{where}: {error}") from None
            identity = problem_id(raw) or f"{file.name}:{number}"
            for side, row in zip(SIDES, pair, strict=True):
                prompt, completion = render_checked(row, where)
                if formats is not None:
                    formats.add(row, prompt)
                yield Example(f"{identity}/{side}", str(raw.get("source") or stem(file)), prompt, completion)
        if number == 0:
            raise InputError(f"{file}: the file is empty, expected rows of {LOOKS}")


def find_pairs(store: TokenStore) -> np.ndarray:
    """(pairs, 2): document numbers of the chosen and the rejected side. A side whose other one was dropped is left."""
    ids = store.ids
    chosen = [
        at
        for at in range(len(ids) - 1)
        if ids[at].endswith(f"/{SIDES[0]}") and ids[at + 1] == f"{ids[at].removesuffix(SIDES[0])}{SIDES[1]}"
    ]
    return np.asarray(chosen, dtype=np.int64)[:, None] + np.arange(2)


class PairRows(TokenRows):
    """Packed rows of whole pairs: documents 2i and 2i + 1 of a row are the chosen and the rejected answer to a prompt.

    A row also holds `store_documents` (docs), the numbers by which its documents' reference is found.
    """

    def __getitem__(self, row: int) -> TrainRow:
        return {**super().__getitem__(row), "store_documents": self.selection.documents[self.rows[row]]}


def make_pair_rows(store: TokenStore, max_length: int, seed: int = 0) -> PairRows:
    """Pairs whose two documents fit into a row together, packed. Raises InputError if none does."""
    pairs = find_pairs(store)
    lengths = store.lengths[pairs].sum(axis=1)  # (pairs)
    fits = lengths <= max_length
    if not fits.any():
        shortest = int(lengths.min()) if len(lengths) else 0
        raise InputError(
            f"--max_length {max_length}: no usable pair; the two answers of the shortest of {len(lengths):,} have "
            f"{shortest} tokens with their prompts"
        )
    documents = pairs[fits].ravel()
    chosen = Selection(documents, store.lengths[documents], dropped=2 * int((~fits).sum()), truncated=0)
    packed = pack_lengths(lengths[fits], max_length, seed)
    rows = [(2 * row[:, None] + np.arange(2)).ravel() for row in packed]
    return PairRows(store, chosen, rows, max_length, packed=True)
