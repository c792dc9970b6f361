"""What a server's answer says, whole or streamed, in whatever form: an `Answer`, or a trouble by its kind."""

import asyncio
import math
from array import array
from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass
from typing import Any

from promptcot_mamba.errors import InputError
from promptcot_mamba.log import log_once
from promptcot_mamba.sampling.backend import LENGTH, LOOP, REFUSED, STOP
from promptcot_mamba.sampling.decode import BYTES_PER_TOKEN, count_by_bytes
from promptcot_mamba.sampling.endpoint_body import (
    DONE,
    STREAMED,
    first_choices,
    flat,
    iter_events,
    thought_of,
    until_quiet,
)
from promptcot_mamba.sampling.endpoint_errors import WITHOUT_REASON, BadAnswerError, ServerTroubleError, no_token_ids
from promptcot_mamba.sampling.loops import find_loop
from promptcot_mamba.token_scores import TokenScores, entropy_of

# What servers call the same three ends: TGI "eos_token", Anthropic-likes "end_turn", Gemini "MAX_TOKENS" ...
_REASONS = {
    **dict.fromkeys(("stop", "eos", "eos_token", "end_turn", "endturn", "stop_sequence", "stop_token"), STOP),
    **dict.fromkeys(("tool_calls", "function_call", "tool_use", "complete", "completed", "finish", "done"), STOP),
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens", "model_context_window_exceeded"), LENGTH),
    **dict.fromkeys(("model_length", "max_length", "token_limit", "limit"), LENGTH),  # Mistral, watsonx, llama.cpp
    **dict.fromkeys(("content_filter", "safety", "refusal", "prohibited_content", "blocklist", "recitation"), REFUSED),
    "sensitive": REFUSED,  # Zhipu
    "repetition": LOOP,  # vLLM's `repetition_detection`
    **dict.fromkeys(("guardrail_intervened", "content_filtered", "spii", "error_toxic"), REFUSED),  # Bedrock, Gemini
}
_PASSING = ("abort", "cancelled", "error", "insufficient_system_resource", "network_error", "load")


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
    tells_reason: bool = False  # the server does; else it was guessed
    may_be_half: bool = False  # streamed to its end, but no reason for that was said


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


def count_of(value: Any) -> int | None:
    """A number of tokens, also where it is written as 12.0 or "12"; None for what is none."""
    try:
        count = int(float(value))
    except (TypeError, ValueError, OverflowError):
        return None
    return count if 0 <= count < 1 << 31 else None


def estimate_tokens(text: str) -> int:
    """Of a text whose server does not count, where there is no tokenizer; said once."""
    log_once(f"--base_url: the server sends no usage; tokens are estimated, {BYTES_PER_TOKEN} bytes of text each")
    return count_by_bytes(text)


def _counts(usage: Any, said: object) -> tuple[int | None, int | None]:
    """Tokens of prompt and completion by a server's `usage`. 0 beside what was `said` is no count; Gemini counts
    thoughts in the total alone."""
    if not isinstance(usage, dict):
        return None, None
    prompt, tokens, total = (count_of(usage.get(f"{of}_tokens")) for of in ("prompt", "completion", "total"))
    if prompt and tokens is not None and total is not None:
        tokens = max(tokens, total - prompt)
    return prompt or None, None if said and not tokens else tokens


def finish_reason(said: Any, completion_tokens: int | None, max_tokens: int) -> str:
    """Our word for a server's; where it says nothing, a chain that took all it was allowed was cut off.

    Raises ServerTroubleError for a chain the server dropped ("abort": vLLM while shutting down).
    """
    if not said:
        if completion_tokens is None:
            raise BadAnswerError("answer without finish_reason and usage")
        return LENGTH if completion_tokens >= max_tokens else STOP
    if (word := _word(said)) in _REASONS:
        return _REASONS[word]
    raise (ServerTroubleError if word in _PASSING else BadAnswerError)(f"finish_reason {said!r}")


