"""The servers themselves: which of them serve our model, which are away, and when they are asked again."""

import asyncio
import gc
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import dump_json
from promptcot_mamba.log import logger
from promptcot_mamba.sampling.backend import Request
from promptcot_mamba.sampling.endpoint_body import parse_json, parse_object, read_body
from promptcot_mamba.sampling.endpoint_errors import (
    BadAnswerError,
    BusyError,
    DeniedError,
    PromptTooLongError,
    RefusedError,
    RejectedError,
    ServerTroubleError,
    raise_for_error,
)
from promptcot_mamba.sampling.endpoint_protocol import (
    OF_ONE_PIECE,
    SGLANG,
    TELLING,
    Held,
    find_model,
    is_elsewhere,
    normal_url,
    refuse_ollama,
)

CONNECT_SECONDS = 10.0
PROBE_SECONDS = 15.0  # between two looks at a server that holds requests
MISSED_PROBES = 3  # in a row until its requests are taken away
FIRST_PAUSE = 0.5  # after a failure; doubles with each further one
LONGEST_PAUSE = 60.0
MOST_REDIRECTS = 5
MOST_HEADER = 1 << 20  # bytes of one header
REDIRECTS = (301, 302, 303, 307, 308)
# New objects between two of Python's searches for garbage (700 by itself). Those of hundreds of requests under way are
# found alive each time, at a quarter of what a short sample costs the processor.
YOUNG_OBJECTS = 50_000
BAD_LISTS = 3  # unreadable answers to `/models`, before it is asked for no more
NO_MODELS = (404, 405, 501)  # of `/models`: a server that has no such path
# No server listens there, or none that speaks HTTP (as here: with or without TLS). One that takes the connection and
# breaks it, or is silent, may be starting: docker's proxy listens while vLLM loads its model (vllm-project/vllm#5366).
NOBODY = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientResponseError, aiohttp.InvalidURL)
TROUBLE = (ServerTroubleError, aiohttp.ClientError, asyncio.TimeoutError, ConnectionError)
IS_THERE = (BusyError, BadAnswerError, DeniedError)  # it may well work: gateways limit `/models` too, some break there


