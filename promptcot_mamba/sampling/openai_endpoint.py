"""Any number of OpenAI-compatible servers as one back end: bounded, timed, backed off, replaceable by each other.

A request lives on one server at a time. What goes wrong is told apart by what mends it (`endpoint_errors`): a server
that breaks loses its requests to the others and is looked at again after pauses that double; a busy one (429) makes
this request wait, as long as it asks; one that answers badly is asked again a few times; a refusal is an answer.
Nothing is lost, and since a request's text follows from its seed alone it does not matter which server answers.
"""

import asyncio
import contextlib
import time
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, cast

from promptcot_mamba.errors import InputError
from promptcot_mamba.log import log_once, logger
from promptcot_mamba.sampling import endpoint_pool
from promptcot_mamba.sampling.backend import (
    CUT,
    FAILED,
    LENGTH,
    REFUSED,
    BackendFailedError,
    Generated,
    Request,
    SamplingSettings,
)
from promptcot_mamba.sampling.endpoint_answers import Answer
from promptcot_mamba.sampling.endpoint_checks import check_of, is_in_doubt, orphans
from promptcot_mamba.sampling.endpoint_errors import (
    BadAnswerError,
    BusyError,
    DeniedError,
    PromptTooLongError,
    RefusedError,
    RejectedError,
)
from promptcot_mamba.sampling.endpoint_pool import TROUBLE, Endpoint, EndpointPool, EndpointSettings, words_of
from promptcot_mamba.sampling.endpoint_protocol import Held, Pending
from promptcot_mamba.sampling.endpoint_request import Asker, said_so_far
from promptcot_mamba.sampling.endpoint_troubles import MOST_BAD_ANSWERS, MOST_TIMEOUTS, Troubles
from promptcot_mamba.sampling.vllm_server import VllmServer

POLL_SECONDS = 0.5
BAD_ANSWERS_IN_A_ROW = 3  # of one server: then it is the server
QUIET_SECONDS = 60.0  # between two lines about one server's being busy


