"""Tiny random checkpoints of the families in the papers' tables, each with a tokenizer that speaks as its own does.

The templates are this project's words for what the families' own render for a system prompt and one user turn: their
markers, beginnings of text, default system prompts, dates and trimming. Compared with the published templates of
Qwen2.5-7B-Instruct, Qwen3-0.6B, Llama-3.1-8B-Instruct, Mistral-Nemo-Instruct-2407, R1-Distill-Qwen-32B (as llama.cpp
keeps them) and Nemotron-H-8B-Reasoning-128K they gave the same text, for 24 choices of system prompt, user's text and
`enable_thinking` each. Gemma 3's was not at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.tiny import make_tokenizer

SYSTEM = "{% set given = messages[0]['role'] == 'system' %}{% set turns = messages[1:] if given else messages %}"
CHATML_TURN = (
    "{% for m in turns %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
)
QWEN2 = (
    SYSTEM + "<|im_start|>system\n{{ messages[0]['content'] if given else "
    "'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' }}<|im_end|>\n"
    + CHATML_TURN
    + "{% endif %}"
)
QWEN3 = (
    SYSTEM
    + "{% if given %}<|im_start|>system\n{{ messages[0]['content'] }}<|im_end|>\n{% endif %}"
    + CHATML_TURN
    + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
R1_DISTILL = (
    SYSTEM + "{{ bos_token }}{{ messages[0]['content'] if given }}"
    "{% for m in turns %}<\uff5cUser\uff5c>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<\uff5cAssistant\uff5c><think>\n{% endif %}"
)
LLAMA3 = (
    SYSTEM + "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
    "Today Date: 26 Jul 2024\n\n{{ messages[0]['content'] | trim if given }}<|eot_id|>"
    "{% for m in turns %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA3 = (
    SYSTEM + "{{ bos_token }}{% for m in turns %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}"
    "{% endif %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{% if loop.first and given %}{{ messages[0]['content'] }}\n\n{% endif %}{{ m['content'] | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    SYSTEM + "{{ bos_token }}{% for m in turns %}{% if m['role'] == 'user' %}[INST]"
    "{% if loop.last and given %}{{ messages[0]['content'] }}\n\n{% endif %}{{ m['content'] }}[/INST]"
    "{% elif m['role'] != 'assistant' %}{{ raise_exception('Only user and assistant roles are supported') }}"
    "{% endif %}{% endfor %}"
)
NEMOTRON_H = (
    SYSTEM + "<SPECIAL_10>System\n{{ messages[0]['content'].strip() if given }}{% for m in turns %}"
    "{{ '\n<SPECIAL_11>User\n' + m['content'].strip() + '\n<SPECIAL_11>Assistant\n' }}{% endfor %}"
    """{% if given and "{'reasoning': True}" in messages[0]['content'] %}<think>\n"""
    """{% elif given and "{'reasoning': False}" in messages[0]['content'] %}<think></think>{% endif %}"""
)
SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """How a family's prompts begin and end, and its config from the tokenizer's ids."""

    template: str
    begins: str
    ends: str
    end_of_turn: str
    make_config: Callable[[dict[str, Any]], Any]
    thinks: bool = False
    begin_of_text: str = "<s>"


def _decoder(name: str) -> Callable[[dict[str, Any]], Any]:
    def make(ids: dict[str, Any]) -> Any:
        import transformers

        return getattr(transformers, f"{name}Config")(**SIZES, **ids)

    return make


def _gemma3(ids: dict[str, Any]) -> Any:
    """A multimodal config: the language model's sizes stand in `text_config`."""
    from transformers import Gemma3Config

    text = {**SIZES, **ids, "sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}
    vision = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 16,
    }  # fmt: skip
    return Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, boi_token_index=5, eoi_token_index=6,
        image_token_index=7, eos_token_id=ids["eos_token_id"], bos_token_id=ids["bos_token_id"],
    )  # fmt: skip


def _mamba2(ids: dict[str, Any]) -> Any:
    from transformers import Mamba2Config

    return Mamba2Config(
        hidden_size=64, num_hidden_layers=2, state_size=16, head_dim=16, num_heads=8, n_groups=1, expand=2,
        chunk_size=32, tie_word_embeddings=False, **ids,
    )  # fmt: skip


def _nemotron_h(ids: dict[str, Any]) -> Any:
    """Mamba-2, attention and feed-forward layers, each a layer of its own."""
    from transformers import NemotronHConfig

    return NemotronHConfig(
        hidden_size=64, layers_block_type=["mamba", "mlp", "attention", "mlp"], num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, intermediate_size=96, max_position_embeddings=8192, ssm_state_size=16,
        mamba_num_heads=8, mamba_head_dim=16, n_groups=1, chunk_size=32, use_mamba_kernels=False, **ids,
    )  # fmt: skip


CHATML = ("<|im_start|>assistant\n", "<|im_end|>")
FAMILIES = {
    "qwen2": Family(QWEN2, "<|im_start|>system\nYou are Qwen", *CHATML, _decoder("Qwen2")),
    "qwen3": Family(QWEN3, "<|im_start|>user\n", *CHATML, _decoder("Qwen3")),
    "r1_distill": Family(
        R1_DISTILL, "<s><\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c><think>\n", "</s>", _decoder("Qwen2"), thinks=True
    ),
    "llama": Family(
        LLAMA3, "<s><|start_header_id|>system", "assistant<|end_header_id|>\n\n", "<|eot_id|>", _decoder("Llama")
    ),
    "gemma3": Family(GEMMA3, "<s><start_of_turn>user\n", "<start_of_turn>model\n", "<end_of_turn>", _gemma3),
    "mistral": Family(MISTRAL, "<s>[INST]", "[/INST]", "</s>", _decoder("Mistral")),
    "nemotron_h": Family(
        NEMOTRON_H, "<SPECIAL_10>System\n\n<SPECIAL_11>User\n", "<SPECIAL_11>Assistant\n", "</s>", _nemotron_h
    ),
    "mamba2": Family(MISTRAL, "<s>[INST]", "[/INST]", "</s>", _mamba2),  # Codestral's is Mistral's
}


def make_family(name: str, folder: Path) -> Path:
    """Write config, random weights (transformers' own class) and tokenizer of a family to `folder`, and return it."""
    import torch
    from transformers import AutoModelForCausalLM, Gemma3ForConditionalGeneration

    family = FAMILIES[name]
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"eos_token": family.end_of_turn})
    tokenizer.chat_template = family.template
    ids = {
        "vocab_size": 400, "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    assert len(tokenizer) <= ids["vocab_size"]
    torch.manual_seed(0)
    config = family.make_config(ids)
    made = Gemma3ForConditionalGeneration if name == "gemma3" else AutoModelForCausalLM
    model = made(config) if name == "gemma3" else made.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
