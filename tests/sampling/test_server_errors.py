"""Error bodies word for word as servers send them, and what each means: wait, ask for less, give up one, or all."""

from __future__ import annotations

import json
from typing import Any

import pytest

from promptcot_mamba.errors import InputError
from promptcot_mamba.sampling.endpoint_errors import (
    MOST_READ,
    BadAnswerError,
    BusyError,
    DeniedError,
    PromptTooLongError,
    RefusedError,
    RejectedError,
    ServerTroubleError,
    error_words,
    raise_for_error,
    told_wait,
)
from tests.sampling.troubled_server import (
    GEMINI_MINUTE,
    GROQ_DAY,
    OPENAI_MINUTE,
    OPENROUTER_FILTER,
    OPENROUTER_PRIVACY,
    PROXY_403,
    QUOTA,
    VLLM_NO_ROOM,
)  # fmt: skip

GEMINI_SPENT = {  # continuedev/continue#11450: nothing is said of a time when there will be more
    "error": {"code": 429, "message": "You exceeded your current quota, please check your plan and billing details. "
              "For more information on this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits. To "
              "monitor your current usage, head to: https://ai.dev/rate-limit. ", "status": "RESOURCE_EXHAUSTED"}
}  # fmt: skip
# RooCodeInc/Roo-Code#3883: a gateway's message is Google's whole body, and only its details say how long to wait.
GEMINI_DETAILS = {
    "error": {"code": 429, "message": "You exceeded your current quota, please check your plan and billing details. "
              "For more information on this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits.",
              "status": "RESOURCE_EXHAUSTED", "details": [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [
            {"quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_input_token_count",
             "quotaId": "GenerateContentInputTokensPerModelPerMinute-FreeTier",
             "quotaDimensions": {"location": "global", "model": "gemini-2.5-flash"}, "quotaValue": "250000"}]},
        {"@type": "type.googleapis.com/google.rpc.Help", "links": [
            {"description": "Learn more about Gemini API quotas", "url": "https://ai.google.dev/gemini-api/docs/rate-limits"}]},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "26s"}]}
}  # fmt: skip
GEMINI_WITHIN = {"error": {"message": json.dumps(GEMINI_DETAILS, indent=2), "code": 429, "status": "Too Many Requests"}}
LATE_CODE = {"error": {"message": "Not now. " * 100, "type": "x", "code": "insufficient_quota"}}
VLLM_ECHO = {  # pydantic's words, as vLLM sends them on: the prompt is a problem's
    "object": "error", "message": "[{'type': 'missing', 'loc': ('body', 'model'), 'msg': 'Field required', 'input': "
    "{'prompt': 'A billing cycle is 30 days. The content policy of a zoo ...', 'max_tokens': 9}}]",
    "type": "BadRequestError", "param": None, "code": 400,
}  # fmt: skip
ECHO_VALUE = {  # pydantic's other form
    "error": {"message": "1 validation error for Request\nmessages Input should be a valid list [type=list_type, "
              "input_value='A billing cycle of the content policy', input_type=str]"}
}  # fmt: skip
GROQ_TOO_LARGE = {  # continuedev/continue#10218
    "error": {"message": "Request too large for model `llama-3.3-70b-versatile` in organization `org_x` service tier "
              "`on_demand` on tokens per minute (TPM): Limit 12000, Requested 14137, please reduce your message size "
              "and try again. Need more tokens? Upgrade to Dev Tier today at https://console.groq.com/settings/billing",
              "type": "tokens", "code": "rate_limit_exceeded"}
}  # fmt: skip
GUARDRAIL_MISSING = {  # BerriAI/litellm#11826
    "error": {"message": 'litellm.BadRequestError: BedrockException - {"message":"The guardrail identifier or version '
              'provided in the request does not exist."}', "code": "400"}
}  # fmt: skip
GUARDRAIL_DOWN = {"error": {"message": "Bedrock guardrail failed: Connection error", "type": "None", "code": "500"}}
GUARDRAIL = {"error": {"error": "Violated guardrail policy", "bedrock_guardrail_response": "I can't"}}  # LiteLLM's
LITELLM_GONE = {
    "error": {"message": "litellm.InternalServerError: InternalServerError: Hosted_vllmException - Connection error.. "
              "Received Model Group=m", "type": None, "param": None, "code": "500"}
}  # fmt: skip
CLOUDFLARE_521 = {  # Cloudflare's, where JSON is accepted
    "type": "https://developers.cloudflare.com/support/", "title": "Error 521: Web server is down", "status": 521,
    "detail": "The web server is not returning a connection.", "error_code": 521, "retryable": True, "retry_after": 120,
}  # fmt: skip


