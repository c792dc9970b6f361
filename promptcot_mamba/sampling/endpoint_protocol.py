"""The OpenAI completions protocol as we speak it: what is sent, and how an answer is read."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from promptcot_mamba.errors import InputError
from promptcot_mamba.sampling.backend import LENGTH, LOOP, REFUSED, STOP, Request, SamplingSettings
from promptcot_mamba.sampling.endpoint_errors import (
    BadAnswerError,
    ServerTroubleError,
    error_words,
    raise_for_error,
)
from promptcot_mamba.sampling.loops import find_loop
from promptcot_mamba.token_scores import TOP, TokenScores, entropy_of

# What servers call the same three ends: TGI "eos_token", Anthropic-likes "end_turn", Gemini "MAX_TOKENS" ...
_REASONS = {
    **dict.fromkeys(("stop", "eos", "eos_token", "end_turn", "endturn", "stop_sequence", "stop_token"), STOP),
    **dict.fromkeys(("tool_calls", "function_call", "tool_use"), STOP),
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens", "model_context_window_exceeded"), LENGTH),
    **dict.fromkeys(("content_filter", "safety", "refusal", "prohibited_content", "blocklist", "recitation"), REFUSED),
}
_PASSING = ("abort", "cancelled", "error", "insufficient_system_resource", "network_error", "load", "repetition")
# `owned_by` of a model's card: whose names for settings are known, and whose own defaults would else change samples
# (llama-cpp-python draws with repeat_penalty 1.1, top_k 40 and min_p 0.05 unless told).
LLAMA_CPP = ("llamacpp", "me")  # llama-server, llama-cpp-python
SGLANG = "sglang"
MOST_ALTERNATIVES = 5  # that OpenAI-like completions tell of a token; vLLM and chat tell more
THOUGHT_KEYS = ("reasoning_content", "reasoning")  # DeepSeek, SGLang and llama.cpp; vLLM since 0.12 and OpenRouter


@dataclass(frozen=True)
class Answer:
    """What one request came to; the fields of `Generated` that a server knows. None: it did not say."""

    text: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    token_ids: Sequence[int] | None = None
    reasoning: str | None = None
    note: str = ""


def normal_url(url: str) -> str:
    """A base URL up to and including its version, as OpenAI clients take it: `host:8000` -> `http://host:8000/v1`."""
    url = url.rstrip("/")
    if "://" not in url:
        url = f"http://{url}"
    return url if url.rsplit("/", 1)[-1].startswith("v") and url.count("/") > 2 else f"{url}/v1"


def find_model(models: list[dict[str, Any]], wanted: str) -> dict[str, Any] | None:
    """The card of the wanted model in a `/models` answer: by its id or root, in full or by its last path part."""
    name = PurePath(wanted).name
    for key in ("id", "root"):
        for card in (card for card in models if isinstance(card, dict)):
            served = str(card.get(key) or "")
            if served and (served == wanted or PurePath(served).name == name):
                return card
    return None


def payload(
    request: Request,
    sampling: SamplingSettings,
    model: str,
    *,
    is_vllm: bool,
    stream: bool,
    owner: str = "",
    chat: bool = False,
    token_ids: bool = False,
) -> dict[str, Any]:
    """The body of one completion request, or of a chat completion; `token_ids` asks for those of the answer.

    vLLM is told everything, and given token ids, so that a checkpoint's generation defaults and the server's view of
    special tokens change nothing. SGLang and llama.cpp (`owner`) are told how to draw in their own words; other servers
    get the fields that most understand.
    """
    body: dict[str, Any] = {
        "model": model,
        "prompt": request.prompt,
        "max_tokens": request.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": request.seed,
    }
    for name, none in (("repetition_penalty", 1.0), ("top_k", 0), ("min_p", 0.0)):
        if is_vllm or owner in (SGLANG, *LLAMA_CPP) or getattr(sampling, name) != none:
            body[name] = getattr(sampling, name)
    if owner == SGLANG:
        body["top_k"] = sampling.top_k or -1
    if owner in LLAMA_CPP:
        body |= {"repeat_penalty": body.pop("repetition_penalty"), "repeat_last_n": -1}  # the whole context
    if is_vllm:
        body |= {
            "stop_token_ids": list(sampling.stop_token_ids),
            "skip_special_tokens": sampling.skip_special_tokens,
            "ignore_eos": sampling.ignore_eos,
        }
        if request.prompt_ids is not None and not chat:
            body["prompt"] = [*request.prompt_ids, *request.kept]
    if chat:
        prompt = body.pop("prompt")
        body["messages"] = list(request.messages or [{"role": "user", "content": prompt}])
    if token_ids:
        body["return_token_ids"] = True
    if request.scores is not None:
        body |= _ask_for_scores(is_vllm=is_vllm, chat=chat)
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def _ask_for_scores(*, is_vllm: bool, chat: bool) -> dict[str, Any]:
    """The fields that ask for log-probabilities; vLLM names tokens by id, since different ones may look alike."""
    ids = {"return_tokens_as_token_ids": True} if is_vllm else {}
    return {
        **({"logprobs": True, "top_logprobs": TOP} if chat else {"logprobs": TOP if is_vllm else MOST_ALTERNATIVES}),
        **ids,
    }


def add_scores(scores: TokenScores, choice: dict[str, Any]) -> None:
    """Add what a choice tells of its tokens: lists beside one another (completions), or a list of objects (chat).

    What is null or of another form is unknown: NaN for a token, nothing for a choice.
    """
    given = choice.get("logprobs")
    try:
        if not isinstance(given, dict):
            return
        if isinstance(given.get("content"), list):
            drawn = [(str(one.get("token")), one.get("logprob")) for one in given["content"]]
            tops = [
                {str(each.get("token")): each.get("logprob") for each in one.get("top_logprobs") or ()}
                for one in given["content"]
            ]
        else:
            logprobs = list(given.get("token_logprobs") or ())
            names = list(given.get("tokens") or ()) or [None] * len(logprobs)
            drawn = [(str(name), logprob) for name, logprob in zip(names, logprobs, strict=False)]
            tops = [*(given.get("top_logprobs") or ()), *([{}] * len(drawn))]
        for (name, logprob), top in zip(drawn, tops, strict=False):
            known = {key: float(value) for key, value in ({name: logprob} | (top or {})).items() if value is not None}
            entropy = entropy_of([min(value, 0.0) for value in known.values()]) if top else math.nan
            scores.add([math.nan if logprob is None else float(logprob)], [entropy])
    except (TypeError, ValueError, AttributeError, OverflowError):
        return


def score_payload(request: Request, model: str) -> dict[str, Any]:
    """The body that asks vLLM for its prompt's log-probabilities; the one token it must generate is dropped."""
    ids = list(request.prompt_ids or ())
    return {"model": model, "prompt": ids, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}


