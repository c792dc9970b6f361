"""Chains that stream from a server: dropped, cut, ended by its context, broken at every try, stopped by words."""

from __future__ import annotations

import asyncio
import errno
import json
import threading
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from aiohttp import web

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl
from promptcot_mamba.records import Problem, derive_seed
from promptcot_mamba.run_info import side_path
from promptcot_mamba.sampling import endpoint_pool, scheduler
from promptcot_mamba.sampling.arguments import SamplingArguments
from promptcot_mamba.sampling.backend import (
    CUT,
    LENGTH,
    REFUSED,
    STOP,
    BackendFailedError,
    Generated,
    Request,
    SamplingSettings,
)
from promptcot_mamba.sampling.decisions import Decisions
from promptcot_mamba.sampling.endpoint_pool import EndpointSettings
from promptcot_mamba.sampling.ledger import Ledger
from promptcot_mamba.sampling.openai_endpoint import OpenAIEndpoints
from promptcot_mamba.sampling.partial import PartialFile, read_partial
from promptcot_mamba.sampling.prompts import PromptBook
from promptcot_mamba.sampling.scheduler import Scheduler
from tests.sampling.own_server import begin, fail, refusal, say, serving


class Letters:
    """A tokenizer whose tokens are characters, by their code points."""

    eos_token_id, bos_token, all_special_ids = 2, None, (2,)

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        return "".join(chr(token) for token in ids if token != 2)


TOKENIZER = Letters()
SAMPLING = SamplingSettings(0.8, 0.95, 1.1, (TOKENIZER.eos_token_id,))
ANSWER = "so\n</think>\nThe answer is \\boxed{4}."


