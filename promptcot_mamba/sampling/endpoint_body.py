"""The bytes of an answer: to their end, or to where they are whole, since not every server says that it has ended."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import Any

import aiohttp

from promptcot_mamba.jsonl import decode_json
from promptcot_mamba.sampling.endpoint_errors import (
    WITHOUT_REASON,
    BadAnswerError,
    NotJsonError,
    ServerTroubleError,
    error_words,
    raise_for_error,
)

# DeepSeek, SGLang and llama.cpp; vLLM since 0.12 and OpenRouter; Ollama's own
THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")
QUIET_SECONDS = 5.0  # without a byte, after which an answer that is whole is taken for ended
BROKEN = (TimeoutError, aiohttp.ClientError, ConnectionError)
DONE: dict[str, Any] = {"choices": []}  # stands for the `[DONE]` of a stream
STREAMED = "streamed"  # key of an answer that was put together of events
_FIELDS = (b":", b"event:", b"id:", b"retry:")  # lines of a stream that say nothing of the text


async def read_body(content: aiohttp.StreamReader, *, broken_too: bool = False) -> bytes:
    """A whole body. One that is cut off, or does not end, is taken where its JSON is whole; `broken_too`: as it is."""
    body = await content.readany()
    while not content.at_eof():
        quiet = asyncio.timeout(QUIET_SECONDS)
        try:
            async with quiet:
                body += await content.readany()
        except BROKEN:
            if broken_too or _is_whole(body):
                return body
            if not quiet.expired():
                raise  # else: blanks, say, by which a server keeps the connection open while it works
    return body


def _is_whole(body: bytes) -> bool:
    if body.rstrip().endswith(b"[DONE]"):
        return True
    try:
        parse_json(body)
    except NotJsonError:
        return False
    return True


async def iter_lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length, as they come."""
    rest = b""
    while piece := await content.readany():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line
    if rest:
        yield rest


async def iter_events(lines: AsyncIterable[bytes], url: str) -> AsyncGenerator[dict[str, Any], None]:
    """The objects of an event stream, and `DONE`; of a body that is none (a server that does not stream, or sends a
    JSON object a line), its objects.

    An event may stand in several `data:` lines, and need not be followed by a blank one. Raises what `parse_object`
    raises.
    """
    held = b""
    plain: list[bytes] = []
    async for line in lines:
        line = line.strip()
        if line.startswith(b"data:"):
            data = line[5:].strip()
            if data == b"[DONE]":
                yield DONE
            elif held or data:
                held += data
                try:
                    event = parse_object(held, url)
                except NotJsonError:
                    continue  # more of it may follow
                held = b""
                yield event
        elif not line and held:
            parse_object(held, url)  # raises
        elif line and not line.startswith(_FIELDS):
            plain.append(line)
    if plain:
        for event in _plain_objects(plain, url):
            yield event


def _plain_objects(lines: list[bytes], url: str) -> list[dict[str, Any]]:
    try:
        return [parse_object(b"\n".join(lines), url)]
    except NotJsonError:
        if len(lines) == 1:
            raise
    return [parse_object(line, url) for line in lines]


async def until_quiet(
    events: AsyncGenerator[dict[str, Any], None], ended: asyncio.Event
) -> AsyncIterator[dict[str, Any]]:
    """Events until there are no more; once all is said (`ended`), silence or what breaks is an end too."""
    while True:
        try:
            async with asyncio.timeout(QUIET_SECONDS if ended.is_set() else None):
                event = await anext(events)
        except StopAsyncIteration:
            return
        except (*BROKEN, ServerTroubleError):  # the latter: words that are no event, an error behind the end
            if not ended.is_set():
                raise
            return
        yield event


def parse_json(body: bytes | str) -> Any:
    """What a body holds; raises NotJsonError with its first words."""
    text = body.decode("utf-8-sig", errors="replace") if isinstance(body, bytes) else body
    try:
        return decode_json(text)
    except (ValueError, RecursionError):
        words, _ = error_words(text.encode("utf-8", "replace"))
        raise NotJsonError(f"not JSON: {words[:80]!r}") from None


