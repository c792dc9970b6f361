"""The endpoint back end against small servers that die, hang, refuse and serve the wrong thing."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import urllib.request
from collections import Counter

import pytest
from aiohttp import web

from promptcot_mamba.errors import InputError
from promptcot_mamba.sampling import endpoint_pool
from promptcot_mamba.sampling.backend import LENGTH, LOOP, BackendFailedError, Request, SamplingSettings
from promptcot_mamba.sampling.endpoint_pool import EndpointPool, EndpointSettings, read_cards
from promptcot_mamba.sampling.endpoint_protocol import find_model, normal_url, payload
from promptcot_mamba.sampling.openai_endpoint import OpenAIEndpoints
from tests.sampling.own_server import serving
from tests.sampling.scripted import write_chain

SAMPLING = SamplingSettings(temperature=0.8, top_p=0.95, repetition_penalty=1.1, stop_token_ids=(2,))


def connect(*urls: str, sampling: SamplingSettings = SAMPLING, tokenizer=None, **settings) -> OpenAIEndpoints:
    return OpenAIEndpoints(EndpointSettings(urls, "tiny", context=5000, **settings), sampling, tokenizer)


def sample(backend: OpenAIEndpoints, count: int, during=lambda finished: None) -> list:
    """Submit `count` requests, poll until all have ended, close."""
    for unit in range(count):
        backend.submit(Request(unit, 0, 1000 + unit, f"prompt {unit}", None, 4096))
    finished: list = []
    try:
        while len(finished) < count:
            finished += backend.poll(0.2)
            during(finished)
    finally:
        backend.close()
    return finished


def expected(unit: int) -> tuple[str, str, int]:
    return write_chain(Request(unit, 0, 1000 + unit, f"prompt {unit}", None, 4096))


def assert_each_once_and_right(finished: list, count: int) -> None:
    assert Counter(each.unit for each in finished) == Counter(range(count))
    for each in finished:
        assert (each.text, each.finish_reason, each.completion_tokens) == expected(each.unit)


def test_every_request_is_answered_once_within_the_concurrency(start_server):
    server = start_server(seconds=0.02)
    assert_each_once_and_right(sample(connect(server.url, concurrency=5), 40), 40)
    stats = json.load(urllib.request.urlopen(server.url.replace("/v1", "/stats")))
    assert stats["seen"] == 40
    assert 2 <= stats["most_running"] <= 5


def test_garbage_is_searched_as_before_once_it_is_over(start_server):
    before, within = gc.get_threshold(), set()
    sample(connect(start_server(seconds=0.0).url), 4, lambda finished: within.add(gc.get_threshold()))
    assert within == {(endpoint_pool.YOUNG_OBJECTS, *before[1:])}
    assert gc.get_threshold() == before


def test_a_killed_servers_work_moves_to_the_other(start_server):
    doomed, other = start_server(seconds=0.05), start_server(seconds=0.05)
    backend = connect(doomed.url, other.url, concurrency=8)

    def kill_midway(finished: list) -> None:
        if len(finished) > 20 and doomed.process.poll() is None:
            doomed.kill()

    assert_each_once_and_right(sample(backend, 120, kill_midway), 120)
    assert backend.moved > 0
    assert backend.endpoints[0].served > 0
    assert backend.endpoints[1].served > 60


def test_a_server_that_comes_back_is_used_again(start_server):
    server = start_server(seconds=0.02)
    backend = connect(server.url, concurrency=4)

    def restart_midway(finished: list) -> None:
        if len(finished) > 10 and server.process.poll() is None:
            server.kill()
            start_server(port=server.port)

    assert_each_once_and_right(sample(backend, 60, restart_midway), 60)


def test_what_took_too_long_is_asked_of_another_server():
    """A stuck engine behind a server that lists its model all the same."""

    async def hang(http: web.Request, body: dict) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError

    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        return web.json_response({"choices": [{"index": 0, "text": "4.", "finish_reason": "stop"}]})

    with serving(hang) as stuck, serving(answer) as other:
        finished = sample(connect(stuck.url, other.url, concurrency=4, request_seconds=0.3, gives_up=True), 24)
    assert {each.text for each in finished} == {"4."}


def test_a_server_that_hangs_loses_its_work(start_server, monkeypatch):
    monkeypatch.setattr(endpoint_pool, "PROBE_SECONDS", 0.1)
    hung, other = start_server(hang_after=5), start_server(seconds=0.01)
    backend = connect(hung.url, other.url, concurrency=4)
    monkeypatch.setattr(endpoint_pool, "CONNECT_SECONDS", 0.3)  # after both have said who they are
    assert_each_once_and_right(sample(backend, 40), 40)


def test_a_server_that_comes_back_with_another_model_ends_the_run(start_server):
    server = start_server(seconds=0.1)

    def swap_midway(finished: list) -> None:
        if len(finished) > 10 and server.process.poll() is None:
            server.kill()
            start_server(port=server.port, model="other")

    # Noticed by a request's refusal, or, where requests were cut off by the swap, by asking what is served. A router
    # may list others while the server behind it starts anew, so that is waited for.
    said = r"serves other, not tiny|The model tiny does not exist"
    with pytest.raises((InputError, BackendFailedError), match=said):
        sample(connect(server.url, concurrency=4, patience_seconds=1.0), 60, swap_midway)


def test_a_chain_that_takes_too_long_twice_ends_the_run(start_server):
    server = start_server(seconds=30)
    with pytest.raises(BackendFailedError, match="raise --request_timeout"):
        sample(connect(server.url, concurrency=2, request_seconds=0.3), 2)


@pytest.mark.parametrize("trouble", ["break_first", "busy_first"])
def test_failures_that_pass_are_retried(start_server, trouble: str):
    server = start_server(**{trouble: 3})
    backend = connect(server.url, concurrency=2)
    assert_each_once_and_right(sample(backend, 10), 10)
    assert backend.moved == 3


def test_a_request_that_always_fails_stops_the_run(start_server, monkeypatch):
    monkeypatch.setattr(endpoint_pool, "FIRST_PAUSE", 0.001)
    server = start_server(break_first=10_000)
    with pytest.raises(BackendFailedError, match="500: broken"):
        sample(connect(server.url, concurrency=1), 3)


def test_patience_ends(start_server):
    server = start_server(seconds=0.05)
    backend = connect(server.url, concurrency=2, patience_seconds=1.0)
    with pytest.raises(BackendFailedError, match="no server has answered"):
        sample(backend, 20, lambda finished: server.kill() if server.process.poll() is None else None)


def test_a_prompt_too_long_for_the_server_is_an_empty_truncated_sample(start_server):
    backend = connect(start_server(max_model_len=6000).url)
    backend.submit(Request(0, 0, 1, "x" * 7000, None, 100))
    finished: list = []
    while not finished:  # a greeting is asked first: were that too long, so would be what is asked for beside it
        finished = backend.poll(0.2)
    backend.close()
    assert [(each.text, each.finish_reason, each.completion_tokens) for each in finished] == [("", LENGTH, 0)]


def test_a_streamed_loop_is_cut_where_it_begins_to_count(start_server):
    class Tokenizer:
        def decode(self, ids, skip_special_tokens):
            return f"{len(ids)} tokens"

    server = start_server(stream_loop=2000)
    sampling = SamplingSettings(0.8, 0.95, 1.1, (2,), stop_on_loop=True)
    [cut] = sample(connect(server.url, sampling=sampling, tokenizer=Tokenizer()), 1)
    before = len(expected(0)[0])
    assert (cut.finish_reason, cut.completion_tokens, cut.text) == (LOOP, before + 256, f"{before + 256} tokens")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"model": "other"}, "serves other, not tiny"), ({"max_model_len": 4096}, "--max-model-len 5000")],
)
def test_a_server_of_another_kind_is_refused(start_server, options: dict, message: str):
    with pytest.raises(InputError, match=message):
        connect(start_server(**options).url)


def test_an_unreachable_server_is_refused_unless_another_answers(start_server):
    with pytest.raises(InputError, match="cannot be reached"):
        connect("http://127.0.0.1:9")
    assert_each_once_and_right(sample(connect("127.0.0.1:9", start_server().url, concurrency=4), 12), 12)


def test_names_of_servers_and_models():
    assert normal_url("host:8000") == normal_url("http://host:8000/") == normal_url("http://host:8000/v1")
    assert normal_url("https://host/api/v3/") == "https://host/api/v3"
    cards = [{"id": "a", "root": "/models/a-7b"}, {"id": "b"}]
    assert find_model(cards, "/other/disk/a-7b") is cards[0]
    assert find_model(cards, "b") is cards[1]
    assert find_model(cards, "c") is None


def test_only_vllm_is_sent_its_own_fields():
    request = Request(0, 0, 5, "text", [1, 2], 9)
    plain = payload(request, SAMPLING, "m", is_vllm=False, stream=False)
    assert plain["prompt"] == "text"
    assert "stop_token_ids" not in plain
    full = payload(request, SAMPLING, "m", is_vllm=True, stream=False)
    assert (full["prompt"], full["stop_token_ids"], full["seed"], full["top_k"]) == ([1, 2], [2], 5, 0)


def test_dropped_requests_never_come_back_wherever_they_are(start_server):
    """Waiting, on a server, or asleep until a busy server may be asked again."""
    backend = connect(start_server(seconds=0.2, busy_first=2).url, concurrency=3)
    finished: list = []
    try:
        for unit in range(12):
            backend.submit(Request(unit, 0, 1000 + unit, f"prompt {unit}", None, 4096))
        backend.poll(0.05)
        time.sleep(0.05)
        finished += backend.poll(0.05)
        early = {each.unit for each in finished}
        for unit in range(0, 12, 2):
            backend.drop(unit)
        backend.drop(0)  # twice is once
        while len({each.unit for each in finished} | set(range(0, 12, 2))) < 12:
            finished += backend.poll(0.2)
        assert backend.poll(0.3) == []
        assert backend.running() == 0
    finally:
        backend.close()
    units = [each.unit for each in finished]
    assert sorted(set(units) - early) == sorted(set(range(1, 12, 2)) - early)
    assert len(units) == len(set(units))


def test_the_context_of_a_llama_server_is_read_off_its_card():
    """Of one slot; what goes beyond is cut off as if `max_tokens` had been reached."""
    card = {"id": "tiny", "owned_by": "llamacpp", "meta": {"n_vocab": 400, "n_ctx": 4864, "n_ctx_train": 8192}}
    for said, most in ((card, 4864), (card | {"meta": "none"}, None), ({"id": "m", "max_model_len": 9}, 9)):
        assert read_cards(json.dumps({"data": [said]}).encode(), "url")[0]["max_model_len"] == most


def test_servers_are_told_how_to_draw_in_their_own_words():
    """llama.cpp's servers penalise, cut and filter by defaults of their own, under names of their own."""
    request = Request(0, 0, 5, "text", [1, 2], 9)
    none = SamplingSettings(0.8, 0.95, 1.0, (2,))
    for owner in ("llamacpp", "me"):
        body = payload(request, none, "m", is_vllm=False, stream=False, owner=owner)
        drawn = {name: body.get(name) for name in ("repeat_penalty", "top_k", "min_p")}
        assert drawn == {"repeat_penalty": 1.0, "top_k": 0, "min_p": 0.0}
        assert body["repeat_last_n"] >= 65536 + 4096  # in 2026 llama-server began to refuse -1, "the whole context"
        assert "repetition_penalty" not in body
    body = payload(request, none, "m", is_vllm=False, stream=False, owner="organization_owner")  # LM Studio
    assert {name: body.get(name) for name in ("repeat_penalty", "top_k")} == {"repeat_penalty": 1.0, "top_k": 0}
    assert not body.keys() & {"repetition_penalty", "repeat_last_n", "min_p"}
    body = payload(request, none, "m", is_vllm=False, stream=False, owner="sglang")
    assert (body["repetition_penalty"], body["top_k"], body["min_p"]) == (1.0, -1, 0.0)
    body = payload(request, none, "m", is_vllm=False, stream=False, owner="openai")  # refuses what it does not know
    assert not body.keys() & {"repetition_penalty", "repeat_penalty", "top_k", "min_p"}


