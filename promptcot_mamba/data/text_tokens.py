"""Text is text: data never becomes a control token, whatever it spells; only placed markup does.

A document is parts `(text, placed)`: what `chat_format` placed, and data between. Nearly every document is tokenised by
the tokenizer as it is. Where the ids hold more control tokens than the markup placed, the data spelled one (as HTML's
`</s>`), and the document is tokenised again by a derived tokenizer that cannot make them of data: its added control
tokens are gone, their pieces of the vocabulary renamed, the merges into them dropped, and the placed ones stand in
as noncharacters. That one is the definition; where nothing is spelled the two agree (tested).

`split_special_tokens=True` of transformers is not enough: it also takes away the placed tokens, leaves added tokens
without the `special` flag (`<tool_call>`, DeepSeek's `<|User|>`), and a model whose own vocabulary holds `</s>` can
still compose it from pieces.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from promptcot_mamba.chat_markup import Parts, whole_text

NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
# Added tokens that are plain text to a model: runs of spaces, HTML tags (Gemma's).
_PLAIN = re.compile(r"\s*|[\u2581\u0120\u010a\s]*|</?(?!think|s>)[a-z][a-z0-9]*>")


def control_tokens(backend: Any) -> dict[str, int]:
    """Content -> id of the tokens that steer a model: special ones, and added ones that are no plain text."""
    return {
        token.content: number
        for number, token in backend.get_added_tokens_decoder().items()
        if token.content and (token.special or not _PLAIN.fullmatch(token.content))
    }


def _alternation(contents: Sequence[str]) -> re.Pattern[str] | None:
    """Matches any of them, the longest where several begin."""
    if not contents:
        return None
    return re.compile("|".join(map(re.escape, sorted(contents, key=len, reverse=True))))


def _rename(model: dict[str, Any], names: dict[str, str]) -> None:
    """Give pieces of a tokenizer model's vocabulary other names, under which no text finds them."""
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {names.get(piece, piece): number for piece, number in vocab.items()}
    else:  # Unigram: (piece, score) by position
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocab]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [pair for pair in pairs if not ({"".join(pair), *pair} & names.keys())]


class TextTokenizer:
    """A fast tokenizer's backend, as `encode` of documents in parts. Not thread-safe; make one in each process."""

    def __init__(self, backend: Any):
        from tokenizers import Tokenizer

        state = json.loads(backend.to_str())
        state["padding"] = state["truncation"] = None
        self._state = json.dumps(state)  # as text: a large vocabulary's lists and dicts weigh a hundred megabytes
        self._plain = Tokenizer.from_str(self._state)
        self.control = control_tokens(self._plain)
        self._spelled = _alternation(list(self.control))
        self._is_control = np.zeros(max(self._plain.get_vocab(with_added_tokens=True).values(), default=0) + 1, bool)
        self._is_control[list(self.control.values())] = True
        self._derived: dict[str, tuple[Any, dict[str, str], dict[int, int]]] = {}
        begun = self._plain.encode("").ids
        self._starting = int(np.count_nonzero(self._is_control[begun])) if begun else 0  # what every prompt gets

    def spells(self, parts: Parts) -> bool:
        """Whether the data of a document spells a control token."""
        return self._spelled is not None and any(not p.placed and self._spelled.search(p.text) for p in parts)

    def encode(self, documents: Sequence[Parts], *, add_special_tokens: bool) -> tuple[list[np.ndarray], list[bool]]:
        """(l) int32 ids of each document, and whether its data spells control tokens.

        `add_special_tokens` asks for what the tokenizer begins a text with.
        """
        texts = [whole_text(parts) for parts in documents]
        encodings = self._plain.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
        ids = [np.asarray(encoding.ids, dtype=np.int32) for encoding in encodings]
        base = self._starting if add_special_tokens else 0
        spelled = [False] * len(ids)
        for number, parts in enumerate(documents):
            if np.count_nonzero(self._is_control[ids[number]]) != base + self._count_placed(parts):
                ids[number] = self.encode_as_text(parts, add_special_tokens=add_special_tokens)
                spelled[number] = self.spells(parts)  # else it holds characters that the tokenizer does not know
        return ids, spelled

    def encode_as_text(self, parts: Parts, *, add_special_tokens: bool) -> np.ndarray:
        """The definition: ids by the derived tokenizer."""
        mark = next((mark for mark in NONCHARACTERS if not any(mark in part.text for part in parts)), None)
        if mark is None:
            raise ValueError("text holds every noncharacter of U+FDD0 to U+FDEF")
        derived, names, back = self._derive(mark)
        text = "".join(
            self._spelled.sub(lambda match: names[match.group()], part.text)
            if part.placed and self._spelled is not None
            else part.text
            for part in parts
        )
        ids = derived.encode(text, add_special_tokens=add_special_tokens).ids
        return np.asarray([back.get(number, number) for number in ids], dtype=np.int32)

    def _count_placed(self, parts: Parts) -> int:
        if self._spelled is None:
            return 0
        return sum(len(self._spelled.findall(part.text)) for part in parts if part.placed)

    def _derive(self, mark: str) -> tuple[Any, dict[str, str], dict[int, int]]:
        """`(tokenizer, content -> its stand-in, stand-in's id -> id)`; `mark` begins every stand-in."""
        if mark not in self._derived:
            from tokenizers import AddedToken, Tokenizer

            names = {content: f"{mark}{number};" for number, content in enumerate(self.control)}
            state = json.loads(self._state)
            added = {token["content"]: token for token in state["added_tokens"]}
            state["added_tokens"] = [token for content, token in added.items() if content not in names]
            _rename(state["model"], {content: f"{mark}was{name[1:]}" for content, name in names.items()})
            derived = Tokenizer.from_str(json.dumps(state))
            tokens = [
                AddedToken(
                    name, normalized=False, special=False,
                    lstrip=added[content]["lstrip"], rstrip=added[content]["rstrip"],
                    single_word=added[content]["single_word"],
                )
                for content, name in names.items()
            ]  # fmt: skip
            derived.add_tokens(tokens)
            back = {cast(int, derived.token_to_id(name)): self.control[content] for content, name in names.items()}
            self._derived[mark] = derived, names, back
        return self._derived[mark]
