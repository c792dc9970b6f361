"""README's "Extend it" for benchmarks, as it is written: a file and a line in a copy of the project, nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from tests.tiny import make_checkpoint

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROBLEMS = 30

NEW_FILE = '''"""BRUMO 2025: thirty final-answer problems."""

from promptcot_mamba.benchmarks.benchmark import Benchmark, Publisher
from promptcot_mamba.benchmarks.maths_rows import matharena

BRUMO25 = Benchmark(
    name="brumo25",
    title="BRUMO 2025",
    kind="math",
    sources=("brumo_2025",),
    expected_problems=30,
    n=4,
    publisher=Publisher(
        licence="CC BY-NC-SA 4.0",
        origin="https://huggingface.co/datasets/MathArena/brumo_2025",
        forms=(matharena("brumo_2025", "brumo_2025", 30),),
    ),
)
'''
# infer_longcot.py on an engine that answers by the sample's run: right, wrong, cut off, nothing at all.
SAMPLE = """
import sys
import infer_longcot
from promptcot_mamba.sampling.backend import LENGTH, STOP
from tests.sampling.scripted import ScriptedBackend

def write(request):
    run, problem = divmod(request.unit, 30)
    box = f"so\\n</think>\\nIt is $\\\\boxed{{{problem + 1 + (run == 1)}}}$."
    text, reason = [(box, STOP), (box, STOP), ("so we \\\\boxed{1}", LENGTH), ("", STOP)][run]
    return text, reason, 1 + len(text)

sys.exit(infer_longcot.main(sys.argv[1:], make_backend=lambda plan: ScriptedBackend(8, write=write)))
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with one more benchmark: README's file, and README's line in `__init__`."""
    row = re.search(
        r"^\| benchmark \| `(promptcot_mamba/benchmarks/)\w+\.py` \| `BENCHMARKS\[.*__init__`", README, re.M
    )
    assert row, "README says where a benchmark goes"
    copy = tmp_path_factory.mktemp("copy")
    for name in ("promptcot_mamba", "scripts", "configs", "docs", "tests", "infer_longcot.py"):
        place = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        place(ROOT / name, copy / name)
    folder = copy / row[1]
    (folder / "brumo.py").write_text(NEW_FILE)
    table = (folder / "__init__.py").read_text()
    line = '    "brumo25": BRUMO25,\n    **QUICKSTART,\n'
    table = table.replace("    **QUICKSTART,\n", line)
    table = table.replace("\nBENCHMARKS:", "from promptcot_mamba.benchmarks.brumo import BRUMO25\n\nBENCHMARKS:")
    assert table.count("BRUMO25") == 2
    (folder / "__init__.py").write_text(table)
    rows = [{"problem_idx": n, "problem": f"Find {n} by thought alone.", "answer": str(n)} for n in range(1, 31)]
    file = copy / "hub/MathArena/brumo_2025/data/train-00000-of-00001.parquet"
    file.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), file)
    make_checkpoint(copy / "model")
    run(copy, "-m", "scripts.prepare_problems", "--benchmark", "brumo25", "--source_dir", "hub")
    return copy


def run(copy: Path, *command: str, fails: bool = False) -> str:
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=copy, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == (2 if fails else 0), done.stderr[-2000:]
    return done.stdout + done.stderr


def test_every_program_finds_a_new_benchmark(extended: Path):
    assert len(read_jsonl(extended / "data/brumo25_test.jsonl")) == PROBLEMS
    run(extended, "-c", SAMPLE, "--benchmark", "brumo25", "--output_dir", "out", "--model_path", "model")
    graded = run(extended, "-m", "scripts.calc_acc", "--benchmark", "all", "--input_path", "out")
    assert "BRUMO 2025" in graded
    [figures] = json.loads((extended / "out/brumo25.metrics.json").read_text())["summaries"]
    assert (figures["problems"], figures["expected_problems"], figures["samples"]) == (PROBLEMS, PROBLEMS, 4 * PROBLEMS)
    by_run = {0: ("right", 1.0), 1: ("wrong", 0.0), 2: ("truncated", 0.0), 3: ("truncated", 0.0)}
    for grade in read_jsonl(extended / "out/brumo25.grades.jsonl"):
        assert (grade["reason"], float(grade["correct"])) == by_run[grade["run"]]
    folders = ["--evaluation", "PromptCoT-Mamba-7B=out", "--results", "RESULTS.md", "--output", "report.html"]
    run(extended, "-m", "scripts.make_report", *folders)
    results = (extended / "RESULTS.md").read_text()
    section = results.split("### Further benchmarks")[1].split("###")[0]
    assert "| model | BRUMO 2025 |" in section
    assert "| PromptCoT-Mamba-7B | 25.0 " in section
    assert "BRUMO" not in results.split("### Further benchmarks")[0]  # the paper's tables stay the paper's
    assert "BRUMO 2025" in (extended / "report.html").read_text()


def prepare_training(copy: Path, output: str, *flags: str, fails: bool = False) -> str:
    """scripts.prepare_sft_data on two rows, one of them a problem of the new benchmark."""
    rows = [
        {
            "prompt": f"{question}",
            "completion": "<think>\nI think about it.\n</think>\nSo it is \\boxed{30}, by thought.",
        }
        for question in (
            "Find 30 by thought alone.",
            "Find the sum of the first hundred numbers, or say that you cannot.",
        )
    ]
    write_jsonl(copy / "rows.jsonl", rows)
    sources = json.dumps({"mine": {"adapter": "generic", "path": "rows.jsonl", "domain": "math"}})
    command = ["-m", "scripts.prepare_sft_data", "--sources", sources, "--tokenizer_path", "model", "--workers", "1"]
    return run(copy, *command, "--output_dir", output, *flags, fails=fails)


def test_a_new_benchmark_is_kept_out_of_training(extended: Path):
    prepare_training(extended, "kept_in", "--benchmarks", "none")
    prepare_training(extended, "kept_out", "--benchmarks", "brumo25")
    for folder, examples in (("kept_in", 2), ("kept_out", 1)):
        assert json.loads((extended / folder / "manifest.json").read_text())["counts"]["documents"] == examples
    assert "brumo25" in (extended / "kept_out/report.md").read_text()


def test_what_the_paper_needs_may_not_be_missing(extended: Path):
    """`all` keeps the published benchmarks out or stops; a further one that is not there is named."""
    names = ("aime", "math500", "olympiadbench", "gsm8k", "humaneval", "humanevalplus", "livecodebench")
    for name in names[:-1]:
        write_jsonl(extended / f"bench/{name}_test.jsonl", [{"id": 1, "question": f"What is {name}?"}])
    said = prepare_training(extended, "all", "--benchmark_dir", "bench", fails=True)
    assert "livecodebench cannot be kept out; run python -m scripts.prepare_problems --benchmark livecodebench" in said
    write_jsonl(extended / "bench/livecodebench_test.jsonl", [{"id": 1, "question": "What is it?"}])
    said = prepare_training(extended, "all", "--benchmark_dir", "bench")
    assert "brumo25 is NOT kept out" in said
    assert "quickstart" not in said
