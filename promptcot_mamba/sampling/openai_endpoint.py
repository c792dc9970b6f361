"""Any number of OpenAI-compatible servers as one back end: bounded, timed, backed off, replaceable by each other.

A request lives on one server at a time. If that server breaks the connection, answers 5xx or stops answering
`/models`, its requests go back to the head of the queue and the next free server takes them; the broken one is looked
at again after pauses that double, and used again once it answers. Nothing is lost, and since a request's text follows
from its seed alone it does not matter which server answers.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import aiohttp

from promptcot_mamba.errors import InputError
from promptcot_mamba.log import get_logger
from promptcot_mamba.sampling.backend import LENGTH, BackendFailedError, Generated, Request, SamplingSettings
from promptcot_mamba.sampling.endpoint_protocol import (
    Answer,
    BadAnswerError,
    PromptTooLongError,
    ServerTroubleError,
    check_status,
    find_model,
    normal_url,
    payload,
    read_completion,
    read_score,
    read_stream,
    score_payload,
)
from promptcot_mamba.sampling.vllm_server import VllmServer

logger = get_logger(__name__)

CONNECT_SECONDS = 10.0
POLL_SECONDS = 0.5
PROBE_SECONDS = 15.0  # between two looks at a server that holds requests
MISSED_PROBES = 3  # in a row until its requests are taken away
FIRST_PAUSE = 0.5  # after a failure; doubles with each further one
LONGEST_PAUSE = 60.0
MOST_BAD_ANSWERS = 8  # to one request, whichever servers gave them
MOST_TIMEOUTS = 2  # of one request
_TROUBLE = (ServerTroubleError, aiohttp.ClientError, asyncio.TimeoutError, ConnectionError, json.JSONDecodeError)


@dataclass(frozen=True)
class EndpointSettings:
    """Where to ask, and how patiently."""

    base_urls: Sequence[str]
    model: str  # the name or path the servers must serve
    context: int
    concurrency: int = 256  # requests at once on one server
    request_seconds: float = 7200.0  # the longest one chain may take
    patience_seconds: float = 600.0  # how long all servers may be away
    api_key: str | None = None
    chat: bool = False  # ask for chat completions: the server renders prompts with its own chat template


@dataclass
class Endpoint:
    """One server as we know it."""

    url: str
    model: str = ""  # its own name for the model; empty until it has been asked
    is_vllm: bool = False
    failures: int = 0  # in a row
    away: bool = False  # gets no requests until it has answered `/models` again
    resume_at: float = 0.0  # not looked at before this time
    fell: asyncio.Event = field(default_factory=asyncio.Event)  # set when it goes away
    served: int = 0
    tasks: set[asyncio.Task] = field(default_factory=set)


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
        self.generated_tokens = 0
        self.moved = 0  # times a request was taken back from a server
        self.endpoints = [Endpoint(normal_url(url)) for url in settings.base_urls]
        self._tokenizer = tokenizer
        self._server = server  # where the server is our own child: ours to watch and to stop
        self._waiting: deque[tuple[Request, float]] = deque()
        self._finished: deque[Generated] = deque()
        self._bad_answers: Counter[int] = Counter()  # by unit
        self._timeouts: Counter[int] = Counter()  # by unit
        self._fatal: BaseException | None = None
        self._last_sign = time.monotonic()
        self._loop = asyncio.new_event_loop()
        self._wake = asyncio.Event()
        self._session: aiohttp.ClientSession
        self._watchers: list[asyncio.Task] = []
        try:
            self._loop.run_until_complete(self._open())
        except InputError:
            self.close()
            raise

    # -- the back end's side: synchronous -----------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        self._waiting.append((request, time.monotonic()))

    def poll(self, timeout: float) -> list[Generated]:
        if self._server is not None:
            self._server.watch()
        self._loop.run_until_complete(self._advance(timeout))
        if self._fatal is not None and not self._finished:
            raise self._fatal
        finished = list(self._finished)
        self._finished.clear()
        return finished

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
                done[each.unit] = each.log_likelihood
                flying -= 1
            while following in done:
                yield done.pop(following)
                following += 1

    def running(self) -> int:
        return sum(len(endpoint.tasks) for endpoint in self.endpoints)

    def close(self) -> None:
        if not self._loop.is_closed():
            self._loop.run_until_complete(self._shut())
            self._loop.close()
        if self._server is not None:
            self._server.stop()

    # -- the event loop's side ----------------------------------------------------------------------------------

    async def _open(self) -> None:
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {self.settings.api_key}"} if self.settings.api_key else {},
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self.settings.request_seconds, sock_connect=CONNECT_SECONDS),
        )
        troubles = await asyncio.gather(*(self._try_identify(endpoint) for endpoint in self.endpoints))
        if all(troubles):
            raise InputError(f"--base_url {self.endpoints[0].url}: cannot be reached ({troubles[0]}); is it up?")
        for endpoint, trouble in zip(self.endpoints, troubles, strict=True):
            if trouble:
                self._back_off(endpoint, trouble)
        self._watchers = [self._loop.create_task(self._look_after(endpoint)) for endpoint in self.endpoints]
        for watcher in self._watchers:
            watcher.add_done_callback(self._on_watcher_done)

    async def _shut(self) -> None:
        tasks = [*self._watchers, *(task for endpoint in self.endpoints for task in endpoint.tasks)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()

    async def _identify(self, endpoint: Endpoint) -> None:
        """Learn the server's name for the model; raises InputError if it serves another or too short a context."""
        timeout = aiohttp.ClientTimeout(total=CONNECT_SECONDS)
        async with self._session.get(f"{endpoint.url}/models", timeout=timeout) as response:
            await check_status(response)
            try:
                models = list((await response.json())["data"])
            except (KeyError, TypeError):
                raise InputError(f"--base_url {endpoint.url}: /models is not an OpenAI-compatible answer") from None
        card = find_model(models, self.settings.model)
        if card is None:
            serves = ", ".join(str(model.get("id")) for model in models)
            raise InputError(
                f"--base_url {endpoint.url}: serves {serves}, not {self.settings.model}; is it the right server? "
                "(--served_model_name gives the name it uses)"
            )
        most, needed = card.get("max_model_len"), self.settings.context
        if isinstance(most, int) and most < needed:
            raise InputError(
                f"--base_url {endpoint.url}: its context is {most} tokens, {needed} are needed (--max_len plus 4,096); "
                f"start it with --max-model-len {needed}"
            )
        endpoint.model, endpoint.is_vllm = card["id"], card.get("owned_by") == "vllm"

    async def _try_identify(self, endpoint: Endpoint) -> str | None:
        """`_identify`, returning what is wrong with the connection, if anything."""
        try:
            await self._identify(endpoint)
        except _TROUBLE as error:
            return str(error) or type(error).__name__
        return None

    async def _advance(self, timeout: float) -> None:
        """Dispatch what waits, then sleep until something ends or `timeout` seconds are over."""
        self._wake.clear()
        self._dispatch()
        try:
            await asyncio.wait_for(self._wake.wait(), timeout)
        except TimeoutError:
            away = time.monotonic() - self._last_sign
            if not self.running() and self._waiting and away > self.settings.patience_seconds:
                raise BackendFailedError(f"no server has answered for {away:.0f} s") from None

    def _dispatch(self) -> None:
        """Hand waiting requests to the least busy servers that are there."""
        while self._waiting:
            endpoint = min(self.endpoints, key=lambda each: (each.away, len(each.tasks)))
            if endpoint.away or len(endpoint.tasks) >= self.settings.concurrency:
                return
            request, submitted = self._waiting.popleft()
            task = self._loop.create_task(self._serve(endpoint, request))
            endpoint.tasks.add(task)
            task.add_done_callback(partial(self._on_done, endpoint, request, submitted))

    async def _serve(self, endpoint: Endpoint, request: Request) -> tuple[Answer, float | None]:
        """The answer, and a score where one was asked for."""
        nothing = Answer("", LENGTH, len(request.prompt_ids or ()), 0)
        try:
            if request.score_from is not None:
                return nothing, await self._score(endpoint, request)
            return await self._complete(endpoint, request), None
        except PromptTooLongError:
            return nothing, None

    def _on_done(self, endpoint: Endpoint, request: Request, submitted: float, task: asyncio.Task) -> None:
        """One request left its server: with an answer, or back to the head of the queue."""
        endpoint.tasks.discard(task)
        self._wake.set()
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or isinstance(error, _TROUBLE):
            self._take_back(endpoint, request, submitted, error)
        elif error is not None:
            self._fatal = error
        else:
            endpoint.failures = 0
            endpoint.served += 1
            self._last_sign = time.monotonic()
            answer, score = task.result()
            self.generated_tokens += answer.completion_tokens
            self._finished.append(Generated(request.unit, *answer, self._last_sign - submitted, score))

    def _take_back(self, endpoint: Endpoint, request: Request, submitted: float, error: Exception | None) -> None:
        self._waiting.appendleft((request, submitted))
        self.moved += 1
        if error is not None:
            self._back_off(endpoint, str(error) or type(error).__name__)
        if isinstance(error, BadAnswerError):
            self._bad_answers[request.unit] += 1
            if self._bad_answers[request.unit] == MOST_BAD_ANSWERS:
                self._fatal = BackendFailedError(f"one request was answered badly {MOST_BAD_ANSWERS} times: {error}")
        elif type(error) is asyncio.TimeoutError:  # the whole request's; those of a connection are of another type
            self._timeouts[request.unit] += 1
            if self._timeouts[request.unit] == MOST_TIMEOUTS:
                limit = self.settings.request_seconds
                self._fatal = BackendFailedError(f"a request took over {limit:.0f} s twice; raise --request_timeout")

    async def _complete(self, endpoint: Endpoint, request: Request) -> Answer:
        stream = self.sampling.stop_on_loop
        chat = self.settings.chat
        body = payload(request, self.sampling, endpoint.model, is_vllm=endpoint.is_vllm, stream=stream, chat=chat)
        path = "chat/completions" if chat else "completions"
        async with self._session.post(f"{endpoint.url}/{path}", json=body) as response:
            await check_status(response)
            if not stream:
                return read_completion(await response.json())
            prompt_tokens = len(request.prompt_ids or ())
            return await read_stream(response, prompt_tokens, self._tokenizer, self.sampling.skip_special_tokens)

    async def _score(self, endpoint: Endpoint, request: Request) -> float:
        body = score_payload(request, endpoint.model)
        async with self._session.post(f"{endpoint.url}/completions", json=body) as response:
            await check_status(response)
            return read_score(await response.json(), request.prompt_ids or (), request.score_from or 0, endpoint.url)

    def _back_off(self, endpoint: Endpoint, trouble: str) -> None:
        """Leave a server alone for a while, longer with each failure in a row; failures of one moment count once."""
        now = time.monotonic()
        if now < endpoint.resume_at:
            return
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**endpoint.failures)
        endpoint.failures += 1
        endpoint.away, endpoint.resume_at = True, now + pause
        endpoint.fell.set()
        logger.warning("%s: %s; asked again in %.1f s", endpoint.url, trouble, pause)

    async def _look_after(self, endpoint: Endpoint) -> None:
        """Ask a server that is away whether it is back, and one that holds requests whether it is still there."""
        missed = 0
        while True:
            if endpoint.away:
                await asyncio.sleep(endpoint.resume_at - time.monotonic())
                trouble, missed = await self._try_identify(endpoint), 0
                if trouble:
                    self._back_off(endpoint, trouble)
                else:
                    endpoint.away = False
                    endpoint.fell.clear()
                    self._wake.set()
            elif await _happens(endpoint.fell, PROBE_SECONDS) or not endpoint.tasks:
                missed = 0
            elif trouble := await self._try_identify(endpoint):
                missed += 1
                if missed == MISSED_PROBES:
                    self._back_off(endpoint, f"no answer to {MISSED_PROBES} probes ({trouble})")
                    for task in tuple(endpoint.tasks):
                        task.cancel()
            else:
                missed = 0
                self._last_sign = time.monotonic()

    def _on_watcher_done(self, watcher: asyncio.Task[None]) -> None:
        if not watcher.cancelled():  # a server that came back with another model, or a bug
            self._fatal = watcher.exception()
            self._wake.set()


async def _happens(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event; return whether it came in time."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
