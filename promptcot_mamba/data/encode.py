"""Text -> token ids and labels: the loss lies on the completion and its end of text, nowhere else.

Prompt and completion are tokenised apart, so that the tokens before the first sampled one are the same in training
and in sampling (a tokeniser may merge across the boundary of the joined text). Data never becomes a control token
(`text_tokens.py`).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from promptcot_mamba.chat_format import join, opens_thought, split_completion
from promptcot_mamba.chat_markup import Part, Parts, find_rendered, whole_text
from promptcot_mamba.data.text_tokens import TextTokenizer
from promptcot_mamba.errors import InputError
from promptcot_mamba.records import IGNORE_INDEX


@dataclass(frozen=True)
class Encoded:
    """One document's tokens: `prompt + completion + eos`; the first `prompt_length` of them carry no loss."""

    ids: np.ndarray  # (l) int32
    prompt_length: int
    spells_control: bool = False  # whether its data spells control tokens, which stayed text

    @property
    def input_ids(self) -> list[int]:
        return self.ids.tolist()

    @property
    def labels(self) -> list[int]:
        """Labels aligned with `input_ids` (the model shifts them): IGNORE_INDEX on the prompt."""
        return [IGNORE_INDEX] * self.prompt_length + self.ids[self.prompt_length :].tolist()


def as_parts(prompt: str | Parts) -> Parts:
    """A prompt told apart into markup and data; text that no known chat format wrote is all data."""
    if not isinstance(prompt, str):
        return prompt
    found = find_rendered(prompt)
    return found.parts if found else (Part(prompt, placed=False),)


class Encoder:
    """Documents -> ids, by a fast tokenizer's backend; in batches, because it uses every core on one."""

    def __init__(self, backend: Any, eos_id: int):
        self.text = TextTokenizer(backend)
        self._eos_id, self._eos = eos_id, backend.id_to_token(eos_id) or ""

    def encode(self, pairs: Sequence[tuple[str | Parts, str]]) -> list[Encoded]:
        """Encode `(prompt, completion)` pairs.

        The prompt gets whatever special tokens sampling gives it (a begin-of-text token where the tokeniser adds
        one); the completion gets none, and ends in the end-of-text token once, also where its text says it.
        """
        prompts = [as_parts(prompt) for prompt, _ in pairs]
        completions = [self._take_apart(parts, text) for parts, (_, text) in zip(prompts, pairs, strict=True)]
        different = list(dict.fromkeys(prompts))
        heads = dict(
            zip(different, zip(*self.text.encode(different, add_special_tokens=True), strict=True), strict=True)
        )
        tails = zip(*self.text.encode(completions, add_special_tokens=False), strict=True)
        end = np.array([self._eos_id], dtype=np.int32)
        documents = []
        for prompt, (tail, in_tail) in zip(prompts, tails, strict=True):
            head, in_head = heads[prompt]
            documents.append(Encoded(np.concatenate([head, tail, end]), len(head), in_head or in_tail))
        return documents

    def _take_apart(self, prompt: Parts, completion: str) -> Parts:
        before, completion = join(whole_text(prompt[-1:]), completion.removesuffix(self._eos))
        return split_completion(completion, opened=opens_thought(before))


@lru_cache(maxsize=4)
def _encoder(tokenizer: Any, _size: int) -> Encoder:
    return Encoder(tokenizer.backend_tokenizer, tokenizer.eos_token_id)


def get_encoder(tokenizer: Any) -> Encoder:
    """The encoder of a transformers tokenizer. Raises InputError for one without a fast backend."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise InputError(f"{tokenizer.name_or_path}: no tokenizer.json (a slow tokenizer); convert it to a fast one")
    return _encoder(tokenizer, len(tokenizer))


def encode_examples(tokenizer: Any, pairs: Sequence[tuple[str | Parts, str]]) -> list[Encoded]:
    """Encode `(prompt, completion)` pairs; see `Encoder.encode`."""
    return get_encoder(tokenizer).encode(pairs)


def encode_prompt(tokenizer: Any, prompt: str | Parts) -> list[int]:
    """The ids that sampling starts from: those that training put before the loss."""
    return get_encoder(tokenizer).text.encode([as_parts(prompt)], add_special_tokens=True)[0][0].tolist()


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