def openrouter(raw: object) -> dict:
    """OpenRouter's words around another server's (open-webui/computer#293)."""
    metadata = {"raw": json.dumps({"error": raw}), "provider_name": "X"}
    return {"error": {"message": "Provider returned error", "code": 400, "metadata": metadata}}


CLOUDFLARE_403 = "<html><title>Attention Required! | Cloudflare</title><h1>Sorry, you have been blocked</h1></html>"


def meant(status: int, body: Any, **headers: str) -> Exception:
    text = body if isinstance(body, str) else json.dumps(body)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is what is tested
        raise_for_error("http://x/v1", status, text.encode(), headers)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    return caught.value


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        (GEMINI_MINUTE, 58.821668433),
        ([GEMINI_MINUTE], 58.821668433),
        (GROQ_DAY, 578.016),
        (OPENAI_MINUTE, 0.02),
        (GEMINI_DETAILS, 26),
        ([GEMINI_DETAILS], 26),
        (GEMINI_WITHIN, 26),
        (CLOUDFLARE_521, 120),
    ],
)
def test_a_limit_a_minute_is_waited_for_as_its_words_say(body: Any, seconds: float):
    error = meant(429, body)
    assert type(error) is BusyError
    assert error.retry_after == pytest.approx(seconds)
    assert meant(429, body, **{"Retry-After": "7"}).retry_after == 7


def test_waits_are_read_from_the_headers_first():
    """Azure and OpenAI say milliseconds beside seconds that are rounded up; a date is by the server's clock."""
    assert meant(429, OPENAI_MINUTE, **{"retry-after-ms": "1250", "Retry-After": "2"}).retry_after == 1.25
    assert meant(429, OPENAI_MINUTE, **{"retry-after-ms": "soon", "Retry-After": "2"}).retry_after == 2
    assert meant(429, {}, **{"retry-after-ms": "-5"}).retry_after == 0
    date = "Fri, 01 Jan 2100 00:00:{:02} GMT".format
    assert meant(503, "", **{"Retry-After": date(9), "Date": date(2)}).retry_after == 7
    assert meant(503, "", **{"Retry-After": date(9)[:-4], "Date": date(2)}).retry_after == 7  # GMT, said or not
    assert meant(503, "", **{"Retry-After": date(2), "Date": date(9)}).retry_after == 0


