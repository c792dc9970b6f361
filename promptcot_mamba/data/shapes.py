"""The shapes that people's rows have, told by their columns: one raw row -> the examples it holds.

`messages`, ShareGPT's `conversations`, Alpaca's `instruction`, and pairs as `prompt` with `completion`, both as texts
or as lists of messages. A thought may stand before the answer, in `<think>` or other marks, or in a field of its own.
A row of a known shape that breaks it is an UnusableRowError that says where; the caller adds the row's place.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from promptcot_mamba.chat_format import THINK_START, rewrite_thought, tells_marks, with_open_thought
from promptcot_mamba.chat_markup import FAMILIES, Turn, find_rendered, strip_end
from promptcot_mamba.data.canonical import DOMAINS, CanonicalRow, UnusableRowError
from promptcot_mamba.data.conversation import Reading, guess_domain, split_rendered, with_line_end
from promptcot_mamba.data.messages import (
    BY_COLUMNS,
    THOUGHTS,
    Said,
    bare_answer,
    check_order,
    find_thought,
    has_no_question,
    in_our_marks,
    join_thought,
    read_messages,
    read_text,
)
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row

SYSTEM = ("system", "system_prompt", "systemInstruction")
# Columns that every shape reads where they are there.
VERDICTS = ("label", "kto_tag")  # TRL's and LLaMA-Factory's, beside one answer: whether people would have it so
EXTRA = ("domain", "gold", "finish_reason", "source", "license", "licence", *SYSTEM, *THOUGHTS, *VERDICTS)
# Pairs are told by these names; `answer` and `solution` are as often a reference as what is to be learned.
ASKED = ("prompt", "instruction", "question", "query", "problem", "input")
TOLD = ("completion", "response", "output", "generation")
# Names of other columns, by what they are likely to be, in small letters: only to say how to map them.
QUESTIONS = (*("question", "problem", "query", "input", "prompt", "instruction"), "user")
ANSWERS = (
    *TOLD, "r1_generation", "generated_solution", "r1_solution_1", "deepseek_solution", "deepseek_attempt",
    "llm_response", "generated_response", "attempt", "content", "target", "final", "solution", "answer",
)  # fmt: skip
APART = (
    *THOUGHTS, "deepseek_reasoning", "deepseek_thinking_trajectory", "thinking_trajectories", "think", "cot",
    "complex_cot", "analysis",
)  # fmt: skip

_NO_QUESTION = "{}, no question (scripts.prepare_sft_data has adapters that join those of published sets)"


@dataclass(frozen=True)
class Shape:
    """`read(raw, columns)` returns what was said; `marked` are the columns it is recognised by."""

    name: str
    marked: tuple[str, ...]
    optional: tuple[str, ...]
    looks: str
    read: Callable[[Row, Mapping[str, str]], list[Said]] | None  # None: prompt and completion, read by their own rules


def _read_instruction(told: str, raw: Row, column: Mapping[str, str]) -> list[Said]:
    """Alpaca's rows, and those that call its output otherwise; Dolly's `context` is its `input`."""
    names = {name: column.get(name, name) for name in ("instruction", "input", "context", told)}
    for name in names.values():
        if raw.get(name) is not None and not isinstance(raw[name], str):
            raise InputError(f"column {name!r} must be text, found {type(raw[name]).__name__}")
    given = raw.get(names["input"]) or raw.get(names["context"])
    asked = "\n\n".join(text.strip() for text in (raw.get(names["instruction"]), given) if text and text.strip())
    answer = join_thought(find_thought(raw), raw.get(names[told]) or "")
    return _with_system(raw, [*_history(raw), Said(Turn("user", asked)), Said(Turn("assistant", answer))])


def _history(raw: Row) -> list[Said]:
    """The turns of `history: [[question, answer], ...]`, or messages: context, for such sets have a row an answer."""
    earlier = raw.get("history") or []
    if isinstance(earlier, list) and all(isinstance(turn, Mapping) for turn in earlier):
        return [Said(one.turn, trained=False) for one in read_messages(earlier, "history")]
    if not isinstance(earlier, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in earlier):
        raise InputError("column 'history' must be a list of [question, answer]")
    turns = (Turn(role, str(text)) for pair in earlier for role, text in zip(("user", "assistant"), pair, strict=True))
    return [Said(turn, trained=False) for turn in turns]


def _with_system(raw: Row, said: list[Said]) -> list[Said]:
    """The turns after the system turn that a row has in a column of its own, unless they begin with one."""
    if said and said[0].turn.role == "system":
        return said
    texts = (read_text(raw[name], f"column {name!r}") for name in SYSTEM if raw.get(name))
    system = next((text for text in texts if text.strip()), None)
    return said if system is None else [Said(Turn("system", system)), *said]


def _with_beside(raw: Row, said: list[Said]) -> list[Said]:
    """The turns with the thought of the last answer, or with a whole answer, that stands in columns beside them.

    Dolphin-R1 has `reasoning` and `answer` after turns that end with the user's.
    """
    thought = find_thought(raw)
    if said and said[-1].turn.role == "assistant" and said[-1].turn.text.strip():
        role, text = said[-1].turn
        return [*said[:-1], replace(said[-1], turn=Turn(role, join_thought(thought, text)))]
    if not said or said[-1].turn.role != "user" or any(one.turn.role == "assistant" for one in said):
        return said
    names = (*TOLD, "answer") if thought else TOLD  # alone, an answer may be a reference
    told = next((raw[name] for name in names if isinstance(raw.get(name), str) and raw[name].strip()), None)
    return said if told is None else [*said, Said(Turn("assistant", join_thought(thought, told)))]


def _read_list(name: str, raw: Row, column: Mapping[str, str]) -> list[Said]:
    own = column.get(name, name)
    said = read_messages(raw.get(own), own)
    for other in CHATS:
        if name not in column and other != own and _holds_others(raw.get(other), said):
            raise InputError(
                f"columns {own!r} and {other!r} hold different turns; leave one out, or name the one to train on "
                f"in a recipe of scripts.prepare_sft_data (columns: {{messages: {other}}})"
            )
    return _with_system(raw, _with_beside(raw, said))


def _holds_others(messages: Any, said: Sequence[Said]) -> bool:
    """Whether a second column of turns says something else than the first."""
    if not isinstance(messages, list) or not messages or not isinstance(messages[0], Mapping):
        return False
    return read_messages(messages, "") != list(said)


def _read_text(raw: Row, column: Mapping[str, str]) -> list[Said]:
    """A whole conversation as a chat format wrote it, as notebooks for TRL and Unsloth make them."""
    text = raw.get("text")
    if not isinstance(text, str):
        raise UnusableRowError("no_prompt", "'text' must be a text")
    for family in FAMILIES.values():
        opened = max((match.end() for match in re.finditer(family.assistant, text)), default=0)
        found = find_rendered(text[:opened])
        if found is not None and found.family == family.name:
            answer = strip_end(text[opened:], family.name).strip()
            return [*map(Said, found.turns), Said(Turn("assistant", answer))]
    known = ", ".join(FAMILIES)
    raise UnusableRowError("turn_order", f"'text' is written in no known chat format ({known}): it has no answer")


def _read_strings(raw: Row, column: Mapping[str, str]) -> list[Said]:
    """UltraChat's raw rows: question and answer in turn, as bare texts."""
    texts = raw.get(own := column.get("data", "data"))
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"column {own!r} must be a list of texts, question and answer in turn")
    turns = (Turn("assistant" if number % 2 else "user", text) for number, text in enumerate(texts))
    return _with_system(raw, list(map(Said, turns)))