def parse_object(body: bytes, url: str) -> dict[str, Any]:
    """An answer's JSON object; an error that comes under status 200, as gateways and llama.cpp send it, is raised.

    Bytes that are no UTF-8 (halves of characters) are read as U+FFFD. Events in place of an answer that was not to be
    streamed are put together.
    """
    answer = decode_json(body, lambda odd: _parse_odd(odd, url))
    if not isinstance(answer, dict):
        raise BadAnswerError(f"JSON of another kind: {str(answer)[:80]}")
    if answer.get("error") or answer.get("object") == "error":  # the latter is SGLang's
        raise_for_error(url, error_words(body)[1] or 500, body)
    return answer


def _parse_odd(body: bytes, url: str) -> Any:
    text = body.decode("utf-8-sig", errors="replace").strip()
    if text.startswith(("data:", "event:", ":")):
        return _join_events(text, url)
    return parse_json(text.removesuffix("data: [DONE]"))  # some end any answer so


def _join_events(text: str, url: str) -> dict[str, Any]:
    """One answer from the events of a stream that nobody asked for, as some gateways send it."""
    joined: dict[str, Any] = {"reason": None}
    pieces: dict[str, list[str]] = {"content": [], **{key: [] for key in THOUGHT_KEYS}}
    for line in text.splitlines():
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or not data or data == "[DONE]":
            continue
        event = parse_object(data.encode(), url)
        joined["usage"] = event.get("usage") or joined.get("usage")
        for choice in first_choices(event):
            said = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
            for key, parts in pieces.items():
                parts.append(flat(said.get(key)))
            joined["reason"] = choice.get("finish_reason") or joined.get("reason")
    if not pieces["content"]:
        raise BadAnswerError(f"events without an answer: {text[:80]!r}")
    if joined["reason"] is None and "[DONE]" not in text[-20:]:
        raise ServerTroubleError(WITHOUT_REASON)
    said = {key: "".join(parts) for key, parts in pieces.items() if any(parts)}
    choice = {"message": {"content": None, **said}, "text": said.get("content"), "finish_reason": joined.get("reason")}
    return {"choices": [choice], "usage": joined["usage"], STREAMED: True}


def first_choices(event: dict[str, Any]) -> list[dict[str, Any]]:
    """An event's choices with index 0: one was asked for, whatever else comes. Raises BadAnswerError."""
    choices = event.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise BadAnswerError(f"choices of another kind: {str(choices)[:80]}")
    return [choice for choice in choices if choice.get("index") in (None, 0)]


def flat(content: Any, *, thought: bool = False) -> str:
    """A message's text: a string, null, or (Mistral, Gemini gateways) a list of parts, of which `thought` takes the
    thinking ones and the answer the others. Raises BadAnswerError."""
    if isinstance(content, list):
        return "".join(_part(part, thought) for part in content)
    if content is None or isinstance(content, str):
        return "" if thought else content or ""
    raise BadAnswerError(f"text of another kind: {str(content)[:80]}")


def thought_of(message: dict[str, Any]) -> str | None:
    """A thought that stands apart from a message's answer, under whichever name; None where there is none.

    Raises BadAnswerError for one of another kind.
    """
    for key in THOUGHT_KEYS:
        said = message.get(key)
        if text := flat(said.get("content") or said.get("text") if isinstance(said, dict) else said):
            return text
    parts = message.get("reasoning_details")  # OpenRouter's, beside or instead of `reasoning`; some are encrypted
    details = [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    text = "".join(flat(part.get("text") or part.get("summary")) for part in details)
    return text or flat(message.get("content"), thought=True) or None


def _part(part: Any, thought: bool) -> str:
    if not isinstance(part, dict):
        return flat(part, thought=thought)
    if "thinking" in part:
        return flat(part["thinking"]) if thought else ""
    return "" if thought else flat(part.get("text"))
