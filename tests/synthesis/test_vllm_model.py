"""Stages on a real engine: log-probabilities equal transformers', a stage runs with random weights."""

from __future__ import annotations

import pytest
import torch

from promptcot_mamba.synthesis.models import ModelBook
from promptcot_mamba.synthesis.templates import mark_up, render_generator_prompt
from tests.tiny import make_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("generator"))


@pytest.fixture(scope="module")
def models(folder):
    settings = {"model_path": str(folder), "chat_template": False, "context": 1024, "dtype": "float32"}
    book = ModelBook({"generator": {**settings, "max_num_seqs": 4}})
    yield book
    book.close()


def test_log_likelihoods_equal_transformers(folder, models):
    from transformers import AutoTokenizer, Mamba2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(folder)
    reference = Mamba2ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    pairs = [
        (render_generator_prompt(["gcd"] * i, "easy") + "\n", mark_up("why " * 5 * i, f"find {i}"))
        for i in range(1, 12)
    ]
    scores = list(models("generator").score(pairs))
    for (prompt, continuation), score in zip(pairs, scores, strict=True):
        start = tokenizer(prompt)["input_ids"]
        ids = [*start, *tokenizer(continuation, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            log_p = reference(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = sum(float(log_p[i - 1, ids[i]]) for i in range(len(start), len(ids)))
        assert score == pytest.approx(expected, abs=1e-3)
