"""nvidia/OpenMathReasoning: 3,201,061 chains of thought by R1 and QwQ-32B for AoPS problems (CC-BY-4.0).

Checked against its card (2025, splits cot 3,201,061, tir 1,718,466, genselect 565,620, additional_problems 193,170;
every column a text but used_in_kaggle) and programs that read it: files data/cot-*-of-00144.parquet, columns problem,
generated_solution, expected_answer, problem_type (has_answer_extracted, no_answer_extracted, converted_proof),
inference_mode (cot, tir, genselect), problem_source, generation_model, pass_rate_72b_tir ("n/a" among them).

Its other splits are not chains of thought alone: `tir` calls tools, `genselect` chooses among answers, and
`additional_problems` have none. Rows of those are left out.
"""

from promptcot_mamba.data.adapters.adapter import Adapter, optional_text, text_of
from promptcot_mamba.data.canonical import CanonicalRow, UnusableRowError
from promptcot_mamba.jsonl import Row

CHAIN_OF_THOUGHT = "cot"
NO_ANSWER = "no_answer_extracted"  # in `problem_type`: the expected answer is none that could be found


def convert(raw: Row, _context: None) -> CanonicalRow:
    if raw.get("inference_mode") not in (None, CHAIN_OF_THOUGHT):
        raise UnusableRowError("other_mode")
    answer = optional_text(raw, "expected_answer")
    source = optional_text(raw, "problem_source")
    return CanonicalRow(
        prompt=text_of(raw, "problem", "no_prompt").strip(),
        completion=text_of(raw, "generated_solution", "no_completion").strip(),
        domain="math",
        gold=None if raw.get("problem_type") == NO_ANSWER else answer,
        meta={"source": source} if source else {},
    )


OPENMATHREASONING = Adapter(
    name="openmathreasoning",
    repo="nvidia/OpenMathReasoning",
    files=("data/cot-*.parquet", "cot-*.parquet", "*.parquet", "*.jsonl"),
    columns=("problem", "generated_solution"),
    optional=("expected_answer", "problem_type", "problem_source", "inference_mode"),
    licence="CC-BY-4.0",
    convert=convert,
)
