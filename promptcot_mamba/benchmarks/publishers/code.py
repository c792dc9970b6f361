"""HumanEval and HumanEval+: the publisher's row with the function's head as `question` and a chat `prompt`.

The paper does not publish the words around a HumanEval problem; those below are ours.
"""

from __future__ import annotations

from promptcot_mamba.benchmarks.publishers.publisher import Form, Publisher, text
from promptcot_mamba.chat_format import render_prompt
from promptcot_mamba.jsonl import Row

INSTRUCTION = (
    "Complete the Python function below so that it does what its description says. Answer with the whole function "
    "and the imports it needs in one fenced code block.\n```python\n{head}\n```"
)
COLUMNS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")


def make_converter(source: str):
    """Keep the publisher's keys; `question` is its `prompt` unchanged, which a grader needs in front of a bare body."""

    def convert(raw: Row, _position: int) -> Row:
        head = text(raw, "prompt")
        prompt = render_prompt(INSTRUCTION.format(head=head.strip("\n")), instruction="")
        rest = {key: value for key, value in raw.items() if key not in ("task_id", "prompt")}
        return {"task_id": text(raw, "task_id"), "prompt": prompt, "source": source, "question": head, **rest}

    return convert


HUMANEVAL = Publisher(
    licence="MIT",
    origin="https://huggingface.co/datasets/openai/openai_humaneval",
    forms=(
        Form(
            "openai/openai_humaneval", (("openai_humaneval/test-*.parquet", "*.parquet", "*.jsonl*"),),
            ("HumanEval.jsonl.gz", "HumanEval.jsonl"), COLUMNS, 164, make_converter("humaneval"),
        ),
    ),
)  # fmt: skip
HUMANEVALPLUS = Publisher(
    licence="Apache-2.0",
    origin="https://huggingface.co/datasets/evalplus/humanevalplus",
    forms=(
        Form(
            "evalplus/humanevalplus", (("data/test-*.parquet", "*.parquet", "*.jsonl*"),), (),
            COLUMNS, 164, make_converter("humanevalplus"),
        ),
        # https://github.com/evalplus/humanevalplus_release: inputs beside the reference program instead of a script.
        Form(
            None, (), ("HumanEvalPlus.jsonl.gz", "HumanEvalPlus.jsonl"),
            (*COLUMNS, "base_input", "plus_input"), 164, make_converter("humanevalplus"),
        ),
    ),
)  # fmt: skip
