"""A back end without a model: text, length and validity of a chain follow from its seed, time is counted in steps.

Run as a program it is `infer_longcot.py` on this back end, for tests that kill it.
"""

from __future__ import annotations

import heapq
import os
import random
import sys
import time
from collections import deque

from promptcot_mamba.sampling.backend import LENGTH, STOP, Generated, Request


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

    def running(self) -> int:
        return len(self._running)

    def close(self) -> None:
        pass


if __name__ == "__main__":
    from infer_longcot import main
    from promptcot_mamba.cli import run_program

    pause = float(os.environ.get("SCRIPTED_POLL_SECONDS", "0"))
    run_program(lambda: main(sys.argv[1:], make_backend=lambda *_: ScriptedBackend(8, pause)))
