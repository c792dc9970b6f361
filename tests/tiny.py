"""Tiny checkpoints for tests: a real BPE tokenizer and random Mamba-2 weights, in the layout users have."""

from __future__ import annotations

from pathlib import Path

from promptcot_mamba.chat_format import CHAT_TEMPLATE

CORPUS = [
    "<|im_start|>user\nLet A be 12 plus 34. Find A.\nPlease reason step by step, and put your final answer within "
    "\\boxed{}.<|im_end|>\n<|im_start|>assistant\n<think>\n12 + 34 = 46\n</think>\nThe answer is \\boxed{46}.",
    "the quick brown fox jumps over the lazy dog 0 1 2 3 4 5 6 7 8 9 def solve(n): return n * n print(solve(3))",
]


def make_tokenizer(vocab_size: int = 384):
    """A byte-level BPE with `</s>` as end of text and the project's chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def encode_example(tokenizer, prompt, completion: str) -> tuple[list[int], list[int]]:
    """`(input_ids, labels)` of one example."""
    from promptcot_mamba.data.encode import encode_examples

    document = encode_examples(tokenizer, [(prompt, completion)])[0]
    return document.input_ids, document.labels


def make_checkpoint(folder: Path, *, n_groups: int = 1, n_layers: int = 2, seed: int = 0, **config_fields) -> Path:
    """Write config, random weights (transformers' own class) and tokenizer to `folder`, and return it."""
    import torch
    from transformers import Mamba2Config, Mamba2ForCausalLM

    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    config = Mamba2Config(
        **{
            "vocab_size": 384, "hidden_size": 64, "num_hidden_layers": n_layers, "state_size": 16, "head_dim": 16,
            "num_heads": 8, "n_groups": n_groups, "expand": 2, "conv_kernel": 4, "chunk_size": 32,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id, "tie_word_embeddings": False,
        }
        | config_fields
    )  # fmt: skip
    Mamba2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
