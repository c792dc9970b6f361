"""Requests that a server will not take: a sample is settled by that only if another one, sent after it, is answered."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from promptcot_mamba.errors import InputError
from promptcot_mamba.sampling import endpoint_pool
from promptcot_mamba.sampling.backend import LENGTH, REFUSED, STOP, Generated, Request, SamplingSettings
from promptcot_mamba.sampling.endpoint_checks import GREETING
from promptcot_mamba.sampling.endpoint_pool import EndpointSettings
from promptcot_mamba.sampling.endpoint_troubles import MOST_BAD_ANSWERS, Troubles
from promptcot_mamba.sampling.openai_endpoint import OpenAIEndpoints
from promptcot_mamba.token_scores import TokenScores
from tests.sampling.own_server import CARD, OwnServer, begin, refusal, serving

# What servers say of a whole account under the status of one malformed request.
BUDGET = "Budget has been exceeded! Current cost: 12.5, Max budget: 10.0"  # BerriAI/litellm#14144
ARREARS = "Access denied, please make sure your account is in good standing."  # Alibaba's Arrearage
EXPIRED = "API key expired. Please renew the API key."  # continuedev/continue#11336
MALFORMED = "Could not parse the request"
NO_ROOM = "Input length (70 tokens) + max_tokens (4000) exceeds the model's context window of 2048"  # in nobody's words


def number(body: dict[str, Any]) -> int | None:
    """The unit that a prompt is of; None for a greeting."""
    last = body["prompt"].split()[-1]
    return int(last) if last.isdigit() else None


def answered() -> web.Response:
    choice = {"index": 0, "text": "It is 4.", "finish_reason": "stop"}
    return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})


def requests(units: range, **fields: Any) -> list[Request]:
    return [Request(unit, 0, 1000 + unit, f"prompt {unit}", None, 4000, **fields) for unit in units]


def sample(urls: list[str], asked: list[Request], got: list[Generated], **settings: Any) -> None:
    """Submit the requests and poll until all have come back into `got`, or the run ends."""
    how = {"concurrency": 4, "patience_seconds": 60.0, "gives_up": True, **settings}
    backend = OpenAIEndpoints(EndpointSettings(urls, "tiny", context=5000, **how), SamplingSettings(0.8, 0.95, 1.0, ()))
    try:
        for each in asked:
            backend.submit(each)
        while len(got) < len(asked):
            got += backend.poll(0.2)
        assert backend.poll(0.0) == []
        assert backend.running() == 0
    finally:
        backend.close()
    assert sorted(each.unit for each in got) == sorted(each.unit for each in asked)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(endpoint_pool, "FIRST_PAUSE", 0.002)


@pytest.mark.parametrize("words", [BUDGET, ARREARS, EXPIRED])
def test_an_account_that_ends_in_mid_run_settles_nothing(words: str):
    """Also where what was sent before is still answered."""
    refused = asyncio.Event()

    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        if len(server.bodies) <= 10:
            if number(body) == 5:
                await refused.wait()  # a long chain, begun while there was money
            return answered()
        refused.set()
        return refusal(400, words)

    got: list[Generated] = []
    with serving(answer) as server, pytest.raises(InputError, match=f"refused a request .*{words.partition('!')[0]}"):
        sample([server.url], requests(range(300)), got)
    assert {each.finish_reason for each in got} == {"stop"}
    assert 9 <= len(got) <= 10
    assert len(server.bodies) < 40


def malformed_if(is_bad: Callable[[int], bool], words: str = MALFORMED):
    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        unit = number(body)
        return refusal(400, words) if unit is not None and is_bad(unit) else answered()

    return answer


def test_the_last_request_of_a_run_is_judged_by_one_like_those_before_it():
    got: list[Generated] = []
    with serving(malformed_if(lambda unit: unit == 9)) as server:
        sample([server.url], requests(range(10)), got, concurrency=1)
    assert [each.unit for each in got if each.finish_reason == REFUSED] == [9]
    assert MALFORMED in got[-1].note
    assert [body["prompt"] for body in server.bodies[-4:]] == ["prompt 9", "prompt 8"] * 2  # both once more
    assert {**server.bodies[-1], "prompt": ""} == {**server.bodies[-2], "prompt": ""}  # what is wrong may be the rest


def test_the_only_request_of_a_rerun_is_judged_by_a_greeting():
    got: list[Generated] = []
    with serving(malformed_if(lambda unit: True)) as server:
        sample([server.url], requests(range(1)), got)
    assert [each.finish_reason for each in got] == [REFUSED]
    assert [body["prompt"] for body in server.bodies] == ["prompt 0", GREETING] * 2


def test_a_body_that_broke_on_its_way_is_sent_again():
    """OpenAI's words for one, under the status of all that is malformed; a filter's are believed."""
    words = "We could not parse the JSON body of your request."
    flagged = "Your chosen model requires moderation and your input was flagged"
    seen: Counter[int | None] = Counter()

    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        seen[number(body)] += 1
        if number(body) == 2:
            return refusal(403, flagged)
        return refusal(400, words) if number(body) == 1 == seen[1] else answered()

    got: list[Generated] = []
    with serving(answer) as server:
        sample([server.url], requests(range(4)), got, concurrency=1)
    assert {each.unit: each.finish_reason for each in got} == {0: "stop", 1: "stop", 2: REFUSED, 3: "stop"}
    assert (seen[1], seen[2]) == (2, 1)


def test_many_malformed_ones_beside_chains_of_hours_end_no_run():
    """Nothing has been answered yet, and eight are not taken."""
    enough = asyncio.Event()

    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        unit = number(body)
        if unit is None:
            enough.set()
            return answered()
        if unit % 2:
            return refusal(400, MALFORMED)
        await enough.wait()
        return answered()

    got: list[Generated] = []
    with serving(answer) as server:
        sample([server.url], requests(range(40)), got, concurrency=64)
    assert {each.unit % 2: each.finish_reason for each in got} == {0: "stop", 1: REFUSED}


def test_a_room_that_is_told_in_unknown_words_truncates_nothing():
    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        return refusal(400, NO_ROOM)

    got: list[Generated] = []
    with serving(answer) as server, pytest.raises(InputError, match=r"refused a request .*Input length \(70 tokens\)"):
        sample([server.url], requests(range(20)), got)
    assert got == []


def test_one_prompt_that_is_told_in_unknown_words_to_be_too_long_is_truncated():
    got: list[Generated] = []
    with serving(malformed_if(lambda unit: unit == 3, NO_ROOM)) as server:
        sample([server.url], requests(range(10)), got)
    assert {each.unit for each in got if each.finish_reason != "stop"} == {3}
    assert {each.finish_reason for each in got if each.unit == 3} == {LENGTH}


def test_log_probabilities_that_a_restarted_server_refuses_settle_nothing():
    """vLLM with another --max-logprobs: the request that tells has to ask for them too."""

    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        words = "Requested sample logprobs of 20, which is greater than max allowed: 5"
        return refusal(400, words) if "logprobs" in body else answered()

    got: list[Generated] = []
    with serving(answer) as server, pytest.raises(InputError, match="greater than max allowed: 5"):
        sample([server.url], requests(range(3), scores=TokenScores()), got)
    assert got == []


def test_a_server_that_takes_nothing_any_more_leaves_its_requests_to_the_other():
    async def turned(http: web.Request, body: dict) -> web.StreamResponse:
        return answered() if len(first.bodies) <= 5 else refusal(400, BUDGET)

    got: list[Generated] = []
    with serving(turned) as first, serving(malformed_if(lambda unit: unit == 30)) as second:
        sample([first.url, second.url], requests(range(60)), got)
    assert {each.unit for each in got if each.finish_reason != "stop"} == {30}


def test_what_is_held_by_a_server_that_went_away_is_asked_of_another(monkeypatch: pytest.MonkeyPatch):
    """The first dies under one request, and has not taken the other."""
    looks, both, gone = Counter(), asyncio.Event(), asyncio.Event()

    async def models(server: OwnServer, http: web.Request) -> web.StreamResponse:
        looks[server] += 1
        if server is dying and looks[server] > 1:
            gone.set()
            return await abort(http)
        return web.json_response({"data": [CARD]})

    async def abort(http: web.Request) -> web.StreamResponse:
        assert http.transport is not None
        http.transport.abort()
        return web.Response()

    async def die(http: web.Request, body: dict) -> web.StreamResponse:
        if len(dying.bodies) == 1:
            await both.wait()
            return await abort(http)
        both.set()
        await gone.wait()
        return refusal(400, MALFORMED)

    async def idle(http: web.Request, body: dict) -> web.StreamResponse:
        return answered()

    monkeypatch.setattr(OwnServer, "_models", models)
    got: list[Generated] = []
    with serving(die) as dying, serving(idle) as other:
        sample([dying.url, other.url], requests(range(8)), got, patience_seconds=3.0)
    assert {each.finish_reason for each in got} == {"stop"}
    assert {number(body) for body in dying.bodies} <= {number(body) for body in other.bodies}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_where_the_telling_request_itself_meets_trouble_all_is_asked_again(status: int):
    greeted = 0

    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        nonlocal greeted
        if number(body) is not None:
            return refusal(400, MALFORMED)
        greeted += 1
        return refusal(status, "not now") if greeted == 1 else answered()

    got: list[Generated] = []
    with serving(answer) as server:
        sample([server.url], requests(range(2)), got)
    assert [each.finish_reason for each in got] == [REFUSED] * 2
    assert greeted >= 2


def test_hours_of_work_are_no_outage():
    """Tries of an hour that break are no hour without a server; but what breaks eight times may break its servers."""
    troubles, now, away = Troubles(), 100.0, []
    for _ in range(MOST_BAD_ANSWERS):
        away.append(troubles.broke(now - 3600, now))
        now += 1 + 3600
    assert away == [*range(MOST_BAD_ANSWERS - 1), 7 * 3601]
    troubles.meet(1000, 0)  # it got on
    assert troubles.broke(now, now + 5) == 0


FULL = ""  # no reason is said, and all tokens that were allowed are counted


@pytest.mark.parametrize(
    ("reasons", "taken"),  # of the answers in order of time; which of them are taken
    [
        ([None, "stop", "stop"], [1, 2]),
        (["stop", *[None] * 5, "stop"], [0, 6]),
        ([None] * 4, [2, 3]),
        ([None, None, None, FULL, None], [2, 3, 4]),  # that the third was cut off tells by its tokens alone
    ],
)
@pytest.mark.parametrize("unasked", [True, False])
def test_half_a_stream_with_a_whole_streams_end_is_asked_for_again(reasons: list, taken: list[int], unasked: bool):
    """A gateway that lost its server ends with usage and [DONE] (ENTERPILOT/GoModel#1017, Wei-Shaw/sub2api#6299); one
    that never says a reason is believed at last."""

    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        n = len(server.bodies) - 1
        response = await begin(http)
        for event in (
            {"choices": [{"index": 0, "delta": {"content": "answer "}}]},
            {"choices": [{"index": 0, "delta": {"content": str(n)}, "finish_reason": reasons[n]}]},
            {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4000 if reasons[n] is FULL else 2}},
        ):
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    got: list[Generated] = []
    with serving(answer) as server:
        extra = {} if unasked else {"stream": True}
        sample([server.url], requests(range(len(taken))), got, chat=True, concurrency=1, extra_body=extra)
    ends = [(f"answer {n}", LENGTH if reasons[n] is FULL else STOP) for n in taken]
    assert sorted((each.text, each.finish_reason) for each in got) == ends
    assert len(server.bodies) == len(reasons)


def test_less_is_asked_for_in_the_words_of_extra_body():
    """`max_completion_tokens` stands for --max_len there, and a context may hold less."""
    words = (
        "This model's maximum context length is 3000 tokens. However, you requested 4100 tokens (100 in the messages, "
        "4000 in the completion)."
    )

    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        if body["max_completion_tokens"] > 2900:
            return refusal(400, words)
        choice = {"index": 0, "message": {"content": "It is 4."}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 4}})

    got: list[Generated] = []
    extra = {"max_tokens": None, "max_completion_tokens": 65536}
    with serving(answer) as server:
        sample([server.url], requests(range(1)), got, chat=True, extra_body=extra)
    assert [(each.text, each.finish_reason) for each in got] == [("It is 4.", STOP)]
    assert [body["max_completion_tokens"] for body in server.bodies] == [4000, 2899]
    assert not any("max_tokens" in body for body in server.bodies)
