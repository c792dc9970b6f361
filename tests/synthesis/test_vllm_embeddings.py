"""Embeddings of concepts from a real `vllm serve`: those that transformers computes."""

from __future__ import annotations

import pytest
import torch

from promptcot_mamba.sampling.vllm_server import VllmServer
from promptcot_mamba.synthesis.embeddings import embed_texts
from tests.tiny import make_tokenizer


@pytest.mark.slow
def test_served_embeddings_are_those_of_transformers(tmp_path):
    from transformers import Qwen2Config, Qwen2Model

    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=384, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    reference = Qwen2Model(config).eval()
    reference.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    arguments = {"model": tmp_path / "model", "served_model_name": "tiny", "runner": "pooling", "dtype": "float32"}
    arguments |= {"max_model_len": 64, "max_num_seqs": 8, "enforce_eager": True, "gpu_memory_utilization": 0.1}
    server = VllmServer(arguments, 1, tmp_path / "server.log", on_cpu=not torch.cuda.is_available())
    concepts = ["gcd", "lcm", "sine rule", "cosine rule", "Vieta's formulas"]
    try:
        server.start()
        vectors = embed_texts(concepts, "tiny", tmp_path / "cache.jsonl", server.base_url)
    finally:
        server.stop()
    for concept in concepts:
        with torch.no_grad():
            last = reference(torch.tensor([tokenizer(concept)["input_ids"]])).last_hidden_state[0, -1]
        torch.testing.assert_close(torch.tensor(vectors[concept]), last / last.norm(), atol=1e-5, rtol=0)
