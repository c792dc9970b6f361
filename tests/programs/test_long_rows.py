"""Rows of up to a million tokens: prepared, packed and read with memory that their number does not move."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from promptcot_mamba.data import tokens
from promptcot_mamba.data.rows import Example
from promptcot_mamba.data.shards import ShardRows
from tests.tiny import make_tokenizer

ROOT = Path(__file__).resolve().parents[2]
MILLION = 1 << 20


def long_chain(draw: random.Random, characters: int) -> str:
    """A thought that no filter takes for a loop: sums of fresh numbers."""
    parts, length = ["<think>\n"], 8
    while length < characters:
        a, b = draw.randint(0, 10**9), draw.randint(0, 10**9)
        parts.append(f"{a} + {b} = {a + b}; ")
        length += len(parts[-1])
    return "".join(parts) + "\n</think>\nThe answer is \\boxed{7}."


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(folder)
    return folder


def write_chains(path: Path, count: int, characters: int) -> Path:
    draw = random.Random(1)
    with path.open("w") as file:
        for number in range(count):
            question = f"Find the sum of series {number} and say what is left of it by 11."
            file.write(json.dumps({"prompt": question, "completion": long_chain(draw, characters)}) + "\n")
    return path


def prepare(tokenizer: Path, rows: Path, output: Path) -> tuple[list[dict], int]:
    """Rows of the shards, and the program's peak resident set in bytes."""
    sources = {
        "long": {"adapter": "generic", "path": str(rows), "columns": {"prompt": "prompt", "completion": "completion"}}
    }
    command = [
        sys.executable, "-m", "scripts.prepare_sft_data", "--sources", json.dumps(sources), "--tokenizer_path",
        str(tokenizer), "--output_dir", str(output), "--max_length", str(MILLION), "--shard_tokens", str(2 * MILLION),
        "--benchmarks", "none", "--workers", "1",
    ]  # fmt: skip
    child = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0, said
    shards = ShardRows(output)
    return [shards[row] for row in range(len(shards))], usage.ru_maxrss * 1024


@pytest.mark.slow
def test_chains_of_half_a_million_tokens_are_packed_whole(tokenizer: Path, tmp_path: Path):
    few, small = prepare(tokenizer, write_chains(tmp_path / "few.jsonl", 2, 700_000), tmp_path / "few")
    lengths = [int(length) for row in few for length in row["lengths"]]
    assert len(lengths) == 2
    assert all(MILLION // 4 < length <= MILLION for length in lengths)
    for row in few:
        assert len(row["input_ids"]) == len(row["labels"]) == sum(row["lengths"]) <= MILLION
    many, large = prepare(tokenizer, write_chains(tmp_path / "many.jsonl", 8, 700_000), tmp_path / "many")
    assert sum(len(row["lengths"]) for row in many) == 8
    # Six chains more are 2.5 M tokens: 90 bytes each, were all of them held with what a tokenizer says of each.
    assert large - small < 120e6, (small, large)


def test_a_tokenizer_is_given_few_long_texts_at_a_time():
    short, long = (Example("a", "s", (), "x" * size) for size in (10, tokens.ENCODE_CHARACTERS // 2))
    sizes = [len(batch) for batch in tokens._batches(iter([short] * 1025 + [long] * 5))]
    assert sum(sizes) == 1030
    assert sizes[:2] == [tokens.ENCODE_BATCH] * 2
    assert max(sizes[3:]) <= 3
