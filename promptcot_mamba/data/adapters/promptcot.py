"""The PromptCoT releases (MIT): synthesized olympiad problems with a teacher's traces, and our own synthesis output.

PromptCoT-DS-Dataset (about 406 k rows) and PromptCoT-QwQ-Dataset are `prompt, completion`; the prompt is whole chat
text in the teacher's markers, which are taken off. PromptCoT-2.0-SFT-4.8M (maths and programming) has the same two
columns: checked against the program that writes such rows (inclusionAI/PromptCoT, prepare_sft_data_code.py: ChatML up
to `<|im_start|>assistant`, a completion that begins with the line end and `<think>`), not against the data set's own
page, which was not at hand. Our own output is rows as sampling writes them: a problem's keys and a `completion` with
its `finish_reason`.
"""

from dataclasses import replace

from promptcot_mamba.chat_format import extract_question, with_open_thought
from promptcot_mamba.chat_markup import find_rendered
from promptcot_mamba.data.adapters.adapter import Adapter, optional_text, text_of
from promptcot_mamba.data.canonical import DOMAINS, CanonicalRow, UnusableRowError
from promptcot_mamba.data.conversation import guess_domain, with_line_end
from promptcot_mamba.jsonl import Row

GOLD_MARK = "####"


def open_completion(prompt: str, completion: str) -> str:
    """The completion beginning with `<think>` also where the prompt's last words had opened the thought."""
    return with_open_thought(prompt, completion.strip())


def convert_release(raw: Row, _context: None) -> CanonicalRow:
    prompt = text_of(raw, "prompt", "no_prompt")
    question = extract_question(prompt)
    if not question:
        raise UnusableRowError("no_prompt")
    completion = text_of(raw, "completion", "no_completion")
    return CanonicalRow(
        prompt=question,
        completion=open_completion(prompt, completion),
        domain="math",
        rendered=with_line_end(find_rendered(prompt), prompt, raw["completion"]),
    )


def convert_synthesis(raw: Row, _context: None) -> CanonicalRow:
    prompt = raw.get("question") or text_of(raw, "prompt", "no_prompt")
    question = extract_question(prompt)
    if not question:
        raise UnusableRowError("no_prompt")
    completion = text_of(raw, "completion", "no_completion")
    reference = (
        optional_text(raw, "answer", "gold")
        or (optional_text(raw, "reference_solution") or "").rpartition(GOLD_MARK)[2]
    )
    domain = raw.get("domain")
    return CanonicalRow(
        prompt=question,
        completion=open_completion(raw.get("prompt") or "", completion),
        domain=domain if domain in DOMAINS else "math",
        gold=reference.strip() or None,
        finish_reason=optional_text(raw, "finish_reason"),
    )


def convert_release_2(raw: Row, context: None) -> CanonicalRow:
    """PromptCoT 2.0 mixes maths and programming; the form of an answer tells which."""
    row = convert_release(raw, context)
    return replace(row, domain=guess_domain("", row.completion))


PROMPTCOT_DS = Adapter(
    name="promptcot_ds",
    repo="xl-zhao/PromptCoT-DS-Dataset",
    files=("data/*.parquet", "*.parquet", "*.jsonl", "*.json"),
    columns=("prompt", "completion"),
    optional=(),
    licence="MIT",
    convert=convert_release,
)
PROMPTCOT_QWQ = replace(PROMPTCOT_DS, name="promptcot_qwq", repo="xl-zhao/PromptCoT-QwQ-Dataset")
PROMPTCOT_2 = replace(
    PROMPTCOT_DS, name="promptcot2_sft", repo="xl-zhao/PromptCoT-2.0-SFT-4.8M", convert=convert_release_2
)
SYNTHESIS = Adapter(
    name="synthesis",
    repo=None,
    files=("*.jsonl", "*.parquet"),
    columns=("completion",),
    optional=("prompt", "question", "answer", "gold", "reference_solution", "finish_reason", "domain"),
    licence="your own",
    convert=convert_synthesis,
)