CHATS = ("messages", "conversations", "conversation", "contents")
PAIR = Shape("prompt and completion", ("prompt", "completion"), (), "{prompt, completion}, texts or messages", None)
MESSAGES = Shape(
    "messages", ("messages",), ("answer",), "{messages: [{role, content}]}", partial(_read_list, "messages")
)
_NAMED_PAIRS = f"{{{'|'.join(ASKED)}, {'|'.join(TOLD)}}}"
_TURNS = "{conversations: [{from, value}]}"
SHAPES = (
    PAIR,
    Shape("prompt and response", ("prompt", "response"), (), _NAMED_PAIRS, None),
    MESSAGES,
    *(Shape("ShareGPT", (name,), (), _TURNS, partial(_read_list, name)) for name in ("conversations", "conversation")),
    Shape("Gemini", ("contents",), (), "{contents: [{role, parts}]}", partial(_read_list, "contents")),
    Shape(
        "Alpaca", ("instruction", "output"), ("input", "history", "context"), "{instruction, input, output}",
        partial(_read_instruction, "output"),
    ),
    *(
        Shape(
            f"{asked} and {told}", (asked, told), ("history",), _NAMED_PAIRS,
            partial(_read_instruction, told) if asked == "instruction" else None,
        )
        for asked in ASKED
        for told in TOLD
    ),
    Shape("UltraChat", ("data",), (), "{data: [question, answer, ...]}", _read_strings),
    Shape("chat text", ("text",), (), "{text} in a chat format", _read_text),
)  # fmt: skip


