"""One chain, token by token, on our own model: for a person who watches it grow."""

from collections.abc import Iterator
from typing import Any, cast

import torch
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

UNFINISHED = "\ufffd"  # what bytes of a character whose last ones are still to come decode to


def make_warpers(temperature: float, top_p: float, repetition_penalty: float) -> LogitsProcessorList:
    """Penalty, temperature and nucleus in vLLM's order; greedy decoding takes the penalty alone."""
    warpers = LogitsProcessorList()
    if repetition_penalty != 1.0:
        warpers.append(RepetitionPenaltyLogitsProcessor(repetition_penalty))
    if temperature > 0:
        warpers.append(TemperatureLogitsWarper(temperature))
        if top_p < 1.0:
            warpers.append(TopPLogitsWarper(top_p))
    return warpers


class TokenStream:
    """Draws a chain's tokens one at a time; `state_bytes` is what the model remembers of everything before."""

    def __init__(self, model: Any, *, temperature: float, top_p: float, repetition_penalty: float, seed: int):
        self.model = model
        self.cache: Any = None
        self._warpers = make_warpers(temperature, top_p, repetition_penalty)
        self._greedy = temperature == 0
        self._generator = torch.Generator(model.device).manual_seed(seed)

    @torch.no_grad()
    def __call__(self, prompt_ids: list[int], stop_id: int, max_tokens: int) -> Iterator[int]:
        """Yield up to `max_tokens` ids after the prompt; the stop token itself is not yielded."""
        seen = torch.tensor([prompt_ids], device=self.model.device)
        fresh = seen
        self.cache = None
        for _ in range(max_tokens):
            logits = self._forward(fresh)
            scores = self._warpers(cast(torch.LongTensor, seen), cast(torch.FloatTensor, logits))  # (1, v)
            if self._greedy:
                fresh = scores.argmax(-1, keepdim=True)
            else:
                fresh = torch.multinomial(scores.softmax(-1), 1, generator=self._generator)
            if fresh.item() == stop_id:
                return
            yield int(fresh.item())
            seen = torch.cat([seen, fresh], dim=1)

    def _forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Read ids (1, l) on top of the cache; the last position's logits (1, v) in fp32."""
        name = "cache_params" if self.model.config.model_type == "mamba2" else "past_key_values"
        outputs = self.model(ids, use_cache=True, logits_to_keep=1, **{name: self.cache})
        self.cache = getattr(outputs, name)
        return outputs.logits[:, -1].float()

    def state_bytes(self) -> int:
        """Bytes of everything the cache holds: constant for Mamba-2, growing with the text for attention."""
        return sum(_tensor_bytes(vars(layer)) for layer in getattr(self.cache, "layers", ()))


def _tensor_bytes(value: Any) -> int:
    """Bytes of all tensors in a value; caches keep theirs in attributes, lists or dicts."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(map(_tensor_bytes, value.values()))
    return sum(map(_tensor_bytes, value)) if isinstance(value, (list, tuple)) else 0


class TextStream:
    """Token ids in, whole characters out."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown = ""

    def add(self, token_id: int) -> str:
        """The text this token completes: none while it ends within a character."""
        self._ids.append(token_id)
        text = self._tokenizer.decode(self._ids)
        if text.endswith(UNFINISHED) and len(self._ids) < 16:
            return ""
        fresh = text[len(self._shown) :]
        self._shown = text
        if text.endswith("\n"):  # a line is over: decoding begins anew, so a token costs the same all along
            self._ids, self._shown = [], ""
        return fresh
