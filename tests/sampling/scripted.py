"""A back end without a model: text, length and validity of a chain follow from its seed, time is counted in steps.

Run as a program it is `infer_longcot.py` on this back end, for tests that kill it.
"""

from __future__ import annotations

import heapq
import os
import random
import sys
import time
from array import array
from collections import deque

from promptcot_mamba.sampling.backend import LENGTH, LOOP, STOP, Generated, Request, SamplingSettings
from promptcot_mamba.sampling.decode import completion_text
from promptcot_mamba.sampling.loops import find_loop


def write_chain(request: Request, invalid_share: float = 0.15, mean_log: float = 4.0) -> tuple[str, str, int]:
    """Text, finish reason and token count of one request: heavy-tailed lengths, some without an answer."""
    random_numbers = random.Random(request.seed)
    length = 1 + int(random_numbers.lognormvariate(mean_log, 1.0))
    reason = STOP if length <= request.max_tokens else LENGTH
    valid = reason == STOP and random_numbers.random() >= invalid_share
    body = f"seed {request.seed} after {len(request.prompt)} characters"
    text = f"{body}\n</think>\nThe answer is \\boxed{{{request.seed % 1000}}}." if valid else body
    return text, reason, min(length, request.max_tokens)


class ScriptedBackend:
    """Up to `max_num_seqs` chains grow by one token a step; `poll` jumps to the step where the next one ends."""

    def __init__(self, max_num_seqs: int = 64, poll_seconds: float = 0.0, write=write_chain):
        self.window = 2 * max_num_seqs
        self.max_num_seqs = max_num_seqs
        self.generated_tokens = 0
        self.steps = 0
        self.submitted = 0
        self.most_in_flight = 0
        self._poll_seconds = poll_seconds
        self._write = write
        self._waiting: deque[Request] = deque()
        self._running: list[tuple[int, int, int, Request, tuple[str, str, int]]] = []  # a heap by last step

    def submit(self, request: Request) -> None:
        self._waiting.append(request)
        self.submitted += 1
        self.most_in_flight = max(self.most_in_flight, len(self._waiting) + len(self._running))

    def poll(self, timeout: float) -> list[Generated]:
        time.sleep(self._poll_seconds)
        while self._waiting and len(self._running) < self.max_num_seqs:
            request = self._waiting.popleft()
            chain = self._write(request)
            heapq.heappush(self._running, (self.steps + chain[2], self.submitted, request.unit, request, chain))
        if self._running:
            self.steps = self._running[0][0]
        finished = []
        while self._running and self._running[0][0] == self.steps:
            *_, request, (text, reason, length) = heapq.heappop(self._running)
            self.generated_tokens += length
            prompt_tokens = len(request.prompt_ids or request.prompt)
            finished.append(Generated(request.unit, text, reason, prompt_tokens, length, 0.0))
        return finished

    def drop(self, unit: int) -> None:
        self._waiting = deque(request for request in self._waiting if request.unit != unit)
        self._running = [entry for entry in self._running if entry[2] != unit]
        heapq.heapify(self._running)

    def running(self) -> int:
        return len(self._running)

    def growing(self) -> dict:
        return {}

    def close(self) -> None:
        pass


class TokenBackend:
    """Chains of token ids: each token is drawn from the request's seed, and leans on the token before it.

    `poll` adds one token to each running chain, so a chain can be watched, cut and continued at any place.
    """

    def __init__(self, tokenizer, max_num_seqs: int = 8, *, step_seconds: float = 0.0, mean_length: int = 200):
        self.window = max_num_seqs
        self.generated_tokens = 0
        self.submitted: list[Request] = []
        self._tokenizer, self._step_seconds, self._mean_length = tokenizer, step_seconds, mean_length
        self._stop = tokenizer.eos_token_id
        self._running: dict[int, tuple[Request, array, object]] = {}

    def submit(self, request: Request) -> None:
        self.submitted.append(request)
        before = [*request.prompt_ids, *request.kept][-1]
        tokens = draw_tokens(request.seed, before, self._stop, self._mean_length)
        self._running[request.unit] = (request, array("i", request.kept), tokens)

    def poll(self, timeout: float) -> list[Generated]:
        time.sleep(self._step_seconds)
        return [done for unit in list(self._running) if (done := self._step(unit)) is not None]

    def _step(self, unit: int) -> Generated | None:
        request, ids, tokens = self._running[unit]
        ids.append(next(tokens))
        if request.scores is not None:
            score = score_of(request.seed, len(ids) - len(request.kept), ids[-1])
            request.scores.add([score], [-score])
        self.generated_tokens += 1
        cut = find_loop(ids, len(ids) - 1)
        if cut is None and ids[-1] != self._stop and len(ids) - len(request.kept) < request.max_tokens:
            return None
        del self._running[unit]
        reason = LOOP if cut is not None else STOP if ids[-1] == self._stop else LENGTH
        text = completion_text(self._tokenizer, TOKEN_SAMPLING, request.prompt_ids, ids, reason)
        return Generated(unit, text, reason, len(request.prompt_ids), len(ids), 0.0, token_ids=ids)

    def drop(self, unit: int) -> None:
        del self._running[unit]

    def running(self) -> int:
        return len(self._running)

    def growing(self) -> dict:
        return {unit: ids for unit, (request, ids, _) in self._running.items() if len(ids) > len(request.kept)}

    def close(self) -> None:
        pass


TOKEN_SAMPLING = SamplingSettings(0.8, 0.95, 1.1, (2,))
FIRST_TOKEN, LAST_TOKEN = 65, 90  # of the tiny tokenizer: single characters


def score_of(seed: int, place: int, token: int) -> float:
    """A made log-probability of a request's token, exact in float16: another for another seed, place or token."""
    return -((seed + 7 * place + token) % 1024) / 64


def draw_tokens(seed: int, before: int, stop: int, mean_length: int):
    """Tokens one after another: half of the time the successor of the one before, else any; at times the end."""
    numbers = random.Random(seed)
    count = LAST_TOKEN - FIRST_TOKEN + 1
    while True:
        if numbers.random() < 1 / mean_length:
            yield stop
        follows = numbers.random() < 0.5
        before = FIRST_TOKEN + ((before + 1) % count if follows else numbers.randrange(count))
        yield before


if __name__ == "__main__":
    from infer_longcot import main
    from promptcot_mamba.cli import run_program

    pause = float(os.environ.get("SCRIPTED_POLL_SECONDS", "0"))
    run_program(lambda: main(sys.argv[1:], make_backend=lambda *_: ScriptedBackend(8, pause)))
