"""How much less an engine has to step when nobody waits for the slowest chain."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from promptcot_mamba.checkpoint import load_tokenizer
from promptcot_mamba.errors import InputError
from promptcot_mamba.sampling.cache_cost import cache_cost
from promptcot_mamba.sampling.prompts import PromptBook
from scripts.bench import long_chains, sampling_cost
from scripts.bench import sampling as bench_sampling
from scripts.bench.dummy_model import write_dummy
from scripts.bench.sampling import make_problems, our_scheduler, published_loop
from tests.sampling.conftest import ROOT
from tests.sampling.scripted import ScriptedBackend, TokenBackend
from tests.tiny import make_tokenizer


@pytest.mark.parametrize("max_num_seqs", [64, 256])
def test_everything_at_once_takes_a_sixth_of_the_steps(max_num_seqs: int):
    problems = make_problems(60)
    how = {"n": 16, "max_retries": 8, "seed": 0, "max_len": 4096}
    looped, scheduled = ScriptedBackend(max_num_seqs), ScriptedBackend(max_num_seqs)
    theirs = published_loop(looped, problems, PromptBook(problems, None), **how)
    ours = our_scheduler(scheduled, problems, PromptBook(problems, None), **how)
    assert ours == theirs
    assert len(ours) == 960
    assert looped.generated_tokens == scheduled.generated_tokens
    assert looped.steps >= 6 * scheduled.steps


def test_the_benchmark_compares_and_records(tmp_path: Path, monkeypatch, capsys):
    plan = SimpleNamespace(tokenizer=None, device=None)
    monkeypatch.setattr(bench_sampling, "load_engine", lambda args: (plan, ScriptedBackend(16)))
    record = tmp_path / "record.json"
    flags = ["--model_path=m", "--problems=8", "--n=4", "--pairs=2", f"--record={record}"]
    assert bench_sampling.main(flags) == 0
    written = json.loads(record.read_text())
    assert len(written["results"]["pairs"]) == 2
    assert written["results"]["ratios"]["steps"] > 1
    assert "all samples identical" in capsys.readouterr().out

    assert bench_sampling.main([*flags, "--resume=True"]) == 0
    assert "holds 2 pairs already" in capsys.readouterr().out
    assert bench_sampling.main([*flags, "--resume=True", "--pairs=3"]) == 0
    extended = json.loads(record.read_text())["results"]["pairs"]
    assert extended[:2] == written["results"]["pairs"]
    assert len(extended) == 3
    with pytest.raises(InputError, match="was measured with another n;"):
        bench_sampling.main([*flags, "--resume=True", "--n=5"])


def test_what_a_sample_costs_is_measured_and_a_text_stands_on_disk_once(tmp_path: Path, capsys):
    """Everything beside the rows, at a kilobyte a sample, is about a tenth of them; what of it is fixed counts too."""
    record = tmp_path / "cost.json"
    flags = ["--kilobytes=1", "--most_samples=100", "--repeats=1", f"--record={record}"]
    assert sampling_cost.main(flags) == 0
    [cost] = json.loads(record.read_text())["results"]
    assert cost["rows"] > 200 * 1000
    assert 1.0 < cost["all_to_rows"] < 1.12
    assert "ms of processor a sample" in capsys.readouterr().out


def test_what_it_costs_that_chains_outlive_their_machine_is_measured(tmp_path: Path, monkeypatch, capsys):
    tokenizer = make_tokenizer()
    plan, backend = SimpleNamespace(tokenizer=tokenizer), TokenBackend(tokenizer)
    monkeypatch.setattr(long_chains, "load_engine", lambda args: (plan, backend))
    record = tmp_path / "record.json"
    flags = ["--model_path=m", "--chains=4", "--max_len=128", "--segment_len", "32", "--rounds=2", f"--record={record}"]
    assert long_chains.main(flags) == 0
    roads, readings = (table["rows"] for table in json.loads(record.read_text())["tables"])
    assert [row[0] for row in roads] == ["nothing saved", "saved as they grow", "in segments of 32"]
    assert [row[0] for row in readings] == ["32", "64", "96"]
    assert {len(request.kept) for request in backend.submitted} == {0, 32, 64, 96}
    assert "medians of 2 rounds" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [[], ["--model_path=m", "--dummy=7b"], ["--dummy=70b"], ["--dummy=7b", "--pairs=0"]])
def test_bad_flags_are_refused(flags: list[str]):
    with pytest.raises(InputError):
        bench_sampling.main(flags)


def test_a_dummy_folder_is_what_an_engine_needs(tmp_path: Path):
    checkpoint = write_dummy("7b", tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert len(tokenizer) == checkpoint.config["vocab_size"] == 32_768
    assert checkpoint.is_mamba2
    assert checkpoint.dtype("auto") == "bfloat16"
    assert checkpoint.weight_bytes == 2 * 7_285_403_648
    assert cache_cost(checkpoint.config, "bfloat16", "float32").bytes(1) == pytest.approx(268e6, rel=0.03)
    assert tokenizer.decode([5, 32_767]) == "word5 word32767"


@pytest.mark.slow
def test_a_dummy_model_is_sampled(tmp_path: Path):
    pytest.importorskip("vllm")
    record = tmp_path / "sampling.json"
    command = [sys.executable, "-m", "scripts.bench.sampling", "--dummy", "tiny", "--problems", "4", "--n", "2"]
    child = subprocess.run(
        [*command, "--max_num_seqs", "4", "--max_len", "24", "--pairs", "1", "--record", str(record)], cwd=ROOT,
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stdout + child.stderr
    pair = json.loads(record.read_text())["results"]["pairs"][0]
    assert pair["different"] == 0
    assert pair["ours"]["tokens"] > 8
