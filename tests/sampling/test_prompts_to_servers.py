"""A server reads the tokens that were meant, whether it takes ids or tokenises a text itself, as ours would."""

from __future__ import annotations

from array import array
from functools import cache

import pytest

from promptcot_mamba.errors import InputError
from promptcot_mamba.sampling.backend import Request, SamplingSettings
from promptcot_mamba.sampling.endpoint_pool import EndpointPool, EndpointSettings
from promptcot_mamba.sampling.endpoint_protocol import added_bos, payload, refuse_ollama
from promptcot_mamba.sampling.openai_endpoint import OpenAIEndpoints
from tests.data.families import make_family_tokenizer
from tests.sampling.conftest import started_servers

TURNS = {  # as the families' chat templates begin and end
    "deepseek": "<\uff5cbegin\u2581of\u2581sentence\uff5c><\uff5cUser\uff5c>Find 2 + 2.<\uff5cAssistant\uff5c>",
    "llama3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nFind 2 + 2.<|eot_id|>",
    "gemma": "<bos><start_of_turn>user\nFind 2 + 2.<end_of_turn>\n<start_of_turn>model\n",
    "mistral": "<s>[INST]Find 2 + 2.[/INST]",
    "qwen2": "<|im_start|>user\nFind 2 + 2.<|im_end|>\n<|im_start|>assistant\n",
}
TAKE_IDS = ("vllm", "sglang", "llamacpp")
OWNERS = (*TAKE_IDS, "me", "Qwen", "someone")  # llama-cpp-python, `transformers serve` (the author), any other
SAMPLING = SamplingSettings(0.8, 0.95, 1.0, (2,), skip_special_tokens=False)

family_tokenizer = cache(make_family_tokenizer)


@pytest.fixture(scope="module")
def url():
    servers = started_servers("tests.sampling.fake_server")
    yield next(servers)(owner="someone").url
    next(servers, None)


@pytest.fixture
def ask(url: str, monkeypatch: pytest.MonkeyPatch):
    """Send a request to a server of this owner; returns the body that was sent, and what came of it."""
    bodies, post = [], EndpointPool.post

    def remember(pool, endpoint, path, body):
        bodies.append(body)
        return post(pool, endpoint, path, body)

    monkeypatch.setattr(EndpointPool, "post", remember)

    def send(request: Request, owner: str, tokenizer, **settings):
        backend = OpenAIEndpoints(EndpointSettings([url], "tiny", context=5000, **settings), SAMPLING, tokenizer)
        backend.endpoints[0].owner = owner
        try:
            backend.submit(request)
            while not (finished := backend.poll(0.5)):
                pass
        finally:
            backend.close()
        return bodies[-1], finished[0]

    return send


def read_by_server(body: dict, tokenizer) -> list[int]:
    prompt = body["prompt"]
    return tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("family", TURNS)
def test_a_rendered_prompt_begins_once(ask, family: str, owner: str):
    tokenizer, text = family_tokenizer(family), TURNS[family]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    body, _ = ask(Request(0, 0, 5, text, ids, 100), owner, tokenizer)
    assert isinstance(body["prompt"], list) == (owner in TAKE_IDS)
    assert read_by_server(body, tokenizer) == ids


@pytest.mark.parametrize("owner", OWNERS)
def test_a_prompt_without_a_template_gets_its_beginning(ask, owner: str):
    tokenizer, text = family_tokenizer("llama3"), "Find 2 + 2.\n<think>\n"
    ids = tokenizer(text)["input_ids"]
    body, _ = ask(Request(0, 0, 5, text, ids, 100), owner, tokenizer)
    assert read_by_server(body, tokenizer) == ids
    assert ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("family", ["deepseek", "llama3", "qwen2"])
