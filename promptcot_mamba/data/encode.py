"""Text -> token ids and labels: the loss lies on the completion and its end of text, nowhere else.

Prompt and completion are tokenised apart, so that the tokens before the first sampled one are the same in training
and in sampling (a tokeniser may merge across the boundary of the joined text).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from promptcot_mamba.chat_format import join
from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.linear_cross_entropy import IGNORE_INDEX


@dataclass(frozen=True)
class Encoded:
    """One document's tokens: `prompt + completion + eos`; the first `prompt_length` of them carry no loss."""

    input_ids: list[int]
    prompt_length: int

    @property
    def labels(self) -> list[int]:
        """Labels aligned with `input_ids` (the model shifts them): IGNORE_INDEX on the prompt."""
        return [IGNORE_INDEX] * self.prompt_length + self.input_ids[self.prompt_length :]


def encode_examples(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[Encoded]:
    """Encode `(prompt, completion)` pairs; in one call, because a fast tokeniser uses every core on a batch.

    The prompt gets whatever special tokens sampling gives it (a begin-of-text token where the tokeniser adds one);
    the completion gets none, and ends in `eos_token` once.
    """
    joined = [join(prompt, completion) for prompt, completion in pairs]
    prompts = tokenizer([prompt for prompt, _ in joined])["input_ids"]
    completions = tokenizer([completion for _, completion in joined], add_special_tokens=False)["input_ids"]
    eos = tokenizer.eos_token_id
    documents = []
    for prompt_ids, completion_ids in zip(prompts, completions, strict=True):
        end = [] if completion_ids and completion_ids[-1] == eos else [eos]
        documents.append(Encoded([*prompt_ids, *completion_ids, *end], len(prompt_ids)))
    return documents


def encode_example(tokenizer: Any, prompt: str, completion: str) -> tuple[list[int], list[int]]:
    """`(input_ids, labels)` of one example; see `encode_examples`."""
    document = encode_examples(tokenizer, [(prompt, completion)])[0]
    return document.input_ids, document.labels


def check_tokenizer(tokenizer: Any, vocab_size: int | None, tokenizer_path: str, model_path: str) -> None:
    """Raise InputError if the tokeniser has no end-of-text token or can emit ids that the embedding lacks.

    `vocab_size` None is one that only the weights will tell.
    """
    if tokenizer.eos_token_id is None:
        raise InputError(f"--tokenizer_path {tokenizer_path}: the tokenizer has no eos_token; set one and save it")
    if vocab_size is not None and len(tokenizer) > vocab_size:
        raise InputError(
            f"--tokenizer_path {tokenizer_path}: {len(tokenizer)} tokens, but the embedding of "
            f"--model_name_or_path {model_path} has {vocab_size} rows; they do not belong together"
        )


def hash_tokenizer(tokenizer: Any) -> str:
    """A hash of what decides token ids: the vocabulary, merges, normalisers and the end-of-text token."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        # Left behind by whichever call came last; every call of ours sets its own.
        state.pop("padding", None)
        state.pop("truncation", None)
    else:
        state = tokenizer.get_vocab()
    text = json.dumps([state, tokenizer.eos_token_id], sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
