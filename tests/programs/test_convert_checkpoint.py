"""`scripts.convert_checkpoint` as a child process: there and back again, bit by bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from promptcot_mamba.errors import InputError
from scripts.convert_checkpoint import main
from tests.tiny import make_checkpoint

ROOT = Path(__file__).resolve().parents[2]


def test_there_and_back_again(tmp_path, monkeypatch):
    source = make_checkpoint(tmp_path / "a", n_groups=8)
    flags = ["--input_path", str(source), "--output_path", str(tmp_path / "b"), "--layout", "codestral"]
    command = [sys.executable, "-m", "scripts.convert_checkpoint", *flags]
    there = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert there.returncode == 0, there.stderr
    assert "transformers layout" in there.stderr  # it says which layout it read
    assert (tmp_path / "b" / "tokenizer.json").exists()

    back = ["--input_path", str(tmp_path / "b"), "--output_path", str(tmp_path / "c")]
    monkeypatch.setattr(sys, "argv", ["convert_checkpoint", *back])
    main()
    want, got = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "c"))
    assert want.keys() == got.keys()
    assert all(torch.equal(want[name], got[name]) for name in want)
    with pytest.raises(InputError, match="is not empty"):
        main()
