"""Our model, transformers (its norm made grouped) and vLLM choose the same greedy tokens from one folder."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from promptcot_mamba.model import load_causal_lm
from tests.model.conftest import load_transformers
from tests.tiny import make_checkpoint

LENGTHS = [1, 2, 4, 5, 64, 65, 300, 1500]
NEW_TOKENS = 10
# Every config key that changes the maths and may vary; hidden_act and time_step_limit are refused where they may not.
KEYS = {
    "use_bias": True, "use_conv_bias": False, "layer_norm_epsilon": 0.05, "conv_kernel": 3, "chunk_size": 16,
    "tie_word_embeddings": True, "residual_in_fp32": False,
}  # fmt: skip
CASES = {"g1": {"n_groups": 1}, "g8": {"n_groups": 8}, "other keys": {"n_groups": 2, **KEYS}}


def make_prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(11)
    return [torch.randint(3, 384, (length,), generator=generator).tolist() for length in LENGTHS]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Checkpoints as our model saves them."""
    folders = []
    for seed, fields in enumerate(CASES.values(), start=1):
        root = tmp_path_factory.mktemp(f"parity{seed}")
        ours = load_causal_lm(make_checkpoint(root / "fresh", seed=seed, **fields), dtype=torch.float32)
        ours.save_pretrained(root / "saved")
        folders.append(root / "saved")
    return folders


@torch.no_grad()
def greedy(model, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    found = model.eval().generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None
    )
    return found[0, len(prompt) :].tolist()


@pytest.fixture(scope="module")
def ours(checkpoints):
    models = [load_causal_lm(folder, dtype=torch.float32) for folder in checkpoints]
    return [[greedy(model, prompt) for prompt in make_prompts()] for model in models]


def test_our_greedy_tokens_vary(ours):
    """The comparison below would be empty if every prompt led to the same tokens."""
    for answers in ours:
        assert len({tuple(tokens) for tokens in answers}) > len(answers) // 2


@pytest.mark.parametrize("index", range(len(CASES)), ids=CASES)
def test_greedy_tokens_equal_transformers(checkpoints, ours, index):
    theirs = load_transformers(checkpoints[index])
    assert [greedy(theirs, prompt) for prompt in make_prompts()] == ours[index]


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
def test_greedy_tokens_equal_vllm(checkpoints, ours, tmp_path):
    request, answer = tmp_path / "request.json", tmp_path / "answer.json"
    asked = {"prompts": make_prompts(), "new_tokens": NEW_TOKENS, "checkpoints": list(map(str, checkpoints))}
    request.write_text(json.dumps(asked))
    program = Path(__file__).with_name("greedy_vllm.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "VLLM_NO_USAGE_STATS": "1"}
    done = subprocess.run(
        [sys.executable, str(program), str(request), str(answer)], env=environment, capture_output=True, text=True,
        timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(answer.read_text()) == ours
