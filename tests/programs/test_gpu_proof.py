"""The device proof's shell road: which program each part starts, on which record, with Python replaced by an echo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from promptcot_mamba.cli import parse_args
from scripts.bench import efficiency as bench_efficiency
from scripts.bench import kernels as bench_kernels
from scripts.bench import sampling as bench_sampling
from scripts.bench import step_7b as bench_step_7b

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {
    "scripts.bench.kernels": bench_kernels.BenchArguments,
    "scripts.bench.step_7b": bench_step_7b.Arguments,
    "scripts.bench.sampling": bench_sampling.BenchArguments,
    "scripts.bench.efficiency": bench_efficiency.Arguments,
}
ECHO = f"""#!/bin/sh
case "$1 $2" in -c*list_gpus*) exec {sys.executable} "$@" ;; -c*) exit 0 ;; esac
[ -z "$FAIL" ] || exit "$FAIL"
echo "started $@"
"""
H200 = "0, GPU-11111111-aaaa, NVIDIA H200, 143771, 9.0, 580.82.07, Disabled"
H100 = "1, GPU-22222222-bbbb, NVIDIA H100 80GB HBM3, 81559, 9.0, 580.82.07, Disabled"


def proof(
    folder: Path, *words: str, smi: str = f"echo '{H200}'\necho '{H100}'", **environment: str
) -> subprocess.CompletedProcess:
    for name, text in (("echo-python", ECHO), ("nvidia-smi", f"#!/bin/sh\n{smi}\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    settings = {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHON": str(folder / "echo-python"), "RECORDS": str(folder)}
    command = ["bash", str(ROOT / "scripts/bench/gpu_proof.sh"), *words]
    variables = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    variables |= settings | environment
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)


def started(done: subprocess.CompletedProcess) -> list[tuple[str, object]]:
    """(program, its parsed flags) of every start."""
    lines = [line.split()[2:] for line in done.stdout.splitlines() if line.startswith("started -m")]
    return [(name, parse_args(PROGRAMS[name], flags)) for name, *flags in lines]


def test_every_part_starts_its_program_on_its_own_record(tmp_path: Path):
    done = proof(tmp_path)
    assert done.returncode == 0, done.stderr
    found = started(done)
    assert [name.removeprefix("scripts.bench.") for name, _ in found] == [
        *["kernels"] * 5, "step_7b", "step_7b", "sampling", "efficiency"
    ]  # fmt: skip
    records = [Path(args.record).name for _, args in found]
    assert len(set(records)) == len(records)
    assert all(name.startswith("nvidia-h200-") for name in records)
    sampling, efficiency = found[-2][1], found[-1][1]
    assert (sampling.dummy, sampling.problems, sampling.n, sampling.resume) == ("7b", 60, 16, True)
    assert efficiency.budget_gib == [24, 72, 126]


def test_the_device_that_is_used_gives_the_records_their_name(tmp_path: Path):
    ((_, args),) = started(proof(tmp_path, "efficiency", CUDA_VISIBLE_DEVICES="1"))
    assert Path(args.record).name.startswith("nvidia-h100-80gb-hbm3-")
    assert args.budget_gib == [24, 71]


def test_words_of_a_failing_nvidia_smi_are_no_device(tmp_path: Path):
    done = proof(tmp_path, "speed", smi="echo 'NVIDIA-SMI has failed because it could not reach the driver.'\nexit 9")
    assert done.returncode == 2
    assert "no CUDA device here; DRY_RUN=1 rehearses on the CPU" in done.stderr


def test_an_earlier_record_is_continued_unless_overwritten(tmp_path: Path):
    earlier = tmp_path / "nvidia-h200-2025-01-31-speed.json"
    earlier.write_text("{}")
    (_, args), *rest = started(proof(tmp_path, "speed"))
    assert not rest
    assert args.record == str(earlier)
    assert not args.overwrite
    ((_, args),) = started(proof(tmp_path, "--overwrite", "speed"))
    assert args.record != str(earlier)
    assert args.overwrite


def test_a_rehearsal_touches_no_record(tmp_path: Path):
    done = proof(tmp_path, DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    for name, args in started(done):
        assert str(tmp_path) not in args.record
        assert getattr(args, "dry_run", True), name
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize(
    ("words", "message"), [(["no_such_part"], "unknown part 'no_such_part'"), (["--all"], "unknown flag '--all'")]
)
def test_unknown_words_are_named(tmp_path: Path, words: list[str], message: str):
    done = proof(tmp_path, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert not started(done)


def test_one_failing_part_does_not_stop_the_others(tmp_path: Path):
    done = proof(tmp_path, "correctness", "speed", FAIL="124")
    assert done.returncode == 1
    assert "correctness: stopped after 600 s; start it again" in done.stderr
    assert "speed: stopped" in done.stderr


def test_without_a_device_it_says_so(tmp_path: Path):
    proof(tmp_path)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    command = ["bash", str(ROOT / "scripts/bench/gpu_proof.sh"), "speed"]
    variables = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "no CUDA device here" in done.stderr