def describe(shape: Shape, columns: Iterable[str]) -> str:
    """A recognised shape in a few words of the log, with the columns beside it that are read too."""
    beside = [name for name in (*SYSTEM, *THOUGHTS) if name in columns]
    read = f", and {', '.join(beside)} beside it" if beside else ""
    looks = f"{{{', '.join(shape.marked)}}}" if shape.looks == _NAMED_PAIRS else shape.looks
    return f"{shape.name} ({looks}{read})"


def recognise(columns: Iterable[str], where: str = "") -> Shape:
    """The shape of rows with these columns; raises InputError listing them and the shapes known."""
    columns = list(columns)
    for shape in SHAPES:
        if all(name in columns for name in shape.marked):
            return shape
    known = ", ".join(dict.fromkeys(shape.looks for shape in SHAPES))
    missing = "".join(
        f"missing key {name!r}; " for name in PAIR.marked if name not in columns and set(PAIR.marked) & set(columns)
    )
    place = f"{where}: " if where else ""
    if {"chosen", "rejected"} <= set(columns):
        raise InputError(f"{place}found {', '.join(columns)}; pairs of answers are trained with --objective dpo")
    if columns and all(column.isdigit() for column in columns):
        raise InputError(f"{place}found {', '.join(columns[:5])}{BY_COLUMNS}")
    asked, told, thought = (_likely(columns, names) for names in (QUESTIONS, ANSWERS, APART))
    apart = f", thought: {thought}" if thought else ""
    raise InputError(
        f"{place}{missing}found {', '.join(columns) or 'nothing'}; expected {known}; other columns are named in a "
        f"recipe of scripts.prepare_sft_data (columns: {{prompt: {asked or '...'}, completion: {told or '...'}{apart}}}"
        f"{'' if apart else ', and thought: ... where it has a column of its own'}, or messages: ... for a list of "
        "turns), which has adapters for published sets, too"
    )


def shape_of(raw: Row, shape: Shape) -> Shape:
    """The shape of one row of a file of this shape: another one where that one's columns are null and others are not.

    So are rows of several shapes in one table (Parquet, Arrow), which has all of their columns. Where what is not null
    makes no shape, the file's shape says what is missing.
    """
    if all(raw.get(name) is not None for name in shape.marked):
        return shape
    held = [name for name, value in raw.items() if value is not None]
    return next((one for one in SHAPES if all(name in held for name in one.marked)), shape)


def _likely(columns: Sequence[str], names: Iterable[str]) -> str | None:
    """The column that has the first of these names, in small letters or large."""
    small = {column.lower(): column for column in columns}
    return next((small[name] for name in names if name in small), None)


def _text(raw: Row, column: str, reason: str) -> str:
    value = raw.get(column)
    if not isinstance(value, str) or not value.strip():
        if value is None or isinstance(value, str):
            raise UnusableRowError(reason, f"{column!r} must be a non-empty text")
        raise InputError(f"{column!r} must be a text or a list of messages, found {type(value).__name__}")
    return value


def _extra(raw: Row, column: Mapping[str, str]) -> dict[str, Any]:
    """What a row says beside its turns."""
    found: dict[str, Any] = {}
    for name in ("gold", "finish_reason"):
        value = raw.get(column.get(name, name))
        if value is not None and value != "":
            found[name] = str(value)
    meta = {"source": raw.get("source"), "licence": raw.get("license") or raw.get("licence")}
    found["meta"] = {key: str(value) for key, value in meta.items() if value}
    return found


def _domain(raw: Row, column: Mapping[str, str], fallback: str | None, completion: str) -> str:
    own = raw.get(column.get("domain", "domain"))
    if own in DOMAINS:
        return own
    return fallback or guess_domain("", completion)


