"""The shell roads around sampling, with the programs they start replaced by ones that write down their arguments."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.sampling.conftest import ROOT


def run_script(name: str, folder: Path, *flags: str, stand_ins: tuple[str, ...], **environment: str):
    """Run scripts/<name> with each stand-in on the PATH printing its name and arguments."""
    for program in stand_ins:
        path = folder / program
        path.write_text(f'#!/bin/sh\necho "{program} $@"\n', encoding="utf-8")
        path.chmod(0o755)
    variables = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **environment}
    command = ["bash", str(ROOT / "scripts" / name), *flags]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)


def test_serve_slurm_prints_the_urls_of_its_nodes(tmp_path: Path):
    (tmp_path / "scontrol").write_text("#!/bin/sh\nprintf 'node0\\nnode1\\n'\n", encoding="utf-8")
    (tmp_path / "scontrol").chmod(0o755)
    environment = {"MODEL": "m", "SLURM_JOB_NODELIST": "node[0-1]", "TENSOR_PARALLEL": "2"}
    done = run_script("cluster/serve_slurm.sh", tmp_path, stand_ins=("srun",), **environment)
    assert done.returncode == 0, done.stderr
    urls, served = done.stdout.splitlines()
    assert urls == "--base_url http://node0:8000 http://node1:8000"
    assert "vllm serve m --port 8000 --max-model-len 69632 --data-parallel-size 4 --tensor-parallel-size 2" in served
    assert "--max-num-seqs 200" in served  # vLLM's own 1,024 states of a 7B fit no device


def test_serve_slurm_takes_the_gpus_of_its_nodes(tmp_path: Path):
    """And leaves none of them idle unsaid."""
    environment = {"MODEL": "m", "SLURM_JOB_NODELIST": "node0", "SLURM_GPUS_ON_NODE": "4"}
    done = run_script("cluster/serve_slurm.sh", tmp_path, stand_ins=("srun", "scontrol"), **environment)
    assert "--data-parallel-size 4 --tensor-parallel-size 1" in done.stdout
    environment["TENSOR_PARALLEL"] = "3"
    done = run_script("cluster/serve_slurm.sh", tmp_path, stand_ins=("srun", "scontrol"), **environment)
    assert done.returncode == 2
    assert done.stderr == "error: TENSOR_PARALLEL=3 does not divide a node's 4 GPUs\n"
    assert not done.stdout


def test_a_missing_model_is_named(tmp_path: Path):
    done = run_script("cluster/serve_slurm.sh", tmp_path, stand_ins=())
    assert (done.returncode, done.stderr) == (2, "error: set MODEL to a checkpoint folder that every node sees\n")
