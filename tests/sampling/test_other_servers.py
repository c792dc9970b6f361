"""Answers, addresses and names as other people's servers give them, from their documentation and public threads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from promptcot_mamba.errors import InputError
from promptcot_mamba.sampling.endpoint_answers import read_completion
from promptcot_mamba.sampling.endpoint_body import parse_object
from promptcot_mamba.sampling.endpoint_errors import DeniedError, ServerTroubleError
from promptcot_mamba.sampling.endpoint_pool import proxy_for, read_cards
from promptcot_mamba.sampling.endpoint_protocol import find_model, is_elsewhere, normal_url

TEXT_PART = {"type": "text", "text": "B"}
THINKING_PART = {"type": "thinking", "thinking": [{"type": "text", "text": "A"}]}
ENCRYPTED = {"type": "reasoning.encrypted", "data": "gAAAA"}


def detail(text: str) -> dict[str, Any]:
    return {"type": "reasoning.text", "text": text, "index": 0, "format": "unknown", "signature": None}


def chat(finish: str | None = "stop", **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish, "logprobs": None}
    return {"id": "x", "choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 20}}


def completions(finish: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": "B", "finish_reason": finish}], "usage": {"completion_tokens": 2}}


@pytest.mark.parametrize(
    ("server", "body", "said"),  # text, thought, finish reason
    [
        ("vLLM 0.12", chat(content="B", refusal=None, tool_calls=[], reasoning="A"), ("B", "A", "stop")),
        ("vLLM 0.11", chat(content="B", reasoning_content="A", reasoning="A"), ("B", "A", "stop")),
        ("vLLM, cut off", chat("length", content=None, reasoning="A"), ("", "A", "length")),
        ("SGLang, LM Studio, DeepSeek", chat(content="B", reasoning_content="A"), ("B", "A", "stop")),
        ("NIM, not thinking", chat(content="B", reasoning_content=None), ("B", None, "stop")),
        ("OpenRouter", chat(content="B", reasoning="A", reasoning_details=[detail("A")]), ("B", "A", "stop")),
        ("OpenRouter, details alone",
         chat(content="B", reasoning=None, reasoning_details=[detail("A1 "), ENCRYPTED, detail("A2")]),
         ("B", "A1 A2", "stop")),
        ("OpenRouter, a summary",
         chat(content="B", reasoning_details=[{"type": "reasoning.summary", "summary": "A"}, ENCRYPTED]),
         ("B", "A", "stop")),
        ("OpenRouter, encrypted", chat(content="B", reasoning_details=[ENCRYPTED]), ("B", None, "stop")),
        ("Ollama", chat(content="B", thinking="A"), ("B", "A", "stop")),
        ("Responses gateways", chat(content="B", reasoning={"content": "A", "summary": None}), ("B", "A", "stop")),
        ("Mistral", chat(content=[THINKING_PART, TEXT_PART]), ("B", "A", "stop")),
        ("Anthropic", chat("end_turn", content=[{"type": "thinking", "thinking": "A"}, TEXT_PART]), ("B", "A", "stop")),
        ("Together", chat("eos", content="B", reasoning="A"), ("B", "A", "stop")),
        ("TGI", completions("eos_token"), ("B", None, "stop")),
        ("Cohere", chat("COMPLETE", content="B"), ("B", None, "stop")),
        ("Gemini", chat("MAX_TOKENS", content="B"), ("B", None, "length")),
        ("llama.cpp", completions("limit"), ("B", None, "length")),
        ("Gemini, blocked", chat("PROHIBITED_CONTENT", content=None), ("", None, "refused")),
        ("Gemini, blocked without a message",  # open-compass/VLMEvalKit#1550
         {"choices": [{"index": 0, "message": None, "finish_reason": "content_filter: PROHIBITED_CONTENT"}]},
         ("", None, "refused")),
        ("Azure, filtered", chat("content_filter"), ("", None, "refused")),
        ("gpt-oss, calling", chat("tool_calls", content="B", reasoning="A"), ("B", "A", "stop")),
    ],
)  # fmt: skip
def test_answers_are_read_as_each_server_writes_them(server: str, body: dict, said: tuple):
    answer = read_completion(parse_object(json.dumps(body).encode(), server), 100)
    assert (answer.text, answer.reasoning, answer.finish_reason) == said


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 623}, (20, 603)),  # mozilla-ai/any-llm#1290
        ({"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 218}, (20, 198)),
        ({"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 198}, (20, 198)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, (None, None)),  # CLIProxyAPI#5733
    ],
)
def test_tokens_are_counted_as_they_were_said(usage: dict[str, int], counted: tuple):
    answer = read_completion(chat(content=None, reasoning="A") | {"usage": usage}, 1000)
    assert (answer.prompt_tokens, answer.completion_tokens) == counted
    empty = read_completion(chat(content=None) | {"usage": {"prompt_tokens": 20, "completion_tokens": 0}}, 1000)
    assert (empty.prompt_tokens, empty.completion_tokens) == (20, 0)


@pytest.mark.parametrize("finish", ["error", "load", "insufficient_system_resource"])  # OpenRouter, Ollama, DeepSeek
def test_an_answer_that_broke_off_is_asked_for_again(finish: str):
    with pytest.raises(ServerTroubleError):
        read_completion(chat(finish, content="half"), 100)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("localhost:11434", "http://localhost:11434/v1"),
        ("127.0.0.1:1234/v1/", "http://127.0.0.1:1234/v1"),
        ("[::1]:8000", "http://[::1]:8000/v1"),
        (" http://v100:8000 ", "http://v100:8000/v1"),
        ("api.together.xyz/v1", "https://api.together.xyz/v1"),  # the key goes with the first request
        ("api.x.ai:443/v1", "http://api.x.ai:443/v1"),
        ("10.0.0.7", "http://10.0.0.7/v1"),
        ("node0/v1", "http://node0/v1"),
        ("gateway.local", "http://gateway.local/v1"),
        ("http://h:8000/v1/chat/completions", "http://h:8000/v1"),
        ("http://h:8000/v1/models", "http://h:8000/v1"),
        ("http://h:8000/completions", "http://h:8000/v1"),
        ("http://gateway/vllm", "http://gateway/vllm/v1"),  # a path that begins with v is no version
        ("http://gateway/v3-chat/", "http://gateway/v3-chat/v1"),
        ("https://openrouter.ai/api", "https://openrouter.ai/api/v1"),
        ("https://api.groq.com/openai/v1", "https://api.groq.com/openai/v1"),
        ("https://x.googleapis.com/v1beta/openai/", "https://x.googleapis.com/v1beta/openai"),  # Gemini
        ("https://open.bigmodel.cn/api/paas/v4", "https://open.bigmodel.cn/api/paas/v4"),
        ("https://gateway.ai.x/v1/ACCOUNT/NAME/openai", "https://gateway.ai.x/v1/ACCOUNT/NAME/openai"),
    ],
)
def test_addresses_as_people_give_them(given: str, meant: str):
    assert normal_url(given) == normal_url(meant) == meant


def test_an_address_with_a_query_is_refused():
    with pytest.raises(InputError, match="give the address up to its version"):
        normal_url("https://x.openai.azure.com/openai/v1?api-version=preview")


@pytest.mark.parametrize(
    ("names", "wanted", "asked"),
    [
        (["qwen3:latest", "qwen3:8b"], "qwen3", "qwen3:latest"),  # Ollama
        (["qwen3:8b"], "qwen3:8b", "qwen3:8b"),
        (["qwen/qwen3-8b"], "Qwen/Qwen3-8B", "qwen/qwen3-8b"),  # LM Studio
        (["a/R1:free", "a/R1"], "a/R1", "a/R1"),  # OpenRouter
        (["a/R1"], "a/R1:fireworks-ai", "a/R1:fireworks-ai"),  # Hugging Face's router
        (["/models/s1.1-7B/"], "/data/s1.1-7B", "/models/s1.1-7B/"),
        (["a/Qwen3-8B", "a/qwen3-8b"], "qwen3-8b", "a/qwen3-8b"),
        (["a", "b"], "c", None),
        # gateways list a name at each of their providers, vLLM every --served-model-name; a full name goes first
        (["openai/gpt-4o", "azure/gpt-4o"], "azure/gpt-4o", "azure/gpt-4o"),
        (["/runs/a/phase2", "/runs/b/phase2"], "/runs/b/phase2/", "/runs/b/phase2"),
        (["x/qwen3-8b", "Qwen/Qwen3-8B"], "qwen/qwen3-8b", "Qwen/Qwen3-8B"),
        (["b/R1:x", "a/R1"], "a/R1:x", "a/R1:x"),
    ],
)
def test_models_are_found_by_the_names_they_go_by(names: list[str], wanted: str, asked: str | None):
    card = find_model(read_cards(json.dumps({"data": [{"id": name} for name in names]}).encode(), "u"), wanted)
    assert (card and card["id"]) == asked


def test_of_several_models_with_one_last_part_none_is_guessed():
    cards = [{"id": "openai/gpt-4o"}, {"id": "azure/gpt-4o"}]
    with pytest.raises(DeniedError, match="serves openai/gpt-4o, azure/gpt-4o: any may be gpt-4o; --served"):
        find_model(cards, "gpt-4o", "u")
    aliases = [{"id": "a/m", "root": "/models/m"}, {"id": "b/m", "root": "/models/m"}]  # of one model
    assert find_model(aliases, "/data/m", "u") is aliases[0]


def test_folders_of_one_name_are_told_apart_where_they_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ours = tmp_path / "a" / "phase2"
    ours.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert is_elsewhere("/runs/b/phase2", str(ours))
    assert is_elsewhere("/runs/b/phase2", "/runs/a/phase2")  # neither is here
    assert not is_elsewhere(f"{ours}/", str(ours))
    assert not is_elsewhere(str(tmp_path / "link" / "phase2"), str(ours))
    assert not is_elsewhere("/models/s1.1-7B", "simplescaling/s1.1-7B")  # a name
    monkeypatch.chdir(tmp_path)
    assert not is_elsewhere(str(ours), "a/phase2")
    assert is_elsewhere("/runs/b/phase2", "a/phase2")


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("https://api.example.test/v1", "http://proxy.test:3128"),
        ("https://inside.example.test/v1", None),
        ("https://127.0.0.1:8000/v1", None),
        ("http://node0:8000/v1", None),
    ],
)
def test_only_addresses_of_the_internet_are_asked_through_a_proxy(url: str, proxy: str | None, monkeypatch):
    monkeypatch.setenv("https_proxy", "proxy.test:3128")
    monkeypatch.setenv("http_proxy", "http://other.test:1")
    monkeypatch.setenv("no_proxy", "inside.example.test")
    assert proxy_for(URL(url)) == proxy
    monkeypatch.setenv("https_proxy", "socks5://proxy.test:1080")
    assert proxy_for(URL(url)) is None
    monkeypatch.delenv("https_proxy")
    assert proxy_for(URL(url)) is None