def parse_object(body: bytes, url: str) -> dict[str, Any]:
    """An answer's JSON object; an error that comes under status 200, as gateways and llama.cpp send it, is raised.

    Bytes that are no UTF-8 (halves of characters) are read as U+FFFD. Events in place of an answer that was not to be
    streamed are put together.
    """
    text = body.decode("utf-8-sig", errors="replace").strip()
    if text.startswith(("data:", "event:", ":")):
        return _join_events(text, url)
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        words, _ = error_words(body)
        raise BadAnswerError(f"not JSON: {words[:80]!r}") from None
    if not isinstance(answer, dict):
        raise BadAnswerError(f"JSON of another kind: {str(answer)[:80]}")
    if answer.get("error") or answer.get("object") == "error":  # the latter is SGLang's
        raise_for_error(url, error_words(body)[1] or 500, body)
    return answer


def _join_events(text: str, url: str) -> dict[str, Any]:
    """One answer from the events of a stream that nobody asked for, as some gateways send it."""
    joined: dict[str, Any] = {}
    pieces: dict[str, list[str]] = {"content": [], **{key: [] for key in THOUGHT_KEYS}}
    for line in text.splitlines():
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or not data or data == "[DONE]":
            continue
        event = parse_object(data.encode(), url)
        joined["usage"] = event.get("usage") or joined.get("usage")
        for choice in _first_choices(event):
            said = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
            for key, parts in pieces.items():
                parts.append(_flat(said.get(key)))
            joined["reason"] = choice.get("finish_reason") or joined.get("reason")
    if "usage" not in joined:
        raise BadAnswerError(f"events without an answer: {text[:80]!r}")
    said = {key: "".join(parts) for key, parts in pieces.items() if any(parts)}
    choice = {"message": {"content": None, **said}, "text": said.get("content"), "finish_reason": joined.get("reason")}
    return {"choices": [choice], "usage": joined["usage"]}


def _first_choices(event: dict[str, Any]) -> list[dict[str, Any]]:
    """An event's choices with index 0: one was asked for, whatever else comes. Raises BadAnswerError."""
    choices = event.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise BadAnswerError(f"choices of another kind: {str(choices)[:80]}")
    return [choice for choice in choices if choice.get("index") in (None, 0)]


def count_of(value: Any) -> int | None:
    """A number of tokens, also where it is written as 12.0 or "12"; None for what is none."""
    try:
        count = int(float(value))
    except (TypeError, ValueError, OverflowError):
        return None
    return count if 0 <= count < 1 << 31 else None


def _counts(answer: dict[str, Any]) -> tuple[int | None, int | None]:
    """Tokens of prompt and completion by a server's `usage`."""
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return None, None
    return count_of(usage.get("prompt_tokens")), count_of(usage.get("completion_tokens"))


