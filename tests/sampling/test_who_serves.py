"""Which model a server says it has, where it says so, and by which way it is asked."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from promptcot_mamba import log
from promptcot_mamba.errors import InputError
from promptcot_mamba.sampling import endpoint_pool
from promptcot_mamba.sampling.backend import BackendFailedError, Generated, Request, SamplingSettings
from promptcot_mamba.sampling.endpoint_pool import EndpointSettings
from promptcot_mamba.sampling.endpoint_protocol import api_key
from promptcot_mamba.sampling.openai_endpoint import OpenAIEndpoints
from promptcot_mamba.sampling.vllm_server import VllmServer
from tests.sampling.own_server import CARD, OwnServer, refusal, serving

SEEN = [5, 6, 7]  # tokens of every prompt


async def answer(http: web.Request, body: dict) -> web.StreamResponse:
    choice = {"index": 0, "text": "It is 4.", "finish_reason": "stop"}
    return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})


def connect(url: str, model: str = "tiny", penalty: float = 1.0, **settings: Any) -> OpenAIEndpoints:
    how = {"concurrency": 1, "gives_up": True, **settings}
    return OpenAIEndpoints(
        EndpointSettings([url], model, context=5000, **how), SamplingSettings(0.8, 0.95, penalty, (2,))
    )


def sample(backend: OpenAIEndpoints, count: int = 3) -> list[Generated]:
    try:
        for unit in range(count):
            backend.submit(Request(unit, 0, unit, f"prompt {unit}", SEEN, 100))
        got: list[Generated] = []
        while len(got) < count:
            got += backend.poll(0.2)
        return got
    finally:
        backend.close()


@pytest.fixture
def listing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has servers list these cards, one list a look, the last for ever."""

    def have_listed(*lists: list[dict[str, Any]]) -> None:
        left = itertools.chain(lists, itertools.repeat(lists[-1]))

        async def models(server: OwnServer, http: web.Request) -> web.Response:
            return web.json_response({"data": next(left)})

        monkeypatch.setattr(OwnServer, "_models", models)

    return have_listed


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    log.log_once.cache_clear()
    monkeypatch.setattr(log.logger, "propagate", True)
    monkeypatch.setattr(endpoint_pool, "FIRST_PAUSE", 0.002)


def test_another_runs_folder_of_the_same_name_is_said_once(listing, caplog: pytest.LogCaptureFixture):
    listing([CARD | {"id": "/runs/b/phase2", "root": "/runs/b/phase2"}])
    with serving(answer) as server:
        sample(connect(server.url, "/runs/a/phase2"))
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == [f"{server.url} serves /runs/b/phase2, taken for /runs/a/phase2 by its name; is it the same?"]


@pytest.mark.parametrize("name", ["phase2", "/runs/b/phase2"])
def test_a_name_that_its_user_gives_is_taken(listing, caplog: pytest.LogCaptureFixture, name: str):
    listing([CARD | {"id": "/runs/b/phase2", "root": "/runs/b/phase2"}])
    with serving(answer) as server:
        sample(connect(server.url, name, is_named=True))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_deployment_need_not_be_listed_where_its_user_names_it(listing, caplog: pytest.LogCaptureFixture):
    """Azure lists models, not what runs them."""
    listing([{"id": "gpt-4o", "owned_by": "system"}])
    with serving(answer) as server:
        with pytest.raises(InputError, match="serves gpt-4o, not mine"):
            connect(server.url, "mine")
        assert len(sample(connect(server.url, "mine", is_named=True))) == 3
        assert {body["model"] for body in server.bodies} == {"mine"}
    assert f"{server.url}: lists gpt-4o; asked for mine as it stands" in caplog.text
    listing([CARD])  # vLLM lists what it has
    with serving(answer) as server, pytest.raises(InputError, match="serves tiny, not mine"):
        connect(server.url, "mine", is_named=True)


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_router_may_be_without_the_model_while_its_server_starts_anew(listing, comes_back: bool):
    other = [CARD | {"id": "another"}]
    listing([CARD], *([other] * 5), [CARD] if comes_back else other)

    async def restart(http: web.Request, body: dict) -> web.StreamResponse:
        return refusal(503, "no server behind it") if len(server.bodies) == 2 else await answer(http, body)

    with serving(restart) as server:
        if comes_back:
            assert len(sample(connect(server.url))) == 3
            return
        with pytest.raises(BackendFailedError, match=r"no server has answered for .*serves another, not tiny"):
            sample(connect(server.url, patience_seconds=0.2))


