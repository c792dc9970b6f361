"""vLLM's own count of what a chain holds in its cache, beside ours, for a tiny model of a family.

python -m tests.sampling.kv_spec <family>    (random weights; the last line is JSON)
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from promptcot_mamba.sampling.cache_cost import cache_cost
from promptcot_mamba.sampling.layers import is_hybrid

CONTEXT = 2048
_SMALL = {
    "vocab_size": 384, "hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 4096,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {  # config class, architecture, fields
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {}),
    "llama": ("LlamaConfig", "LlamaForCausalLM", {}),
    "mistral": ("MistralConfig", "MistralForCausalLM", {"sliding_window": 256}),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", {"sliding_window": 256}),
    "nemotron_h": (
        "NemotronHConfig", "NemotronHForCausalLM",
        {"layers_block_type": ["mamba", "mlp", "mamba", "attention", "mlp"], "num_hidden_layers": 5,
         "mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 2, "conv_kernel": 4,
         "expand": 2, "chunk_size": 32},
    ),
    "mamba2": (
        "Mamba2Config", "Mamba2ForCausalLM",
        {"intermediate_size": 256, "state_size": 16, "head_dim": 16, "num_heads": 16, "n_groups": 1, "expand": 2,
         "chunk_size": 32},
    ),
}  # fmt: skip


def write_model(family: str, folder: Path) -> dict[str, Any]:
    """Config and tokenizer of a tiny model; returns the config as it stands on disk."""
    import transformers

    from tests.tiny import make_tokenizer

    kind, architecture, fields = FAMILIES[family]
    config = getattr(transformers, kind)(**_SMALL | fields)
    config.architectures = [architecture]
    config.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def count(family: str) -> dict[str, int]:
    """Bytes of a chain of CONTEXT tokens by both counts, and how many tokens a seeded request then gets."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    from promptcot_mamba.sampling.backend import Request, SamplingSettings
    from promptcot_mamba.sampling.vllm_engine import EngineSettings, VllmEngine
    from tests.tiny import make_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        config = write_model(family, Path(folder))
        settings = EngineSettings(
            folder, "float32", "float32", CONTEXT, 4, on_cpu=True, cache_bytes=64 << 20, dummy_weights=True,
            has_states=is_hybrid(config),
        )  # fmt: skip
        sampling = SamplingSettings(0.8, 0.95, 1.1, (2,), ignore_eos=True)
        engine = VllmEngine(settings, sampling, is_mamba2=family == "mamba2", tokenizer=make_tokenizer())
        inner = engine._engine
        specs = inner.engine_core.engine_core.model_executor.get_kv_cache_specs()[0].values()
        counted = sum(spec.max_memory_usage_bytes(inner.vllm_config) for spec in specs)
        blocks = sum(2 * spec.page_size_bytes for spec in specs)
        engine.submit(Request(0, 0, 7, "", [5, 6, 7, 8] * 20, 8))
        finished = []
        while not finished:
            finished = engine.poll(1.0)
    window = cache_cost(config, "float32", "float32")
    ours = window.bytes(CONTEXT)
    # On a CPU prompts are read whole, so a window layer holds them whole at first.
    most = window.state + (window.a_token + window.a_window_token) * CONTEXT + blocks
    return {"ours": ours, "vllm": counted, "most": most, "tokens": len(finished[0].token_ids)}


if __name__ == "__main__":
    print(json.dumps(count(sys.argv[1])))
