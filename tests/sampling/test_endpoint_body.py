"""Answers whose end does not come, or comes in another form: what is whole is taken, what is not is asked for again."""

from __future__ import annotations

import asyncio
import json
from array import array
from collections.abc import AsyncIterator

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptcot_mamba.sampling import endpoint_body
from promptcot_mamba.sampling.backend import LENGTH, LOOP, REFUSED, STOP
from promptcot_mamba.sampling.endpoint_answers import Answer, finish_reason, read_completion, read_stream
from promptcot_mamba.sampling.endpoint_body import iter_lines, parse_object, read_body
from promptcot_mamba.sampling.endpoint_errors import BadAnswerError, ServerTroubleError

EVENTS = [
    {"choices": [{"index": 0, "text": "a ∑ ", "token_ids": [5, 6], "finish_reason": None}]},
    {"choices": [{"index": 0, "text": "b", "token_ids": [7], "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 3}},
]
WHOLE = {"choices": [{"index": 0, "text": "a ∑ b", "token_ids": [5, 6, 7], "finish_reason": "stop"}]}
WHOLE["usage"] = EVENTS[2]["usage"]
HANG, BREAK = b"hang", b"break"


def events(some: list[dict] = EVENTS, end: str = "\n\n", data: str = "data: ", **how: object) -> bytes:
    return "".join(data + json.dumps(event, **how).replace("\n", "\ndata: ") + end for event in some).encode()


class Content:
    """What aiohttp gives of a body: pieces as they come, after which it may hang or break."""

    def __init__(self, *pieces: bytes):
        self.pieces = list(pieces)

    async def readany(self) -> bytes:
        piece = self.pieces.pop(0) if self.pieces else b""
        if piece == HANG:
            self.pieces.insert(0, HANG)
            await asyncio.Event().wait()
        if piece == BREAK:
            raise aiohttp.ClientPayloadError("response payload is not completed")
        return piece

    def at_eof(self) -> bool:
        return not self.pieces


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(endpoint_body, "QUIET_SECONDS", 0.01)


def stream(*pieces: bytes) -> Answer:
    lines = iter_lines(Content(*pieces))
    return asyncio.run(read_stream(lines, array("i", [1]), 100, "http://x", stop_on_loop=False))


DONE = b"data: [DONE]\n\n"
STREAMS = {
    "as it should be": [events(), DONE],
    "hangs after [DONE]": [events(), DONE, HANG],  # a proxy that never closes
    "hangs after its usage": [events(), HANG],
    "hangs after its reason": [events(EVENTS[:2]), HANG],
    "breaks after its reason": [events(EVENTS[:2]), BREAK],
    "an error behind its end": [events(), b"error: upstream closed\n\n"],
    "an error event behind its end": [events(), b'data: {"error": {"message": "reset", "code": 502}}\n\n'],
    "ends without [DONE]": [events(EVENTS[:2])],
    "a reason is never said": [events([EVENTS[0], WHOLE | {"choices": [EVENTS[1]["choices"][0] | {
        "finish_reason": None}]}]), DONE],
    "several lines an event": [events(indent=1), DONE],
    "no blank line between": [events(end="\n"), DONE],
    "no blank before JSON": [events(data="data:", end="\r\n\r\n"), DONE],
    "comments and names": [b": PROCESSING\n\nevent: chunk\nid: 7\nretry: 3\n", events(), b":\n\n", DONE],
    "not streamed": [json.dumps(WHOLE).encode()],  # the server ignores what it was asked for
    "not streamed, indented": [json.dumps(WHOLE, indent=2).encode()],
    "an object a line": [events(data="", end="\n")],  # Lightning-AI/LitServe#359
    "bytes one by one": [bytes([byte]) for byte in events() + DONE],
}  # fmt: skip


@pytest.mark.parametrize("form", STREAMS)
def test_a_stream_that_has_said_all_is_an_answer(form: str):
    answer = stream(*STREAMS[form])
    assert answer.may_be_half == (form == "a reason is never said")
    assert (answer.text, answer.finish_reason, list(answer.token_ids)) == ("a ∑ b", STOP, [1, 5, 6, 7])


def chat_event(reason: str | None = None, **delta: object) -> dict:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def test_a_chat_is_streamed_with_its_thought_apart():
    thought = [chat_event(role="assistant", reasoning_content="17 "), chat_event(reasoning_content="and 4")]
    said = [chat_event(content="It is "), chat_event("stop", content="21."), EVENTS[2]]
    answer = stream(events([*thought, *said]), DONE)
    assert (answer.reasoning, answer.text, answer.finish_reason) == ("17 and 4", "It is 21.", STOP)
    assert (answer.prompt_tokens, answer.completion_tokens, answer.token_ids) == (3, 3, None)
    refused = stream(events([chat_event(refusal="I can't "), chat_event("stop", refusal="help.")]), DONE)
    assert (refused.text, refused.finish_reason, refused.note) == ("", REFUSED, "I can't help.")


def test_half_a_stream_that_nobody_asked_for_is_no_answer():
    """Its usage, told with each event, would else make a whole one of it."""
    half = [event | {"usage": {"completion_tokens": 2}} for event in EVENTS[:1]]
    with pytest.raises(ServerTroubleError):
        parse_object(events(half), "http://x")
    answer = read_completion(parse_object(events(half) + DONE, "http://x"), 100)
    assert (answer.text, answer.may_be_half) == ("a ∑ ", True)
    with pytest.raises(BadAnswerError, match="events without an answer"):
        parse_object(events(EVENTS[2:]) + DONE, "http://x")
    assert not read_completion(parse_object(events(), "http://x"), 100).may_be_half


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        ([events(EVENTS[:1])], ServerTroubleError),  # a proxy's clean end of half a stream
        ([events(EVENTS[:1]), BREAK], aiohttp.ClientPayloadError),
        ([events(EVENTS[:1]), b'data: {"choices": [{"te\n\n'], BadAnswerError),
        ([events([EVENTS[0], {"choices": [{"text": "b", "finish_reason": "stop"}]}])], BadAnswerError),  # ids of half
        ([b"<html>Please sign in</html>"], BadAnswerError),
        ([events([{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 0}}]), DONE], BadAnswerError),
        ([events(EVENTS[:1]), b'data: {"error": {"message": "EngineCore died", "code": 500}}\n\n'], BadAnswerError),
    ],
)
def test_a_stream_that_has_not_is_none(pieces: list[bytes], error: type[Exception]):
    with pytest.raises(error):
        stream(*pieces)