@pytest.mark.parametrize(
    ("owner", "penalty", "keeps"), [("sglang", 1.1, False), ("sglang", 1.0, True), ("vllm", 1.1, True)]
)
def test_chains_are_cut_only_where_the_penalty_goes_on(listing, caplog, owner: str, penalty: float, keeps: bool):
    """SGLang's counts what is generated, and a continued chain is sent as prompt."""
    listing([CARD | {"owned_by": owner}])
    caplog.set_level("INFO", logger=log.ROOT)
    with serving(answer) as server:
        sample(connect(server.url, penalty=penalty, token_ids=True))
        assert {body.get("return_token_ids", False) for body in server.bodies} == {keeps}
        assert caplog.text.count("chains are made in one piece there") == (not keeps)
        if keeps:
            return
        extra = {"repetition_penalty": None}  # SGLang's own is none
        sample(connect(server.url, penalty=penalty, token_ids=True, extra_body=extra))
        assert server.bodies[-1]["return_token_ids"]
        with pytest.raises(InputError, match=r"--segment_len: .*from each cut anew; --repetition_penalty 1, or vLLM"):
            sample(connect(server.url, penalty=penalty, token_ids=True, cuts_by="--segment_len"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_key_goes_along_where_an_address_moves_on_its_machine_alone(host: str, monkeypatch, caplog):
    """HTTP clients drop it where the port or http changes. Another host gets it neither now nor with later requests."""
    keys = []
    caplog.set_level("INFO", logger=log.ROOT)

    async def models(asked: OwnServer, http: web.Request) -> web.Response:
        keys.append(http.headers.get("Authorization"))
        if asked is old:
            raise web.HTTPPermanentRedirect(f"{new.url.replace('127.0.0.1', host)}/models")
        return web.json_response({"data": [CARD]})

    async def take(http: web.Request, body: dict) -> web.StreamResponse:
        keys.append(http.headers.get("Authorization"))
        return await answer(http, body)

    monkeypatch.setattr(OwnServer, "_models", models)
    with serving(take) as old, serving(take) as new:
        sample(connect(old.url, api_key="k"))
        assert (len(old.bodies), len(new.bodies)) == (0, 3)
    assert keys == ["Bearer k"] + ["Bearer k" if host == "127.0.0.1" else None] * 4
    assert ("OPENAI_API_KEY is not sent" in caplog.text) == (host == "localhost")
    assert not endpoint_pool.Endpoint("https://h/v1").is_home(URL("http://h/v1"))


# Gemini's for a bad key (cequence-io/openai-scala-client#109), nginx's where https is spoken
GEMINI_KEY = [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.",
                         "status": "INVALID_ARGUMENT"}}]  # fmt: skip
NGINX_TLS = "<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>"


@pytest.mark.parametrize("said", [GEMINI_KEY, NGINX_TLS])
@pytest.mark.parametrize("answered", [0, 1])
def test_a_list_of_models_that_is_refused_is_a_line(said: Any, answered: int, monkeypatch: pytest.MonkeyPatch):
    looks = itertools.count()

    async def models(server: OwnServer, http: web.Request) -> web.Response:
        if next(looks) < answered:
            return web.json_response({"data": [CARD]})
        return web.Response(status=400, text=said if isinstance(said, str) else json.dumps(said))

    async def fall(http: web.Request, body: dict) -> web.StreamResponse:
        return refusal(503, "no server behind it") if len(server.bodies) == 2 else await answer(http, body)

    monkeypatch.setattr(OwnServer, "_models", models)
    words = r"does not list its models \(status 400: (API key not valid|400 The plain HTTP)"
    with serving(fall) as server, pytest.raises((InputError, BackendFailedError), match=words):
        sample(connect(server.url, patience_seconds=0.2))


def test_a_list_that_is_refused_while_the_first_chains_are_made_ends_nothing(monkeypatch: pytest.MonkeyPatch):
    looks = itertools.count()
    seen = asyncio.Event()
    monkeypatch.setattr(endpoint_pool, "PROBE_SECONDS", 0.02)

    async def models(server: OwnServer, http: web.Request) -> web.Response:
        look = next(looks)
        if look > 3:
            seen.set()
        return web.json_response(GEMINI_KEY, status=400) if look else web.json_response({"data": [CARD]})

    async def take_long(http: web.Request, body: dict) -> web.StreamResponse:
        await seen.wait()
        return await answer(http, body)

    monkeypatch.setattr(OwnServer, "_models", models)
    with serving(take_long) as server:
        assert len(sample(connect(server.url))) == 3


