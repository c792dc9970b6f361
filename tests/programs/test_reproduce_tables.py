"""Every table's road: what it refuses, and a quick look at all seven benchmarks, killed once and gone on with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from promptcot_mamba.benchmarks.code_scoring import CodeOptions
from promptcot_mamba.cli import parse_args
from promptcot_mamba.jsonl import read_jsonl
from promptcot_mamba.sampling.arguments import SamplingArguments
from promptcot_mamba.sampling.recipes import split_benchmarks
from scripts.calc_acc import Arguments
from tests.sampling.families import make_family
from tests.tiny import make_checkpoint

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ["bash", "scripts/reproduce_tables.sh"]
BENCHMARKS = ("aime", "math500", "olympiadbench", "gsm8k", "humaneval", "humanevalplus", "livecodebench")
SOURCE = os.environ.get("PROMPTCOT_BENCHMARKS")
ENVIRONMENT = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ([], "--model_path is required"),
        (["--model_path"], "--model_path: expected a value"),
        (["--model_path", "/nowhere"], "no such folder"),
        (["--speed", "9"], "unknown flag --speed"),
        (["--model", "gpt", "--model_path", "configs/quickstart"], "no config.json there"),
    ],
)
def test_a_command_line_that_cannot_be_meant(flags: list[str], complaint: str):
    done = subprocess.run([*SCRIPT, *flags], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert complaint in done.stderr


@pytest.mark.parametrize("name", ["agentica-org/DeepScaleR-1.5B-Preview", "m1", "tekken"])
def test_a_model_may_be_the_hubs_a_servers_or_mistrals(name: str, tmp_path: Path):
    """M1-3B is known to its own server alone; Mistral's folders hold params.json."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    (tmp_path / "tekken").mkdir()
    (tmp_path / "tekken/params.json").write_text("{}")
    model = str(tmp_path / name) if name == "tekken" else name
    flags = ["--model", "m1-3b", "--model_path", model, "--output", f"{tmp_path}/out", "--quick"]
    flags += ["--", "--base_url", "http://there:1"]
    environment = {**ENVIRONMENT, "PYTHON": str(python)}
    done = subprocess.run([*SCRIPT, *flags], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    [sampled] = [line.split() for line in done.stdout.splitlines() if line.startswith("infer_longcot.py")]
    assert sampled[sampled.index("--model_path") + 1] == model
    assert "http://there:1" in sampled


def test_one_engine_samples_what_is_asked_and_all_of_it_is_graded(tmp_path: Path):
    """The programs it starts are replaced by one that writes down its arguments."""
    python, model = tmp_path / "python", tmp_path / "model"
    python.write_text('#!/bin/sh\necho "python $@"\n')
    python.chmod(0o755)
    model.mkdir()
    (model / "config.json").write_text("{}")
    flags = ["--model_path", str(model), "--math_model_path", "mm", "--benchmarks", "aime24", "hmmt25", "--quick"]
    flags += ["--source_dir", "hub", "--output", f"{tmp_path}/out", "--", "--seed", "3"]
    environment = {**ENVIRONMENT, "PYTHON": str(python)}
    done = subprocess.run([*SCRIPT, *flags], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [line.split()[1:] for line in done.stdout.splitlines()]
    data = f"{tmp_path}/out/problems"
    assert lines[0][1:] == [
        "scripts.prepare_problems", "--benchmark", "aime24,hmmt25", "--output_dir", data, "--source_dir", "hub"
    ]  # fmt: skip
    sampled = [line[1:] for line in lines if line[0] == "infer_longcot.py"]
    graded = [line[2:] for line in lines if line[1] == "scripts.calc_acc"]
    for name, path, sample, grade in zip(
        ("PromptCoT-Mamba-7B", "PromptCoT-Mamba-Math-7B"), (str(model), "mm"), sampled, graded, strict=True
    ):
        commands = split_benchmarks(sample)
        assert list(commands) == ["aime24", "hmmt25"]
        args = parse_args(SamplingArguments, commands["hmmt25"])
        assert (args.data_path, args.output_path) == (
            f"{data}/hmmt25_test.jsonl",
            f"{tmp_path}/out/{name}/hmmt25.jsonl",
        )
        assert (args.model_path, args.n, args.limit, args.seed, args.max_len) == (path, 1, 2, 3, 128)
        (tmp_path / "out" / name).mkdir(parents=True, exist_ok=True)  # as sampling would
        wanted, code = parse_args([Arguments, CodeOptions], grade)
        assert (wanted.benchmark, wanted.input_path) == (["aime24", "hmmt25"], f"{tmp_path}/out/{name}")
        assert (code.data_dir, code.sample_tests) == (data, True)
    assert lines[-1][1] == "scripts.make_report"
    assert f"{tmp_path}/out/RESULTS.md" in lines[-1]


def test_a_row_of_the_tables_is_sampled_by_its_own_recipe(tmp_path: Path):
    python, model = tmp_path / "python", tmp_path / "model"
    python.write_text('#!/bin/sh\necho "python $@"\n')
    python.chmod(0o755)
    model.mkdir()
    (model / "config.json").write_text("{}")
    command = [*SCRIPT, "--model_path", str(model), "--output", f"{tmp_path}/out"]
    how = {
        "cwd": ROOT,
        "env": {**ENVIRONMENT, "PYTHON": str(python)},
        "capture_output": True,
        "text": True,
        "timeout": 300,
    }
    done = subprocess.run([*command, "--model", "S1.1-7B"], **how)
    assert done.returncode == 0, done.stderr
    sampled = next(line for line in done.stdout.splitlines() if "infer_longcot.py" in line)
    assert "--config configs/models/s1.1-7b.yaml --benchmark paper" in sampled
    assert f"--output_dir {tmp_path}/out/s1.1-7b" in sampled
    assert f"--evaluation s1.1-7b={tmp_path}/out/s1.1-7b" in done.stdout
    done = subprocess.run([*command, "--model", "promptcot-mamba-7b"], **how)  # where the first command has it too
    assert f"--output_dir {tmp_path}/out/PromptCoT-Mamba-7B" in done.stdout
    for flags, complaint in (
        (["--model", "gpt"], "no configs/models/gpt.yaml; known: bespoke-stratos-7b"),
        (["--model", "qwq-32b", "--math_model_path", "m"], "drop --model"),
        (["--benchmarks", "--quick"], "--benchmarks: expected names"),
    ):
        done = subprocess.run([*command, *flags], **how)
        assert done.returncode == 2
        assert complaint in done.stderr


def test_another_model_leaves_the_first_one_s_row(tmp_path: Path):
    """The stand-in for the programs leaves what grading would."""
    python, model, out = tmp_path / "python", tmp_path / "model", tmp_path / "out"
    python.write_text(
        '#!/bin/sh\necho "$@"\nwhile [ $# -gt 0 ]; do\n'
        '[ "$1" != --input_path ] || { mkdir -p "$2"; echo > "$2/aime.metrics.json"; }; shift\ndone\n'
    )
    python.chmod(0o755)
    model.mkdir()
    (model / "config.json").write_text("{}")
    (out / "problems").mkdir(parents=True)
    said = []
    for name in ("s1.1-7b", "sky-t1-7b", "s1.1-7b"):
        command = [*SCRIPT, "--model_path", str(model), "--output", str(out), "--model", name, "--quick"]
        environment = {**ENVIRONMENT, "PYTHON": str(python)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        said.append([word for word in done.stdout.splitlines()[-1].split() if "=" in word])
    both = [f"s1.1-7b={out}/s1.1-7b", f"sky-t1-7b={out}/sky-t1-7b"]
    assert said == [both[:1], both[::-1], both]


@pytest.mark.slow
@pytest.mark.timeout(2700)
@pytest.mark.skipif(not SOURCE, reason="needs PROMPTCOT_BENCHMARKS, a folder of benchmark files")
def test_a_quick_look_survives_being_killed(tmp_path: Path):
    model, output = make_checkpoint(tmp_path / "model"), tmp_path / "out"
    command = [*SCRIPT, "--model_path", str(model), "--source_dir", SOURCE, "--output", str(output), "--quick"]
    how = {"cwd": ROOT, "env": ENVIRONMENT, "text": True}
    folder = output / "PromptCoT-Mamba-7B"
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True, **how)
    deadline = time.monotonic() + 900
    while not (folder / "olympiadbench.attempts.jsonl").exists():  # the third of seven
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = (folder / "aime.jsonl").read_bytes()
    done = subprocess.run(command, capture_output=True, timeout=1800, **how)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (folder / "aime.jsonl").read_bytes() == before
    for name in BENCHMARKS:
        count = 4 if name == "aime" else 2  # it holds two years
        assert len(read_jsonl(folder / f"{name}.jsonl")) == len(read_jsonl(folder / f"{name}.grades.jsonl")) == count
    results = (output / "RESULTS.md").read_text()
    row = next(line for line in results.splitlines() if line.startswith("| PromptCoT-Mamba-7B (here)"))
    assert row.count("2 of ") == 6  # two problems are said to be no benchmark
    assert row.split("|")[8].strip() == "not measured"  # LiveCodeBench: its statements' samples are something else
    assert f"PromptCoT-Mamba-7B (here) is the checkpoint {model}." in results  # whatever the row is called
    assert "LiveCodeBench of PromptCoT-Mamba-7B is graded by its statements' samples alone" in results
    assert "| livecodebench-samples |" in results
    assert (output / "report.html").stat().st_size < 5_000_000


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not SOURCE, reason="needs PROMPTCOT_BENCHMARKS, a folder of benchmark files")
def test_another_models_row_stands_beside_the_papers(tmp_path: Path):
    """A tiny Qwen2 through vLLM, its own template and s1's recipe, from the publishers' files to its row."""
    model, output = make_family("qwen2", tmp_path / "model"), tmp_path / "out"
    command = [
        *SCRIPT,
        "--model",
        "s1.1-7b",
        "--model_path",
        str(model),
        "--source_dir",
        SOURCE,
        "--output",
        str(output),
    ]
    command += ["--benchmarks", "math500", "humaneval", "--quick"]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=1700)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = read_jsonl(output / "s1.1-7b/humaneval.jsonl")
    assert all(row["prompt"].startswith("<|im_start|>system\nYou are Qwen") for row in rows)
    assert all(row["prompt"].endswith("<|im_start|>assistant\n") for row in rows)
    lines = (output / "RESULTS.md").read_text().splitlines()
    at = next(place for place, line in enumerate(lines) if line.startswith("| S1.1-7B (paper)"))
    assert lines[at + 1].startswith("| S1.1-7B (here) |")
    assert "2 of 500 problems" in lines[at + 1]
    assert "2 of 164 problems" in lines[at + 1]
