"""One request on one server: the body that asks, and the answer with all of the chain's text."""

import time
from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from promptcot_mamba.errors import InputError
from promptcot_mamba.log import log_once
from promptcot_mamba.sampling.backend import CUT, FAILED, LENGTH, STOP, Generated, Request, SamplingSettings
from promptcot_mamba.sampling.decode import completion_text
from promptcot_mamba.sampling.endpoint_answers import (
    Answer,
    estimate_tokens,
    read_completion,
    read_score,
    read_stream,
)
from promptcot_mamba.sampling.endpoint_body import iter_lines, parse_object, read_body
from promptcot_mamba.sampling.endpoint_errors import (
    WITHOUT_REASON,
    BadAnswerError,
    RejectedError,
    ServerTroubleError,
    no_token_ids,
)
from promptcot_mamba.sampling.endpoint_pool import Endpoint, EndpointPool, EndpointSettings
from promptcot_mamba.sampling.endpoint_protocol import (
    SGLANG,
    Pending,
    added_bos,
    dropped_flags,
    payload,
    refuse_ollama,
    score_payload,
)

BELIEVED_FROM = 3  # streams without a finish reason, of a server that has never said one


class Asker:
    """Asks servers for completions and scores, and makes text of token ids; raises whatever goes wrong."""

    def __init__(self, pool: EndpointPool, settings: EndpointSettings, sampling: SamplingSettings, tokenizer: Any):
        self.settings = settings
        self.sampling = sampling
        self.tokenizer = tokenizer
        self._pool = pool
        self._bos = added_bos(tokenizer)

    async def ask(self, endpoint: Endpoint, pending: Pending) -> tuple[Answer, float | None]:
        """The answer, and a score where one was asked for."""
        request = pending.request
        if request.score_from is None:
            try:
                return await self._complete(endpoint, pending), None
            except RejectedError as error:  # `transformers serve` takes no field that it does not know
                flags = self.settings.cuts_by or ("--stop_on_loop" if self.sampling.stop_on_loop else "")
                if not flags or "return_token_ids" not in str(error):
                    raise
                raise no_token_ids(flags, endpoint.url) from error
        nothing = Answer("", LENGTH, len(request.prompt_ids or ()), 0)
        async with await self._pool.post(endpoint, "completions", score_payload(request, endpoint.model)) as response:
            said = parse_object(await read_body(response.content), endpoint.url)
        return nothing, read_score(said, request.prompt_ids or (), request.score_from, endpoint.url)

    async def _complete(self, endpoint: Endpoint, pending: Pending) -> Answer:
        request, settings, chat = pending.request, self.settings, self.settings.chat
        asks_ids = settings.keeps_ids and endpoint.may_tell_ids and not chat and request.prompt_ids is not None
        if settings.cuts_by and not asks_ids:
            raise no_token_ids(settings.cuts_by, endpoint.url)
        if asks_ids and self._counts_from_cuts(endpoint):
            asks_ids = False
        pending.keeps_ids = asks_ids
        pending.ended.clear()
        stream = self.sampling.stop_on_loop or (settings.stream and asks_ids) or bool(settings.extra_body.get("stream"))
        body = self._body(endpoint, request, asks_ids=asks_ids, stream=stream)
        self._say_dropped(endpoint, endpoint.owner)
        async with await self._pool.post(endpoint, "chat/completions" if chat else "completions", body) as response:
            if not stream:
                said = parse_object(await read_body(response.content), endpoint.url)
                if not chat:
                    refuse_ollama(said, endpoint.url)
                self._say_dropped(endpoint, str(said.get("system_fingerprint")))
                answer = read_completion(said, request.max_tokens, request.scores)
            else:
                answer = await read_stream(
                    iter_lines(response.content), pending.ids, request.max_tokens, endpoint.url,
                    stop_on_loop=self.sampling.stop_on_loop, scores=request.scores, ended=pending.ended,
                )  # fmt: skip
        self._doubt_half(endpoint, pending, answer)
        if answer.finish_reason == STOP and settings.extra_body.get("stop"):
            answer = replace(answer, token_ids=None)  # they hold the words that stopped it, its text does not
        if answer.token_ids is None and request.kept:
            answer = replace(answer, text=self.kept_text(request) + answer.text)
        return answer

    def _say_dropped(self, endpoint: Endpoint, owner: str) -> None:
        if flags := dropped_flags(owner, self.sampling):
            log_once(f"{flags}: {endpoint.url} drops them, and draws by its own settings (Ollama: the Modelfile's)")

    def _doubt_half(self, endpoint: Endpoint, pending: Pending, answer: Answer) -> None:
        """Raise where a stream that ended without a reason for that is half an answer: a gateway lost the server behind
        it. Some never say one; they are believed from the third such answer on."""
        if not answer.may_be_half:
            endpoint.says_reasons |= answer.tells_reason
            return
        if answer.token_ids and answer.token_ids[-1] in self.sampling.stop_token_ids:
            return
        if endpoint.says_reasons:
            raise ServerTroubleError(WITHOUT_REASON)
        endpoint.without_reason += 1
        if endpoint.without_reason < BELIEVED_FROM:
            del pending.ids[len(pending.request.kept) :]  # it may be whole, and nothing goes on from there
            raise BadAnswerError(WITHOUT_REASON)

    def _counts_from_cuts(self, endpoint: Endpoint) -> bool:
        """Whether a chain's penalty would begin anew where it is cut: SGLang's counts generated tokens alone (its
        `penaltylib`), and what a chain has said is sent as prompt. Raises InputError where chains are to be cut."""
        penalty = self.settings.extra_body.get("repetition_penalty", self.sampling.repetition_penalty)
        if endpoint.owner != SGLANG or penalty in (None, 1):
            return False
        why = f"{endpoint.url}: SGLang counts generated tokens alone for its repetition penalty"
        if self.settings.cuts_by:
            raise InputError(f"{self.settings.cuts_by}: {why}, from each cut anew; --repetition_penalty 1, or vLLM")
        log_once(f"{why}: chains are made in one piece there, interrupted ones anew")
        return True

    def _body(self, endpoint: Endpoint, request: Request, *, asks_ids: bool, stream: bool) -> dict[str, Any]:
        chat = self.settings.chat
        text = request.prompt.removeprefix(self._bos) + ("" if asks_ids else self.kept_text(request))
        body = payload(
            request, self.sampling, endpoint.model, is_vllm=endpoint.is_vllm, stream=stream, owner=endpoint.owner,
            text=text, chat=chat, token_ids=asks_ids or self.sampling.stop_on_loop,
        )  # fmt: skip
        if chat and self.settings.template_kwargs:
            body["chat_template_kwargs"] = self.settings.template_kwargs
        extra = self.settings.extra_body
        if isinstance(most := extra.get("max_completion_tokens"), int):  # what is left of a chain, or of a context
            extra = extra | {"max_completion_tokens": min(most, request.max_tokens)}
        return {name: value for name, value in {**body, **extra}.items() if value is not None}

    def whole(self, pending: Pending, answer: Answer, score: float | None) -> Generated:
        """What a request came to, with all of its chain's text, tokens and counts."""
        request, ids, text = pending.request, answer.token_ids, answer.text
        if ids is not None and ids is not pending.ids:  # not streamed: the kept ones are not in it
            ids = array("i", [*request.kept, *ids])
        if ids is not None and self.tokenizer is not None and answer.finish_reason not in (CUT, FAILED):
            text = self.text_of(request, ids, answer.finish_reason)
        fresh = answer.completion_tokens
        if fresh is None:
            fresh = self.count(text + (answer.reasoning or ""))
        prompt = len(request.prompt_ids) if request.prompt_ids is not None else answer.prompt_tokens
        if prompt is None:
            prompt = estimate_tokens(request.prompt) if fresh else 0
        seconds, tokens = time.monotonic() - pending.submitted, len(request.kept) + fresh
        said = (answer.reasoning, answer.note)
        return Generated(request.unit, text, answer.finish_reason, prompt, tokens, seconds, score, ids, *said)

    def kept_text(self, request: Request) -> str:
        """What is kept, up to its last whole character: a server without ids could not go on within one."""
        text = whole = self.text_of(request, request.kept, LENGTH) if request.kept else ""
        for cut in (1, 2, 3):  # tokens of a character's bytes
            if not text.endswith("\ufffd"):
                return text
            text = self.text_of(request, request.kept[:-cut], LENGTH)
        return whole if text.endswith("\ufffd") else text  # a model may write the sign itself

    def text_of(self, request: Request, ids: Sequence[int], reason: str) -> str:
        return completion_text(self.tokenizer, self.sampling, request.prompt_ids or (), ids, reason)

    def count(self, text: str) -> int:
        """Tokens of a text whose server does not say: the tokenizer's, or an estimate, which is said once."""
        if self.tokenizer is not None:
            return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return estimate_tokens(text)


def said_so_far(pending: Pending, reason: str, note: str = "") -> Answer:
    """What a request comes to that is not answered (any more): what is kept of its chain, and what it said since."""
    return Answer("", reason, None, pending.fresh, pending.ids or None, note=note)