def read_row(
    raw: Row, shape: Shape, reading: Reading, columns: Mapping[str, str] | None = None, domain: str | None = None
) -> list[CanonicalRow]:
    """The examples of one row of a recognised shape; `columns` maps its fields to other names.

    Raises UnusableRowError for a row that breaks its shape, InputError for a column of another type.
    """
    column = dict(columns or {})
    for name in VERDICTS:  # only a boolean: what classifiers call a label is a number or a word
        if raw.get(name) is False and name not in column.values():
            raise UnusableRowError("rejected_answer", f"{name!r} is false: an answer that is not to be learned")
    if shape.read is not None:
        return _from_turns(shape.read(raw, column), raw, column, reading, domain)
    prompt_name, answer_name = (column.get(name, name) for name in shape.marked)
    prompt, answer = raw.get(prompt_name), raw.get(answer_name)
    if isinstance(prompt, list) or isinstance(answer, list) or raw.get("history"):
        asked, told = (
            _as_turns(raw, name, role, column) for name, role in ((prompt_name, "user"), (answer_name, "assistant"))
        )
        asked = [*_history(raw), *(Said(one.turn, trained=False) for one in asked)]
        return _from_turns(_with_system(raw, [*asked, *told]), raw, column, reading, domain)
    prompt, completion = _text(raw, prompt_name, "no_prompt"), _text(raw, answer_name, "no_completion")
    rendered = with_line_end(reading.find_rendered(prompt), prompt, completion)
    history, question = split_rendered(rendered) if rendered else (_system_of(raw), prompt.strip())
    if has_no_question(question):
        raise UnusableRowError("no_prompt", _NO_QUESTION.format(f"{prompt_name!r} is {question[:20]!r}"))
    completion = join_thought(_thought_of(raw, column), completion)
    if rendered:
        completion = with_open_thought(prompt, completion)
    else:
        completion = (rewrite_thought(completion) or completion).strip()
        completion = bare_answer(completion, [*(turn.text for turn in history), prompt])
    if completion.lstrip().startswith(THINK_START):
        completion = completion.lstrip()
    return [
        CanonicalRow(
            prompt=question, completion=completion, domain=_domain(raw, column, domain, completion), history=history,
            rendered=rendered, **_extra(raw, column),
        )
    ]  # fmt: skip


def _as_turns(raw: Row, name: str, role: str, column: Mapping[str, str]) -> list[Said]:
    """A column of a pair as turns: its messages, or one turn of its text."""
    if isinstance(raw.get(name), list):
        return read_messages(raw[name], name)
    text = _text(raw, name, "no_prompt" if role == "user" else "no_completion")
    return [Said(Turn(role, join_thought(_thought_of(raw, column), text) if role == "assistant" else text))]


def _thought_of(raw: Row, column: Mapping[str, str]) -> str | None:
    """The thought in a column of its own: of those that are known, or of the one that the recipe names."""
    if "thought" not in column:
        return find_thought(raw)
    thought = raw.get(column["thought"])
    if isinstance(thought, list) and len(thought) == 1:  # s1K's trajectories
        thought = thought[0]
    if thought is not None and not isinstance(thought, str):
        raise InputError(f"column {column['thought']!r} must be one text, found {type(thought).__name__}")
    return thought


def _system_of(raw: Row) -> tuple[Turn, ...]:
    return tuple(one.turn for one in _with_system(raw, []))


def _from_turns(
    said: list[Said], raw: Row, column: Mapping[str, str], reading: Reading, domain: str | None
) -> list[CanonicalRow]:
    """One example for each answer under the loss, all of them known by the conversation's questions."""
    check_order(said)
    turns = tuple(in_our_marks([one.turn for one in said]))
    if turns != tuple(one.turn for one in said) and turns[0].role == "system" and tells_marks(turns[0].text):
        said, turns = said[1:], turns[1:]  # it only explains the marks that the answers no longer have
    if len(turns) <= 3 and has_no_question(asked := next(turn.text for turn in turns if turn.role == "user").strip()):
        raise UnusableRowError("no_prompt", _NO_QUESTION.format(f"the user's turn is {asked[:20]!r}"))
    answers = [at for at, one in enumerate(said) if one.turn.role == "assistant" and one.trained]
    if not answers:
        raise UnusableRowError("turn_order", "no answer is under the loss")
    answers = answers if reading.loss_on == "assistant" else answers[-1:]
    asked = "\n".join(turn.text.strip() for turn in turns if turn.role == "user")
    return [
        CanonicalRow(
            prompt=turns[at - 1].text.strip(), completion=turns[at].text.strip(),
            domain=_domain(raw, column, domain, turns[at].text), history=turns[: at - 1],
            conversation=asked if len(turns) > 2 else "", from_turns=True, **_extra(raw, column),
        )
        for at in answers
    ]  # fmt: skip
