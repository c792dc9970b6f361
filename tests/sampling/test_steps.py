"""How much less an engine has to step when nobody waits for the slowest chain."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from promptcot_mamba.sampling.prompts import PromptBook
from scripts import bench_sampling
from scripts.bench_sampling import make_problems, our_scheduler, published_loop
from tests.sampling.scripted import ScriptedBackend


@pytest.mark.parametrize("max_num_seqs", [64, 256])
def test_everything_at_once_takes_a_fifth_of_the_steps(max_num_seqs: int):
    problems = make_problems(60)
    how = {"n": 16, "max_retries": 8, "seed": 0, "max_len": 4096}
    looped, scheduled = ScriptedBackend(max_num_seqs), ScriptedBackend(max_num_seqs)
    theirs = published_loop(looped, problems, PromptBook(problems, None), **how)
    ours = our_scheduler(scheduled, problems, PromptBook(problems, None), **how)
    assert ours == theirs
    assert len(ours) == 960
    assert looped.generated_tokens == scheduled.generated_tokens
    assert looped.steps >= 5 * scheduled.steps


def test_the_benchmark_compares_and_records(tmp_path: Path, monkeypatch, capsys):
    plan = SimpleNamespace(tokenizer=None)
    monkeypatch.setattr(bench_sampling, "load_engine", lambda args: (plan, ScriptedBackend(16)))
    record = tmp_path / "record.json"
    flags = ["--model_path=m", "--problems=8", "--n=4", "--pairs=2", f"--record={record}"]
    assert bench_sampling.main(flags) == 0
    written = json.loads(record.read_text())
    assert len(written["results"]["pairs"]) == 2
    assert written["results"]["ratios"]["steps"] > 1
    assert "all samples identical" in capsys.readouterr().out