BODY = json.dumps(WHOLE).encode()


@pytest.mark.parametrize(
    "pieces",
    [[BODY], [BODY[:9], BODY[9:]], [BODY, HANG], [BODY, BREAK], [b"\n\n", b"  ", BODY], [events() + DONE, HANG]],
)
def test_a_whole_body_is_taken_though_it_does_not_end(pieces: list[bytes]):
    body = b"".join(piece for piece in pieces if piece not in (HANG, BREAK))
    assert asyncio.run(read_body(Content(*pieces))) == body


def test_half_a_body_is_an_error_but_for_an_errors_words():
    with pytest.raises(aiohttp.ClientPayloadError):
        asyncio.run(read_body(Content(BODY[:9], BREAK)))
    assert asyncio.run(read_body(Content(b"<html>502", HANG), broken_too=True)) == b"<html>502"


@given(st.lists(st.sampled_from([b"", b"a", b"data: x", b"\r"]), max_size=6), st.data())
def test_lines_do_not_depend_on_pieces(lines: list[bytes], data: st.DataObject):
    whole, pieces = b"\n".join(lines), []
    while whole:
        size = data.draw(st.integers(1, len(whole)))
        pieces, whole = [*pieces, whole[:size]], whole[size:]

    async def gather(source: AsyncIterator[bytes]) -> list[bytes]:
        return [line async for line in source]

    found = asyncio.run(gather(iter_lines(Content(*pieces))))
    assert found == (lines[:-1] if lines and not lines[-1] else lines)


@pytest.mark.parametrize(
    ("said", "ours"),
    [
        ("model_length", LENGTH),  # Mistral
        ("token_limit", LENGTH),  # watsonx
        ("COMPLETE", STOP),  # Cohere
        ("guardrail_intervened", REFUSED),  # Bedrock
        ("repetition", LOOP),  # vLLM's own detection, which ends a chain
        ("content_filter: PROHIBITED_CONTENT", REFUSED),  # Gemini's gateway
        ("sensitive", REFUSED),  # Zhipu
    ],
)
def test_servers_words_for_an_end(said: str, ours: str):
    assert finish_reason(said, 5, 10) == ours
