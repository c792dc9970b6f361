"""A model that answers by a function of (prompt, seed), finishing replies out of order; and what it says."""

from __future__ import annotations

import re
from collections.abc import Callable

from promptcot_mamba.sampling.backend import Generated
from promptcot_mamba.synthesis.templates import mark_up

SETTINGS = {
    "concepts": {"model": "m", "k": 2},
    "rationales": {"model": "m", "candidates": 3, "min_words": 2},
    "choose_rationales": {"model": "m"},
    "generator_data": {},
    "concept_sampling": {"count": 8, "size": 2, "levels": ["easy", "hard"]},
    "problems": {"model": "m", "candidates": 2},
    "judge": {"models": ["a", "b"]},
    "filter": {"allow_no_benchmarks": True, "near_duplicates": 0.99},
    "teacher_problems": {},
}


def answer(prompt: str, seed: int) -> str:
    """What the script says to each prompt; a few replies are unusable, by their seed."""
    if prompt.startswith("Here is a problem"):
        number = int(re.search(r"number (\d+)", prompt)[1])
        return "no list today" if seed % 5 == 0 else f"1. concept {number % 4}\n2. Concepts {number % 3 + 4}"
    if prompt.startswith("An experienced author"):
        return f"first {seed} then more"
    if prompt.startswith("Write a new problem"):
        return "nothing" if seed % 7 == 0 else mark_up(f"because {seed}", f"Find {seed} words of number {seed}.")
    if prompt.startswith("You are a strict reviewer"):
        return ["Final Judgement: perfect", "perfect!", "Final Judgement: imperfect", "bad"][seed % 7 % 4]
    if prompt.startswith("Here is a programming problem"):
        return "\n".join(f"```\n{seed % 50 + i}\n```" for i in range(2))
    if prompt.startswith("<|im_start|>user"):  # the teacher: three of four chains agree
        found = len(prompt) if seed % 4 else seed
        return f"About {seed}.\n</think>\nIt is \\boxed{{{found}}}."
    raise AssertionError(prompt)


def likelihood(prompt: str, continuation: str) -> float:
    return -float(int(re.search(r"first (\d+)", continuation)[1]) % 1000)


class ScriptedBackend:
    """Finishes the newest request first, a few a poll, so that completion order is never task order."""

    window = 5

    def __init__(self, answer: Callable[[str, int], str], stop_after: int | None = None):
        self.answer, self.stop_after = answer, stop_after
        self.flying, self.generated_tokens, self.asked = [], 0, []

    def submit(self, request):
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise ConnectionError("the model is gone")
        self.asked.append(request)
        self.flying.append(request)

    def poll(self, timeout):
        done, self.flying = self.flying[-2:][::-1], self.flying[:-2]
        return [self._finish(request) for request in done]

    def _finish(self, request):
        text = self.answer(request.prompt, request.seed)
        reason = "length" if len(text) > request.max_tokens else "stop"
        return Generated(request.unit, text[: request.max_tokens], reason, 1, len(text), 0.0)

    def running(self):
        return len(self.flying)

    def close(self):
        self.flying.clear()


class ScriptedModel:
    """A Model over a ScriptedBackend; `likelihood` scores (prompt, continuation)."""

    def __init__(self, answer, likelihood=None, stop_after=None, name="scripted"):
        self.identity, self.context = {"model": name}, None
        self.backend = ScriptedBackend(answer, stop_after)
        self.likelihood = likelihood

    def render(self, prompt):
        return prompt

    def encode(self, text):
        return None

    def score(self, pairs):
        for prompt, continuation in pairs:
            yield self.likelihood(prompt, continuation)