def test_https_is_asked_through_the_environments_proxy(monkeypatch: pytest.MonkeyPatch):
    asked = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
        await writer.drain()
        writer.close()

    async def look() -> None:
        server = await asyncio.start_server(proxy, "127.0.0.1", 0)
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        pool = endpoint_pool.EndpointPool(EndpointSettings(["api.example.test"], "m", 9), print, print)
        with pytest.raises(InputError, match="cannot be reached"):
            await pool.open()
        await pool.close()
        server.close()

    asyncio.run(look())
    assert asked == [b"CONNECT api.example.test:443 HTTP/1.1\r\n"]


@pytest.mark.parametrize("how", ["resets", "is silent"])
def test_a_server_that_takes_connections_is_waited_for(how: str, monkeypatch: pytest.MonkeyPatch):
    """Docker's proxy listens while vLLM loads (vllm-project/vllm#5366); others answer once they have loaded."""
    looks = itertools.count()
    monkeypatch.setattr(endpoint_pool, "CONNECT_SECONDS", 0.2)

    async def models(server: OwnServer, http: web.Request) -> web.Response:
        if next(looks) < 2:
            if how == "is silent":
                await asyncio.sleep(60)
            http.transport.abort()
        return web.json_response({"data": [CARD]})

    monkeypatch.setattr(OwnServer, "_models", models)
    with serving(answer) as server:
        assert len(sample(connect(server.url))) == 3


def test_addresses_and_keys_that_cannot_be_sent_are_a_line(monkeypatch: pytest.MonkeyPatch):
    with serving(answer) as server:
        with pytest.raises(InputError, match="it speaks no TLS: give http:// in place of https://"):
            connect(server.url.replace("http:", "https:"))
        with pytest.raises(InputError, match="names a user, and OPENAI_API_KEY is set"):
            connect(server.url.replace("//", "//u:p@"), api_key="k")
        sample(connect(server.url.replace("//", "//u:p@")))
    for url in ("http://127.0.0.1:99999", "http://h:port", "http://:8000"):
        with pytest.raises(InputError, match=r"is no address; give http://HOST:PORT"):
            connect(url)
    for key, sent in (("k\r\n", "k"), ("", None), (" ", None)):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        assert api_key() == sent
    monkeypatch.setenv("OPENAI_API_KEY", "k\rk")
    with pytest.raises(InputError, match="OPENAI_API_KEY: holds a line break"):
        api_key()


@pytest.mark.parametrize(("owner", "fingerprint"), [("library", None), ("someone", "fp_ollama"), ("someone", None)])
def test_flags_that_a_server_drops_are_named_once(listing, owner: str, fingerprint: str | None, caplog):
    """Ollama's /v1 (ollama/ollama#11325); other people's models there have other owners, so it is seen by an answer."""
    listing([CARD | {"owned_by": owner}])
    caplog.set_level("INFO", logger=log.ROOT)

    async def chat(http: web.Request, body: dict) -> web.StreamResponse:
        choice = {"index": 0, "message": {"content": "It is 4."}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 4}
        return web.json_response({"choices": [choice], "usage": usage, "system_fingerprint": fingerprint})

    with serving(chat) as server:
        sample(connect(server.url, penalty=1.1, chat=True))
        said = f"--repetition_penalty: {server.url} drops them"
    assert caplog.text.count(said) == (owner == "library" or fingerprint is not None)


def test_a_run_that_ends_as_its_server_goes_away_ends():
    async def look(url: str) -> None:
        pool = endpoint_pool.EndpointPool(EndpointSettings([url], "tiny", 9), print, print)
        await pool.open()
        await asyncio.sleep(0)  # it is looked after
        pool.back_off(pool.endpoints[0], "gone")
        await pool.close()

    with serving(answer) as server:
        asyncio.run(look(server.url))


def test_our_own_server_is_never_looked_for_behind_a_proxy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    own = VllmServer.__new__(VllmServer)
    with serving(answer) as server:
        own.base_url = server.url
        assert own._healthy()
