"""Answers of any shape at all are answers, or troubles that are counted: never a traceback, never a wrong type."""

from __future__ import annotations

import asyncio
import copy
import json
from array import array
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptcot_mamba.errors import InputError
from promptcot_mamba.sampling.endpoint_answers import Answer, read_completion, read_stream
from promptcot_mamba.sampling.endpoint_body import parse_object
from promptcot_mamba.sampling.endpoint_errors import (
    PromptTooLongError,
    RefusedError,
    RejectedError,
    ServerTroubleError,
    error_words,
    raise_for_error,
    retry_after,
)
from promptcot_mamba.sampling.endpoint_protocol import find_model
from promptcot_mamba.token_scores import TokenScores

KNOWN = (ServerTroubleError, RefusedError, RejectedError, PromptTooLongError, InputError)
WORDS = st.sampled_from(
    ["", "stop", "length", "eos", "error", "12", "-1", "nan", "1e999", "\ud83d", "data: {}", "é" * 9]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)
RIGHT = {
    "id": "1", "object": "text_completion",
    "choices": [{
        "index": 0, "text": "so\n</think>\n4", "finish_reason": "stop", "token_ids": [5, 6, 2],
        "message": {"role": "assistant", "content": "4", "reasoning_content": "so", "refusal": None},
        "delta": {"content": "4"},
        "logprobs": {"tokens": ["a", "b"], "token_logprobs": [-0.1, -0.2], "top_logprobs": [{"a": -0.1}, None],
                     "content": None},
    }],
    "usage": {"prompt_tokens": 3, "completion_tokens": 3},
    "error": None,
}  # fmt: skip


def paths(value: Any, at: tuple = ()) -> list[tuple]:
    """Every place in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, one in inner for path in paths(one, (*at, key)))]


def put(value: Any, path: tuple, new: Any, *, leave_out: bool) -> Any:
    if not path:
        return new
    value = copy.deepcopy(value)
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    if leave_out:
        del holder[path[-1]]
    else:
        holder[path[-1]] = new
    return value


@st.composite
def bent_answers(draw: st.DrawFn) -> bytes:
    """A right answer with one to three of its places replaced or left out."""
    answer: Any = RIGHT
    if draw(st.booleans()):
        answer = put(answer, ("choices", 0, "message"), None, leave_out=True)
    for _ in range(draw(st.integers(1, 3))):
        places = paths(answer)[1:]
        if places:
            answer = put(answer, draw(st.sampled_from(places)), draw(VALUES), leave_out=draw(st.booleans()))
    return json.dumps(answer, ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")


def assert_well_formed(answer: Answer, ids_before: int = 0) -> None:
    assert isinstance(answer.text, str)
    assert answer.finish_reason in ("stop", "length", "loop", "refused")
    for count in (answer.prompt_tokens, answer.completion_tokens):
        assert count is None or (type(count) is int and 0 <= count < 1 << 31)
    assert answer.reasoning is None or isinstance(answer.reasoning, str)
    assert answer.token_ids is None or isinstance(answer.token_ids, array)


@settings(max_examples=100, deadline=None)
@given(bent_answers())
def test_any_answer_is_an_answer_or_a_known_trouble(body: bytes):
    scores = TokenScores()
    try:
        answer = read_completion(parse_object(body, "http://x"), 10, scores)
    except KNOWN:
        return
    assert_well_formed(answer)
    assert len(scores.logprobs) == len(scores.entropies)


@settings(max_examples=100, deadline=None)
@given(st.lists(bent_answers(), max_size=4), st.booleans())
def test_any_stream_is_an_answer_or_a_known_trouble(bodies: list[bytes], stop_on_loop: bool):
    async def lines() -> AsyncIterator[bytes]:
        for body in bodies:
            yield b"data: " + body.replace(b"\n", b" ") + b"\n"
        yield b"data: [DONE]\n"

    ids, scores = array("i", [1, 2]), TokenScores()
    scores.fit(2)
    try:
        answer = asyncio.run(read_stream(lines(), ids, 10, "http://x", stop_on_loop=stop_on_loop, scores=scores))
    except KNOWN:
        return
    assert_well_formed(answer)
    assert list(ids[:2]) == [1, 2]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()), st.integers(200, 599))
def test_any_error_is_a_known_trouble_in_one_short_line(body: bytes, status: int):
    words, _ = error_words(body)
    assert "\n" not in words
    with pytest.raises(KNOWN) as caught:
        raise_for_error("http://x", status, body, {"Retry-After": body.decode("latin1")[:40]})
    assert len(str(caught.value)) < 500


@given(st.text(max_size=40))
def test_any_retry_after_is_seconds_or_nothing(value: str):
    seconds = retry_after(value)
    assert seconds is None or 0 <= seconds <= 7 * 86400


@given(st.lists(VALUES, max_size=4))
def test_any_list_of_models_is_searched(models: list):
    assert find_model(models, "tiny") is None or any("tiny" in json.dumps(one) for one in models)
