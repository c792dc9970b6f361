"""HumanEval+: HumanEval's 164 problems with EvalPlus's many more test inputs."""

from functools import partial

from promptcot_mamba.benchmarks.benchmark import Benchmark, Form, Publisher
from promptcot_mamba.benchmarks.humaneval import COLUMNS, convert

HUMANEVALPLUS = Benchmark(
    name="humanevalplus",
    title="HumanEval+",
    kind="code",
    sources=("humanevalplus",),
    expected_problems=164,
    n=8,  # ours; the paper states none
    published=True,
    tested_by="functions",
    publisher=Publisher(
        licence="Apache-2.0",
        origin="https://huggingface.co/datasets/evalplus/humanevalplus",
        forms=(
            Form(
                "evalplus/humanevalplus", (("data/test-*.parquet", "*.parquet", "*.jsonl*"),), (),
                COLUMNS, 164, partial(convert, "humanevalplus"),
            ),
            # https://github.com/evalplus/humanevalplus_release: inputs beside the reference program, not a script.
            Form(
                None, (), ("HumanEvalPlus.jsonl.gz", "HumanEvalPlus.jsonl"),
                (*COLUMNS, "base_input", "plus_input"), 164, partial(convert, "humanevalplus"),
            ),
        ),
    ),
)  # fmt: skip
