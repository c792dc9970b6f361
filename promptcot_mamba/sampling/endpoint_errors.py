"""What a server's error means: wait, ask another, give this request up, or end the run.

Bodies differ more than statuses do, so both are read. Shapes seen in public threads: OpenAI and Azure `{"error":
{"message", "type", "code", "innererror": {"code"}}}`, SGLang `{"object": "error", "message", "code": 400}`, FastAPI and
`transformers serve` `{"detail": ...}`, TGI `{"error": "text", "error_type"}`, llama.cpp error bodies under status 200,
gateways' HTML, Gemini's list around its object. A filter may come as 400 (Azure), 403 (OpenRouter, LiteLLM) or 500
(LiteLLM around Azure).
"""

import datetime
import email.utils
import json
import re
import time
from collections.abc import Mapping
from http.client import responses
from typing import Any, NoReturn

from promptcot_mamba.errors import InputError

# The server is starting, overrun or gone, the request is not at fault; 520 to 530 are Cloudflare's words for it (524, a
# request that took too long, is that one's).
AWAY = (408, 502, 503, 504, 520, 521, 522, 523, 525, 526, 530)
BUSY = (409, 425, 429, 498, 529)  # the server is there and asks this request to come again later; 498: Groq's flex tier
_PATH_MISSING = (404, 405, 501)
_MALFORMED = (400, 406, 411, 413, 414, 415, 417, 422, 428, 431, 451)  # of the 4xx, those that are about the request
WITHOUT_REASON = "the stream ended without a finish_reason"
MOST_WORDS = 300  # characters of an error that are shown
MOST_READ = 2000  # and of its message that are looked at: how long to wait is said last
LONGEST_WAIT = 7 * 86400.0  # seconds a Retry-After may ask for; more is a broken clock

