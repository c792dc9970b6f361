"""Turns out of what people write for them: roles, texts and their parts, thoughts kept apart, flags of the loss."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptcot_mamba.chat_format import THINK_END, THINK_START, rewrite_thought
from promptcot_mamba.chat_markup import Turn
from promptcot_mamba.data.canonical import UnusableRowError
from promptcot_mamba.errors import InputError

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatgpt": "assistant",
}  # fmt: skip
ROLE_KEYS, TEXT_KEYS = ("role", "from"), ("content", "value", "text", "parts")
# Where a turn is a question and its answer at once (ms-swift, XTuner, Capybara, Ultra-Innerthought).
ASKED_KEYS = ("user", "human", "input", "question", "query", "prompt")
TOLD_KEYS = ("assistant", "gpt", "output", "answer", "response")
THOUGHTS = ("reasoning_content", "reasoning", "thinking", "inner_thought")  # an answer's thought apart from it
# What takes an answer out of the loss: OpenAI's `weight: 0`, axolotl's, ms-swift's and rLLM's flags, torchtune's mask.
LOSS_KEYS = ("weight", "train", "training", "trainable", "loss")
# Around a whole answer after its thought, as R1-Zero's prompt asks for it and AM-DeepSeek-R1-Distilled publishes it.
_WRAPPED = re.compile(r"\s*<(answer|response|solution|output)>(.*)</\1>\s*", re.DOTALL)
_WORD = re.compile(r"[^\W_]")
BY_COLUMNS = "; a file of columns is none of rows: pandas writes those with to_json(orient='records', lines=True)"
EXPECTED = "a list of {role, content} or {from, value}"


@dataclass(frozen=True)
class Said:
    """One message as read: its turn, and whether it is under the loss."""

    turn: Turn
    trained: bool = True


def read_text(content: Any, what: str) -> str:
    """A message's text; lists of parts (`{type: text, text}`, texts) are joined, a thought among them marked.

    Raises UnusableRowError for a part that is no text, InputError for content of another type.
    """
    if content is None:
        return ""
    if isinstance(content, Mapping):  # Gemini's systemInstruction
        content = content.get("parts", content.get("content"))
    if not isinstance(content, list):
        if not isinstance(content, str):
            raise InputError(f"{what}: must be text, found {type(content).__name__}")
        return content
    texts = []
    for part in content:
        kind, text = "text", part
        if isinstance(part, Mapping):
            kind = part.get("type") or "text"
            text = part.get("thinking" if kind == "thinking" else "text")
        if not isinstance(text, str) or kind not in ("text", "input_text", "output_text", "thinking"):
            raise UnusableRowError("not_text", f"{what} holds something else than text ({kind})")
        texts.append(join_thought(text, "") if kind == "thinking" else text)
    return "".join(texts)


def _of_json(text: Any, column: str) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else text
    except json.JSONDecodeError as error:
        raise InputError(f"{column!r} must be {EXPECTED}, found text that is no JSON ({error.msg})") from None


def _as_list(messages: Any, column: str) -> list[Mapping[str, Any]]:
    """The turns of a column: a list, JSON of it or of its turns, or a struct of lists (a Sequence of `datasets`)."""
    if isinstance(messages, str) and messages.lstrip().startswith("["):
        messages = _of_json(messages, column)
    if isinstance(messages, Mapping) and all(isinstance(values, list) for values in messages.values()):
        messages = [dict(zip(messages, turn, strict=False)) for turn in zip(*messages.values(), strict=False)]
    if isinstance(messages, list) and any(isinstance(one, str) and one.lstrip().startswith("{") for one in messages):
        messages = [_of_json(one, column) for one in messages]
    if messages is None:
        raise UnusableRowError("turn_order", f"{column!r} is null")
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        texts = isinstance(messages, list) and any(isinstance(one, str) for one in messages)
        raise InputError(f"{column!r} must be {EXPECTED}{BY_COLUMNS if texts else ''}")
    return messages


def _turns_of(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A message as turns of one role each: itself, or the question and the answer that it holds at once."""
    asked, told = (next((key for key in keys if key in message), None) for keys in (ASKED_KEYS, TOLD_KEYS))
    if any(key in message for key in ROLE_KEYS) or asked is None or told is None:
        return [message]
    system = [{"role": "system", "content": message["system"]}] if message.get("system") else []
    return [
        *system,
        {"role": "user", "content": message[asked]},
        {**message, "role": "assistant", "content": message[told]},
    ]


