"""Write the quickstart's exercises, tokenizer and untrained Mamba-2, all from one seed.

    python -m scripts.quickstart.make_data --config configs/quickstart/data.yaml

Writes `phase1.jsonl`, `phase2.jsonl`, `control.jsonl` (rows `prompt, completion, domain, source`), `problems.jsonl`
(the test) with `tests/`, and `base/` (tokenizer and random weights in the transformers layout) to `--output_dir`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from promptcot_mamba.chat_format import CHAT_TEMPLATE, THINK_END, THINK_START
from promptcot_mamba.cli import parse_args, run_program
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row, read_jsonl, write_json, write_jsonl
from promptcot_mamba.log import get_logger
from promptcot_mamba.quickstart.splits import SOURCES, draw_test_rows, draw_training_rows
from promptcot_mamba.run_info import write_run_info

logger = get_logger(__name__)
TRAINING_SETS = ("phase1", "phase2", "control")
# One token each, and never dropped from decoded text: graders cut completions at them.
MARKS = ("<|im_start|>", "<|im_end|>", THINK_START, THINK_END)


@dataclass
class Args:
    """Counts are JSON objects `{"source": rows}`."""

    phase1: str
    phase2: str
    control: str
    test: str
    output_dir: str = "outputs/quickstart/data"
    seed: int = 20
    tokenizer_rows: str | None = None  # more rows `prompt, completion` for the tokenizer to learn its words from
    vocab_size: int = 640
    hidden_size: int = 128
    num_hidden_layers: int = 4
    head_dim: int = 64
    state_size: int = 32
    n_groups: int = 1
    chunk_size: int = 64


def read_counts(flag: str, text: str) -> dict[str, int]:
    """A flag's counts; raises InputError naming the flag."""
    try:
        counts = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"--{flag}: malformed JSON ({error.msg}) in {text!r}") from None
    if not isinstance(counts, dict) or not all(isinstance(number, int) for number in counts.values()):
        raise InputError(f"--{flag}: expected {{source: count}}, found {text!r}")
    if unknown := set(counts) - set(SOURCES):
        raise InputError(f"--{flag}: unknown source {sorted(unknown)}; known: {', '.join(SOURCES)}")
    return counts


def train_tokenizer(texts: Iterable[str], vocab_size: int):
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


def make_base(args: Args, rows: list[Row]) -> Path:
    """Tokenizer from these rows' text alone, random weights from the seed; return the folder."""
    import re

    import torch
    from transformers import Mamba2Config, Mamba2ForCausalLM

    marks = re.compile("|".join(map(re.escape, MARKS)))
    texts = (piece for row in rows for piece in marks.split(row["prompt"] + row["completion"]))
    tokenizer = train_tokenizer(texts, args.vocab_size - len(MARKS))
    torch.manual_seed(args.seed)
    config = Mamba2Config(
        vocab_size=args.vocab_size,
        hidden_size=args.hidden_size,
        num_hidden_layers=args.num_hidden_layers,
        head_dim=args.head_dim,
        num_heads=2 * args.hidden_size // args.head_dim,  # expand is 2
        state_size=args.state_size,
        n_groups=args.n_groups,
        chunk_size=args.chunk_size,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    folder = Path(args.output_dir) / "base"
    model = Mamba2ForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    logger.info("%s: %d parameters, %d tokens", folder, model.num_parameters(), len(tokenizer))
    return folder


def main() -> None:
    args = parse_args(Args, description=__doc__)
    folder = Path(args.output_dir)
    counts = {name: read_counts(name, getattr(args, name)) for name in (*TRAINING_SETS, "test")}
    sets = {name: draw_training_rows(counts[name], name, args.seed) for name in TRAINING_SETS}
    for name, rows in sets.items():
        write_jsonl(folder / f"{name}.jsonl", rows)
    problems, tests = draw_test_rows(counts["test"], args.seed)
    for name, content in tests.items():
        write_json(folder / "tests" / name, content)
    write_jsonl(folder / "problems.jsonl", problems)
    make_base(args, sets["phase1"] + (read_jsonl(args.tokenizer_rows) if args.tokenizer_rows else []))
    write_run_info(folder / "problems.jsonl", vars(args), rows={name: len(rows) for name, rows in sets.items()})


if __name__ == "__main__":
    run_program(main)