@dataclass(frozen=True)
class EndpointSettings:
    """Where to ask, and how patiently."""

    base_urls: Sequence[str]
    model: str  # the name or path the servers must serve
    context: int
    concurrency: int = 256  # requests at once on one server
    request_seconds: float = 7200.0  # the longest one request may take
    patience_seconds: float = 600.0  # how long all servers may be away
    api_key: str | None = None
    chat: bool = False  # ask for chat completions: the server renders prompts with its own chat template
    template_kwargs: dict[str, Any] = field(default_factory=dict)  # of that template
    extra_body: dict[str, Any] = field(default_factory=dict)  # of every request for text; None takes a field out
    ca_file: str | None = None  # certificates to trust besides the system's
    token_ids: bool = (
        False  # ask for token ids where servers have them, and hand a chain back where its server goes away
    )
    cuts_by: str = ""  # flags by which chains are cut and go on, so that token ids are needed
    gives_up: bool = False  # hand a request back (FAILED) that alone cannot be answered, instead of ending the run
    is_named: bool = False  # the model by its user: asked for also where a server that may not list all lists others
    stream: bool = False  # hear of tokens as they come, from servers that tell ids

    @cached_property
    def one_piece(self) -> list[str]:
        """The extra fields under which a chain cannot go on from its tokens."""
        return [name for name in OF_ONE_PIECE if self.extra_body.get(name)]

    @cached_property
    def keeps_ids(self) -> bool:
        """Whether a chain's tokens are asked for, and what it has said outlives its server."""
        return self.token_ids and not self.one_piece

    def tls(self) -> ssl.SSLContext | bool:
        """What https is checked by; raises InputError for a file without certificates."""
        if self.ca_file is None:
            return True
        try:
            context = ssl.create_default_context()
            context.load_verify_locations(self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise InputError(f"--ca_file {self.ca_file}: no certificates to read there ({error})") from None
        return context


@dataclass
class Endpoint:
    """One server as we know it."""

    url: str
    model: str = ""  # its own name for the model; empty until it has been asked
    owner: str = ""  # as the model's card names it
    failures: int = 0  # in a row
    bad_answers: int = 0  # in a row
    away: bool = False  # gets no requests until it has answered `/models` again
    resume_at: float = 0.0  # not looked at before this time
    fell: asyncio.Event = field(default_factory=asyncio.Event)  # set when it goes away
    served: int = 0
    answered: Request | None = None  # the last that it has
    held: list[Held] = field(default_factory=list)  # not taken, in order of time; whose fault that is has to be seen
    says_reasons: bool = False  # why an answer ends
    without_reason: int = 0  # streams that ended so, of a server that has said none
    quiet_until: float = 0.0  # no line about its being busy before this time
    tasks: set[asyncio.Task] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.home = URL(self.url)  # as its user gave it, whose key is meant for there

    @property
    def is_vllm(self) -> bool:
        return self.owner == "vllm"

    def is_home(self, url: URL) -> bool:
        """Whether a key may go there, wherever requests were sent on to."""
        return url.host == self.home.host and url.scheme in (self.home.scheme, "https")

    @property
    def may_tell_ids(self) -> bool:
        """Whether it is asked for the token ids of completions: vLLM from 0.10.2, SGLang from pull request 30917."""
        return self.is_vllm or self.owner == SGLANG


class EndpointPool:
    """Asks servers who they are, looks after them, and carries requests to them; all on the caller's event loop.

    `on_change` is called when a server is back or one that is there shows a sign of life, `on_fatal` with what ends the
    run.
    """

    def __init__(self, settings: EndpointSettings, on_change: Callable[[], None], on_fatal: Callable[[Any], None]):
        self.settings = settings
        self.endpoints = [Endpoint(normal_url(url)) for url in settings.base_urls]
        if settings.api_key and any(endpoint.home.user for endpoint in self.endpoints):
            raise InputError("--base_url: names a user, and OPENAI_API_KEY is set; only one of the two can be sent")
        self._on_change = on_change
        self._on_fatal = on_fatal
        self._session: aiohttp.ClientSession | None = None
        self._probes: aiohttp.ClientSession | None = None  # each on a connection of its own
        self._watchers: list[asyncio.Task] = []
        self.said = ""  # the last words of trouble
        self._searched = gc.get_threshold()

    async def open(self) -> None:
        """Ask every server for its models; raises InputError if none is there or one serves another model.

        That is asked on a connection of its own each time: uvicorn closes one behind an error without having said so,
        and a request that is sent there is lost.
        """
        settings, tls = self.settings, self.settings.tls()
        gc.set_threshold(YOUNG_OBJECTS, *self._searched[1:])
        self._session, self._probes = (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=tls, force_close=force_close),
                timeout=aiohttp.ClientTimeout(total=settings.request_seconds, sock_connect=CONNECT_SECONDS),
                read_bufsize=1 << 20,
                json_serialize_bytes=dump_json,
                max_line_size=MOST_HEADER,  # gateways send policies, cookies and limits by the kilobyte
                max_field_size=MOST_HEADER,
            )
            for force_close in (False, True)
        )
        troubles = await asyncio.gather(*(self._try_identify(endpoint) for endpoint in self.endpoints))
        if all(isinstance(trouble, NOBODY) for trouble in troubles):
            words = words_of(troubles[0])
            advice = unreachable_advice(words)
            raise InputError(f"--base_url {self.endpoints[0].url}: cannot be reached ({words}); {advice}")
        for endpoint, trouble in zip(self.endpoints, troubles, strict=True):
            if trouble:  # it loads its model, or is busy, or others answer
                self.back_off(endpoint, words_of(trouble))
        loop = asyncio.get_running_loop()
        self._watchers = [loop.create_task(self._look_after(endpoint)) for endpoint in self.endpoints]
        for watcher in self._watchers:
            watcher.add_done_callback(self._on_watcher_done)

    async def close(self) -> None:
        gc.set_threshold(*self._searched)
        tasks = [*self._watchers, *(task for endpoint in self.endpoints for task in endpoint.tasks)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for session in filter(None, (self._session, self._probes)):
            await session.close()

    def free(self, avoid: str) -> Endpoint | None:
        """The least busy server that is there and takes one more request, another than `avoid` where there is one."""
        endpoint = min(self.endpoints, key=lambda each: (each.away, each.url == avoid, len(each.tasks)))
        return None if endpoint.away or len(endpoint.tasks) >= self.settings.concurrency else endpoint

    async def post(self, endpoint: Endpoint, path: str, body: dict[str, Any]) -> aiohttp.ClientResponse:
        """The answer to one POST, its status 200, for its caller to close; anything else is raised."""
        response = await self._ask(self._session, "POST", endpoint, path, json=body)
        if response.status == 200:
            return response
        async with response:
            words = await read_body(response.content, broken_too=True)
            raise_for_error(endpoint.url, response.status, words, response.headers)

    async def _ask(
        self, session: aiohttp.ClientSession | None, method: str, endpoint: Endpoint, path: str, **how: Any
    ) -> aiohttp.ClientResponse:
        """Redirects are followed with the same method and body (HTTP clients turn a POST into a GET at 301 and 302);
        the key goes to the first host alone, and never from https to http."""
        assert session is not None  # `open` has made it
        url = URL(f"{endpoint.url}/{path}")
        for _ in range(MOST_REDIRECTS + 1):
            how |= {"headers": self._headers() if endpoint.is_home(url) else {}, "proxy": proxy_for(url)}
            response = await session.request(method, url, allow_redirects=False, **how)
            if response.status not in REDIRECTS or "Location" not in response.headers:
                return response
            async with response:
                url = url.join(URL(response.headers["Location"]))
        raise InputError(f"--base_url {endpoint.url}: redirects more than {MOST_REDIRECTS} times, to {url} at last")

    def back_off(self, endpoint: Endpoint, trouble: str, at_least: float = 0.0) -> None:
        """Leave a server alone for a while, longer with each failure in a row; failures of one moment count once."""
        now, self.said = time.monotonic(), trouble.removeprefix(f"--base_url {endpoint.url}: ")
        if now < endpoint.resume_at:
            return
        pause = max(at_least, growing_pause(endpoint.failures))
        endpoint.failures += 1
        endpoint.away, endpoint.resume_at = True, now + pause
        endpoint.fell.set()
        logger.warning("%s: %s; asked again in %.1f s", endpoint.url, self.said, pause)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.settings.api_key}"} if self.settings.api_key else {}

    async def _identify(self, endpoint: Endpoint) -> None:
        """Learn the server's name for the model; raises InputError if it serves another or too short a context."""
        timeout = aiohttp.ClientTimeout(total=2 * CONNECT_SECONDS, sock_connect=CONNECT_SECONDS)
        async with await self._ask(self._probes, "GET", endpoint, "models", timeout=timeout) as response:
            body = await read_body(response.content, broken_too=response.status != 200)
            if response.status in NO_MODELS:
                self._take_at_its_word(endpoint, "has no /models")
                return
            with denying(endpoint.url):
                if response.status != 200:
                    raise_for_error(endpoint.url, response.status, body, response.headers)
                models = read_cards(body, endpoint.url)
            if response.url != URL(f"{endpoint.url}/models"):  # where it was sent on to is where requests belong
                endpoint.url = str(response.url).split("?")[0].removesuffix("/").removesuffix("/models")
                unkeyed = self.settings.api_key and not endpoint.is_home(response.url)
                without = ", where OPENAI_API_KEY is not sent: it goes to the given host alone" if unkeyed else ""
                logger.info("%s: redirected to %s%s", endpoint.home, endpoint.url, without)
        if models:
            self._check_model(endpoint, models)
        else:  # `transformers serve` lists a cache, not the folder it serves
            self._take_at_its_word(endpoint, "lists no models")

    def _take_at_its_word(self, endpoint: Endpoint, why: str) -> None:
        if not endpoint.model:  # else it is known, and only cannot say so now
            logger.warning("%s: %s; asked for %s as it stands", endpoint.url, why, self.settings.model)
            endpoint.model = self.settings.model

    def _check_model(self, endpoint: Endpoint, models: list[dict[str, Any]]) -> None:
        card, wanted = find_model(models, self.settings.model, endpoint.url), self.settings.model
        if card is None:
            serves = ", ".join(model["id"] for model in models)[:300]
            if self.settings.is_named and not any(model.get("owned_by") in TELLING for model in models):
                self._take_at_its_word(endpoint, f"lists {serves}")  # Azure: models, and not what runs them
                return
            raise DeniedError(
                f"--base_url {endpoint.url}: serves {serves}, not {wanted}; is it the right server? "
                "(--served_model_name gives the name it uses)"
            )
        root = str(card.get("root") or card["id"])
        if not endpoint.model and card["id"] != wanted and is_elsewhere(root, wanted):
            logger.warning("%s serves %s, taken for %s by its name; is it the same?", endpoint.url, root, wanted)
        most, needed = card.get("max_model_len"), self.settings.context
        if isinstance(most, int) and most < needed:
            lower = f", or give --max_len {most - 4096}" if most > 4096 else ""
            raise InputError(
                f"--base_url {endpoint.url}: its context is {most} tokens, {needed} are needed (--max_len plus 4,096); "
                f"start it with more (vllm serve --max-model-len {needed}, llama-server -c {needed}){lower}"
            )
        endpoint.model, endpoint.owner = card["id"], str(card.get("owned_by"))
        if not self.settings.chat:
            refuse_ollama(card, endpoint.url)

    async def _try_identify(self, endpoint: Endpoint) -> Exception | None:
        """`_identify`, returning what is wrong for now, if anything."""
        try:
            await self._identify(endpoint)
        except DeniedError as error:
            if not endpoint.served and not endpoint.tasks:
                raise
            return error
        except TROUBLE as error:
            if not isinstance(error, BadAnswerError) or endpoint.failures < BAD_LISTS:
                return error
            self._take_at_its_word(endpoint, f"has no /models that can be read ({words_of(error)})")
        return None

    async def _look_after(self, endpoint: Endpoint) -> None:
        """Ask a server that is away whether it is back, and one that holds requests whether it is still there."""
        missed = 0
        while True:
            if endpoint.away:
                await asyncio.sleep(endpoint.resume_at - time.monotonic())
                trouble, missed = await self._try_identify(endpoint), 0
                if trouble:
                    self.back_off(endpoint, words_of(trouble))
                else:
                    endpoint.away, endpoint.bad_answers = False, 0
                    endpoint.fell.clear()
                    self._on_change()
                continue
            # Not `wait_for`: in Python 3.11 that loses a cancellation that comes with what it waits for.
            with suppress(TimeoutError):
                async with asyncio.timeout(PROBE_SECONDS):
                    await endpoint.fell.wait()
            if endpoint.fell.is_set() or not endpoint.tasks:
                missed = 0
            elif (trouble := await self._try_identify(endpoint)) is None or isinstance(trouble, IS_THERE):
                missed = 0
                self._on_change()
            else:  # silence, or a gateway without the server behind it
                missed += 1
                if missed == MISSED_PROBES:
                    self.back_off(endpoint, f"no answer to {MISSED_PROBES} probes ({words_of(trouble)})")
                    for task in tuple(endpoint.tasks):
                        task.cancel()

    def _on_watcher_done(self, watcher: asyncio.Task[None]) -> None:
        if not watcher.cancelled():  # a server that came back with another model, or a bug
            self._on_fatal(watcher.exception())


