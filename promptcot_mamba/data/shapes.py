"""The shapes that people's rows have, told by their columns: one raw row -> the examples it holds.

`messages`, ShareGPT's `conversations`, Alpaca's `instruction`, and `prompt` with `completion`, both as texts or as
lists of messages. A thought may stand before the answer, in `<think>` or other marks, or in a field of its own. A row
of a known shape that breaks it is an UnusableRowError that says where; the caller adds the row's place.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptcot_mamba.chat_format import THINK_END, THINK_START, rewrite_thought, tells_marks, with_open_thought
from promptcot_mamba.chat_markup import Turn
from promptcot_mamba.data.canonical import DOMAINS, CanonicalRow, UnusableRowError
from promptcot_mamba.data.conversation import Reading, guess_domain, split_rendered, with_line_end
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatgpt": "assistant",
}  # fmt: skip
THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # keys under which servers keep an answer's thought apart
SYSTEM = ("system", "system_prompt")
# Columns that every shape reads where they are there.
EXTRA = ("domain", "gold", "finish_reason", "source", "license", "licence", *SYSTEM, *THOUGHTS)
# Names of other columns, by what they are likely to be: only to say how to map them.
QUESTIONS = ("question", "problem", "query", "input", "prompt", "instruction")
ANSWERS = ("completion", "response", "answer", "output", "generated_solution", "solution", "r1_generation")


@dataclass(frozen=True)
class Said:
    """One message as read: its turn, and whether it is under the loss (`weight: 0` takes it out)."""

    turn: Turn
    trained: bool = True


@dataclass(frozen=True)
class Shape:
    """`read(raw, columns)` returns what was said; `marked` are the columns it is recognised by."""

    name: str
    marked: tuple[str, ...]
    optional: tuple[str, ...]
    looks: str
    read: Callable[[Row, Mapping[str, str]], list[Said]] | None  # None: prompt and completion, read by their own rules


def _content(message: Mapping[str, Any], key: str, number: int) -> str:
    """A message's text; lists of `{type: text}` parts are joined."""
    content = message.get(key)
    if isinstance(content, list):
        texts = []
        for part in content:
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            text = part.get(kind) if kind in ("text", "thinking") else None
            if not isinstance(text, str):
                raise UnusableRowError("not_text", f"turn {number} holds something else than text ({kind})")
            texts.append(join_thought(text, "") if kind == "thinking" else text)
        content = "".join(texts)
    if content is None:
        return ""
    if not isinstance(content, str):
        raise InputError(f"turn {number}: {key!r} must be text, found {type(content).__name__}")
    return content


def read_messages(messages: Any, column: str, role_keys: Sequence[str] = ("role", "from")) -> list[Said]:
    """A list of `{role, content}` or `{from, value}`, or such a struct of lists (what `datasets` made of a Sequence).

    Raises InputError if it is none, UnusableRowError for an unknown role and for what is no text.
    """
    if isinstance(messages, Mapping) and all(isinstance(values, list) for values in messages.values()):
        messages = [dict(zip(messages, turn, strict=False)) for turn in zip(*messages.values(), strict=False)]
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        raise InputError(f"{column!r} must be a list of {{role, content}} or {{from, value}}")
    said = []
    for number, message in enumerate(messages, start=1):
        role_key = next((key for key in role_keys if key in message), None)
        text_key = "value" if role_key == "from" else "content"
        if role_key is None or text_key not in message:
            raise InputError(
                f"column {column!r}, turn {number}: expected {{role, content}} or {{from, value}}, "
                f"found {', '.join(map(str, message)) or 'nothing'}"
            )
        role = ROLES.get(str(message[role_key]).lower())
        if role is None:
            known = ", ".join(ROLES)
            raise UnusableRowError("unknown_role", f"turn {number}: unknown role {message[role_key]!r}; known: {known}")
        if message.get("tool_calls") or message.get("function_call"):
            raise UnusableRowError("not_text", f"turn {number} calls tools, which no chat format here writes")
        text = _content(message, text_key, number)
        if role == "assistant":
            text = join_thought(find_thought(message), text)
        said.append(Said(Turn(role, text), message.get("weight") != 0 and message.get("train") is not False))
    return said


def find_thought(fields: Mapping[str, Any]) -> str | None:
    """The thought that a message or row keeps apart from its answer; a switch (`reasoning: on`) is none."""
    texts = ((key, fields.get(key)) for key in THOUGHTS)
    return next(
        (text for key, text in texts if isinstance(text, str) and (len(text.split()) > 1 or key != "reasoning")), None
    )


def join_thought(thought: str | None, answer: str) -> str:
    """The thought in `<think>` form before the answer, unless that holds one."""
    if not thought or THINK_END in answer:
        return answer
    return f"{THINK_START}\n{thought.strip()}\n{THINK_END}\n\n{answer.lstrip()}"


def check_order(said: Sequence[Said]) -> None:
    """Raise UnusableRowError unless it goes system?, user, assistant, user, ... and no turn is empty."""
    if not said:
        raise UnusableRowError("turn_order", "the conversation is empty")
    expected, first = "user", True
    for number, (role, text) in enumerate((one.turn for one in said), start=1):
        if role == "system" and first:
            first = False
            continue
        first = False
        if role != expected:
            raise UnusableRowError("turn_order", f"turn {number} is {role}'s, expected {expected}'s")
        if not text.strip():
            reason = "no_completion" if role == "assistant" else "no_prompt"
            raise UnusableRowError(reason, f"turn {number}, {role}'s, is empty")
        expected = "assistant" if role == "user" else "user"
    if not any(one.turn.role == "assistant" for one in said):
        raise UnusableRowError("turn_order", "no turn is the assistant's")