@pytest.mark.parametrize(("status", "body"), [(429, QUOTA), (429, GEMINI_SPENT), (429, LATE_CODE), (402, GROQ_DAY)])
def test_what_is_spent_ends_the_run(status: int, body: Any):
    assert "no credit is left there" in str(meant(status, body))
    assert "no credit" in str(meant(status, QUOTA, **{"Retry-After": "7"}))


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("Please try again in 20ms.", 0.02), ("Please retry after 26 seconds.", 26), ("try again in 6m0s", 360),
        ("Please retry after 500 milliseconds.", 0.5), ("retry after 1500 Milliseconds", 1.5),
        ("Please try again in 1 minute 30 seconds.", 90), ("try again in 2 hrs", 7200), ("retry in 5 steps", None),
        ("retry in 9 msec", 0.009),
        ("Please try again in 1h2m3.5s. Visit", 3723.5), ("Try again in 5 minutes", 300), ("retry in 3 s", 3),
        ("try again in a few seconds", None), ("please try again later", None), ("retry in 99999999h", 7 * 86400),
    ],
)  # fmt: skip
def test_waits_in_words(words: str, seconds: float | None):
    assert told_wait(words) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (404, OPENROUTER_PRIVACY, DeniedError, "openrouter.ai/settings/privacy"),
        (401, {"error": {"message": "Your key's content policy forbids this"}}, DeniedError, "set OPENAI_API_KEY"),
        (403, PROXY_403, DeniedError, "your organization's security policy"),
        (403, CLOUDFLARE_403, DeniedError, "you have been blocked"),
        (403, OPENROUTER_FILTER, RejectedError, "flagged"),  # refused, once it has answered others
        (400, OPENROUTER_FILTER, RefusedError, "flagged"),
        (400, VLLM_ECHO, RejectedError, "Field required"),
        (400, ECHO_VALUE, RejectedError, "valid list"),
        (413, GROQ_TOO_LARGE, RejectedError, "Requested 14137"),
        (400, QUOTA, RejectedError, "current quota"),  # whose fault it is another request tells
        (400, GUARDRAIL_MISSING, RejectedError, "does not exist"),
        (400, GUARDRAIL, RefusedError, "Violated guardrail"),
        (400, openrouter({"message": "It was filtered", "code": "content_filter"}), RefusedError, "filtered"),
        (500, GUARDRAIL_DOWN, ServerTroubleError, "guardrail failed"),
        (500, LITELLM_GONE, ServerTroubleError, "Connection error"),
        (521, CLOUDFLARE_521, ServerTroubleError, "not returning a connection"),
        (530, "error code: 1033", ServerTroubleError, "1033"),
        (498, {"error": {"message": "Flex tier capacity exceeded", "code": "capacity_exceeded"}}, BusyError, "Flex"),
    ],
)
def test_only_what_is_said_of_the_prompt_is_a_refusal(status: int, body: Any, kind: type, words: str):
    error = meant(status, body)
    assert type(error) is kind
    assert words in str(error)


CONTEXT = "This model's maximum context length is {} tokens. However, "


@pytest.mark.parametrize(
    ("words", "asked", "less"),
    [
        (VLLM_NO_ROOM["error"]["message"], 32768, 32647),
        # vllm-project/vllm#42474: the count is cut off where it was too much already, so it may be more
        (CONTEXT.format(128000) + "you requested 65535 output tokens and your prompt contains at least 62466 input "
         "tokens, for a total of at least 128001 tokens.", 65535, 32767),
        # vllm-project/vllm#20409 and #3851
        (CONTEXT.format(4096) + "you requested 5060 tokens (4036 in the messages, 1024 in the completion). Please "
         "reduce the length of the messages or completion.", 1024, 59),
        (CONTEXT.format(16384) + "you requested 122946 tokens (112946 in the messages, 10000 in the completion).",
         10000, 0),
        ("This endpoint's maximum context length is 32768 tokens. However, you requested about 37623 tokens (21239 of "
         "text input, 16384 in the output).", 16384, 11528),  # OpenRouter
        ("Requested token count exceeds the model's maximum context length of 64000 tokens. You requested a total of "
         "71897 tokens: 7897 tokens from the input messages and 64000 tokens for the completion.",
         64000, 56102),  # SGLang
        ("Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 1887 `inputs` tokens and "
         "1024 `max_new_tokens`", 1024, 160),  # TGI
        (CONTEXT.format(40960) + "you requested 0 output tokens and your prompt contains at least 40961 input tokens, "
         "for a total of at least 40961 tokens.", 9, 0),
        (CONTEXT.format(32768) + "your request has 40000 input tokens. Please reduce the length of the input messages.",
         9, 0),
        # what a server writes at most, whatever its context: Groq, OpenAI, Anthropic, DeepSeek, Alibaba
        ("`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens` is less than the "
         "`context_window` for this model", 65536, 8192),
        ("max_tokens is too large: 65536. This model supports at most 16384 completion tokens, whereas you provided "
         "65536.", 65536, 16384),
        ("max_tokens: 65536 > 8192, which is the maximum allowed number of output tokens for claude-x", 65536, 8192),
        ("Invalid max_tokens value, the valid range of max_tokens is [1, 8192]", 65536, 8192),
        ("Range of max_tokens should be [1, 32768]", 65536, 32768),
        # OpenAI's completions
        (CONTEXT.format(4097) + "you requested 65600 tokens (64 in your prompt; 65536 for the completion). Please "
         "reduce your prompt; or completion length.", 65536, 4032),
        # llama.cpp
        ("request (4390 tokens) exceeds the available context size (4096 tokens), try increasing it", 9, 0),
    ],
)  # fmt: skip
def test_the_room_that_is_left(words: str, asked: int, less: int):
    error = meant(400, {"error": {"message": words, "code": 400}})
    assert isinstance(error, PromptTooLongError)
    assert error.less_than(asked) == less
    assert error.less_than(1) == 0


