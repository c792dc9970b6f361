"""A model that answers by a function of (prompt, seed), finishing replies out of order."""

from __future__ import annotations

from collections.abc import Callable

from promptcot_mamba.sampling.backend import Generated


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
        self.identity = {"model": name}
        self.backend = ScriptedBackend(answer, stop_after)
        self.likelihood = likelihood

    def render(self, prompt):
        return prompt

    def encode(self, text):
        return None

    def score(self, pairs):
        for prompt, continuation in pairs:
            yield self.likelihood(prompt, continuation)
