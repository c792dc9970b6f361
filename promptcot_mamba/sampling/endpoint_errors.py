"""What a server's error means: wait, ask another, give this request up, or end the run.

Bodies differ more than statuses do, so both are read. Shapes seen in public threads: OpenAI and Azure `{"error":
{"message", "type", "code", "innererror": {"code"}}}`, SGLang `{"object": "error", "message", "code": 400}`, FastAPI and
`transformers serve` `{"detail": ...}`, TGI `{"error": "text", "error_type"}`, llama.cpp error bodies under status 200,
gateways' HTML. A filter may come as 400 (Azure), 403 (OpenRouter, LiteLLM) or 500 (LiteLLM around Azure).
"""

import email.utils
import json
import re
import time
from collections.abc import Mapping
from typing import Any

from promptcot_mamba.errors import InputError

AWAY = (408, 502, 503, 504)  # the server is starting, overrun or gone; the request is not at fault
BUSY = (409, 425, 429, 529)  # the server is there and asks this request to come again later
_PATH_MISSING = (404, 405, 501)
_MALFORMED = (400, 406, 411, 413, 414, 415, 417, 422, 428, 431, 451)  # of the 4xx, those that are about the request
MOST_WORDS = 300  # characters of an error that are shown
LONGEST_WAIT = 7 * 86400.0  # seconds a Retry-After may ask for; more is a broken clock

_POLICY = re.compile(
    r"content[ _-]?(policy|filter|management)|ResponsibleAIPolicy|ContentPolicyViolation|usage polic(y|ies)"
    r"|invalid_prompt|safety (system|filter)|moderation|input was flagged|flagged (as|for)|DataInspectionFailed"
    r"|guardrail|blocked by",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(
    r"context[ _-]?(length|size|window|limit)|maximum context|exceed_context|longer than the model"
    r"|must have less than \d+ tokens|exceeds? the maximum (allowed|input) length|(prompt|input) is too long"
    r"|tokens`? \+ `?max_new_tokens`? must be",
    re.IGNORECASE,
)
# The two numbers by which a prompt is told that would fit, were less than --max_len asked for beside it.
_ROOM = re.compile(r"(?:context (?:length|window|size)(?: is| of)?|must be <=)\D{0,3}(\d+)", re.IGNORECASE)
_TAKEN = re.compile(
    r"(\d+) (?:tokens )?(?:in|from) the (?:input|messages|prompt)|(?:given:|has) (\d+) `?inputs?\b", re.I
)
_NO_CREDIT = re.compile(
    r"insufficient[ _](quota|balance|credit)|exceeded your current quota|billing|payment required", re.IGNORECASE
)


class ServerTroubleError(Exception):
    """A server failed in a way that asking another one, or the same one later, may mend."""

    def __init__(self, words: str, retry_after: float | None = None):
        super().__init__(words)
        self.retry_after = retry_after  # seconds the server asks for


class BusyError(ServerTroubleError):
    """A server that is there asks this request to come again later; its others are not meant."""


class BadAnswerError(ServerTroubleError):
    """A server that is there failed at this request; once may be chance, again and again is the request."""


class NotJsonError(BadAnswerError):
    """What should be JSON is not, or not whole."""


class PromptTooLongError(Exception):
    """The server says that the prompt leaves no room in its context; `fits`: it would leave some, but not --max_len."""

    def __init__(self, words: str):
        super().__init__(words)
        room, taken = _ROOM.search(words), _TAKEN.search(words)
        self.fits = bool(room and taken and int(taken[1] or taken[2]) < int(room[1]))


class RefusedError(Exception):
    """The server will not answer this prompt, now or later: its filter or policy."""


class DeniedError(InputError):
    """The server has no such path or model, or takes no such key. Of one that has answered, that may pass: it loads
    its model anew, or a gateway before it lost its head."""


class RejectedError(Exception):
    """The server calls the request malformed: this one alone, or all of this kind; only other answers can tell."""


def raise_for_error(url: str, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
    """Raise what an answer that is none means; InputError for what no waiting mends. All carry the server's words."""
    words, _ = error_words(body)
    said = f"status {status}: {words}"
    wait = retry_after((headers or {}).get("Retry-After"))
    if status == 402 or _NO_CREDIT.search(words):
        raise InputError(f"--base_url {url}: {said}; no credit is left there")
    if 400 <= status < 600 and status not in AWAY and _POLICY.search(words):
        raise RefusedError(said)
    if (400 <= status < 500 or status == 500) and _TOO_LONG.search(words):
        raise PromptTooLongError(said)
    if status in BUSY:
        raise BusyError(said, wait)
    if status in AWAY:
        raise ServerTroubleError(said, wait)
    if status >= 500 or status < 400:
        raise BadAnswerError(said, wait)
    if status in (401, 403):
        raise DeniedError(f"--base_url {url}: refused ({status}: {words}); set OPENAI_API_KEY")
    if status in _PATH_MISSING:
        raise DeniedError(f"--base_url {url}: refused a request ({said}); --api chat or completions says which it has")
    if status in _MALFORMED:
        raise RejectedError(said)
    raise BadAnswerError(said, wait)  # 424 (TGI, whose generation failed), 499 (a gateway's client went away) ...


def error_words(body: bytes) -> tuple[str, int | None]:
    """The message of an error body in one line, with its type and codes, and a status where the body holds one."""
    text = body.decode("utf-8", errors="replace")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return " ".join(re.sub(r"<[^>]*>", " ", text[: 50 * MOST_WORDS]).split())[:MOST_WORDS], None
    error = parsed.get("error", parsed) if isinstance(parsed, dict) else parsed
    if not isinstance(error, dict):
        return _one_line(error), None
    inner = error.get("innererror") or {}
    parts = [
        error.get("message") or error.get("detail") or error.get("errors") or error,
        *(error.get(key) for key in ("type", "code")),
        inner.get("code") if isinstance(inner, dict) else None,
    ]
    code = str(error.get("code"))
    status = int(code) if code.isdigit() and 400 <= int(code) < 600 else None
    return "; ".join(_one_line(part) for part in parts if part)[:MOST_WORDS], status


def _one_line(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.split())[:MOST_WORDS]


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, given in seconds or as an HTTP date; None where it says nothing."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(0.0, seconds), LONGEST_WAIT) if seconds == seconds else None