@pytest.mark.parametrize(("owner", "penalty"), [("llamacpp", "repeat_penalty"), ("sglang", "repetition_penalty")])
def test_whose_words_to_use_is_read_off_the_models_card(start_server, monkeypatch, owner: str, penalty: str):
    bodies = []
    post = EndpointPool.post

    def remember(pool, endpoint, path, body):
        bodies.append(body)
        return post(pool, endpoint, path, body)

    monkeypatch.setattr(EndpointPool, "post", remember)
    assert_each_once_and_right(sample(connect(start_server(owner=owner).url), 3), 3)
    assert all(penalty in body for body in bodies)


def test_chat_completions_are_asked_for_with_messages(start_server, monkeypatch):
    server, bodies = start_server(), []
    post = EndpointPool.post

    def remember(pool, endpoint, path, body):
        bodies.append((path, body))
        return post(pool, endpoint, path, body)

    monkeypatch.setattr(EndpointPool, "post", remember)
    extra = {"reasoning_effort": "high", "top_p": None}  # OpenAI's reasoning models refuse some usual fields
    backend = connect(server.url, chat=True, template_kwargs={"enable_thinking": False}, extra_body=extra)
    assert_each_once_and_right(sample(backend, 10), 10)
    assert {path for path, _ in bodies} == {"chat/completions"}
    assert bodies[3][1]["messages"] == [{"role": "user", "content": "prompt 3"}]
    assert bodies[3][1]["chat_template_kwargs"] == {"enable_thinking": False}
    assert bodies[3][1]["reasoning_effort"] == "high"
    assert "top_p" not in bodies[3][1]


def test_likelihoods_come_in_order_and_survive_trouble(start_server):
    server = start_server(break_first=2, seconds=0.01)
    backend = connect(server.url, concurrency=3)
    sequences = [([5] * (3 + i), 1 + i % 2) for i in range(20)]
    try:
        scores = list(backend.log_likelihoods(iter(sequences)))
    finally:
        backend.close()
    assert scores == [-sum(range(start, len(ids))) for ids, start in sequences]
    assert backend.moved >= 2


def test_a_server_without_prompt_log_probabilities_is_named(start_server):
    backend = connect(start_server(owner="another").url)
    try:
        with pytest.raises(InputError, match=r"does not return prompt log-probabilities; vLLM servers do"):
            list(backend.log_likelihoods([([5, 6], 1)]))
    finally:
        backend.close()
