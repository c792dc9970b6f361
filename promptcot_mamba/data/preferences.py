"""Preference rows: one prompt, a chosen answer and a rejected one, as two documents that stay beside one another.

The shapes that people have: `prompt` (or `question`, `instruction` and `input`, `conversations`...) with `chosen` and
`rejected` as texts; the answers as messages after a prompt that is text or messages; or both as whole conversations
(TRL's "explicit" and "implicit prompt" formats), to which a prompt column adds what they lack. A side is read as any
other row is (`shapes.py`), so that a preference's prompt is rendered as in supervised training.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from promptcot_mamba.chat_markup import Turn
from promptcot_mamba.data.canonical import CanonicalRow, UnusableRowError
from promptcot_mamba.data.conversation import Reading
from promptcot_mamba.data.dataset import Selection, TokenRows, TrainRow
from promptcot_mamba.data.messages import THOUGHTS, read_messages
from promptcot_mamba.data.pack import pack_lengths
from promptcot_mamba.data.row_files import Chunk, iter_rows
from promptcot_mamba.data.rows import Example, Formats, render_checked, stem
from promptcot_mamba.data.shapes import ASKED, CHATS, MESSAGES, PAIR, VERDICTS, read_row
from promptcot_mamba.data.tokens import TokenStore
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row
from promptcot_mamba.records import problem_id

SIDES = ("chosen", "rejected")
NAMED = 10  # places of further rows that an error tells
LOOKS = "{prompt, chosen, rejected}, texts or messages, or {chosen, rejected} as whole conversations"


def _begins_conversation(answer: Any) -> bool:
    """Whether an answer is a list of messages that holds the question too."""
    first = answer[0] if isinstance(answer, list) and answer else None
    return isinstance(first, Mapping) and str(first.get("role", first.get("from"))).lower() not in ("assistant", "gpt")


def _read_prompt(raw: Row, name: str) -> list[Turn]:
    """A prompt column as turns; none where it is empty."""
    if isinstance(raw[name], str):
        return [Turn("user", raw[name])] if raw[name].strip() else []
    return [one.turn for one in read_messages(raw[name], name)] if raw[name] else []


def _bare(turns: Sequence[Turn]) -> list[tuple[str, str]]:
    """Roles and texts, whatever white space stands in them."""
    return [(turn.role, " ".join(turn.text.split())) for turn in turns]


def _is_asked_in(text: str, questions: Sequence[str]) -> bool:
    """Whether a prompt's text is a question of a conversation, bare or with what was written around it."""
    return bool(questions) and (text in questions or text in questions[-1] or questions[-1] in text)


def _whole_conversation(raw: Row, side: str, answer: list[Any]) -> list[Any]:
    """A side's messages, after what its prompt column has and they lack: a system turn, earlier exchanges.

    Raises InputError where the column asks something else.
    """
    name = _prompt_column(raw)
    if name is None:
        return answer
    prompt = _read_prompt(raw, name)
    if prompt and prompt[-1].role == "assistant":  # a whole conversation too, with the answer of before
        prompt = prompt[:-1]
    said = [one.turn for one in read_messages(answer, side)]
    last = max((at for at, turn in enumerate(said) if turn.role == "assistant"), default=len(said))
    asked, context = _bare(prompt), _bare(said[:last])
    before = len(asked) - len(context)
    if before > 0 and asked[before:] == context:
        return [*({"role": turn.role, "content": turn.text} for turn in prompt[:before]), *answer]
    if not asked or (before <= 0 and context[-before:] == asked):
        return answer
    if isinstance(raw[name], str) and _is_asked_in(asked[0][1], [text for role, text in context if role == "user"]):
        return answer
    raise InputError(f"{name!r} asks something else than the conversation in {side!r}; leave out which is wrong")


def _prompt_column(raw: Row) -> str | None:
    told = [name for name in (*ASKED, *CHATS) if name in raw]
    return next((name for name in told if raw[name] is not None), told[0] if told else None)


def _with_material(raw: Row, asked: str) -> Any:
    """A question and, after it, the text that it is about, in a column of its own, as Alpaca's rows have it."""
    if asked not in ("instruction", "question", "query", "problem") or not isinstance(raw[asked], str):
        return raw[asked]
    for name in ("input", "context"):
        given = raw.get(name)
        if given is not None and not isinstance(given, str):
            raise InputError(f"column {name!r} must be text, found {type(given).__name__}")
        if given and given.strip() and given.strip() not in raw[asked]:
            return f"{raw[asked].strip()}\n\n{given.strip()}".strip()
    return raw[asked]


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
        return read_row({**rest, "messages": _whole_conversation(raw, side, answer)}, MESSAGES, reading)[0]
    asked = _prompt_column(raw)
    if asked is None:
        raise InputError(f"no 'prompt', and {side!r} is no whole conversation; expected {LOOKS}")
    one = {**raw, side: answer, asked: _with_material(raw, asked)}
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

    Raises InputError naming file and row for a row that is no preference, and how many others of the file are none, so
    that they can be mended at once; and for a file without rows.
    """
    reading = reading or Reading()
    for file in files:
        number, wrong = 0, []
        for number, (where, raw) in enumerate(iter_rows(Chunk(file)), start=1):
            try:
                pair = read_pair(raw, reading)
                rendered = [render_checked(row, where) for row in pair]
            except (UnusableRowError, InputError) as error:
                told = str(error)
                wrong.append((where, told if told.startswith(where) else f"{where}: {told}"))
            if wrong:
                continue
            identity = problem_id(raw) or f"{file.name}:{number}"
            for side, row, (prompt, completion) in zip(SIDES, pair, rendered, strict=True):
                if formats is not None:
                    formats.add(row, prompt)
                yield Example(f"{identity}/{side}", str(raw.get("source") or stem(file)), prompt, completion)
        if wrong:
            raise InputError(_name_all(wrong, number))
        if number == 0:
            raise InputError(f"{file}: the file is empty, expected rows of {LOOKS}")


def _name_all(wrong: Sequence[tuple[str, str]], rows: int) -> str:
    """The first row that is no preference, why, and where the others of its file are."""
    (_, first), *others = wrong
    if not others:
        return first
    places = ", ".join(where.rpartition(":")[2].strip() for where, _ in others[:NAMED])
    more = ", ..." if len(others) > NAMED else ""
    return f"{first}; of {rows:,} rows {len(others):,} more are no preferences (rows {places}{more})"


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
