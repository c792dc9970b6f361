"""Configs as they are published, and what a chain of each model holds, counted by hand: bytes of a token in all layers
that see everything, in all that look back through a window, the window, and the states; bfloat16, states in float32.

Keys that say nothing of the cache are left out. What a config does not say is meant to be missing.
"""

from __future__ import annotations

from typing import Any

# fmt: off
PUBLISHED: dict[str, tuple[dict[str, Any], tuple[int, int, int, int]]] = {
    "qwen3-next-80b": ({"model_type": "qwen3_next", "full_attention_interval": 4, "head_dim": 256, "hidden_size":
        2048, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
        "linear_num_value_heads": 32, "linear_value_head_dim": 128, "num_attention_heads": 16, "num_hidden_layers":
        48, "num_key_value_heads": 2}, (12 * 2 * 2 * 256 * 2, 0, 0, 36 * (32 * 128 * 128 * 4 + 8192 * 3 * 2))),
    "qwen3.5-27b": ({"model_type": "qwen3_5", "text_config": {"model_type": "qwen3_5_text", "hidden_size": 5120,
        "num_hidden_layers": 64, "full_attention_interval": 4, "num_attention_heads": 24, "num_key_value_heads": 4,
        "head_dim": 256, "linear_num_key_heads": 16, "linear_num_value_heads": 48, "linear_key_head_dim": 128,
        "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "layer_types": (["linear_attention"] * 3 +
        ["full_attention"]) * 16}}, (16 * 2 * 4 * 256 * 2, 0, 0, 48 * (48 * 128 * 128 * 4 + (2 * 16 * 128 + 48 * 128)
        * 3 * 2))),
    "nemotron-nano-9b-v2": ({"model_type": "nemotron_h", "hybrid_override_pattern":
        "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-", "num_hidden_layers": 56, "num_attention_heads":
        40, "num_key_value_heads": 8, "head_dim": 128, "hidden_size": 4480, "mamba_num_heads": 128, "mamba_head_dim":
        80, "ssm_state_size": 128, "n_groups": 8, "conv_kernel": 4, "expand": 2}, (4 * 2 * 8 * 128 * 2, 0, 0, 27 *
        (128 * 80 * 128 * 4 + (128 * 80 + 2 * 8 * 128) * 3 * 2))),
    "nemotron-3-nano-30b": ({"model_type": "nemotron_h", "hybrid_override_pattern":
        "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME", "num_hidden_layers": 52, "num_attention_heads": 32,
        "num_key_value_heads": 2, "head_dim": 128, "hidden_size": 2688, "mamba_num_heads": 64, "mamba_head_dim": 64,
        "ssm_state_size": 128, "n_groups": 8, "conv_kernel": 4}, (6 * 2 * 2 * 128 * 2, 0, 0, 23 * (64 * 64 * 128 * 4 +
        (4096 + 2048) * 3 * 2))),
    "falcon-h1-7b": ({"model_type": "falcon_h1", "num_hidden_layers": 44, "num_attention_heads": 12,
        "num_key_value_heads": 2, "head_dim": 128, "hidden_size": 3072, "mamba_d_ssm": 3072, "mamba_n_heads": 24,
        "mamba_d_head": 128, "mamba_d_state": 256, "mamba_n_groups": 1, "mamba_d_conv": 4, "mamba_expand": 2}, (44 * 2
        * 2 * 128 * 2, 0, 0, 44 * (24 * 128 * 256 * 4 + (3072 + 512) * 3 * 2))),
    "granite-4.0-h-tiny": ({"model_type": "granitemoehybrid", "num_hidden_layers": 40, "num_attention_heads": 12,
        "num_key_value_heads": 4, "hidden_size": 1536, "mamba_n_heads": 48, "mamba_d_head": 64, "mamba_d_state": 128,
        "mamba_n_groups": 1, "mamba_d_conv": 4, "mamba_expand": 2, "layer_types": ["attention" if i in (5, 15, 25, 35)
        else "mamba" for i in range(40)]}, (4 * 2 * 4 * 128 * 2, 0, 0, 36 * (48 * 64 * 128 * 4 + (3072 + 256) * 3 *
        2))),
    "granite-4.0-micro (dense)": ({"model_type": "granitemoehybrid", "num_hidden_layers": 40, "num_attention_heads":
        40, "num_key_value_heads": 8, "hidden_size": 2560, "layer_types": ["attention"] * 40}, (40 * 2 * 8 * 64 * 2,
        0, 0, 0)),
    "gemma3-27b": ({"model_type": "gemma3", "text_config": {"head_dim": 128, "hidden_size": 5376, "model_type":
        "gemma3_text", "num_attention_heads": 32, "num_hidden_layers": 62, "num_key_value_heads": 16,
        "sliding_window": 1024}}, (10 * 2 * 16 * 128 * 2, 52 * 2 * 16 * 128 * 2, 1024, 0)),
    "gemma3-4b": ({"model_type": "gemma3", "text_config": {"hidden_size": 2560, "model_type": "gemma3_text",
        "num_hidden_layers": 34, "sliding_window": 1024}}, (5 * 2 * 4 * 256 * 2, 29 * 2 * 4 * 256 * 2, 1024, 0)),
    "gemma3n-e4b": ({"model_type": "gemma3n", "text_config": {"model_type": "gemma3n_text", "num_hidden_layers": 35,
        "num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 2048, "head_dim": 256, "layer_types":
        (["sliding_attention"] * 4 + ["full_attention"]) * 7, "sliding_window": 512, "num_kv_shared_layers": 15}}, (4
        * 2 * 2 * 256 * 2, 16 * 2 * 2 * 256 * 2, 512, 0)),
    "gemma4-31b": ({"model_type": "gemma4", "text_config": {"model_type": "gemma4_text", "layer_types":
        (["sliding_attention"] * 5 + ["full_attention"]) * 10, "num_hidden_layers": 60, "num_attention_heads": 32,
        "num_key_value_heads": 16, "head_dim": 256, "global_head_dim": 512, "num_global_key_value_heads": 4,
        "attention_k_eq_v": True, "hidden_size": 5376, "sliding_window": 1024, "num_kv_shared_layers": 0}}, (10 * 2 *
        4 * 512 * 2, 50 * 2 * 16 * 256 * 2, 1024, 0)),
    "mistral-small-3.2": ({"model_type": "mistral3", "text_config": {"model_type": "mistral", "head_dim": 128,
        "hidden_size": 5120, "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 8,
        "sliding_window": None}}, (40 * 2 * 8 * 128 * 2, 0, 0, 0)),
    "mistral-small-3.2 params.json": ({"dim": 5120, "n_layers": 40, "head_dim": 128, "n_heads": 32, "n_kv_heads": 8},
        (40 * 2 * 8 * 128 * 2, 0, 0, 0)),
    "gpt-oss-20b": ({"model_type": "gpt_oss", "head_dim": 64, "hidden_size": 2880, "layer_types":
        ["sliding_attention", "full_attention"] * 12, "num_attention_heads": 64, "num_hidden_layers": 24,
        "num_key_value_heads": 8, "sliding_window": 128}, (12 * 2 * 8 * 64 * 2, 12 * 2 * 8 * 64 * 2, 128, 0)),
    "deepseek-r1-0528": ({"model_type": "deepseek_v3", "hidden_size": 7168, "kv_lora_rank": 512, "qk_nope_head_dim":
        128, "qk_rope_head_dim": 64, "num_attention_heads": 128, "num_hidden_layers": 61, "num_key_value_heads": 128},
        (61 * 576 * 2, 0, 0, 0)),
    "kimi-k2-thinking": ({"model_type": "kimi_k2", "hidden_size": 7168, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128, "num_attention_heads": 64, "num_hidden_layers": 61, "num_key_value_heads": 64}, (61 *
        576 * 2, 0, 0, 0)),
    "kimi-linear-48b": ({"model_type": "kimi_linear", "hidden_size": 2304, "head_dim": 72, "kv_lora_rank": 512,
        "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "num_attention_heads": 32, "num_hidden_layers": 27,
        "num_key_value_heads": 32, "linear_attn_config": {"full_attn_layers": [4, 8, 12, 16, 20, 24, 27], "head_dim":
        128, "kda_layers": [1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15, 17, 18, 19, 21, 22, 23, 25, 26], "num_heads": 32,
        "short_conv_kernel_size": 4}}, (7 * 576 * 2, 0, 0, 20 * (32 * 128 * 128 * 4 + 3 * 4096 * 3 * 2))),
    "minimax-m2": ({"model_type": "minimax", "hidden_size": 3072, "num_hidden_layers": 62, "num_attention_heads": 48,
        "num_key_value_heads": 8, "head_dim": 128, "attn_type_list": [1] * 62}, (62 * 2 * 8 * 128 * 2, 0, 0, 0)),
    "llama4-scout": ({"model_type": "llama4", "text_config": {"model_type": "llama4_text", "attention_chunk_size":
        8192, "head_dim": 128, "hidden_size": 5120, "num_attention_heads": 40, "num_hidden_layers": 48,
        "num_key_value_heads": 8, "no_rope_layers": []}}, (12 * 2 * 8 * 128 * 2, 36 * 2 * 8 * 128 * 2, 8192, 0)),
    "exaone4-32b as first shipped": ({"model_type": "exaone4", "hidden_size": 5120, "num_attention_heads": 40,
        "num_hidden_layers": 64, "num_key_value_heads": 8, "head_dim": 128, "sliding_window": 4096,
        "sliding_window_pattern": "LLLG"}, (16 * 2 * 8 * 128 * 2, 48 * 2 * 8 * 128 * 2, 4096, 0)),
    "jamba-mini": ({"model_type": "jamba", "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "attn_layer_offset": 4, "attn_layer_period": 8, "mamba_d_conv": 4, "mamba_d_state":
        16, "mamba_expand": 2, "sliding_window": None}, (4 * 2 * 8 * 128 * 2, 0, 0, 28 * (8192 * 16 * 4 + 8192 * 3 *
        2))),
    "gemma2-9b": ({"model_type": "gemma2", "hidden_size": 3584, "num_attention_heads": 16, "num_hidden_layers": 42,
        "num_key_value_heads": 8, "head_dim": 256, "sliding_window": 4096, "sliding_window_size": 4096}, (21 * 2 * 8 *
        256 * 2, 21 * 2 * 8 * 256 * 2, 4096, 0)),
    "r1-distill-1.5b": ({"model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers":
        28, "num_attention_heads": 12, "num_key_value_heads": 2, "max_position_embeddings": 131072, "sliding_window":
        4096, "use_sliding_window": False}, (28 * 2 * 2 * 128 * 2, 0, 0, 0)),
    "minicpm3-4b": ({"model_type": "minicpm3", "hidden_size": 2560, "intermediate_size": 6400, "num_hidden_layers":
        62, "num_attention_heads": 40, "num_key_value_heads": 40, "kv_lora_rank": 256, "q_lora_rank": 768,
        "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64, "dim_model_base": 256, "scale_depth": 1.4,
        "scale_emb": 12, "hidden_act": "silu", "num_experts": 0}, (62 * 2 * 40 * 96 * 2, 0, 0, 0)),
    "falcon-mamba-7b": ({"model_type": "falcon_mamba", "hidden_size": 4096, "intermediate_size": 8192, "expand": 16,
        "num_hidden_layers": 64, "state_size": 16, "conv_kernel": 4, "time_step_rank": 256}, (0, 0, 0, 64 * 8192 * (16
        * 4 + 3 * 2))),
    "mamba-2.8b": ({"model_type": "mamba", "hidden_size": 2560, "intermediate_size": 5120, "expand": 2,
        "num_hidden_layers": 64, "state_size": 16, "conv_kernel": 4, "time_step_rank": 160}, (0, 0, 0, 64 * 5120 * (16
        * 4 + 3 * 2))),
    # 49 of 80 layers attend; which ones is made up here.
    "llama-3.3-nemotron-super-49b": ({"model_type": "nemotron-nas", "hidden_size": 8192, "num_hidden_layers": 80,
        "num_attention_heads": 64, "num_key_value_heads": None, "block_configs": [{"attention": {"n_heads_in_group":
        None if layer > 48 else 8, "no_op": layer > 48, "replace_with_linear": False}, "ffn": {"no_op": False}}
        for layer in range(80)]}, (49 * 2 * 8 * 128 * 2, 0, 0, 0)),
    "lfm2-1.2b": ({"model_type": "lfm2", "hidden_size": 2048, "num_attention_heads": 32, "num_hidden_layers": 16,
        "num_key_value_heads": 8, "conv_L_cache": 3, "layer_types": ["conv", "conv", "full_attention", "conv", "conv",
        "full_attention", "conv", "conv", "full_attention", "conv", "full_attention", "conv", "full_attention",
        "conv", "full_attention", "conv"]}, (6 * 2 * 8 * 64 * 2, 0, 0, 10 * 2048 * 2 * 2)),
    # Sizes by older names, which vLLM 0.32 reads by its own config classes and model_arch_config_convertor.py.
    "glm-4-9b-chat": ({"model_type": "chatglm", "num_layers": 40, "hidden_size": 4096, "num_attention_heads": 32,
        "multi_query_attention": True, "multi_query_group_num": 2, "kv_channels": 128, "seq_length": 131072},
        (40 * 2 * 2 * 128 * 2, 0, 0, 0)),
    "falcon-7b": ({"model_type": "falcon", "hidden_size": 4544, "num_attention_heads": 71, "num_hidden_layers": 32,
        "multi_query": True, "new_decoder_architecture": False}, (32 * 2 * 1 * 64 * 2, 0, 0, 0)),
    "falcon-40b": ({"model_type": "falcon", "hidden_size": 8192, "num_attention_heads": 128, "num_kv_heads": 8,
        "num_hidden_layers": 60, "multi_query": True, "new_decoder_architecture": True},
        (60 * 2 * 8 * 64 * 2, 0, 0, 0)),
    "dbrx": ({"model_type": "dbrx", "d_model": 6144, "n_heads": 48, "n_layers": 40, "max_seq_len": 32768,
        "attn_config": {"kv_n_heads": 8, "clip_qkv": 8, "rope_theta": 500000}}, (40 * 2 * 8 * 128 * 2, 0, 0, 0)),
    "gpt2": ({"model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024},
        (12 * 2 * 12 * 64 * 2, 0, 0, 0)),
    "deepseek-vl2": ({"model_type": "deepseek_vl_v2", "language_config": {"model_type": "deepseek_v2", "hidden_size":
        2560, "num_hidden_layers": 30, "num_attention_heads": 32, "num_key_value_heads": 32, "kv_lora_rank": 512,
        "qk_rope_head_dim": 64, "qk_nope_head_dim": 128}}, (30 * 576 * 2, 0, 0, 0)),
    # Two latent attentions a layer (vLLM's longcat_flash.py).
    "longcat-flash-thinking": ({"model_type": "longcat_flash", "hidden_size": 6144, "num_layers": 28,
        "num_attention_heads": 64, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128},
        (28 * 2 * 576 * 2, 0, 0, 0)),
    # Latents, and keys by which tokens are chosen: bytes, and a float for each 128 (vLLM's deepseek_v2.py, Indexer).
    "deepseek-v3.2": ({"model_type": "deepseek_v32", "hidden_size": 7168, "num_hidden_layers": 61,
        "num_attention_heads": 128, "num_key_value_heads": 128, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128, "index_head_dim": 128, "index_n_heads": 64, "index_topk": 2048},
        (61 * (576 * 2 + 128 + 4), 0, 0, 0)),
    "glm-5": ({"model_type": "glm_moe_dsa", "hidden_size": 6144, "num_hidden_layers": 78, "num_attention_heads": 64,
        "num_key_value_heads": 64, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 192,
        "index_head_dim": 128, "index_topk": 2048}, (78 * (576 * 2 + 128 + 4), 0, 0, 0)),
    # As GLM-5 would be with every fourth choice (vLLM's attention.py: layers 0 and 1, then 5, 9 ... 77).
    "a choice of four layers": ({"model_type": "glm_moe_dsa", "num_hidden_layers": 78, "num_attention_heads": 64,
        "kv_lora_rank": 512, "qk_rope_head_dim": 64, "index_head_dim": 128, "index_topk_freq": 4},
        (78 * 576 * 2 + (2 + 19) * 132, 0, 0, 0)),
    # Keys of 192, values of 128; layers with a window have twice the heads (vLLM's mimo_v2.py).
    "mimo-v2-flash": ({"model_type": "mimo_v2_flash", "hidden_size": 4096, "num_hidden_layers": 48,
        "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 192, "v_head_dim": 128,
        "swa_num_attention_heads": 64, "swa_num_key_value_heads": 8, "swa_head_dim": 192, "swa_v_head_dim": 128,
        "sliding_window": 128, "sliding_window_size": 128, "hybrid_layer_pattern": [0, 1, 1, 1, 1, 0,
        *([1] * 5 + [0]) * 7]}, (9 * 4 * (192 + 128) * 2, 39 * 8 * (192 + 128) * 2, 128, 0)),
}
# fmt: on