def _word(said: Any) -> str:
    return str(said).lower().partition(":")[0]  # Gemini's gateway adds its own word


def read_completion(answer: dict[str, Any], max_tokens: int, scores: TokenScores | None = None) -> Answer:
    """The whole answer to a request that was not streamed; text that is null or not there is an empty text."""
    try:
        choice = answer["choices"][0]
        message = choice.get("message", choice)
        if message is None and _REASONS.get(_word(choice.get("finish_reason"))) == REFUSED:
            message = {}  # Gemini's
        text = flat(message.get("content") if "message" in choice else choice["text"])
        ids = choice.get("token_ids")
        ids = array("i", ids) if ids is not None else None
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError):
        raise BadAnswerError(f"answer of another form: {str(answer)[:80]}") from None
    if scores is not None:
        add_scores(scores, choice)
    thought, told = thought_of(message), choice.get("finish_reason")
    prompt_tokens, tokens = _counts(answer.get("usage"), text or thought)
    refusal = message.get("refusal")  # OpenAI's: beside a content that is null
    reason = REFUSED if refusal and not text else finish_reason(told, tokens, max_tokens)
    note = str(refusal or told) if reason == REFUSED else ""
    may_be_half = STREAMED in answer and not told and reason == STOP
    return Answer(text, reason, prompt_tokens, tokens, ids, thought, note, bool(told), may_be_half)


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
    scores: TokenScores | None = None, ended: asyncio.Event | None = None,
) -> Answer:  # fmt: skip
    """Follow a streamed completion; `ids` grows by its tokens (and `scores` likewise) and holds those kept from before;
    `ended` is set once all is said.

    Left where the chain starts to loop; the server then drops the request. Text is made from `ids` where there are
    any, by the caller. What breaks after the finish reason takes nothing away.
    """
    pieces: list[str] = []
    thoughts: list[str] = []
    refusal = ""
    usage = None
    reason, before, ended, bare = None, len(ids), ended or asyncio.Event(), False
    async for event in until_quiet(iter_events(lines, url), ended):
        usage = event.get("usage") or usage
        for choice in first_choices(event):
            said = choice.get("delta") or choice.get("message")
            if isinstance(said, dict):
                thoughts.append(thought_of(said) or "")
                refusal += flat(said.get("refusal"))
            pieces.append(flat(said.get("content") if isinstance(said, dict) else choice.get("text")))
            bare = bare or bool(pieces[-1] and choice.get("token_ids") is None)
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
                return Answer("", LOOP, _counts(usage, said=True)[0], cut - before, ids)
        if reason or event is DONE:
            ended.set()
    if not ended.is_set():
        raise ServerTroubleError(WITHOUT_REASON)
    if not pieces:
        raise BadAnswerError("a stream without an answer")
    if bare and len(ids) > before:
        del ids[before:]  # nothing goes on from them
        if scores is not None:
            scores.fit(before)
        raise BadAnswerError("only some of its text has token ids")
    if stop_on_loop and any(pieces) and len(ids) == before:
        raise no_token_ids("--stop_on_loop", url)
    text, thought = "".join(pieces), "".join(thoughts) or None
    prompt_tokens, counted = _counts(usage, text or thought)
    tokens, told, told_ids = len(ids) - before or counted, reason, ids if len(ids) > before else None
    reason = REFUSED if refusal and not text else finish_reason(told, tokens, max_tokens)
    note = refusal or REFUSED if reason == REFUSED else ""
    may_be_half = not told and reason == STOP
    return Answer(text, reason, prompt_tokens, tokens, told_ids, thought, note, bool(told), may_be_half)


def _ids_of(choice: dict[str, Any]) -> array:
    try:
        return array("i", choice.get("token_ids") or ())
    except (TypeError, OverflowError):
        raise BadAnswerError(f"token ids of another kind: {str(choice['token_ids'])[:80]}") from None