def proxy_for(url: URL) -> str | None:
    """The environment's proxy for an https address, unless `no_proxy` names its host. By http one asks machines nearby,
    of which many an environment forgets to say that no proxy reaches them."""
    if url.scheme != "https" or not url.host or url.host in ("localhost", "127.0.0.1", "::1"):
        return None
    proxy = getproxies().get("https", "")
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not URL(proxy).host or not proxy.startswith("http"):  # others are not spoken here
        return None
    return None if proxy_bypass(f"{url.host}:{url.port}") else proxy


def spread_pause(asked: float | None, before: int, spread: float) -> float:
    """Seconds that a busy server's request waits, who asks for so many or for none; `spread` is of 0 to 1."""
    longer = growing_pause(before)
    if asked is None:
        return longer * (1 + spread)
    # Less than a second means "at once", or a date that is past by our clock: it may go on meaning that.
    return spread + (asked if asked >= 1 else max(asked, longer))


def growing_pause(before: int) -> float:
    """Seconds to wait after so many waits in a row."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(before, 30))  # a run may be patient for days


def words_of(error: BaseException | None) -> str:
    """In one line."""
    return " ".join(str(error).split()) or type(error).__name__


def unreachable_advice(words: str) -> str:
    if "WRONG_VERSION_NUMBER" in words or "record layer failure" in words:
        return "it speaks no TLS: give http:// in place of https://"
    untrusted = "certificate" in words.lower() or "SSL" in words
    return "--ca_file names the certificate to trust" if untrusted else "is it up?"


@contextmanager
def denying(url: str) -> Iterator[None]:
    """What means a prompt elsewhere means the key or the address of a question that has none: raised as DeniedError."""
    try:
        yield
    except (RejectedError, RefusedError, PromptTooLongError) as error:
        raise DeniedError(
            f"--base_url {url}: does not list its models ({error}); are the address, http or https, and OPENAI_API_KEY "
            "right?"
        ) from None


def read_cards(body: bytes, url: str) -> list[dict[str, Any]]:
    """The models a server names, in OpenAI's form or one near it (a bare list, Ollama's `models` with names).

    llama-server tells a slot's context in `meta`; it would cut a longer chain without a word.
    """
    answer = parse_json(body)
    if isinstance(answer, dict):
        answer = parse_object(body, url)  # raises where it is an error
        answer = answer.get("data") or answer.get("models")
    cards = [card if isinstance(card, dict) else {"id": card} for card in (answer if isinstance(answer, list) else [])]
    named = [(card, card.get("id") or card.get("name") or card.get("model")) for card in cards]
    metas = [card["meta"] if isinstance(card.get("meta"), dict) else {} for card in cards]
    return [
        {"max_model_len": meta.get("n_ctx")} | card | {"id": str(name)}
        for (card, name), meta in zip(named, metas, strict=True)
        if name
    ]
