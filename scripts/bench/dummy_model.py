"""A model folder without weights for vLLM's dummy loader: the 7B model's shapes, or tiny ones, and made-up words.

What a chain says is noise, what it costs is real: speed follows from shapes, not from values.
"""

import json
from pathlib import Path

from promptcot_mamba.checkpoint import Checkpoint, load_tokenizer
from promptcot_mamba.efficiency.models import MAMBA2_7B, Shape
from promptcot_mamba.records import Problem
from promptcot_mamba.sampling.arguments import SamplingArguments
from promptcot_mamba.sampling.plan import Plan
from promptcot_mamba.sampling.prompts import PromptBook

TINY_CONFIG = MAMBA2_7B.config | {
    "vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 16, "n_groups": 1,
    "state_size": 16,
}  # fmt: skip
DUMMIES = {"7b": MAMBA2_7B, "tiny": Shape("tiny Mamba-2", TINY_CONFIG, dtype="float32")}


def write_dummy(kind: str, folder: Path) -> Checkpoint:
    """config.json and a tokenizer of as many words as the model has, in `folder`; no weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    shape = DUMMIES[kind]
    config = shape.config | {"dtype": shape.dtype}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    words = ["<unk>", "<s>", "</s>", *(f"word{number}" for number in range(3, config["vocab_size"]))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    fast.save_pretrained(folder)
    return Checkpoint(folder, config, shape.weight_bytes)


def plan_dummy(kind: str, folder: Path, args: SamplingArguments, problems: list[Problem]) -> Plan:
    """What `make_plan` makes for a checkpoint, for a dummy written to `folder`."""
    checkpoint = write_dummy(kind, folder)
    tokenizer = load_tokenizer(folder)
    return Plan(args, problems, PromptBook(problems, tokenizer), checkpoint, tokenizer)
