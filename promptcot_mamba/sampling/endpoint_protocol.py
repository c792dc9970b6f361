"""The OpenAI completions protocol as we speak it: what is sent, what is read, what an error means."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import aiohttp

from promptcot_mamba.errors import InputError
from promptcot_mamba.sampling.backend import LENGTH, LOOP, STOP, Request, SamplingSettings
from promptcot_mamba.sampling.loops import find_loop

AWAY = (408, 429, 502, 503, 504)  # the server is busy, starting or gone; the request is not at fault


class Answer(NamedTuple):
    """What one request came to; the fields of `Generated` that a server knows."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class ServerTroubleError(Exception):
    """A server failed in a way that asking another one, or the same one later, may mend."""


class BadAnswerError(ServerTroubleError):
    """A server that is there failed at this request; once may be chance, again and again is the request."""


class PromptTooLongError(Exception):
    """The server says that the prompt leaves no room in its context."""


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
    request: Request, sampling: SamplingSettings, model: str, *, is_vllm: bool, stream: bool, chat: bool = False
) -> dict[str, Any]:
    """The body of one completion request, or of a chat completion whose only message is the prompt.

    vLLM is told everything, and given token ids, so that a checkpoint's generation defaults and the server's view of
    special tokens change nothing. Other servers get the fields that most understand.
    """
    body: dict[str, Any] = {
        "model": model,
        "prompt": request.prompt,
        "max_tokens": request.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": request.seed,
    }
    if sampling.repetition_penalty != 1.0 or is_vllm:
        body["repetition_penalty"] = sampling.repetition_penalty
    if is_vllm:
        body |= {
            "top_k": 0,
            "min_p": 0.0,
            "stop_token_ids": list(sampling.stop_token_ids),
            "skip_special_tokens": sampling.skip_special_tokens,
            "ignore_eos": sampling.ignore_eos,
        }
        if request.prompt_ids is not None:
            body["prompt"] = list(request.prompt_ids)
    if chat:
        body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True}
    return body


def score_payload(request: Request, model: str) -> dict[str, Any]:
    """The body that asks vLLM for its prompt's log-probabilities; the one token it must generate is dropped."""
    ids = list(request.prompt_ids or ())
    return {"model": model, "prompt": ids, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}


async def check_status(response: aiohttp.ClientResponse) -> None:
    """Raise ServerTroubleError for what may pass, InputError for what will not; both carry the server's words."""
    if response.status == 200:
        return
    words = " ".join((await response.text()).split())[:300]
    if response.status in AWAY:
        raise ServerTroubleError(f"status {response.status}: {words}")
    if response.status >= 500:
        raise BadAnswerError(f"status {response.status}: {words}")
    if response.status == 400 and "context length" in words:
        raise PromptTooLongError(words)
    if response.status in (401, 403):
        raise InputError(f"--base_url {response.url}: refused ({response.status}); set OPENAI_API_KEY")
    raise InputError(f"--base_url {response.url}: refused a request ({response.status}): {words}")


def read_completion(answer: dict[str, Any]) -> Answer:
    """The whole answer to a request that was not streamed; a chat message without content is an empty text."""
    try:
        choice, usage = answer["choices"][0], answer["usage"]
        reason, tokens = choice["finish_reason"], (usage["prompt_tokens"], usage["completion_tokens"])
        text = (choice["message"]["content"] or "") if "message" in choice else choice["text"]
    except (KeyError, IndexError, TypeError) as error:
        raise BadAnswerError(f"answer without {error}") from None
    if reason not in (STOP, LENGTH):  # "abort" is what vLLM drops while shutting down
        raise ServerTroubleError(f"finish_reason {reason!r}")
    return Answer(text, reason, *tokens)


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
    response: aiohttp.ClientResponse, prompt_tokens: int, tokenizer: Any, skip_special_tokens: bool
) -> Answer:
    """Follow a streamed answer and leave it where the chain starts to loop; the server then drops the request."""
    pieces: list[str] = []
    ids = array("q")
    reason = None
    async for line in response.content:
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or data == b"[DONE]":
            continue
        event = json.loads(data)
        if "error" in event:
            raise BadAnswerError(str(event["error"])[:300])
        for choice in event.get("choices", ()):
            pieces.append(choice["text"])
            reason = choice.get("finish_reason") or reason
            looked_at = len(ids)
            ids.extend(choice.get("token_ids") or ())
            cut = find_loop(ids, looked_at)
            if cut is not None:
                text = tokenizer.decode(ids[:cut], skip_special_tokens=skip_special_tokens)
                return Answer(text, LOOP, prompt_tokens, cut)
    if reason not in (STOP, LENGTH):
        raise ServerTroubleError(f"stream ended with finish_reason {reason!r}")
    if pieces and not ids:
        raise InputError(f"--stop_on_loop: {response.url} does not return token ids; vLLM servers do")
    return Answer("".join(pieces), reason, prompt_tokens, len(ids))
