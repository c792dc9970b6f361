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
        for card in models:
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
    if not isinstance(given, dict):
        return
    if isinstance(given.get("content"), list):
        drawn = [(one.get("token"), one.get("logprob")) for one in given["content"]]
        tops = [{each.get("token"): each.get("logprob") for each in one.get("top_logprobs") or ()}
                for one in given["content"]]  # fmt: skip
    else:
        logprobs = given.get("token_logprobs") or []
        names = given.get("tokens") or [None] * len(logprobs)
        drawn = list(zip(names, logprobs, strict=False))
        tops = list(given.get("top_logprobs") or [])
        tops += [{}] * (len(drawn) - len(tops))
    for (name, logprob), top in zip(drawn, tops, strict=False):
        known = {key: float(value) for key, value in ({name: logprob} | (top or {})).items() if value is not None}
        scores.logprobs.append(math.nan if logprob is None else float(logprob))
        scores.entropies.append(entropy_of(list(known.values())) if top else math.nan)


def score_payload(request: Request, model: str) -> dict[str, Any]:
    """The body that asks vLLM for its prompt's log-probabilities; the one token it must generate is dropped."""
    ids = list(request.prompt_ids or ())
    return {"model": model, "prompt": ids, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}


def parse_object(body: bytes, url: str) -> dict[str, Any]:
    """An answer's JSON object; an error that comes under status 200, as gateways and llama.cpp send it, is raised."""
    try:
        answer = json.loads(body)
    except ValueError:
        words, _ = error_words(body)
        raise BadAnswerError(f"not JSON: {words[:80]!r}") from None
    if not isinstance(answer, dict):
        raise BadAnswerError(f"JSON of another kind: {str(answer)[:80]}")
    if answer.get("error"):
        raise_for_error(url, error_words(body)[1] or 500, body)
    return answer


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
        text = message["content"] if "message" in choice else choice["text"]
        usage = answer.get("usage") or {}
        tokens = usage.get("completion_tokens")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise BadAnswerError(f"answer without {error}") from None
    ids = choice.get("token_ids")
    if scores is not None:
        add_scores(scores, choice)
    reason = finish_reason(choice.get("finish_reason"), tokens, max_tokens)
    note = str(message.get("refusal") or choice.get("finish_reason")) if reason == REFUSED else ""
    thought = next((message[key] for key in THOUGHT_KEYS if message.get(key)), None)
    return Answer(_flat(text), reason, usage.get("prompt_tokens"), tokens, ids, thought, note)


def _flat(content: Any) -> str:
    """A message's text: a string, null, or (Mistral, Gemini gateways) a list of parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") if isinstance(part, dict) else str(part) for part in content)
    return "" if content is None else str(content)


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
    usage: dict[str, Any] = {}
    reason, before = None, len(ids)
    async for line in lines:
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or not data or data == b"[DONE]":
            continue  # comments that keep a connection open, event names, blank lines
        event = parse_object(data, url)
        usage = event.get("usage") or usage
        for choice in event.get("choices") or ():
            pieces.append(
                _flat((choice.get("delta") or {}).get("content") if "delta" in choice else choice.get("text"))
            )
            reason = choice.get("finish_reason") or reason
            looked_at = len(ids)
            ids.extend(choice.get("token_ids") or ())
            if scores is not None:
                add_scores(scores, choice)
            cut = find_loop(ids, looked_at) if stop_on_loop else None
            if cut is not None:
                del ids[cut:]
                if scores is not None:
                    scores.fit(cut)
                return Answer("", LOOP, usage.get("prompt_tokens"), cut - before, ids)
    if reason is None:
        raise ServerTroubleError("the stream ended without a finish_reason")
    if stop_on_loop and any(pieces) and len(ids) == before:
        raise InputError(f"--stop_on_loop: {url} does not return token ids; vLLM servers do")
    tokens = len(ids) - before or usage.get("completion_tokens")
    reason = finish_reason(reason, tokens, max_tokens)
    note = REFUSED if reason == REFUSED else ""
    return Answer(
        "".join(pieces), reason, usage.get("prompt_tokens"), tokens, ids if len(ids) > before else None, None, note
    )
