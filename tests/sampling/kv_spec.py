"""vLLM's own count of what a chain holds in its cache, and of what it wants before it starts, beside ours.

python -m tests.sampling.kv_spec shapes <name> ...   (published sizes, models without weights; no engine)
python -m tests.sampling.kv_spec engine <family>     (a tiny model with random weights, in an engine as planned)

The last line is JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from promptcot_mamba.checkpoint import Checkpoint
from promptcot_mamba.sampling.cache_cost import cache_cost
from promptcot_mamba.sampling.capacity import Device, plan_capacity
from promptcot_mamba.sampling.layers import has_states
from tests.sampling.published_configs import PUBLISHED

QUIET = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
CONTEXT = 36864  # of published sizes: --max_len 32768
# What vLLM reads besides: a model is made of it, but a chain holds the same.
ARCHITECTURES = {
    "r1-distill-1.5b": "Qwen2ForCausalLM", "gemma2-9b": "Gemma2ForCausalLM", "gemma3-27b": "Gemma3ForCausalLM",
    "gemma3-4b": "Gemma3ForCausalLM", "gpt-oss-20b": "GptOssForCausalLM", "minicpm3-4b": "MiniCPM3ForCausalLM",
    "falcon-mamba-7b": "FalconMambaForCausalLM", "mamba-2.8b": "MambaForCausalLM",
    "falcon-h1-7b": "FalconH1ForCausalLM", "granite-4.0-h-tiny": "GraniteMoeHybridForCausalLM",
    "nemotron-nano-9b-v2": "NemotronHForCausalLM", "jamba-mini": "JambaForCausalLM",
    "falcon-7b": "FalconForCausalLM", "falcon-40b": "FalconForCausalLM", "dbrx": "DbrxForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}  # fmt: skip
TINY_CONTEXT = 16384  # of tiny models: the cache of one chain exceeds the least that is ever reserved
_SMALL = {
    "vocab_size": 384, "hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": TINY_CONTEXT,
}  # fmt: skip
_TOWER = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 16,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {  # config class, architecture, fields
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {}),
    "llama": ("LlamaConfig", "LlamaForCausalLM", {}),
    "mistral": ("MistralConfig", "MistralForCausalLM", {"sliding_window": 256}),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", {"sliding_window": 256}),
    "gemma3_seeing": ("Gemma3Config", "Gemma3ForConditionalGeneration", {"sliding_window": 256}),
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
    sizes = _SMALL | fields
    if kind == "Gemma3Config":  # the language model's stand in `text_config`
        sizes = {"text_config": sizes, "vision_config": _TOWER, "mm_tokens_per_image": 4}
    config = getattr(transformers, kind)(**sizes)
    config.architectures = [architecture]
    config.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def planned(config: dict[str, Any], folder: str, dtype: str, context: int) -> tuple[int, Any]:
    """The cache that is planned on a CPU for one missing sample, and the engine's settings with it."""
    from promptcot_mamba.sampling.vllm_engine import EngineSettings

    model, how = Checkpoint(Path(folder), config, 0), {"dtype": dtype, "state_dtype": "float32", "context": context}
    capacity = plan_capacity(model, Device("cpu", 1 << 45), samples=1, **how)
    assert capacity.cache_bytes is not None
    settings = EngineSettings(
        folder, dtype, "float32", context, capacity.max_num_seqs, on_cpu=True, cache_bytes=capacity.cache_bytes,
        dummy_weights=True, has_states=has_states(config),
    )  # fmt: skip
    return capacity.cache_bytes, settings


def start_parts() -> None:
    """One process that is all of vLLM's parts, which its layers ask for."""
    import torch
    from vllm.distributed import init_distributed_environment, initialize_model_parallel

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    init_distributed_environment(1, 0, local_rank=0, backend="gloo")
    initialize_model_parallel(1, 1)


def shapes(name: str) -> dict[str, Any]:
    """What vLLM makes of a published config: bytes of a token by kind of layer, of the states, and of the cache it
    wants before it starts (its `get_kv_cache_configs`, which takes one page off for itself)."""
    import torch
    from vllm import EngineArgs
    from vllm.config import set_current_vllm_config
    from vllm.distributed import model_parallel_is_initialized
    from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.platforms import current_platform
    from vllm.utils.torch_utils import set_default_torch_dtype
    from vllm.v1.core import kv_cache_utils
    from vllm.v1.kv_cache_interface import MambaSpec, SlidingWindowSpec

    from promptcot_mamba.sampling.vllm_engine import engine_arguments

    config = {**(PUBLISHED[name][0].get("text_config") or PUBLISHED[name][0]), "architectures": [ARCHITECTURES[name]]}
    config.setdefault("max_position_embeddings", CONTEXT)
    if name.startswith("minicpm"):  # its own class is fetched with the checkpoint; the fields are what counts
        config["model_type"] = "llama"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config), encoding="utf-8")
        cache, settings = planned(PUBLISHED[name][0], folder, "bfloat16", CONTEXT)
        arguments = engine_arguments(settings, is_mamba2=False) | {"skip_tokenizer_init": True}
        made = EngineArgs(**arguments).create_engine_config()
        with set_current_vllm_config(made):
            if not model_parallel_is_initialized():
                start_parts()
            with torch.device("meta"), set_default_torch_dtype(torch.bfloat16):
                initialize_model(vllm_config=made)
            current_platform.update_block_size_for_backend(made)
    layers = made.compilation_config.static_forward_context.items()
    specs = {key: layer.get_kv_cache_spec(made) for key, layer in layers if isinstance(layer, AttentionLayerBase)}
    specs = {key: spec for key, spec in specs.items() if spec is not None}
    made.cache_config.kv_cache_layout = "NHD"
    groups = kv_cache_utils.get_kv_cache_groups(made, specs)
    try:
        kv_cache_utils.get_kv_cache_configs(made, [specs], [cache])
        refused = None
    except ValueError as error:
        refused = str(error)
    needed = kv_cache_utils._max_memory_usage_bytes_from_groups(made, groups)
    counted = {"token": 0, "window_token": 0, "window": 0, "state": 0}
    for spec in specs.values():
        if isinstance(spec, MambaSpec):
            counted["state"] += spec.state_content_size_bytes
        elif isinstance(spec, SlidingWindowSpec):
            counted["window_token"] += spec.page_size_bytes // spec.block_size
            counted["window"] = spec.sliding_window
        else:
            counted["token"] += spec.page_size_bytes // spec.block_size
    needed += kv_cache_utils._pool_bytes_per_block(made, groups) if groups else 0
    return counted | {"cache": cache, "needed": needed, "refused": refused}


def count(family: str) -> dict[str, int]:
    """Bytes of a chain that fills the context by both counts, and how many tokens a seeded request then gets, in an
    engine whose cache is what is planned for one sample."""
    from promptcot_mamba.sampling.backend import Request, SamplingSettings
    from promptcot_mamba.sampling.vllm_engine import VllmEngine
    from tests.tiny import make_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        config = write_model(family, Path(folder))
        cache, settings = planned(config, folder, "float32", TINY_CONTEXT)
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
    ours = window.bytes(TINY_CONTEXT)
    # On a CPU prompts are read whole, so a window layer holds them whole at first.
    most = window.state + (window.a_token + window.a_window_token) * TINY_CONTEXT + blocks
    return {"ours": ours, "vllm": counted, "most": most, "cache": cache, "tokens": len(finished[0].token_ids)}


if __name__ == "__main__":
    os.environ |= QUIET
    what, *names = sys.argv[1:]
    print(json.dumps(count(*names) if what == "engine" else {name: shapes(name) for name in names}))
