"""A completion's text from its token ids: one definition for every back end, and for chains that were continued."""

from collections.abc import Mapping, Sequence
from typing import Any

from promptcot_mamba.sampling.backend import STOP, SamplingSettings

BYTES_PER_TOKEN = 4  # about, of text
CONTEXT_TOKENS = 6  # of the prompt: a SentencePiece tokenizer drops the space of a text's first word


def completion_text(
    tokenizer: Any, sampling: SamplingSettings, prompt_ids: Sequence[int], ids: Sequence[int], finish_reason: str
) -> str:
    """The text that `ids` add to a prompt, without the token that ended the chain."""
    if finish_reason == STOP and len(ids) and (ids[-1] in sampling.stop_token_ids or _is_special(tokenizer, ids[-1])):
        ids = ids[:-1]

    def decode(tokens: Sequence[int]) -> str:
        return tokenizer.decode(list(tokens), skip_special_tokens=sampling.skip_special_tokens)

    context = list(prompt_ids[-CONTEXT_TOKENS:])
    before, whole = decode(context), decode([*context, *ids])
    return whole[len(before) :] if whole.startswith(before) else decode(ids)


def _is_special(tokenizer: Any, token_id: int) -> bool:
    """Whether texts are decoded without this token, named in the tokenizer's config or not."""
    named = token_id in getattr(tokenizer, "all_special_ids", ())
    return named or not tokenizer.decode([token_id], skip_special_tokens=True)


def special_tokens(tokenizer: Any) -> set[str]:
    """The tokens that a text is decoded without: those that a tokenizer has names for, and all it marks as special.

    gpt-oss names neither `<|channel|>` nor `<|call|>` in its config.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {})
    added = added.values() if isinstance(added, Mapping) else ()  # a method that raises, of Mistral's own tokenizers
    return {*getattr(tokenizer, "all_special_tokens", ()), *(str(token) for token in added if token.special)}


def count_by_bytes(text: str) -> int:
    """About how many tokens a text has, where its tokenizer is not at hand."""
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)