def test_a_chain_goes_on_from_what_it_has_said(ask, family: str, owner: str):
    tokenizer, text, said = family_tokenizer(family), TURNS[family], "So 2 + 2 = "
    ids, kept = (tokenizer(each, add_special_tokens=False)["input_ids"] for each in (text, said))
    body, generated = ask(Request(0, 0, 5, text, ids, 100, kept=array("i", kept)), owner, tokenizer)
    assert tokenizer.decode(read_by_server(body, tokenizer)) == text + said
    if owner in TAKE_IDS:
        assert body["prompt"] == [*ids, *kept]
    assert generated.text.startswith(said + "seed 5 after ")
    assert generated.completion_tokens > len(kept)


@pytest.mark.parametrize("owner", OWNERS)
def test_token_ids_are_asked_of_servers_that_have_them(ask, owner: str):
    """An older one of the same name tells none: what it says still stands behind what the chain had said."""
    tokenizer, text, said = family_tokenizer("qwen2"), TURNS["qwen2"], "So 2 + 2 = "
    ids, kept = (tokenizer(each, add_special_tokens=False)["input_ids"] for each in (text, said))
    body, generated = ask(Request(0, 0, 5, text, ids, 100, kept=array("i", kept)), owner, tokenizer, token_ids=True)
    assert body.get("return_token_ids", False) == (owner in ("vllm", "sglang"))
    assert generated.token_ids is None
    assert generated.text.startswith(said + "seed 5 after ")


@pytest.mark.parametrize("owner", sorted({*OWNERS} - {"vllm", "sglang"}))
def test_chains_are_not_cut_where_they_could_not_go_on(ask, owner: str):
    tokenizer, text = family_tokenizer("qwen2"), TURNS["qwen2"]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    with pytest.raises(InputError, match=r"--thinking_budget: http.* tells no token ids"):
        ask(Request(0, 0, 5, text, ids, 100), owner, tokenizer, token_ids=True, cuts_by="--thinking_budget")


def test_what_a_tokenizer_puts_before_a_text():
    assert {family: added_bos(family_tokenizer(family)) for family in TURNS} == {
        "deepseek": "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "llama3": "<|begin_of_text|>", "gemma": "<bos>",
        "mistral": "<s>", "qwen2": "",
    }  # fmt: skip
    assert added_bos(None) == ""


def test_no_tokenizer_no_ids(ask):
    for owner in OWNERS:
        body, _ = ask(Request(0, 0, 5, "<s>as it stands", None, 100), owner, None)
        assert body["prompt"] == "<s>as it stands"


@pytest.mark.parametrize("chat", [False, True])
def test_sglang_shows_special_tokens_where_vllm_does(chat: bool):
    """s1's thought is marked by `<|im_start|>think`, which a server strips unless told."""
    request = Request(0, 0, 5, "text", [1, 2], 9)
    bodies = [
        payload(request, SAMPLING, "m", is_vllm=owner == "vllm", stream=False, owner=owner, chat=chat)
        for owner in ("vllm", "sglang")
    ]
    for body in bodies:
        told = {name: body[name] for name in ("skip_special_tokens", "stop_token_ids", "ignore_eos")}
        assert told == {"skip_special_tokens": False, "stop_token_ids": [2], "ignore_eos": False}


def test_ollama_is_asked_for_chat_alone(start_server):
    """By its models' cards; one of `hf.co/someone/...` has another owner, so by its answers too."""
    url = start_server(owner="library").url
    settings = {"base_urls": [url], "model": "tiny", "context": 5000}
    with pytest.raises(InputError, match=r"Ollama puts every prompt into the model's template.*give --api chat"):
        OpenAIEndpoints(EndpointSettings(**settings), SAMPLING)
    OpenAIEndpoints(EndpointSettings(**settings, chat=True), SAMPLING).close()
    answer = {"id": "cmpl-1", "object": "text_completion", "model": "hf.co/bartowski/x:Q4_K_M", "choices": []}
    refuse_ollama(answer, url)
    with pytest.raises(InputError, match="give --api chat"):
        refuse_ollama(answer | {"system_fingerprint": "fp_ollama"}, url)
