"""open-thoughts/OpenThoughts2-1M: 1,143,205 maths, code and science traces (Apache-2.0).

A row is a conversation of one question and one answer. The trace is marked `<think>`, or by the older pair
`<|begin_of_thought|>` ... `<|begin_of_solution|>`, which means the same.
"""

from __future__ import annotations

from promptcot_mamba.chat_format import THINK_END, THINK_START, extract_question
from promptcot_mamba.data.adapters.adapter import Adapter
from promptcot_mamba.data.canonical import CanonicalRow, UnusableRowError
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row

OLD_MARKERS = {
    "<|begin_of_thought|>": THINK_START,
    "<|end_of_thought|>": THINK_END,
    "<|begin_of_solution|>": "",
    "<|end_of_solution|>": "",
}
QUESTION_SPEAKERS = ("user", "human")
ANSWER_SPEAKERS = ("assistant", "gpt")
# Words of the `source` column that tell the domain; the rest is told by the form of the answer.
MATH_WORDS = ("math", "numina", "olympiad", "aops")
CODE_WORDS = ("code", "program", "taco", "apps", "leetcode", "golf")


def read_turns(raw: Row) -> tuple[str, str]:
    """The question and the answer of a conversation.

    Raises InputError if `conversations` is not a list of {from, value}, UnusableRowError if it is not one exchange.
    """
    turns = raw.get("conversations")
    shaped = isinstance(turns, list) and all(
        isinstance(turn, dict) and {"from", "value"} <= set(turn) for turn in turns
    )
    if not shaped:
        raise InputError("column 'conversations' must be a list of {from, value}; did the schema change?")
    spoken = [turn for turn in turns if turn["from"] in QUESTION_SPEAKERS + ANSWER_SPEAKERS]
    if len(spoken) != 2 or spoken[0]["from"] not in QUESTION_SPEAKERS or spoken[1]["from"] not in ANSWER_SPEAKERS:
        raise UnusableRowError("not_one_exchange")
    question, answer = spoken[0]["value"], spoken[1]["value"]
    if not question or not question.strip():
        raise UnusableRowError("no_prompt")
    if not answer or not answer.strip():
        raise UnusableRowError("no_completion")
    return question, answer


def guess_domain(source: str, completion: str) -> str:
    """By the source's name where it tells, else by what stands after the thought."""
    name = source.lower()
    for domain, words in (("math", MATH_WORDS), ("code", CODE_WORDS)):
        if any(word in name for word in words):
            return domain
    answer = completion.rpartition(THINK_END)[2]
    if "\\boxed" in answer:
        return "math"
    return "code" if "```" in answer else "other"


def convert(raw: Row, _context: None) -> CanonicalRow:
    question, completion = read_turns(raw)
    for old, new in OLD_MARKERS.items():
        completion = completion.replace(old, new)
    source = raw.get("source") or ""
    return CanonicalRow(
        prompt=extract_question(question),
        completion=completion.strip(),
        domain=guess_domain(source, completion),
        meta={"source": source} if source else {},
    )


OPENTHOUGHTS2 = Adapter(
    name="openthoughts2",
    repo="open-thoughts/OpenThoughts2-1M",
    files=("data/*.parquet", "data/*.jsonl", "*.parquet", "*.jsonl"),
    columns=("conversations",),
    optional=("source", "id"),
    licence="Apache-2.0",
    convert=convert,
)
