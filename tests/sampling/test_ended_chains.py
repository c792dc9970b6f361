"""Chains that have said all when something cuts them: they are whole, and nothing is said behind their end."""

from __future__ import annotations

import asyncio
import threading
from array import array
from pathlib import Path

import pytest
from aiohttp import web

import infer_longcot
from promptcot_mamba.errors import InputError
from promptcot_mamba.sampling.backend import CUT, STOP, Generated, Request, SamplingSettings
from promptcot_mamba.sampling.endpoint_pool import EndpointSettings
from promptcot_mamba.sampling.openai_endpoint import OpenAIEndpoints
from tests.sampling.conftest import comparable, write_problems
from tests.sampling.own_server import begin, refusal, say, serving
from tests.sampling.scripted import TokenBackend
from tests.tiny import make_tokenizer

TOKENIZER = make_tokenizer()
SAMPLING = SamplingSettings(temperature=0.8, top_p=0.95, repetition_penalty=1.1, stop_token_ids=(2,))


class BreaksAtTheEnd(TokenBackend):
    """Its last token comes, and the connection breaks before the server says why."""

    def poll(self, timeout: float) -> list[Generated]:
        return [
            Generated(done.unit, "", CUT, 0, len(done.token_ids), 0.0, token_ids=done.token_ids)
            if done.finish_reason == STOP and len(done.token_ids) > 1
            else done
            for done in super().poll(timeout)
        ]


def test_what_breaks_behind_its_last_token_is_whole(checkpoint: Path, tmp_path: Path):
    problems = write_problems(tmp_path / "problems.jsonl", 5)

    def sample(output: Path, backend: TokenBackend) -> list[dict]:
        values = {"data_path": problems, "output_path": output, "model_path": checkpoint, "n": 4, "max_len": 900}
        flags = [f"--{name}={value}" for name, value in values.items()]
        assert infer_longcot.main(flags, make_backend=lambda plan: backend) == 0
        return comparable(output)

    whole = sample(tmp_path / "whole.jsonl", TokenBackend(TOKENIZER))
    assert sum(row["finish_reason"] == STOP for row in whole) > 10
    for row, other in zip(sample(tmp_path / "cut.jsonl", BreaksAtTheEnd(TOKENIZER)), whole, strict=True):
        if other["finish_reason"] == STOP:
            assert row == other
            assert "continued" not in row


def connect(url: str, **settings: object) -> OpenAIEndpoints:
    how = {"token_ids": True, "stream": True, **settings}
    return OpenAIEndpoints(EndpointSettings([url], "tiny", context=5000, **how), SAMPLING, TOKENIZER)


def request(unit: int) -> Request:
    return Request(unit, 0, 7 + unit, "2 + 2?", ids_of("2 + 2?"), 4000, kept=array("i"))


def ids_of(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def test_a_stream_that_has_told_its_reason_is_not_saved_as_growing():
    """Docker's and nginx's proxies keep a connection open behind the last event."""
    end = threading.Event()

    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        response = await begin(http)
        await say(response, "It is ", ids_of("It is "))
        if body["seed"] == 7:
            await say(response, "4.", ids_of("4."), "stop")
        while not end.is_set():
            await asyncio.sleep(0.01)
        return response

    with serving(answer) as server:
        backend = connect(server.url)
        for unit in (0, 1):
            backend.submit(request(unit))
        seen: list[set[int]] = []
        while seen[-3:] != [{1}] * 3:
            backend.poll(0.05)
            seen = [each for each in [*seen, set(backend.growing())] if each]
        assert backend.running() == 2
        end.set()
        backend.close()


def test_a_spent_account_waits_for_the_answers_that_are_paid_for():
    asked: list[int] = []

    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        asked.append(body["seed"])
        if body["seed"] == 9:
            return refusal(402, "Insufficient credits")
        await asyncio.sleep(0.3)
        response = await begin(http)
        await say(response, "It is 4.", ids_of("It is 4."), "stop")
        return response

    with serving(answer) as server:
        backend = connect(server.url, concurrency=3)
        for unit in range(5):
            backend.submit(request(unit))
        finished: list[Generated] = []

        def poll_for_ever() -> None:
            while True:
                finished.extend(backend.poll(0.2))

        with pytest.raises(InputError, match="no credit is left there"):
            poll_for_ever()
        backend.close()
    assert sorted(each.unit for each in finished) == [0, 1]
    assert sorted(asked) == [7, 8, 9]  # nothing more is asked


def test_a_server_without_ids_goes_on_from_a_whole_character():
    """Tokens are bytes at times: a vLLM server's may end within a character, which no text can hold."""
    text = "So \u6570\u5b66"
    ids, backend = ids_of(text), None
    with serving(lambda http, body: None) as server:
        backend = connect(server.url)
        for cut in range(len(ids) + 1):
            kept = array("i", ids[:cut])
            said = backend._asker.kept_text(Request(0, 0, 7, "2 + 2?", ids_of("2 + 2?"), 4000, kept=kept))
            assert text.startswith(said)
        backend.close()
    assert said == text
