"""The quickstart's tokenizer and untrained model, made from its exercises' text and one seed."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from promptcot_mamba.chat_format import CHAT_TEMPLATE, THINK_END, THINK_START
from promptcot_mamba.checkpoint import writing_weights
from promptcot_mamba.jsonl import Row
from promptcot_mamba.log import logger

# One token each, and never dropped from decoded text: graders cut completions at them.
MARKS = ("<|im_start|>", "<|im_end|>", THINK_START, THINK_END)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE in which every digit, line end and variable stands alone.

    Nothing else is cut beforehand, so common phrases of the exercises become one token each.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d|\n|\b[A-D]\b"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_base(folder: Path, rows: Sequence[Row], seed: int, shape: dict[str, Any]) -> None:
    """Write a tokenizer of these rows' text and random weights; `shape` is `vocab_size` and fields of Mamba2Config."""
    import torch
    from transformers import Mamba2Config, Mamba2ForCausalLM

    marks = re.compile("|".join(map(re.escape, MARKS)))
    texts = (piece for row in rows for piece in marks.split(row["prompt"] + row["completion"]))
    tokenizer = train_tokenizer(texts, shape["vocab_size"] - len(MARKS))
    torch.manual_seed(seed)
    config = Mamba2Config(
        **shape,
        num_heads=2 * shape["hidden_size"] // shape["head_dim"],  # expand is 2
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Mamba2ForCausalLM(config)
    with writing_weights(folder):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    logger.info("%s: %d parameters, %d tokens", folder, model.num_parameters(), len(tokenizer))