def ids_of(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def connect(url: str, **settings: object) -> OpenAIEndpoints:
    how = {"token_ids": True, "stream": True, "gives_up": True, **settings}
    return OpenAIEndpoints(EndpointSettings([url], "tiny", context=5000, **how), SAMPLING, TOKENIZER)


def request(kept: Sequence[int] = (), unit: int = 0, tokens: int = 4000) -> Request:
    return Request(unit, 0, 7, "2 + 2?", ids_of("2 + 2?"), tokens, kept=array("i", kept))


def ask(backend: OpenAIEndpoints, *requests: Request) -> list[Generated]:
    for each in requests:
        backend.submit(each)
    finished: list[Generated] = []
    while len(finished) < len(requests):
        finished += backend.poll(0.2)
    return finished


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(endpoint_pool, "FIRST_PAUSE", 0.002)


class Run:
    """A scheduler on one server, with its files."""

    def __init__(self, folder: Path, url: str, rows: Sequence[dict], n: int = 1, **settings: object):
        self.output = folder / "x.jsonl"
        self.problems = [Problem(row["id"], row["prompt"], row) for row in rows]
        self.backend = connect(url, **settings)
        self.decisions = Decisions(self.problems, n)
        self.ledger = Ledger(
            self.output, self.problems, n, 1, on_settled=lambda sample, problem: self.decisions.add(sample, problem)
        )
        self.ledger.resume()
        self.partial = PartialFile(side_path(self.output, "partial.jsonl"))
        self.scheduler = Scheduler(
            self.ledger, self.backend, PromptBook(self.problems, TOKENIZER), base_seed=3, max_len=4000, context=5000,
            partial=self.partial, decisions=self.decisions,
        )  # fmt: skip

    def to_the_end(self) -> bool:
        try:
            return self.scheduler.run()
        finally:
            self.partial.close()
            self.backend.close()
            self.ledger.finish()
            self.ledger.close()


def problems(*names: str) -> list[dict]:
    return [
        {"id": name, "source": "gsm8k", "prompt": f"{name}: 2 + 2?\n<think>\n", "solution": "#### 4"} for name in names
    ]


def test_chains_that_stream_while_their_problem_is_decided_are_dropped(tmp_path: Path, monkeypatch):
    """Three of five say 4 once the client has heard the beginning of two others, which go on for ever."""
    monkeypatch.setattr(scheduler, "SAVE_SECONDS", 0.0)
    heard = threading.Event()
    without_end = {derive_seed(3, "p", run, 0) for run in (3, 4)}

    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        response = await begin(http)
        if body["seed"] not in without_end:
            while not heard.is_set():
                await asyncio.sleep(0.01)
            await say(response, ANSWER, ids_of(ANSWER), "stop")
            return response
        while True:
            await say(response, "la", ids_of("la"))
            await asyncio.sleep(0.01)

    with serving(answer) as server:
        run = Run(tmp_path, server.url, problems("p"), n=5)

        def tick() -> None:
            if len(run.backend.growing()) == 2:
                heard.set()

        run.scheduler.tick = tick
        tokens = []
        run.backend_poll = run.backend.poll
        run.backend.poll = lambda timeout: (tokens.append(run.backend.generated_tokens), run.backend_poll(timeout))[1]
        assert run.to_the_end()
    assert (run.ledger.settled, run.ledger.spared) == (3, 2)
    assert tokens == sorted(tokens)  # what was heard of the dropped ones was generated
    assert run.backend.running() == 0
    assert not run.backend.growing()
    assert len(read_jsonl(run.output)) == 3
    assert not side_path(run.output, "partial.jsonl").exists()


TOO_LONG = (  # vLLM's words for a prompt that leaves no room at all
    "This model's maximum context length is 64 tokens. However, your request has 120 input tokens. Please reduce the "
    "length of the input messages."
)
FILTERED = "The response was filtered due to the prompt triggering Azure OpenAI's content management policy."


@pytest.mark.parametrize(("words", "reason"), [(TOO_LONG, LENGTH), (FILTERED, REFUSED)])
def test_a_continued_chain_that_its_server_will_not_take_keeps_what_it_said(words: str, reason: str):
    kept = ids_of("the quick brown fox jumps over the lazy dog")

    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        return refusal(400, words)

    with serving(answer) as server:
        backend = connect(server.url)
        continued, begun = sorted(ask(backend, request(kept), request(unit=1)), key=lambda each: each.unit)
        backend.close()
    assert continued.text == "the quick brown fox jumps over the lazy dog"
    assert (continued.finish_reason, continued.completion_tokens) == (reason, len(kept))
    assert list(continued.token_ids) == kept
    assert (begun.text, begun.finish_reason, begun.completion_tokens) == ("", reason, 0)


def test_a_problem_that_breaks_every_answer_at_its_first_word_is_given_up(tmp_path: Path):
    """vLLM's 500 in a stream under way: the limit is that of a request which has said nothing."""
    asked: Counter[str] = Counter()

    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        prompt = TOKENIZER.decode(body["prompt"])
        asked[prompt[0]] += 1
        response = await begin(http)
        if prompt.startswith("A"):
            await say(response, "so ", ids_of("so "))
            return await fail(response, "EngineCore encountered an issue", 500)
        await say(response, ANSWER, ids_of(ANSWER), "stop")
        return response

    with serving(answer) as server:
        run = Run(tmp_path, server.url, problems("A", "B", "C"), n=3, concurrency=2)
        run.scheduler.decisions = None
        assert not run.to_the_end()
    assert asked == {"A": 3 * 8, "B": 3, "C": 3}
    assert sorted(run.scheduler.failed) == [0, 3, 6]
    assert "EngineCore" in run.scheduler.describe_failed()
    assert sorted(row["id"] for row in read_jsonl(run.output)) == ["B"] * 3 + ["C"] * 3


def test_a_chain_that_gets_on_is_never_given_up():
    """Each answer breaks, ninety tokens further on than the one before."""
    said = "so " * 30

    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        response = await begin(http)
        if len(body["prompt"]) > 1000:
            await say(response, ".", ids_of("."), "stop")
            return response
        await say(response, said, ids_of(said))
        return await fail(response, "EngineCore encountered an issue", 500)

    with serving(answer) as server:
        backend, kept, cuts = connect(server.url), (), 0
        while (came := ask(backend, request(kept))[0]).finish_reason == CUT:
            kept, cuts = came.token_ids, cuts + 1
        backend.close()
    assert cuts > 10
    assert came.text == said * cuts + "."


def test_a_segment_longer_than_its_time_ends_the_run():
    """In segments a chain that is cut begins its segment again: it has got no further."""

    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        response = await begin(http)
        while True:
            await say(response, "la", ids_of("la"))
            await asyncio.sleep(0.01)

    with serving(answer) as server:
        backend = connect(server.url, request_seconds=0.3)
        with pytest.raises(BackendFailedError, match="raise --request_timeout"):
            [ask(backend, request()) for _ in range(5)]
        backend.close()


def busy(http: web.Request, *, midway: bool, status: int = 429, **headers: str):
    async def answer() -> web.StreamResponse:
        if not midway:
            return refusal(status, "Rate limit reached for requests", **headers)
        response = await begin(http)
        await say(response, "so ", ids_of("so "))
        return await fail(response, "Rate limit reached for requests", 429)

    return answer()


@pytest.mark.parametrize(
    ("midway", "headers", "pause"),
    [
        (True, {}, 3600.0),
        (False, {"Retry-After": "0"}, 3600.0),
        (False, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 3600.0),
        (False, {"retry-after-ms": "0"}, 3600.0),
        (False, {"status": 500, "Retry-After": "300"}, 0.002),
    ],
)
def test_a_busy_server_is_not_asked_again_at_once(midway: bool, headers: dict, pause: float, monkeypatch):
    """Whatever it says, where the first pause is an hour; nor before the time that it says with an error."""
    monkeypatch.setattr(endpoint_pool, "FIRST_PAUSE", pause)
    monkeypatch.setattr(endpoint_pool, "LONGEST_PAUSE", 3600.0)
    with serving(lambda http, body: busy(http, midway=midway, **headers)) as server:
        backend = connect(server.url)
        backend.submit(request())
        while not backend.moved:
            finished = backend.poll(0.2)
        for cut in finished:
            assert cut.finish_reason == CUT
            backend.submit(request())
        for _ in range(3):
            assert backend.poll(0.1) == []
            assert backend.running() == 0
        backend.close()
    assert len(server.bodies) == 1


def test_clocks_that_differ_by_hours_put_no_server_away(monkeypatch, caplog):
    """A date is taken against the answer's own: 2 s from then, whatever the year is here."""

    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        dates = {"Date": "Fri, 01 Jan 2100 00:00:00 GMT", "Retry-After": "Fri, 01 Jan 2100 00:00:01 GMT"}
        if len(server.bodies) == 1:
            return refusal(429, "Rate limit reached for requests", **dates)
        response = await begin(http)
        await say(response, ANSWER, ids_of(ANSWER), "stop")
        return response

    with serving(answer) as server:
        backend = connect(server.url, patience_seconds=600.0)
        assert ask(backend, request())[0].text == ANSWER
        backend.close()
    assert "sent again in 1.0 s" in caplog.text


STOPPED = "def solve(n): return n * n\n"


@pytest.mark.parametrize("save_partial", [True, False])
@pytest.mark.parametrize("stream_ids", [True, False])
def test_a_stop_string_is_in_no_text_and_chains_are_made_in_one_piece(save_partial: bool, stream_ids: bool):
    """vLLM's text ends before the string, its ids after it; and a string across a cut would not be seen."""

    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        assert body["stop"] == ["print"]
        ids = ids_of(f"{STOPPED}print")
        if not body.get("stream"):
            choice = {"index": 0, "text": STOPPED, "finish_reason": "stop", "stop_reason": "print"}
            choice |= {"token_ids": ids} if body.get("return_token_ids") else {}
            usage = {"prompt_tokens": 9, "completion_tokens": len(ids)}
            return web.json_response({"choices": [choice], "usage": usage})
        response = await begin(http)
        if len(server.bodies) == 1:
            await say(response, STOPPED, ids)
            return await fail(response, "EngineCore encountered an issue", 500)
        await say(response, STOPPED, ids, "stop")
        return response

    with serving(answer) as server:
        settings = {"token_ids": save_partial, "stream": save_partial, "extra_body": {"stop": ["print"]}}
        sampling = SamplingSettings(0.8, 0.95, 1.1, (2,), stop_on_loop=stream_ids)
        how = EndpointSettings([server.url], "tiny", context=5000, gives_up=True, **settings)
        backend = OpenAIEndpoints(how, sampling, TOKENIZER)
        [came] = ask(backend, request())
        backend.close()
    assert (came.text, came.finish_reason) == (STOPPED, "stop")
    assert came.completion_tokens == len(ids_of(f"{STOPPED}print"))
    assert {tuple(body["prompt"]) for body in server.bodies} == {tuple(ids_of("2 + 2?"))}


@pytest.mark.parametrize("field", ["presence_penalty", "frequency_penalty", "min_tokens", "stop", "response_format"])
def test_fields_that_a_cut_would_change_are_refused_beside_cuts(field: str):
    def arguments(value: object, **flags: object) -> SamplingArguments:
        body = f'{{"{field}": {value}}}'
        return SamplingArguments("p.jsonl", "x.jsonl", "m", base_url=["http://127.0.0.1:9"], extra_body=body, **flags)

    for flags in ({"segment_len": 64}, {"thinking_budget": 64}):
        with pytest.raises(InputError, match=f"--extra_body: '{field}' holds for a chain in one piece; drop it, or --"):
            arguments(1, **flags)
        arguments(0, **flags)
        arguments("null", **flags)
    assert arguments(1).extra_fields == {field: 1}


def test_how_long_a_chain_may_be_is_said_by_a_flag():
    def arguments(body: str, **flags: object) -> SamplingArguments:
        return SamplingArguments("p.jsonl", "x.jsonl", "m", base_url=["http://127.0.0.1:9"], extra_body=body, **flags)

    for body in ('{"max_tokens": 100}', '{"max_completion_tokens": 100}'):
        with pytest.raises(InputError, match="give --max_len"):
            arguments(body)
    arguments('{"max_tokens": null, "max_completion_tokens": 65536}', api="chat")  # OpenAI's reasoning models


def test_what_is_streamed_only_on_request_is():
    """A proxy may cut what is silent for a minute, and some models are served in no other way."""

    def arguments(body: str | None) -> SamplingArguments:
        return SamplingArguments(
            "p.jsonl", "x.jsonl", "m", base_url=["http://127.0.0.1:9"], api="chat", extra_body=body
        )

    for body in ('{"stream": false}', '{"seed": 3}'):
        with pytest.raises(InputError, match="is this program's to say"):
            arguments(body)
    assert arguments('{"stream": true, "stream_options": null}').drawn_by is None  # no sample depends on it
    assert arguments('{"stream": true, "seed": null}').drawn_by == '{"seed": null}'
    assert arguments('{ "seed": null}').drawn_by == '{ "seed": null}'  # as it has always been recorded
    assert arguments(None).drawn_by is None

    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        if not body.get("stream"):
            return refusal(400, "This model only support stream mode")
        response = await begin(http)
        for delta in ({"reasoning_content": "17 "}, {"reasoning_content": "and 4"}, {"content": "It is "}):
            await response.write(f"data: {json.dumps({'choices': [{'delta': delta}]})}\n\n".encode())
        if len(server.bodies) == 1:
            return await fail(response, "upstream idle", 504)
        last = {"choices": [{"delta": {"content": "21."}, "finish_reason": "stop"}], "usage": {"completion_tokens": 9}}
        await response.write(f"data: {json.dumps(last)}\n\n".encode())
        return response

    with serving(answer) as server:
        backend = connect(server.url, chat=True)
        with pytest.raises(InputError, match="only support stream mode"):
            ask(backend, request())
        backend.close()
        server.bodies.clear()
        backend = connect(server.url, chat=True, extra_body={"stream": True, "seed": None})
        [came] = ask(backend, request())
        backend.close()
    assert (came.reasoning, came.text, came.finish_reason, came.completion_tokens) == ("17 and 4", "It is 21.", STOP, 9)
    assert len(server.bodies) == 2
    assert not any("seed" in body or "return_token_ids" in body for body in server.bodies)


def test_a_row_that_cannot_be_written_leaves_its_chain_to_be_continued(tmp_path: Path, monkeypatch):
    kept = ids_of("the quick brown fox")

    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        response = await begin(http)
        await say(response, ".", ids_of("."), "stop")
        return response

    with serving(answer) as server:
        run = Run(tmp_path, server.url, problems("p"))
        run.partial.save(run.scheduler._chain(0, 0), kept)
        run.partial.close()
        run.partial = run.scheduler.partial = PartialFile(run.partial.path)

        def full_disk(unit: int, sample: object) -> bool:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(run.ledger, "append", full_disk)
        with pytest.raises(OSError, match="No space left"):
            run.to_the_end()
        assert run.partial._lengths  # alive, so no rewriting drops it
    [saved] = read_partial(run.partial.path).values()
    assert list(saved.ids) == kept


def test_an_edited_prompts_chain_is_saved_from_its_first_token(tmp_path: Path):
    """300 tokens of the old prompt lie in the file; ten of the new one are worth more."""

    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        return refusal(500, "never asked")

    with serving(answer) as server:
        run = Run(tmp_path, server.url, problems("p"))
        run.partial.save(run.scheduler._chain(0, 0), range(300))
        for each in (run.partial, run.backend, run.ledger):
            each.close()
        edited = [problems("p")[0] | {"prompt": "p: 2 + 3?\n<think>\n"}]
        run = Run(tmp_path, server.url, edited)
        chain = run.scheduler._chain(0, 0)
        assert not chain.kept
        for length in (10, 25):
            run.partial.save(chain, range(1000, 1000 + length))
        for each in (run.partial, run.backend, run.ledger):
            each.close()
    [saved] = read_partial(run.partial.path).values()
    assert list(saved.ids) == list(range(1000, 1025))
    assert saved.prompt_crc == chain.prompt_crc