def finish_reason(said: Any, completion_tokens: int | None, max_tokens: int) -> str:
    """Our word for a server's; where it says nothing, a chain that took all it was allowed was cut off.

    Raises ServerTroubleError for a chain the server dropped ("abort": vLLM while shutting down).
    """
    if not said:
        if completion_tokens is None:
            raise BadAnswerError("answer without finish_reason and usage")
        return LENGTH if completion_tokens >= max_tokens else STOP
    word = str(said).lower()
    if word in _REASONS:
        return _REASONS[word]
    raise (ServerTroubleError if word in _PASSING else BadAnswerError)(f"finish_reason {said!r}")


def read_completion(answer: dict[str, Any], max_tokens: int, scores: TokenScores | None = None) -> Answer:
    """The whole answer to a request that was not streamed; text that is null or not there is an empty text."""
    try:
        choice = answer["choices"][0]
        message = choice.get("message", choice)
        text = _flat(message["content"] if "message" in choice else choice["text"])
        ids = choice.get("token_ids")
        ids = array("i", ids) if ids is not None else None
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        raise BadAnswerError(f"answer without {error}") from None
    if scores is not None:
        add_scores(scores, choice)
    prompt_tokens, tokens = _counts(answer)
    refusal = message.get("refusal")  # OpenAI's: beside a content that is null
    reason = REFUSED if refusal and not text else finish_reason(choice.get("finish_reason"), tokens, max_tokens)
    note = str(refusal or choice.get("finish_reason")) if reason == REFUSED else ""
    thought = next((_flat(message[key]) for key in THOUGHT_KEYS if message.get(key)), None)
    return Answer(text, reason, prompt_tokens, tokens, ids, thought, note)


def _flat(content: Any) -> str:
    """A message's text: a string, null, or (Mistral, Gemini gateways) a list of parts. Raises BadAnswerError."""
    if isinstance(content, list):
        return "".join(_flat(part.get("text") if isinstance(part, dict) else part) for part in content)
    if content is None or isinstance(content, str):
        return content or ""
    raise BadAnswerError(f"text of another kind: {str(content)[:80]}")


def read_score(answer: dict[str, Any], ids: Sequence[int], start: int, url: str) -> float:
    """log p(ids[start:] | ids[:start]) in nats from an answer to `score_payload`."""
    try:
        tables = answer["choices"][0]["prompt_logprobs"]
    except (KeyError, IndexError, TypeError):
        tables = None
    if tables is None:
        raise InputError(f"--base_url {url}: does not return prompt log-probabilities; vLLM servers do")
    try:
        return sum(float(tables[i][str(ids[i])]["logprob"]) for i in range(start, len(ids)))
    except (KeyError, IndexError, TypeError) as error:
        raise BadAnswerError(f"prompt log-probabilities without {error}") from None


async def read_stream(
    lines: AsyncIterable[bytes], ids: array, max_tokens: int, url: str, *, stop_on_loop: bool,
    scores: TokenScores | None = None,
) -> Answer:  # fmt: skip
    """Follow a streamed completion; `ids` grows by its tokens (and `scores` likewise) and holds those kept from before.

    Left where the chain starts to loop; the server then drops the request. Text is made from `ids` where there are
    any, by the caller.
    """
    pieces: list[str] = []
    prompt_tokens = counted = None
    reason, before = None, len(ids)
    async for line in lines:
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or not data or data == b"[DONE]":
            continue  # comments that keep a connection open, event names, blank lines
        event = parse_object(data, url)
        if event.get("usage"):
            prompt_tokens, counted = _counts(event)
        for choice in _first_choices(event):
            delta = choice.get("delta")
            pieces.append(_flat(delta.get("content") if isinstance(delta, dict) else choice.get("text")))
            reason = choice.get("finish_reason") or reason
            looked_at = len(ids)
            ids.extend(_ids_of(choice))
            if scores is not None:
                add_scores(scores, choice)
            cut = find_loop(ids, looked_at) if stop_on_loop else None
            if cut is not None:
                del ids[cut:]
                if scores is not None:
                    scores.fit(cut)
                return Answer("", LOOP, prompt_tokens, cut - before, ids)
    if reason is None:
        raise ServerTroubleError("the stream ended without a finish_reason")
    if stop_on_loop and any(pieces) and len(ids) == before:
        raise InputError(f"--stop_on_loop: {url} does not return token ids; vLLM servers do")
    tokens = len(ids) - before or counted
    reason = finish_reason(reason, tokens, max_tokens)
    note = REFUSED if reason == REFUSED else ""
    return Answer("".join(pieces), reason, prompt_tokens, tokens, ids if len(ids) > before else None, None, note)


def _ids_of(choice: dict[str, Any]) -> array:
    try:
        return array("i", choice.get("token_ids") or ())
    except (TypeError, OverflowError):
        raise BadAnswerError(f"token ids of another kind: {str(choice['token_ids'])[:80]}") from None