class OpenAIEndpoints:
    """The `Backend` that asks servers over HTTP. Its event loop turns only inside `poll`.

    Raises InputError if no server can be reached or one serves another model, BackendFailedError if all stay away.
    """

    def __init__(
        self,
        settings: EndpointSettings,
        sampling: SamplingSettings,
        tokenizer: Any = None,
        server: VllmServer | None = None,
    ):
        self.settings = settings
        self.sampling = sampling
        self.window = settings.concurrency * len(settings.base_urls)
        self.moved = 0  # times a request was taken back from a server
        self._server = server  # where the server is our own child: ours to watch and to stop
        self._waiting: deque[Pending] = deque()
        self._running: dict[asyncio.Task, Pending] = {}
        self._pending: dict[int, Pending] = {}  # by unit: all that are not answered
        self._troubles: dict[int, Troubles] = {}  # by unit: of chains that were handed back, until they come again
        self._sleeping = 0  # requests that wait for their time
        self._finished: deque[Generated] = deque()
        self._finished_tokens = 0
        self._fatal: BaseException | None = None
        self._last_sign = time.monotonic()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _, context: self._on_fatal(context.get("exception")))
        self._wake = asyncio.Event()
        self._pool = EndpointPool(settings, self._on_sign, self._on_fatal)
        if settings.token_ids and settings.one_piece:
            names = ", ".join(settings.one_piece)
            logger.info("--extra_body: %s: chains are made in one piece; interrupted ones are drawn anew", names)
        self._asker = Asker(self._pool, settings, sampling, tokenizer)
        self.endpoints = self._pool.endpoints
        try:
            self._loop.run_until_complete(self._pool.open())
        except InputError:
            self.close()
            raise

    # -- the back end's side: synchronous -----------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        now, troubles = time.monotonic(), self._troubles.pop(request.unit, None) or Troubles()
        pending = Pending(request, now, array("i", request.kept), troubles)
        self._pending[request.unit] = pending
        if troubles.resume_at > now:
            self._sleep(pending, troubles.resume_at - now)
        else:
            self._waiting.append(pending)

    def poll(self, timeout: float) -> list[Generated]:
        if self._server is not None:
            self._server.watch()
        self._loop.run_until_complete(self._advance(timeout))
        if self._fatal is not None and not self._finished and not self._drains:
            raise self._fatal
        finished = list(self._finished)
        self._finished.clear()
        return finished

    @property
    def _drains(self) -> bool:
        """Whether what ends the run (a spent account) leaves requests under way, which may be paid for."""
        return isinstance(self._fatal, InputError) and self.running() > 0

    def log_likelihoods(self, sequences: Iterable[tuple[list[int], int]]) -> Iterator[float]:
        """log p(ids[start:] | ids[:start]) in nats for each (ids, start), in order, as `VllmEngine` gives them."""
        waiting, done = enumerate(sequences), {}
        flying = following = 0
        while True:
            for unit, (ids, start) in islice(waiting, self.window - flying):
                self.submit(Request(unit, 0, 0, "", ids, 1, score_from=start))
                flying += 1
            if not flying:
                return
            for each in self.poll(POLL_SECONDS):
                if each.finish_reason in (FAILED, REFUSED):
                    raise BackendFailedError(f"a sequence could not be scored: {each.note}")
                done[each.unit] = each.log_likelihood
                flying -= 1
            while following in done:
                yield cast(float, done.pop(following))  # whatever was scored has one
                following += 1

    @property
    def generated_tokens(self) -> int:
        return self._finished_tokens + sum(pending.fresh for pending in self._wanted())

    def running(self) -> int:
        return sum(1 for _ in self._wanted())

    def growing(self) -> Mapping[int, Sequence[int]]:
        """None where a chain cannot go on from its tokens: they are not worth saving."""
        return {each.request.unit: each.ids for each in self._wanted() if each.goes_on}

    def _wanted(self) -> Iterator[Pending]:
        """Those on a server, without the dropped ones, whose connections the loop closes when it turns next."""
        return (each for each in self._running.values() if not (each.dropped or each.is_check))

    def drop(self, unit: int) -> None:
        self._troubles.pop(unit, None)
        pending = self._pending.pop(unit, None)
        if pending is not None:
            pending.dropped = True
            self._finished_tokens += pending.fresh
            for task, each in self._running.items():
                if each is pending:
                    task.cancel()

    def close(self) -> None:
        if not self._loop.is_closed():
            self._loop.run_until_complete(self._pool.close())
            self._loop.close()
        if self._server is not None:
            self._server.stop()

    # -- the event loop's side ----------------------------------------------------------------------------------

    async def _advance(self, timeout: float) -> None:
        """Dispatch what waits, then sleep until something ends or `timeout` seconds are over."""
        self._wake.clear()
        for orphan in orphans(self.endpoints):
            self._take_back(orphan)
        while self._fatal is None and self._waiting:
            endpoint = self._pool.free(avoid=self._waiting[0].troubles.slow_on)
            if endpoint is None:
                break
            pending = self._waiting.popleft()
            if not pending.dropped:
                self._send(endpoint, pending)
        for endpoint in self.endpoints:
            if self._fatal is None and is_in_doubt(endpoint, [self._running[task] for task in endpoint.tasks]):
                self._send(endpoint, check_of(endpoint, self._asker.tokenizer))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), timeout)
        self._check_patience()

    def _send(self, endpoint: Endpoint, pending: Pending) -> None:
        pending.sent = time.monotonic()
        task = self._loop.create_task(self._asker.ask(endpoint, pending))
        self._running[task] = pending
        endpoint.tasks.add(task)
        task.add_done_callback(partial(self._on_done, endpoint, pending))

    def _check_patience(self) -> None:
        if self._running or self._finished or self._fatal:
            return
        away = time.monotonic() - self._last_sign
        is_missing = self._waiting or self._sleeping or any(endpoint.held for endpoint in self.endpoints)
        if is_missing and away > self.settings.patience_seconds:
            said = f" (the last: {self._pool.said})" if self._pool.said else ""
            self._fatal = BackendFailedError(f"no server has answered for {away:.0f} s{said}")

    def _on_done(self, endpoint: Endpoint, pending: Pending, task: asyncio.Task) -> None:
        """One request left its server: with an answer, or with what went wrong."""
        endpoint.tasks.discard(task)
        del self._running[task]
        self._wake.set()
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if pending.dropped:
            return
        if error is None:
            self._answered(endpoint, pending, *task.result())
        elif pending.is_check:
            self._check_failed(endpoint, pending, error)
        else:
            self._went_wrong(endpoint, pending, error)

    def _answered(self, endpoint: Endpoint, pending: Pending, answer: Answer, score: float | None) -> None:
        endpoint.failures = endpoint.bad_answers = 0
        endpoint.served += 1
        endpoint.answered = pending.request
        self._last_sign = time.monotonic()
        self._settle_held(endpoint, pending.sent)
        if pending.is_check:
            return
        asked = pending.request.scores
        if asked is not None and answer.completion_tokens and len(asked) == len(pending.request.kept):
            log_once(f"--save_logprobs: {endpoint.url} tells no log-probabilities")
        self._finish(pending, answer, score)

    def _finish(self, pending: Pending, answer: Answer, score: float | None = None) -> None:
        request = pending.request
        if pending.dropped:
            return
        self._pending.pop(request.unit, None)
        if answer.finish_reason == CUT:
            self._troubles[request.unit] = pending.troubles
        generated = self._asker.whole(pending, answer, score)
        self._finished_tokens += generated.completion_tokens - len(request.kept)
        self._finished.append(generated)

    # -- what went wrong ----------------------------------------------------------------------------------------

    def _went_wrong(self, endpoint: Endpoint, pending: Pending, error: BaseException) -> None:
        """Settle, requeue or give up one request by the kind of its trouble."""
        words = words_of(error)
        if isinstance(error, RejectedError):
            self._hold(endpoint, pending, error)
        elif isinstance(error, PromptTooLongError):
            self._ask_for_less(endpoint, pending, error)
        elif isinstance(error, RefusedError):
            self._refuse(pending, words)
        elif isinstance(error, BusyError):
            self._come_again(endpoint, pending, error)
        elif isinstance(error, BadAnswerError):
            self._answered_badly(endpoint, pending, words, error.retry_after or 0.0)
        elif type(error) is asyncio.TimeoutError:  # the whole request's; those of a connection are of another type
            self._timed_out(endpoint, pending)
        elif isinstance(error, DeniedError) and endpoint.served and pending.troubles.bad_answers < MOST_BAD_ANSWERS:
            pending.troubles.bad_answers += 1
            self._pool.back_off(endpoint, words)
            self._take_back(pending)
        elif isinstance(error, TROUBLE):
            self._pool.back_off(endpoint, words, getattr(error, "retry_after", None) or 0.0)
            self._broke(pending, words)
        elif isinstance(error, asyncio.CancelledError):
            self._take_back(pending)
        else:
            self._on_fatal(error)

    def _broke(self, pending: Pending, words: str) -> None:
        """Its server broke. A second time it goes behind all others, whose servers it may break; where that happens for
        longer than all may be away, it is given up."""
        troubles = pending.troubles
        troubles.meet(len(pending.ids), self._served())
        lasted = troubles.broke(pending.sent, time.monotonic())
        if lasted < self.settings.patience_seconds:
            self._take_back(pending, 0.0 if troubles.breaks == 1 else endpoint_pool.FIRST_PAUSE)
        else:
            self._give_up(pending, f"a request was broken off for {lasted:.0f} s: {words}")

    def _timed_out(self, endpoint: Endpoint, pending: Pending) -> None:
        """Too long for one request: it has one more try, elsewhere if it can, and a chain that goes on from what it has
        said has another."""
        pending.troubles.slow_on = endpoint.url
        pending.troubles.meet(len(pending.request.kept), self._served())
        pending.troubles.timeouts += 1
        if pending.troubles.timeouts < MOST_TIMEOUTS:
            self._take_back(pending)
        else:
            limit = self.settings.request_seconds
            self._give_up(pending, f"a request took over {limit:.0f} s twice; raise --request_timeout")

    def _take_back(self, pending: Pending, pause: float = 0.0) -> None:
        """Back to the head of the queue; or, with what it has said, to whoever submitted it."""
        self.moved += 1
        request = pending.request
        if pending.goes_on:
            pending.troubles.resume_at = time.monotonic() + pause
            self._finish(pending, said_so_far(pending, CUT))
            return
        pending.ids = array("i", request.kept)
        if request.scores is not None:
            request.scores.fit(len(request.kept))
        if pause:
            self._sleep(pending, pause)
        else:
            self._waiting.appendleft(pending)

    def _sleep(self, pending: Pending, pause: float) -> None:
        self._sleeping += 1
        self._loop.call_later(pause, self._wake_up, pending)

    def _wake_up(self, pending: Pending) -> None:
        self._sleeping -= 1
        self._waiting.append(pending)
        self._wake.set()

    def _come_again(self, endpoint: Endpoint, pending: Pending, error: BusyError) -> None:
        """Have one request wait as long as the server asks, or ever longer; spread, so that not all come at once."""
        asked = error.retry_after
        if asked is not None and asked > self.settings.patience_seconds:
            self._pool.back_off(endpoint, str(error), asked)
            self._take_back(pending)
            return
        pending.troubles.meet(len(pending.ids), self._served())
        pause = endpoint_pool.spread_pause(asked, pending.troubles.pauses, pending.request.unit % 16 / 16)
        pending.troubles.pauses += 1
        self._say_busy(endpoint, str(error), pause)
        self._take_back(pending, pause)

    def _say_busy(self, endpoint: Endpoint, words: str, pause: float) -> None:
        now, self._pool.said = time.monotonic(), words
        if now >= endpoint.quiet_until:
            endpoint.quiet_until = now + QUIET_SECONDS
            logger.warning("%s: %s; this request is sent again in %.1f s, others go on", endpoint.url, words, pause)

    def _answered_badly(self, endpoint: Endpoint, pending: Pending, words: str, at_least: float) -> None:
        troubles = pending.troubles
        troubles.meet(len(pending.ids), self._served())
        troubles.bad_answers += 1
        endpoint.bad_answers += 1
        if endpoint.bad_answers >= BAD_ANSWERS_IN_A_ROW:
            self._pool.back_off(endpoint, words, at_least)
        if troubles.bad_answers < MOST_BAD_ANSWERS:
            pause = max(at_least, endpoint_pool.growing_pause(troubles.bad_answers - 1))
            self._say_busy(endpoint, words, pause)
            self._take_back(pending, pause)
        else:
            self._give_up(pending, f"one request was answered badly {MOST_BAD_ANSWERS} times: {words}")

    def _served(self) -> int:
        """Answers of all servers so far."""
        return sum(each.served for each in self.endpoints)

    def _give_up(self, pending: Pending, words: str) -> None:
        """Hand a request back unanswered where others are answered meanwhile; else nothing works, and the run ends."""
        if not self.settings.gives_up or self._served() == pending.troubles.served_before:
            self._on_fatal(BackendFailedError(words))
            return
        logger.warning("%s; its sample is left for a rerun", words)
        ids = pending.ids if pending.keeps_ids else None  # what a rerun may go on from
        self._finish(pending, Answer("", FAILED, None, pending.fresh, ids, note=words))

    def _refuse(self, pending: Pending, words: str) -> None:
        self._last_sign = time.monotonic()
        self._finish(pending, said_so_far(pending, REFUSED, words))

    def _ask_for_less(self, endpoint: Endpoint, pending: Pending, error: PromptTooLongError) -> None:
        """Have a chain end where the server's room does; what is too long by itself ends with what it has said."""
        self._last_sign = time.monotonic()
        if less := error.less_than(pending.request.max_tokens):
            log_once(f"{endpoint.url}: chains end at {error.limit}, not at --max_len")
            pending.request = replace(pending.request, max_tokens=less)
            self._take_back(pending)
        elif error.is_prompts_own:
            self._end_there(endpoint, pending, error)
        else:  # what is asked for beside it may be too much, in words that nobody here knows
            self._hold(endpoint, pending, error)

    def _end_there(self, endpoint: Endpoint, pending: Pending, error: PromptTooLongError) -> None:
        if pending.ids:
            what = f"a chain of {len(pending.ids):,} tokens leaves its context no room ({error}); ended there"
        else:
            what = f"a prompt of {len(pending.request.prompt)} characters is too long ({error}); not sampled"
        log_once(f"{endpoint.url}: {what}")  # of each of a problem's samples
        self._finish(pending, said_so_far(pending, LENGTH))

    # -- whose fault it is that a request is not taken: see `endpoint_checks` ------------------------------------

    def _hold(self, endpoint: Endpoint, pending: Pending, error: RejectedError | PromptTooLongError) -> None:
        self._last_sign = time.monotonic()
        endpoint.held.append(Held(pending, error, self._last_sign))
        self._wake.set()

    def _settle_held(self, endpoint: Endpoint, sent: float) -> None:
        """A server has answered what was sent to it at this time: what it would not take before is wrong by itself."""
        held, endpoint.held = endpoint.held, [each for each in endpoint.held if each.since > sent]
        for each in held[: len(held) - len(endpoint.held)]:  # in order of time
            if isinstance(each.error, PromptTooLongError):
                self._end_there(endpoint, each.pending, each.error)
            elif not each.error.is_policy and not each.pending.troubles.was_held:  # a body may break on its way
                each.pending.troubles.was_held = True
                self._take_back(each.pending)
            else:
                self._refuse(each.pending, words_of(each.error))

    def _check_failed(self, endpoint: Endpoint, check: Pending, error: BaseException) -> None:
        fits_less = isinstance(error, PromptTooLongError) and error.less_than(check.request.max_tokens)
        if isinstance(error, RefusedError) or fits_less:  # it is read, and so are others
            self._settle_held(endpoint, check.sent)
            return
        held, endpoint.held = endpoint.held, []
        for each in held:
            if isinstance(error, RejectedError | PromptTooLongError):
                self._leave_to_others(endpoint, each.pending, words_of(each.error))
            else:
                self._went_wrong(endpoint, each.pending, error)

    def _leave_to_others(self, endpoint: Endpoint, pending: Pending, words: str) -> None:
        """This server takes no request; one that may be unlike it has this one, or the run ends."""
        rejected_by = pending.troubles.rejected_by
        rejected_by.add(endpoint.url)
        others = [each for each in self.endpoints if each.url not in rejected_by]
        if not others:
            self._on_fatal(InputError(f"--base_url {endpoint.url}: refused a request ({words})"))
            return
        self._pool.back_off(endpoint, words)
        if all(each.away for each in others):
            self._broke(pending, words)
        else:
            self._take_back(pending)

    def _on_sign(self) -> None:
        self._last_sign = time.monotonic()
        self._wake.set()

    def _on_fatal(self, error: BaseException | None) -> None:
        if self._fatal is None:
            self._fatal = error
            if self._drains:
                logger.warning("%s; nothing more is asked, and %d answers are waited for", error, self.running())
        self._wake.set()
