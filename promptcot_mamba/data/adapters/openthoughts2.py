"""open-thoughts/OpenThoughts2-1M and OpenThoughts3-1.2M: maths, code and science traces (Apache-2.0).

The second has 1,143,205 rows by R1; the third 1,200,000 by QwQ-32B, sixteen a question, with a `domain` column.

Checked: the second against its card; the third against cards of copies of it (1,200,000 rows of `difficulty`, `source`,
`domain`, `conversations` of `{from, value}`) and the documentation of a project that trains on it (forgather,
datasets/open-thoughts: human and assistant, no system turns, 16 answers a question, 120 Parquet files).

A row is a conversation of one question and one answer. The trace is marked `<think>`, or by the older pair
`<|begin_of_thought|>` ... `<|begin_of_solution|>`, which means the same.
"""

from dataclasses import replace

from promptcot_mamba.chat_format import extract_question, rewrite_thought, tells_marks
from promptcot_mamba.chat_markup import Turn
from promptcot_mamba.data.adapters.adapter import Adapter
from promptcot_mamba.data.canonical import DOMAINS, CanonicalRow, UnusableRowError
from promptcot_mamba.data.conversation import guess_domain
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row

QUESTION_SPEAKERS = ("user", "human")
ANSWER_SPEAKERS = ("assistant", "gpt")


def read_turns(raw: Row) -> tuple[tuple[Turn, ...], str, str]:
    """A system turn (none, if it only explains the old markers), the question and the answer of a conversation.

    Raises InputError if `conversations` is not a list of {from, value}, UnusableRowError if it is not one exchange.
    """
    turns = raw.get("conversations")
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and {"from", "value"} <= set(turn) for turn in turns
    ):
        raise InputError("column 'conversations' must be a list of {from, value}; did the schema change?")
    spoken = [turn for turn in turns if turn["from"] in QUESTION_SPEAKERS + ANSWER_SPEAKERS]
    if len(spoken) != 2 or spoken[0]["from"] not in QUESTION_SPEAKERS or spoken[1]["from"] not in ANSWER_SPEAKERS:
        raise UnusableRowError("not_one_exchange")
    question, answer = spoken[0]["value"], spoken[1]["value"]
    if not question or not question.strip():
        raise UnusableRowError("no_prompt")
    if not answer or not answer.strip():
        raise UnusableRowError("no_completion")
    system = next((turn["value"] for turn in turns if turn["from"] == "system" and turn["value"]), "")
    is_told = bool(system.strip()) and not tells_marks(system)
    return (Turn("system", system.strip()),) if is_told else (), question, answer


def convert(raw: Row, _context: None) -> CanonicalRow:
    history, question, completion = read_turns(raw)
    completion = rewrite_thought(completion) or completion
    source, domain = raw.get("source") or "", raw.get("domain")
    return CanonicalRow(
        prompt=extract_question(question),
        completion=completion.strip(),
        domain=domain if domain in DOMAINS else "other" if domain else guess_domain(source, completion),
        history=history,
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

OPENTHOUGHTS3 = replace(
    OPENTHOUGHTS2,
    name="openthoughts3",
    repo="open-thoughts/OpenThoughts3-1.2M",
    optional=("source", "domain", "difficulty"),
)