def _read_alpaca(raw: Row, column: Mapping[str, str]) -> list[Said]:
    instruction, given, output = (raw.get(column.get(name, name)) for name in ("instruction", "input", "output"))
    for name, value in (("instruction", instruction), ("input", given), ("output", output)):
        if value is not None and not isinstance(value, str):
            raise InputError(f"column {column.get(name, name)!r} must be text, found {type(value).__name__}")
    asked = "\n\n".join(text.strip() for text in (instruction, given) if text and text.strip())
    said = [Said(Turn("user", asked)), Said(Turn("assistant", join_thought(find_thought(raw), output or "")))]
    earlier = raw.get("history") or []
    if not isinstance(earlier, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in earlier):
        raise InputError("column 'history' must be a list of [question, answer]")
    turns = (Turn(role, str(text)) for pair in earlier for role, text in zip(("user", "assistant"), pair, strict=True))
    return _with_system(raw, [*(Said(turn, trained=False) for turn in turns), *said])


def _with_system(raw: Row, said: list[Said]) -> list[Said]:
    """The turns after the system turn that a row has in a column of its own, unless they begin with one."""
    system = next((raw[name] for name in SYSTEM if isinstance(raw.get(name), str) and raw[name].strip()), None)
    has_one = bool(said) and said[0].turn.role == "system"
    return said if system is None or has_one else [Said(Turn("system", system)), *said]


def _list_reader(name: str) -> Callable[[Row, Mapping[str, str]], list[Said]]:
    def read(raw: Row, column: Mapping[str, str]) -> list[Said]:
        return _with_system(raw, read_messages(raw.get(column.get(name, name)), column.get(name, name)))

    return read


PAIR = Shape("prompt and completion", ("prompt", "completion"), (), "{prompt, completion}, texts or messages", None)
SHAPES = (
    PAIR,
    Shape("prompt and response", ("prompt", "response"), (), "{prompt, response}", None),
    Shape("messages", ("messages",), (), "{messages: [{role, content}]}", _list_reader("messages")),
    Shape(
        "ShareGPT", ("conversations",), (), "{conversations: [{from, value}]}", _list_reader("conversations")
    ),
    Shape("ShareGPT", ("conversation",), (), "{conversation: [{from, value}]}", _list_reader("conversation")),
    Shape("Alpaca", ("instruction", "output"), ("input", "history"), "{instruction, input, output}", _read_alpaca),
)  # fmt: skip


def describe(shape: Shape, columns: Iterable[str]) -> str:
    """A recognised shape in a few words of the log, with the columns beside it that are read too."""
    beside = [name for name in (*SYSTEM, *THOUGHTS) if name in columns]
    read = f", and {', '.join(beside)} beside it" if beside else ""
    return f"{shape.name} ({shape.looks}{read})"


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
    question = next((name for name in QUESTIONS if name in columns), "...")
    answer = next((name for name in ANSWERS if name in columns and name != question), "...")
    raise InputError(
        f"{place}{missing}found {', '.join(columns) or 'nothing'}; expected {known}; other columns are named in a "
        f"recipe of scripts.prepare_sft_data (columns: {{prompt: {question}, completion: {answer}}}, and thought: ... "
        "where it has a column of its own), which has adapters for published sets, too"
    )


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
    if shape.read is not None:
        return _from_turns(shape.read(raw, column), raw, column, reading, domain)
    prompt_name, answer_name = (column.get(name, name) for name in shape.marked)
    prompt, answer = raw.get(prompt_name), raw.get(answer_name)
    if isinstance(prompt, list) or isinstance(answer, list):
        asked = read_messages(prompt, prompt_name) if isinstance(prompt, list) else [Said(Turn("user", prompt or ""))]
        told = (
            read_messages(answer, answer_name)
            if isinstance(answer, list)
            else [Said(Turn("assistant", _text(raw, answer_name, "no_completion")))]
        )
        asked = [Said(one.turn, trained=False) for one in asked]
        return _from_turns(_with_system(raw, [*asked, *told]), raw, column, reading, domain)
    prompt = _text(raw, prompt_name, "no_prompt")
    completion = _text(raw, answer_name, "no_completion")
    thought = raw.get(column["thought"]) if "thought" in column else find_thought(raw)
    rendered = with_line_end(reading.find_rendered(prompt), prompt, completion)
    history, question = split_rendered(rendered) if rendered else (_system_of(raw), prompt.strip())
    if not question:
        raise UnusableRowError("no_prompt", f"{prompt_name!r} holds no question")
    completion = join_thought(thought, completion)
    if rendered:
        completion = with_open_thought(prompt, completion)
    else:
        completion = (rewrite_thought(completion) or completion).strip()
    if completion.lstrip().startswith(THINK_START):
        completion = completion.lstrip()
    return [
        CanonicalRow(
            prompt=question, completion=completion, domain=_domain(raw, column, domain, completion), history=history,
            rendered=rendered, **_extra(raw, column),
        )
    ]  # fmt: skip


def _in_our_marks(turn: Turn) -> Turn:
    """An answer whose thought stands between other marks, in `<think>` form."""
    return Turn(turn.role, rewrite_thought(turn.text) or turn.text) if turn.role == "assistant" else turn


def _system_of(raw: Row) -> tuple[Turn, ...]:
    return tuple(one.turn for one in _with_system(raw, []))


def _from_turns(
    said: list[Said], raw: Row, column: Mapping[str, str], reading: Reading, domain: str | None
) -> list[CanonicalRow]:
    """One example for each answer under the loss, all of them known by the conversation's questions."""
    check_order(said)
    turns = tuple(_in_our_marks(one.turn) for one in said)
    if turns != tuple(one.turn for one in said) and turns[0].role == "system" and tells_marks(turns[0].text):
        said, turns = said[1:], turns[1:]  # it only explains the marks that the answers no longer have
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