_POLICY = re.compile(
    r"content[ _-]?(policy|filter|management)|ResponsibleAIPolicy|ContentPolicyViolation|usage polic(y|ies)"
    r"|invalid_prompt|safety (system|filter)|moderation|input was flagged|flagged (as|for)|DataInspectionFailed"
    r"|blocked by (?!your organi)|(violat|block|interven).{0,40}guardrail|guardrail.{0,40}(violat|block|interven)",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(
    r"context[ _-]?(length|size|window|limit)|maximum context|exceed_context|longer than the model"
    r"|must have less than \d+ tokens|exceeds? the maximum (allowed|input) length|(prompt|input) is too long"
    r"|tokens`? \+ `?max_new_tokens`? must be|exceeds? the maximum number of tokens|maximum prompt length"
    r"|exceeded model token limit|range of input length",
    re.IGNORECASE,
)
# The two numbers by which a prompt is told that would fit, were less asked for beside it.
_ROOM = re.compile(r"(?:context (?:length|window|size)(?: is| of)?|must be <=)\D{0,3}(\d+)", re.IGNORECASE)
_TAKEN = re.compile(
    r"(\d+) (?:tokens )?(?:in|from|of) (?:the|your|text) (?:input|messages|prompt)"
    r"|(?:given:|has|contains)( at least)? (\d+) `?inputs?\b",
    re.IGNORECASE,
)
# The most tokens a server writes at once, whatever its context: Groq, Anthropic, OpenAI; DeepSeek, Alibaba.
_MOST = re.compile(
    r"max_(?:completion_)?tokens\W{0,3}"
    r"(?:must be less than or equal to|: \d+ >|is too large: \d+\..{0,40} at most) `?(\d+)"
    r"|range of max_tokens (?:is|should be) \[\d+, ?(\d+)\]",
    re.IGNORECASE,
)
_NO_CREDIT = re.compile(r"insufficient[ _](quota|balance|credit)|payment required", re.IGNORECASE)
_NO_CREDIT_UNLESS_WAIT = re.compile(r"exceeded your current quota|billing", re.IGNORECASE)  # limits a minute, else
_SPENT = (402, 403, 429)  # under which those words are of an account; Groq says "billing" of a prompt too large (413)
_GONE = re.compile(r"connection error", re.IGNORECASE)  # LiteLLM's 500 for a server that does not answer it
_UNITS = r"ms|msecs?|milli(?:second)?s?|h|hrs?|hours?|m|mins?|minutes?|s|secs?|seconds?"
_SPAN = rf"(\d+(?:\.\d+)?)\s*({_UNITS})(?![a-z])\s*"  # 58.8s, 9m38.016s, 20ms, 26 seconds, 500 milliseconds
_WAIT = re.compile(rf"(?:try again|retry)\s+(?:in|after)\s+((?:{_SPAN})+)", re.IGNORECASE)
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}  # by a unit's first letter, and by two of milliseconds
_MILLISECONDS = ("ms", "mil")
# Google's RetryInfo among an error's details, also where a gateway's message is a JSON text of its own; Cloudflare's.
_RETRY_DELAY = re.compile(rb'retryDelay[\\"\s:]+(\d+(?:\.\d+)?)s|"retry_after"\s*:\s*"?(\d+(?:\.\d+)?)')
_ECHO = re.compile(r"""["']input["']: .*|\binput_value=.*""", re.DOTALL)  # pydantic repeats what was sent: not its own


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
    """The server says that it has no room for the prompt, or for what is asked for beside it."""

    def __init__(self, said: str, words: str = ""):
        """`words` are the server's, uncut."""
        super().__init__(said)
        context, taken, most = _ROOM.search(words), _TAKEN.search(words), _MOST.search(words)
        self.limit = f"its context of {int(context[1]):,} tokens" if context else "what it has room for"
        self._at_least = bool(taken and taken[2])
        self._room = 0
        if most:
            self._room = int(most[1] or most[2])
            self.limit = f"the {self._room:,} tokens that it writes at most"
        elif context and taken:
            self._room = int(context[1]) - int(taken[1] or taken[3]) - 1  # one to spare: SGLang's own bound
        self.is_prompts_own = bool(context and taken and self._room <= 0 and not most)  # told, and not only guessed

    def less_than(self, asked: int) -> int:
        """Tokens to ask for instead of `asked`; 0 where the prompt alone is too long, or nothing tells."""
        less = min(self._room, asked // 2) if self._at_least else self._room
        return less if 0 < less < asked else 0


class RefusedError(Exception):
    """The server will not answer this prompt, now or later: its filter or policy."""


class DeniedError(InputError):
    """The server has no such path or model, or takes no such key. Of one that has answered, that may pass: it loads
    its model anew, or a gateway before it lost its head."""


class RejectedError(Exception):
    """The server calls the request malformed or not allowed: this one alone, or all that come from here; only whether
    it answers others can tell. `is_policy`: in a filter's words."""

    def __init__(self, words: str, *, is_policy: bool = False):
        super().__init__(words)
        self.is_policy = is_policy


def no_token_ids(flags: str, url: str) -> InputError:
    """What to raise where flags need the token ids of a server that tells none."""
    return InputError(f"{flags}: {url} tells no token ids; vLLM and SGLang servers do")


def raise_for_error(url: str, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> NoReturn:
    """Raise what an answer that is none means; InputError for what no waiting mends. All carry the server's words."""
    words, _ = error_words(body)
    said = f"status {status}: {words[:MOST_WORDS] or responses.get(status, 'without a word')}"
    headers = headers or {}
    wait = asked_wait(headers, body, words)
    passes = status == 402 and headers.get("Retry-After")  # OpenRouter: too much is under way for what is left
    spent = status < 500 and status not in (400, 413, 422) and _NO_CREDIT.search(words)
    spent = spent or (wait is None and status in _SPENT and _NO_CREDIT_UNLESS_WAIT.search(words))
    if spent or (status == 402 and not passes):
        raise InputError(f"--base_url {url}: {said}; no credit is left there")
    if 400 <= status < 600 and status not in (401, *_PATH_MISSING, *AWAY, *BUSY) and _POLICY.search(words):
        if status == 403:  # may mean the account, or a proxy's rules
            raise RejectedError(said, is_policy=True)
        raise RefusedError(said)
    if (400 <= status < 500 or status == 500) and (_TOO_LONG.search(words) or _MOST.search(words)):
        raise PromptTooLongError(said, words)
    if status in BUSY or passes:
        raise BusyError(said, wait)
    if status in AWAY or (status == 500 and _GONE.search(words)):
        raise ServerTroubleError(said, wait)
    if status >= 500 or status < 400:
        raise BadAnswerError(said, wait)
    if status in (401, 403):
        mend = "set OPENAI_API_KEY" if status == 401 else "does OPENAI_API_KEY give access?"
        raise DeniedError(f"--base_url {url}: refused ({said}); {mend}")
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
    if isinstance(parsed, list) and len(parsed) == 1:
        parsed = parsed[0]
    error = parsed.get("error", parsed) if isinstance(parsed, dict) else parsed
    if not isinstance(error, dict):  # Fastify and Spring say "Bad Request" there, and what is wrong beside it
        beside = parsed.get("message") if isinstance(parsed, dict) else None
        return "; ".join(_one_line(part) for part in (error, beside) if part), None
    inner, metadata = error.get("innererror") or {}, error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None  # OpenRouter: what the server behind it said
    parts = [
        error.get("message") or error.get("detail") or error.get("errors") or error,
        error_words((raw if isinstance(raw, str) else json.dumps(raw)).encode(errors="replace"))[0] if raw else None,
        *(error.get(key) for key in ("type", "code")),
        inner.get("code") if isinstance(inner, dict) else None,
    ]
    code = str(error.get("code"))
    status = int(code) if re.fullmatch("[45][0-9]{2}", code) else None
    return "; ".join(_one_line(part) for part in parts if part), status


def _one_line(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(_ECHO.sub("", text).split())[:MOST_READ]


def asked_wait(headers: Mapping[str, str], body: bytes, words: str) -> float | None:
    """Seconds that an answer asks for: in milliseconds (Azure, OpenAI), as Retry-After, in details or in words."""
    given = headers.get("retry-after-ms")
    precise = retry_after(given)
    if given and precise is not None:
        return precise / 1000
    wait = retry_after(headers.get("Retry-After"), headers.get("Date"))
    if wait is None and (delay := _RETRY_DELAY.search(body)):
        wait = min(float(delay[1] or delay[2]), LONGEST_WAIT)
    return told_wait(words) if wait is None else wait


def told_wait(words: str) -> float | None:
    """Seconds that an error's words ask for ("try again in 9m38.016s"); None where they say nothing."""
    told = _WAIT.search(words)
    if told is None:
        return None
    seconds = 0.0
    for count, unit in re.findall(_SPAN, told[1], re.IGNORECASE):
        small = unit.lower().startswith(_MILLISECONDS)
        seconds += float(count) * (0.001 if small else _SECONDS[unit[0].lower()])
    return min(seconds, LONGEST_WAIT)


def retry_after(value: str | None, date: str | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, given in seconds or as an HTTP date; None where it says nothing.

    A date is taken against the server's own clock, which the answer's `Date` tells: ours may be minutes away.
    """
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        until, now = _timestamp(value), _timestamp(date or "")
        if until is None:
            return None
        seconds = until - (time.time() if now is None else now)
    return min(max(0.0, seconds), LONGEST_WAIT) if seconds == seconds else None


def _timestamp(date: str) -> float | None:
    """Of an HTTP date, which is in GMT, said or not."""
    try:
        parsed = email.utils.parsedate_to_datetime(date)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
