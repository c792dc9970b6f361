"""Keep a back end busy until every sample of a ledger is settled.

Everything is submitted at once, through a bounded window: a slow chain delays nobody, and an invalid attempt is
retried at once instead of in a second wave.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from promptcot_mamba.chat_format import is_format_valid, with_open_thought
from promptcot_mamba.log import get_logger
from promptcot_mamba.records import Sample, derive_seed
from promptcot_mamba.sampling.backend import LENGTH, Backend, Generated, Request
from promptcot_mamba.sampling.ledger import Ledger
from promptcot_mamba.sampling.prompts import PromptBook

logger = get_logger(__name__)

POLL_SECONDS = 0.5  # the longest a signal, a sync or the progress line waits


class Scheduler:
    """Feeds a back end the ledger's missing samples and writes what it returns."""

    def __init__(
        self,
        ledger: Ledger,
        backend: Backend,
        prompts: PromptBook,
        *,
        base_seed: int,
        max_len: int,
        context: int,
        tick: Callable[[], None] = lambda: None,
        should_stop: Callable[[], bool] = lambda: False,
    ):
        self.ledger = ledger
        self.backend = backend
        self.prompts = prompts
        self.base_seed = base_seed
        self.max_len = max_len
        self.context = context
        self.in_flight: dict[int, Request] = {}
        self.too_long: set[str] = set()  # ids of problems whose prompt leaves no room
        self._retries: deque[tuple[int, int]] = deque()
        self._tick = tick
        self._should_stop = should_stop

    def run(self) -> bool:
        """Sample until nothing is missing (True) or `should_stop` says so (False)."""
        todo = self._todo()
        while not self._should_stop():
            self._fill(todo)
            if not self.in_flight:
                return True
            for generated in self.backend.poll(POLL_SECONDS):
                self._settle(self.in_flight.pop(generated.unit), generated)
            self.ledger.sync_if_due()
            self._tick()
        return False

    def _todo(self) -> Iterator[tuple[int, int]]:
        """Missing `(unit, attempt)`, retries of this run first; it ends only when it is asked with nothing left."""
        missing = self.ledger.missing()
        while True:
            if self._retries:
                yield self._retries.popleft()
            elif (item := next(missing, None)) is not None:
                yield item
            else:
                yield None

    def _fill(self, todo: Iterator[tuple[int, int]]) -> None:
        while len(self.in_flight) < self.backend.window and (item := next(todo)) is not None:
            request = self._request(*item)
            if request.max_tokens < 1:
                self._report_too_long(request)
                self._settle(request, _too_long(request))
            else:
                self.in_flight[request.unit] = request
                self.backend.submit(request)

    def _request(self, unit: int, attempt: int) -> Request:
        run, index = divmod(unit, len(self.ledger.problems))
        prompt, prompt_ids = self.prompts.get(index)
        room = self.context - len(prompt_ids) if prompt_ids is not None else self.max_len
        seed = derive_seed(self.base_seed, self.ledger.problems[index].id, run, attempt)
        return Request(unit, attempt, seed, prompt, prompt_ids, min(self.max_len, room))

    def _report_too_long(self, request: Request) -> None:
        identity = self.ledger.problems[request.unit % len(self.ledger.problems)].id
        if identity not in self.too_long:
            self.too_long.add(identity)
            tokens = len(request.prompt_ids)
            logger.warning("problem %s: its prompt of %d tokens exceeds the context; not sampled", identity, tokens)

    def _settle(self, request: Request, generated: Generated) -> None:
        run, index = divmod(request.unit, len(self.ledger.problems))
        completion = with_open_thought(request.prompt, generated.text)
        sample = Sample(
            problem_id=self.ledger.problems[index].id,
            run=run,
            attempt=request.attempt,
            seed=request.seed,
            completion=completion,
            finish_reason=generated.finish_reason,
            prompt_tokens=generated.prompt_tokens,
            completion_tokens=generated.completion_tokens,
            seconds=round(generated.seconds, 3),
            format_valid=is_format_valid(completion),
        )
        if not self.ledger.append(request.unit, sample):
            self._retries.append((request.unit, request.attempt + 1))


def _too_long(request: Request) -> Generated:
    """The answer to a prompt that leaves no room: an empty, truncated completion, so that no row is missing."""
    return Generated(request.unit, "", LENGTH, len(request.prompt_ids), 0, 0.0)