def read_messages(messages: Any, column: str) -> list[Said]:
    """What was said in a list of turns, in any of the spellings there are.

    Raises InputError for a column that is no such list, UnusableRowError for a turn that is none, an unknown role and
    what is no text.
    """
    said = []
    turns = (turn for message in _as_list(messages, column) for turn in _turns_of(message))
    for number, message in enumerate(turns, start=1):
        role_key, text_key = (next((key for key in keys if key in message), None) for keys in (ROLE_KEYS, TEXT_KEYS))
        if role_key is None or text_key is None:
            found = ", ".join(map(str, message)) or "nothing"
            raise UnusableRowError(
                "turn_order",
                f"column {column!r}, turn {number}: expected {{role, content}} or {{from, value}}, found {found}",
            )
        role = ROLES.get(str(message[role_key]).lower())
        if role is None:
            known = ", ".join(ROLES)
            raise UnusableRowError("unknown_role", f"turn {number}: unknown role {message[role_key]!r}; known: {known}")
        if message.get("tool_calls") or message.get("function_call"):
            raise UnusableRowError("not_text", f"turn {number} calls tools, which no chat format here writes")
        text = read_text(message[text_key], f"turn {number}")
        if role == "assistant" and text.strip():
            text = join_thought(find_thought(message), text)
        if role != "system" or text.strip():  # Nemotron's sets write an empty system turn into every row
            trained = all(message.get(key) not in (0, False) for key in LOSS_KEYS) and message.get("masked") is not True
            said.append(Said(Turn(role, text), trained))
    return said


def find_thought(fields: Mapping[str, Any]) -> str | None:
    """The thought that a message or row keeps apart from its answer; a switch (`reasoning: on`) is none."""
    texts = ((key, fields.get(key)) for key in THOUGHTS)
    return next(
        (text for key, text in texts if isinstance(text, str) and (len(text.split()) > 1 or key != "reasoning")), None
    )


def join_thought(thought: str | None, answer: str) -> str:
    """The thought in `<think>` form before the answer, unless that holds one, in whatever marks."""
    if not thought or not thought.strip() or THINK_END in answer or rewrite_thought(answer) is not None:
        return answer
    return f"{THINK_START}\n{thought.strip()}\n{THINK_END}\n\n{answer.lstrip()}"


def has_no_question(prompt: str) -> bool:
    """Whether there is neither a letter nor a digit: `-` stands for a question that is not there."""
    return not _WORD.search(prompt)


def bare_answer(text: str, asked: Sequence[str]) -> str:
    """A completion whose whole answer stands in a tag, without it; one that `asked` speaks of the tag stays."""
    thought, end, answer = text.rpartition(THINK_END)
    found = _WRAPPED.fullmatch(answer) if end else None
    if found is None or f"</{found[1]}>" in found[2] or any(f"<{found[1]}>" in one for one in asked):
        return text
    return f"{thought}{end}\n\n{found[2].strip()}"


def in_our_marks(said: Sequence[Turn]) -> Iterator[Turn]:
    """The turns with every thought in `<think>` form, and answers out of their tags."""
    asked = [text for role, text in said if role != "assistant"]
    for turn in said:
        if turn.role != "assistant":
            yield turn
        else:
            yield Turn(turn.role, bare_answer(rewrite_thought(turn.text) or turn.text, asked))


def check_order(said: Sequence[Said]) -> None:
    """Raise UnusableRowError unless it goes system?, user, assistant, user, ... and no turn is empty."""
    if not said:
        raise UnusableRowError("turn_order", "the conversation is empty")
    expected = "user"
    for number, (role, text) in enumerate((one.turn for one in said), start=1):
        if role == "system" and number == 1:
            continue
        if role != expected:
            raise UnusableRowError("turn_order", f"turn {number} is {role}'s, expected {expected}'s")
        if not text.strip():
            reason = "no_completion" if role == "assistant" else "no_prompt"
            raise UnusableRowError(reason, f"turn {number}, {role}'s, is empty")
        if role == "assistant" and text.rstrip().endswith(THINK_END):
            raise UnusableRowError("empty_answer", f"turn {number} has a thought and no answer")
        expected = "assistant" if role == "user" else "user"
    if not any(one.turn.role == "assistant" for one in said):
        raise UnusableRowError("turn_order", "no turn is the assistant's")
