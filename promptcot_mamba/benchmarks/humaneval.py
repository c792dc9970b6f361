"""HumanEval: 164 functions with the publisher's assert-style tests.

A row keeps the publisher's keys; `question` is the function's head unchanged, which a grader needs in front of a bare
body. The paper does not publish the words around a HumanEval problem; those below are ours.
"""

from functools import partial

from promptcot_mamba.benchmarks.benchmark import Benchmark, Form, Publisher, asked, text
from promptcot_mamba.jsonl import Row

INSTRUCTION = (
    "Complete the Python function below so that it does what its description says. Answer with the whole function "
    "and the imports it needs in one fenced code block.\n```python\n{question}\n```"
)
COLUMNS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")


def convert(source: str, raw: Row, _position: int) -> Row:
    """A publisher's row -> a problem row of this source."""
    rest = {key: value for key, value in raw.items() if key not in ("task_id", "prompt")}
    return {"task_id": text(raw, "task_id"), **asked(text(raw, "prompt"), INSTRUCTION), "source": source, **rest}


HUMANEVAL = Benchmark(
    name="humaneval",
    title="HumanEval",
    kind="code",
    sources=("humaneval",),
    expected_problems=164,
    n=8,  # ours; the paper states none
    published=True,
    tested_by="functions",
    publisher=Publisher(
        licence="MIT",
        origin="https://huggingface.co/datasets/openai/openai_humaneval",
        forms=(
            Form(
                "openai/openai_humaneval", (("openai_humaneval/test-*.parquet", "*.parquet", "*.jsonl*"),),
                ("HumanEval.jsonl.gz", "HumanEval.jsonl"), COLUMNS, 164, partial(convert, "humaneval"),
            ),
        ),
    ),
)  # fmt: skip
