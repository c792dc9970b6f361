"""An OpenAI-compatible server that answers some requests as real ones do when something is wrong.

Prints its port once it listens. At `/NAME/TIMES/v1` the first TIMES answers to every third prompt have the shape of
trouble NAME, and later ones are right; bodies are as public issues show them, their sources beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import email.utils
import json
import ssl
import time
import weakref
from collections import Counter

from aiohttp import web

from promptcot_mamba.sampling.backend import Request
from tests.sampling.scripted import write_chain

AZURE_FILTER = {  # compl-ai/compl-ai#20, stanford-crfm/helm#3327
    "error": {
        "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. "
        "Please modify your prompt and retry.",
        "type": None, "param": "prompt", "code": "content_filter", "status": 400,
        "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}},
    }
}  # fmt: skip
LITELLM_FILTER = {  # BerriAI/litellm#16231: under status 400, or 500 (#4941)
    "error": {
        "message": "litellm.BadRequestError: litellm.ContentPolicyViolationError: AzureException - The response was "
        "filtered", "type": None, "param": None, "code": "400",
    }
}  # fmt: skip
OPENROUTER_FILTER = {"error": {"code": 403, "message": "Your chosen model requires moderation and your input was "
                               "flagged for \"violence\""}}  # fmt: skip
QUOTA = {  # langchain-ai/langchainjs#1929
    "error": {"message": "You exceeded your current quota, please check your plan and billing details.",
              "type": "insufficient_quota", "param": None, "code": "insufficient_quota"}
}  # fmt: skip
GEMINI_MINUTE = {  # ogkalu2/comic-translate#403; its OpenAI-compatible path has a list around it (PDFMathTranslate#405)
    "error": {
        "code": 429, "message": "You exceeded your current quota, please check your plan and billing details. For "
        "more information on this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits. To monitor your "
        "current usage, head to: https://ai.dev/rate-limit. \n* Quota exceeded for metric: "
        "generativelanguage.googleapis.com/generate_content_free_tier_requests, limit: 20, model: gemini-2.5-flash\n"
        "Please retry in 58.821668433s.", "status": "RESOURCE_EXHAUSTED",
        "details": [{"@type": "type.googleapis.com/google.rpc.Help", "links": [
            {"description": "Learn more about Gemini API quotas", "url": "https://ai.google.dev/gemini-api/docs/rate-limits"}]}],
    }
}  # fmt: skip
GROQ_DAY = {  # continuedev/continue#10920
    "error": {"message": "Rate limit reached for model `llama-3.3-70b-versatile` in organization "
              "`org_01kjh7p9n8f1qs6nz2bz77vy6b` service tier `on_demand` on tokens per day (TPD): Limit 100000, Used "
              "97050, Requested 3619. Please try again in 9m38.016s. Need more tokens? Upgrade to Dev Tier today at "
              "https://console.groq.com/settings/billing", "type": "tokens", "code": "rate_limit_exceeded"}
}  # fmt: skip
OPENAI_MINUTE = {  # OpenAI's, whose waits may be shorter than the header can say
    "error": {"message": "Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, "
              "Used 29868, Requested 143. Please try again in 20ms. Visit "
              "https://platform.openai.com/account/rate-limits to learn more.",
              "type": "tokens", "param": None, "code": "rate_limit_exceeded"}
}  # fmt: skip
OPENROUTER_PRIVACY = {  # truefoundry/models#826: the account's own settings
    "error": {"message": "No endpoints available matching your guardrail restrictions and data policy. Configure: "
              "https://openrouter.ai/settings/privacy", "code": 404}
}  # fmt: skip
PROXY_403 = (
    "<html><body><h1>403 Forbidden</h1>This request was blocked by your organization's security policy</body></html>"
)
UNRECOGNIZED = {  # xlinx/sd-webui-decadetw-auto-prompt-llm#29
    "error": {"message": "Unrecognized request argument supplied: min_p", "type": "invalid_request_error",
              "param": None, "code": None}
}  # fmt: skip
LLAMACPP_LOADING = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
LLAMACPP_TOO_LONG = {  # oobabooga/textgen#7257: served with status 200 too
    "error": {"code": 400, "message": "request (4390 tokens) exceeds the available context size (4096 tokens), try "
              "increasing it", "type": "exceed_context_size_error", "n_prompt_tokens": 4390, "n_ctx": 4096}
}  # fmt: skip
SGLANG_TOO_LONG = {  # QwenLM/Qwen3#1321
    "object": "error", "message": "The input (61709 tokens) is longer than the model's context length (40960 tokens).",
    "type": "BadRequestError", "param": None, "code": 400,
}  # fmt: skip
SGLANG_NO_ROOM = {  # sgl-project/sglang's tokenizer manager: the prompt would fit, were less asked for beside it
    "object": "error", "message": "Requested token count exceeds the model's maximum context length of 4100 tokens. "
    "You requested a total of 4107 tokens: 11 tokens from the input messages and 4096 tokens for the completion.",
    "type": "BadRequestError", "param": None, "code": 400,
}  # fmt: skip
TGI_NO_ROOM = {  # opea-project/GenAIInfra#487, huggingface/huggingface_hub#2763
    "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 1887 `inputs` tokens "
    "and 1024 `max_new_tokens`", "error_type": "validation",
}  # fmt: skip
VLLM_NO_ROOM = {  # vLLM, as many threads quote it
    "error": {"message": "'max_tokens' or 'max_completion_tokens' is too large: 32768. This model's maximum context "
              "length is 32768 tokens and your request has 120 input tokens (32768 > 32768 - 120). "
              "(parameter=max_tokens, value=32768)", "type": "BadRequestError", "param": "max_tokens", "code": 400}
}  # fmt: skip
VLLM_AT_LEAST = {  # vllm-project/vllm#42474
    "error": {"message": "This model's maximum context length is 4200 tokens. However, you requested 4096 output "
              "tokens and your prompt contains at least 105 input tokens, for a total of at least 4201 tokens.",
              "type": "BadRequestError", "param": "input_tokens", "code": 400}
}  # fmt: skip
FITS = {"sglang_no_room": 4088, "tgi_no_room": 160, "vllm_at_least": 3000}  # most tokens beside the prompt of each
TGI_FAILED = {"error": "Request failed during generation: Server error: out of memory", "error_type": "generation"}
MAGISTRAL = [  # Mistral's API: thought and answer are parts of one content
    {"type": "thinking", "thinking": [{"type": "text", "text": "17 and 4"}]}, {"type": "text", "text": "It is 21."},
]  # fmt: skip
UNKNOWN_400 = {"error": {"message": "Could not parse the request", "type": "invalid_request_error", "code": None}}
OVERLOADED = {
    "error": {"message": "Rate limit reached for requests", "type": "requests", "code": "rate_limit_exceeded"}
}
SERVER_LOADS = {  # ggml-org/llama.cpp and llama-swap between two models, vLLM behind a router
    "error": {"message": "The model `tiny` does not exist.", "type": "NotFoundError", "param": None, "code": 404}
}
FASTAPI_422 = {  # vllm-project and huggingface/text-generation-inference behind FastAPI
    "detail": [{"type": "less_than_equal", "loc": ["body", "max_tokens"], "msg": "Input should be less than 4096",
                "input": 65536}]
}  # fmt: skip
SGLANG_ERROR_200 = {"object": "error", "message": "Internal error: out of KV cache", "type": "InternalServerError",
                    "param": None, "code": 500}  # fmt: skip
NGINX_413 = "<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<body>nginx/1.24.0</body>\r\n</html>"
CLOUDFLARE = "<!DOCTYPE html><html><head><title>example.com | 524: A timeout occurred</title>" + "<p>x</p>" * 4000
HTML = "<html><head><title>502 Bad Gateway</title></head><body><center><h1>502 Bad Gateway</h1></center></body></html>"


def in_seconds(seconds: float) -> str:
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


# name -> (status, body, headers)
PLAIN = {
    "429": (429, OVERLOADED, {}),
    "429_seconds": (429, OVERLOADED, {"Retry-After": "0"}),
    "429_date": (429, OVERLOADED, {"Retry-After": lambda: in_seconds(-1)}),
    "429_garbled": (429, OVERLOADED, {"Retry-After": "soon"}),
    "529": (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, {}),
    "500": (500, "Internal Server Error", {}),
    "502_html": (502, HTML, {"Content-Type": "text/html"}),
    "503_loading": (503, LLAMACPP_LOADING, {"Retry-After": "0"}),
    "504": (504, "upstream request timeout", {}),
    "408": (408, "", {}),
    "azure_filter": (400, AZURE_FILTER, {}),
    "litellm_filter": (400, LITELLM_FILTER, {}),
    "litellm_filter_500": (500, LITELLM_FILTER, {}),
    "openrouter_filter": (403, OPENROUTER_FILTER, {}),
    "unknown_400": (400, UNKNOWN_400, {}),
    "sglang_too_long": (400, SGLANG_TOO_LONG, {}),
    "llamacpp_too_long_200": (200, LLAMACPP_TOO_LONG, {}),
    "sglang_no_room": (400, SGLANG_NO_ROOM, {}),
    "tgi_no_room": (422, TGI_NO_ROOM, {}),
    "424_tgi": (424, TGI_FAILED, {}),
    "499": (499, "", {}),
    "error_in_200": (200, {"error": {"code": 502, "message": "Provider returned error"}}, {}),
    "busy_in_200": (200, {"error": {"code": 429, "message": "rate-limited upstream"}}, {}),
    "invalid_json": (200, '{"choices": [{"text": "half an ans', {}),
    "empty_body": (200, "", {}),
    "html_200": (200, "<html>Please sign in</html>", {"Content-Type": "text/html"}),
    "json_list": (200, [], {}),
    "no_choices": (200, {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 0}}, {}),
    "error_text_200": (200, {"error": "model is overloaded, please try again"}, {}),
    "error_list_200": (200, {"error": [{"message": "upstream failed"}]}, {}),
    "sglang_error_200": (200, SGLANG_ERROR_200, {}),
    "choices_null": (200, {"choices": None, "usage": None}, {}),
    "choice_null": (200, {"choices": [None]}, {}),
    "text_number": (200, {"choices": [{"text": 42, "message": {"content": {"a": 1}}, "finish_reason": "stop"}]}, {}),
    "deep": (200, "[" * 200_000, {}),
    "json_then_junk": (200, '{"choices": []}{"choices": []}', {}),
    "524_html": (524, CLOUDFLARE, {"Content-Type": "text/html"}),
    "503_date": (503, HTML, {"Retry-After": lambda: in_seconds(-5), "Content-Type": "text/html"}),
    "503_odd_date": (503, "", {"Retry-After": "Wed, 99 Foo 99999 99:99:99 GMT"}),
    "reloading": (404, SERVER_LOADS, {}),
    "413_html": (413, NGINX_413, {"Content-Type": "text/html"}),
    "422_fastapi": (422, FASTAPI_422, {}),
    "429_words": (429, OPENAI_MINUTE, {}),
    "vllm_at_least": (400, VLLM_AT_LEAST, {}),
    "openrouter_privacy": (404, OPENROUTER_PRIVACY, {}),
    "proxy_403": (403, PROXY_403, {"Content-Type": "text/html"}),
    "min_p": (400, UNRECOGNIZED, {}),
    "no_token_ids": (422, {"detail": "Unexpected fields in the request: {'return_token_ids'}"}, {}),  # transformers
    "quota": (429, QUOTA, {}),
    "no_credit": (402, {"error": {"message": "Insufficient Balance", "type": "unknown_error", "code": "invalid"}}, {}),
    "unauthorised": (401, {"error": {"message": "Incorrect API key provided"}}, {}),
}
EVERY = ("openrouter_privacy", "proxy_403", "min_p", "no_token_ids")  # these meet all prompts
# name -> what is changed in a right answer's choice and usage
REASONS = {
    "reason_eos": "eos", "reason_eos_token": "eos_token", "reason_end_turn": "end_turn", "reason_upper": "STOP",
    "reason_abort": "abort", "reason_error": "error", "reason_unknown": "because",
}  # fmt: skip


MODELS = {  # answers of `/models` that are not OpenAI's
    "no_models": (404, "Not Found"),
    "lists_nothing": (200, {"object": "list", "data": []}),  # as `transformers serve` does of a local folder
    "models_null": (200, {"object": "list", "data": None}),
    "models_bare": (200, [{"id": "tiny"}]),
    "models_ollama": (200, {"models": [{"name": "tiny", "model": "tiny"}]}),
    "models_nameless": (200, {"data": [{"object": "model"}]}),
    "models_500": (500, "Internal Server Error"),
    "models_html": (200, HTML),
}


# Answers of `/models` while requests are at work, which some are until it has been asked PROBES times; before and after
# that it is right.
WHILE_BUSY = {"models_429": (429, OVERLOADED), "models_always_500": (500, ""), "gateway_503": (503, HTML)}
PROBES = 8


class TroubledServer:
    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.seen: Counter[tuple[str, str]] = Counter()
        self.asked: Counter[str] = Counter()  # for models
        self.closing: weakref.WeakSet = weakref.WeakSet()  # connections

    async def models(self, http: web.Request) -> web.Response:
        trouble = http.match_info["trouble"]
        self.asked[trouble] += 1
        if trouble == "still_loading" and self.asked[trouble] < 4:
            return web.json_response(LLAMACPP_LOADING, status=503)
        if trouble in WHILE_BUSY and (1 < self.asked[trouble] < PROBES or trouble == "models_always_500"):
            return web.json_response(WHILE_BUSY[trouble][1], status=WHILE_BUSY[trouble][0])
        if trouble in MODELS:
            status, said = MODELS[trouble]
            if status == 500:  # uvicorn closes it behind such an answer, without having said so
                self.closing.add(http.transport)
            return web.Response(status=status, text=said if isinstance(said, str) else json.dumps(said))
        if trouble == "moved":
            raise web.HTTPMovedPermanently("/none/0/v1/models")
        return web.json_response({"data": [{"id": "tiny", "owned_by": "someone"}]})

    async def completions(self, http: web.Request) -> web.StreamResponse:
        if http.match_info["trouble"] in ("chat_only", "moved"):
            return web.Response(status=404, text='{"detail":"Not Found"}')
        return await self.answer(http, chat=False)

    async def chat(self, http: web.Request) -> web.StreamResponse:
        return await self.answer(http, chat=True)

    async def answer(self, http: web.Request, *, chat: bool) -> web.StreamResponse:
        if http.transport in self.closing:
            http.transport.abort()
            return web.Response()
        body = await http.json()
        prompt = body["messages"][-1]["content"] if chat else body["prompt"]
        trouble, times = http.match_info["trouble"], int(http.match_info["times"])
        self.seen[trouble, prompt] += 1
        last = prompt.split()[-1]
        meets_it = not last.isdigit() or int(last) % 3 == 1 or trouble in EVERY  # a greeting does
        troubled = meets_it and self.seen[trouble, prompt] <= times
        troubled = troubled and body["max_tokens"] > FITS.get(trouble, 0)
        while troubled and trouble in WHILE_BUSY and self.asked[trouble] < PROBES:
            await asyncio.sleep(0.01)
        if trouble.startswith("redirect_3") and "sent_on" not in http.query:
            return web.Response(status=int(trouble[9:]), headers={"Location": f"{http.path}?sent_on=1"})
        if troubled and trouble in PLAIN:
            status, said, headers = PLAIN[trouble]
            headers = {name: value() if callable(value) else value for name, value in headers.items()}
            text = said if isinstance(said, str) else json.dumps(said)
            return web.Response(status=status, text=text, headers={"Content-Type": "application/json", **headers})
        if troubled and trouble == "reset":
            http.transport.abort()
            return web.Response()
        text, reason, length = write_chain(Request(0, 0, body["seed"], prompt, None, body["max_tokens"]))
        said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        choice = {"index": 0, **said, "finish_reason": reason}
        answer = {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": length}}
        if troubled:
            spoil(trouble, answer, choice, chat)
        data = json.dumps(answer).encode()
        if troubled and trouble == "half_character":
            data = json.dumps(answer, ensure_ascii=False).encode(errors="surrogateescape")
        if troubled and trouble in BYTES:
            return web.Response(body=BYTES[trouble](answer, data), content_type="application/json")
        headers = {"X-Policy": "p" * 60_000, "Set-Cookie": "c=" + "d" * 30_000} if trouble == "huge_headers" else {}
        if trouble == "gzip_lies":
            headers = {"Content-Encoding": "gzip"} if troubled else {}
        if headers:
            return web.Response(body=data, content_type="application/json", headers=headers)
        if troubled and trouble in ("drip", "reset_midway"):
            return await self._drip(http, data, trouble)
        return web.Response(body=data, content_type="application/json")

    async def _drip(self, http: web.Request, data: bytes, trouble: str) -> web.StreamResponse:
        """A few bytes at a time; or half of the answer, and the connection is gone."""
        answer = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(data))})
        await answer.prepare(http)
        size = max(1, len(data) // 20)
        for start in range(0, len(data), size):
            if trouble == "reset_midway" and start > len(data) // 2:
                http.transport.abort()
                break
            await answer.write(data[start : start + size])
            await asyncio.sleep(0.005)
        return answer


def as_events(answer: dict) -> bytes:
    """The answer as a stream that nobody asked for, with the comments of gateways between."""
    choice = answer["choices"][0]
    text = choice.get("text") or (choice.get("message") or {}).get("content") or ""
    middle = len(text) // 2
    events = [{"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}]
    events += [{"choices": [{"index": 0, "delta": {"content": part}}]} for part in (text[:middle], text[middle:])]
    events += [{"choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]},
               {"choices": [], "usage": answer["usage"]}]  # fmt: skip
    lines = [f"data: {json.dumps(event)}\r\n\r\n" for event in events]
    return (": OPENROUTER PROCESSING\n\n" + "".join(lines) + "data: [DONE]\n\n").encode()


BYTES = {  # what is sent in place of a right answer's bytes, and still means it
    "events_unasked": lambda answer, data: as_events(answer),
    "leading_blanks": lambda answer, data: b"\n\n         \n" * 50 + data,  # OpenRouter keeps connections open so
    "byte_order_mark": lambda answer, data: b"\xef\xbb\xbf" + data,
    "two_choices": lambda answer, data: json.dumps(
        answer | {"choices": [*answer["choices"], {"index": 1, "text": "another", "finish_reason": "stop"}]}
    ).encode(),
    "usage_floats": lambda answer, data: data.replace(b'"prompt_tokens": 3', b'"prompt_tokens": 3.0, "total": 7.5'),
    "usage_texts": lambda answer, data: json.dumps(
        answer | {"usage": {key: str(value) for key, value in answer["usage"].items()}}
    ).encode(),
    "ends_like_events": lambda answer, data: data + b"\n\ndata: [DONE]\n\n",  # decolua/9router#3492
    "usage_list": lambda answer, data: json.dumps(answer | {"usage": [1, 2]}).encode(),
    "usage_huge": lambda answer, data: json.dumps(
        answer | {"usage": {"prompt_tokens": -1, "completion_tokens": 10**40}}
    ).encode(),
}


def spoil(trouble: str, answer: dict, choice: dict, chat: bool) -> None:
    """Make a right answer one that has this trouble."""
    if trouble in REASONS:
        choice["finish_reason"] = REASONS[trouble]
    elif trouble == "content_filter":  # BerriAI/litellm#8953
        choice |= {
            "finish_reason": "content_filter",
            **({"message": {"content": None}} if chat else {"text": None}),
        }
    elif trouble == "null_text":
        choice |= {"message": {"content": None}} if chat else {"text": None}
    elif trouble == "no_usage":
        del answer["usage"]
    elif trouble == "null_usage":
        answer["usage"] = None
    elif trouble == "no_reason":
        choice["finish_reason"] = None
    elif trouble == "no_reason_no_usage":
        del choice["finish_reason"], answer["usage"]
    elif trouble == "message_refusal":  # OpenAI's own
        choice |= {"message": {"role": "assistant", "content": None, "refusal": "I can't help with that."}}
    elif trouble == "half_character":  # bytes of a character that was cut: llama.cpp
        choice |= {"text": "caf\udce9"}
    elif trouble == "thinking_parts":
        choice["message"]["content"] = MAGISTRAL
    elif trouble in ("reasoning", "reasoning_content"):
        choice["message"] |= {trouble: "17 and 4", "content": "It is 21."}


async def serve(server: TroubledServer) -> None:
    app, options = web.Application(), server.options
    at = "/{trouble}/{times}/v1"
    app.add_routes([web.get(f"{at}/models", server.models), web.post(f"{at}/completions", server.completions),
                    web.post(f"{at}/chat/completions", server.chat)])  # fmt: skip
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    tls = None
    if options.certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(options.certificate)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--certificate")
    asyncio.run(serve(TroubledServer(parser.parse_args())))