@pytest.mark.parametrize(
    ("body", "less"),
    [
        (openrouter({"message": CONTEXT.format(8192) + "you requested 8246 tokens (54 in the messages, 8192 in the "
                                "completion).", "code": 400}), 8137),
        ({"statusCode": 400, "error": "Bad Request", "message": CONTEXT.format(4096) + "you requested 5060 tokens "
          "(4036 in the messages, 1024 in the completion)."}, 59),  # Fastify, Spring
        # Gemini, xAI, Moonshot, Alibaba: how much less is not told, so another request has to tell
        ([{"error": {"code": 400, "message": "The input token count (1200000) exceeds the maximum number of tokens "
                     "allowed (1048576).", "status": "INVALID_ARGUMENT"}}], 0),
        ({"code": "Client specified an invalid argument", "error": "This model's maximum prompt length is 131072 but "
          "the request contains 537812 tokens."}, 0),
        ({"error": {"message": "Invalid request: Your request exceeded model token limit: 8192"}}, 0),
        ({"error": {"message": "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 129024]",
                    "code": "invalid_parameter_error"}}, 0),
    ],
)  # fmt: skip
def test_a_prompt_that_is_too_long_in_other_forms(body: Any, less: int):
    error = meant(400, body)
    assert isinstance(error, PromptTooLongError)
    assert (error.less_than(9999), error.is_prompts_own) == (less, False)


@pytest.mark.parametrize(
    ("words", "own"),
    [
        (CONTEXT.format(64) + "your request has 120 input tokens.", True),
        (CONTEXT.format(4096) + "you requested 5060 tokens (4036 in the messages, 1024 in the completion).", False),
        ("`max_tokens` must be less than or equal to `8192`, the `context_window` ...", False),
        ("Current length is 65600 while limit is 65536; context_length_exceeded", False),
    ],
)
def test_whose_length_it_is_is_told_or_has_to_be_seen(words: str, own: bool):
    assert meant(400, {"error": {"message": words}}).is_prompts_own == own


IN_FLIGHT = {  # OpenRouter, whose documentation calls it passing where there is a Retry-After
    "error": {"message": "This request would exceed your available credits given your current in-flight requests. "
              "Retry after in-flight requests settle, or add credits.", "code": 402,
              "metadata": {"reason": "in_flight_budget_exhausted", "limit_source": "openrouter_in_flight_budget"}}
}  # fmt: skip


def test_credit_that_is_under_way_comes_back():
    error = meant(402, IN_FLIGHT, **{"Retry-After": "5"})
    assert (type(error), error.retry_after) == (BusyError, 5)
    assert "no credit is left there" in str(meant(402, IN_FLIGHT))


def test_a_busy_filter_refuses_nothing():
    assert type(meant(429, {"error": {"message": "The moderation endpoint is overloaded"}})) is BusyError


def test_asking_for_less_comes_to_an_end():
    """Also where a server only ever says how much is too much."""
    asked, tries = 65536, 0
    while asked:
        tries += 1
        error = PromptTooLongError("", CONTEXT.format(65600) + f"prompt contains at least {65601 - asked} input tokens")
        asked = error.less_than(asked)
    assert tries <= 18


def test_words_are_read_to_a_bound_and_shown_to_a_shorter_one():
    words, _ = error_words(json.dumps({"error": {"message": "m" * 10**6, "code": "c"}}).encode())
    assert words == "m" * MOST_READ + "; c"
    assert len(str(meant(500, {"error": "m" * 10**6}))) < 400
    assert type(meant(500, {"error": "m" * 10**6})) is BadAnswerError
    assert isinstance(meant(402, "[]"), InputError)
