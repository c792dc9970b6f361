"""What servers do wrong: nothing is lost, nothing comes twice, and each trouble is one clear line."""

from __future__ import annotations

import collections
import logging
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from promptcot_mamba import log
from promptcot_mamba.errors import InputError
from promptcot_mamba.sampling import endpoint_pool
from promptcot_mamba.sampling.backend import FAILED, LENGTH, REFUSED, BackendFailedError, Generated, SamplingSettings
from promptcot_mamba.sampling.endpoint_errors import retry_after
from promptcot_mamba.sampling.endpoint_pool import EndpointSettings
from promptcot_mamba.sampling.openai_endpoint import OpenAIEndpoints
from tests.sampling.conftest import started_servers
from tests.sampling.scripted import Request, write_chain
from tests.sampling.troubled_server import BYTES, in_seconds

COUNT = 30  # requests; every third prompt meets the trouble
TROUBLED = COUNT // 3


FOR_EVER = 10**9


@pytest.fixture(scope="module")
def start_troubled():
    yield from started_servers("tests.sampling.troubled_server")


@pytest.fixture(scope="module")
def at(start_troubled):
    """The URL under which the server has a trouble, at first or for ever."""
    url = start_troubled().url.removesuffix("/v1")
    return lambda trouble, times=2: f"{url}/{trouble}/{times}/v1"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(endpoint_pool, "FIRST_PAUSE", 0.002)


def ask(url: str | list[str], count: int = COUNT, **settings: object) -> list[Generated]:
    """Send the requests to one server or several, and poll until all have come back."""
    how = {"concurrency": 8, "patience_seconds": 60.0, "gives_up": True, **settings}
    backend = OpenAIEndpoints(
        EndpointSettings([url] if isinstance(url, str) else url, "tiny", context=5000, **how),
        SamplingSettings(0.8, 0.95, 1.0, (2,)),
    )
    finished: list[Generated] = []
    try:
        for unit in range(count):
            backend.submit(Request(unit, 0, 1000 + unit, f"prompt {unit}", None, 4096))
        while len(finished) < count:
            finished += backend.poll(0.2)
        assert backend.poll(0.0) == []
    finally:
        backend.close()
    assert Counter(each.unit for each in finished) == Counter(range(count))
    return sorted(finished, key=lambda each: each.unit)


def right(unit: int) -> tuple[str, str]:
    return write_chain(Request(unit, 0, 1000 + unit, f"prompt {unit}", None, 4096))[:2]


def assert_right(finished: list[Generated]) -> None:
    for each in finished:
        assert (each.text, each.finish_reason) == right(each.unit)


# Troubles that pass: after them every request has its own right answer.
PASSING = {
    "429": "status 429: Rate limit reached",
    "429_seconds": "status 429",
    "429_date": "status 429",
    "429_garbled": "status 429",
    "429_words": "status 429: Rate limit reached for gpt-4o",
    "529": "status 529: Overloaded",
    "500": "status 500: Internal Server Error",
    "502_html": "status 502: 502 Bad Gateway",
    "503_loading": "status 503: Loading model",
    "504": "status 504",
    "408": "status 408",
    "error_in_200": "status 502: Provider returned error",
    "busy_in_200": "rate-limited upstream",
    "invalid_json": "not JSON",
    "empty_body": "not JSON",
    "html_200": "Please sign in",
    "json_list": "JSON of another kind",
    "no_choices": "answer without list index",
    "error_text_200": "model is overloaded",
    "error_list_200": "upstream failed",
    "sglang_error_200": "out of KV cache",
    "choices_null": "answer without",
    "choice_null": "answer without",
    "text_number": "of another kind",
    "deep": "not JSON",
    "json_then_junk": "not JSON",
    "524_html": "status 524: example.com | 524: A timeout occurred",
    "503_date": "status 503: 502 Bad Gateway",
    "503_odd_date": "status 503",
    "reloading": "status 404: The model `tiny` does not exist",
    "gzip_lies": "gzip",
    "reset": "disconnected",
    "reset_midway": "payload",
    "reason_abort": "'abort'",
    "reason_error": "'error'",
    "reason_unknown": "'because'",
    "no_reason_no_usage": "without finish_reason and usage",
    "reason_eos": None,
    "reason_eos_token": None,
    "reason_end_turn": None,
    "reason_upper": None,
    "drip": None,
    "no_usage": "the server sends no usage",
    "null_usage": "the server sends no usage",
    "no_reason": None,
    "redirect_301": None,
    "redirect_302": None,
    "redirect_307": None,
    "redirect_308": None,
    "424_tgi": "status 424: Request failed during generation",
    "499": "status 499",
    "no_models": "has no /models",
    "lists_nothing": "lists no models",
    "models_null": "lists no models",
    "models_nameless": "lists no models",
    "models_bare": None,
    "models_ollama": None,
    "models_500": "has no /models that can be read (status 500",
    "models_html": "has no /models that can be read (not JSON",
    "still_loading": "status 503: Loading model",
}


@pytest.mark.parametrize("trouble", PASSING)
def test_what_passes_leaves_every_answer_right(at, trouble: str, caplog):
    finished = ask(at(trouble))
    if trouble in ("reason_eos", "reason_eos_token", "reason_end_turn", "reason_upper"):  # said of truncated ones too
        finished = [each for each in finished if right(each.unit)[1] == "stop"]
    assert_right(finished)
    said = PASSING[trouble]
    if said is not None:
        assert said.lower() in caplog.text.lower()
    assert all(len(line) < 500 for line in caplog.text.splitlines())


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """What our logger says reaches `caplog`, also where an earlier test has said it or configured the logger."""
    log.log_once.cache_clear()
    monkeypatch.setattr(logging.getLogger(log.ROOT), "propagate", True)
    caplog.set_level("INFO", logger=log.ROOT)


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize(
    "trouble",
    [
        "azure_filter",
        "litellm_filter",
        "litellm_filter_500",
        "openrouter_filter",
        "unknown_400",
        "content_filter",
        "413_html",
        "422_fastapi",
    ],
)
def test_a_refusal_is_an_answer(at, trouble: str, chat: bool):
    finished = ask(at(trouble, FOR_EVER), chat=chat)
    refused = [each for each in finished if each.finish_reason == REFUSED]
    assert [each.unit % 3 for each in refused] == [1] * TROUBLED
    assert all(each.text == "" and each.note for each in refused)
    assert_right([each for each in finished if each.unit % 3 != 1])


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("form", ["huge_headers", *BYTES])
def test_an_odd_form_of_a_right_answer_is_read_at_once(at, form: str, chat: bool, caplog):
    if chat and form == "two_choices":
        pytest.skip("made for completions")
    assert_right(ask(at(form, FOR_EVER), chat=chat))
    assert "asked again" not in caplog.text
    assert "sent again" not in caplog.text


def test_a_message_that_declines_is_a_refusal(at):
    finished = ask(at("message_refusal", FOR_EVER), chat=True)
    assert {(each.finish_reason, each.note) for each in finished if each.unit % 3 == 1} == {
        (REFUSED, "I can't help with that.")
    }
    assert_right([each for each in finished if each.unit % 3 != 1])


def test_half_a_character_is_read_as_such(at):
    finished = ask(at("half_character", FOR_EVER))
    assert {each.text for each in finished if each.unit % 3 == 1} == {"caf\ufffd"}


def test_a_path_that_never_comes_back_ends_the_run(at):
    with pytest.raises(InputError, match="does not exist"):
        ask(at("reloading", FOR_EVER))


def test_a_key_that_was_taken_may_be_refused_for_a_while(at):
    """By a gateway before the server; the first answer has come when the second request is sent."""
    assert_right(ask(at("unauthorised"), concurrency=1))


@pytest.mark.parametrize("trouble", ["openrouter_privacy", "proxy_403"])
def test_an_accounts_or_a_proxys_rules_are_no_refusal(at, trouble: str):
    with pytest.raises(InputError, match=r"refused .*(settings/privacy|security policy)"):
        ask(at(trouble, FOR_EVER))


def test_a_server_that_takes_no_request_leaves_them_to_the_others(at, caplog):
    assert_right(ask([at("min_p", FOR_EVER), at("none")]))
    assert "Unrecognized request argument supplied: min_p" in caplog.text


@pytest.mark.parametrize("others", [[], ["also_min_p"]])
def test_where_no_server_takes_requests_the_run_ends(at, others: list[str]):
    urls = [at("min_p", FOR_EVER), *(at("min_p", FOR_EVER + 1) for _ in others)]
    with pytest.raises(InputError, match=r"refused a request .*min_p"):
        ask(urls)


def test_where_the_others_stay_away_the_run_ends(at):
    # Which of the two is said first is a matter of milliseconds.
    with pytest.raises(BackendFailedError, match=r"a request was broken off for .*min_p|no server has answered for"):
        ask([at("min_p", FOR_EVER), "127.0.0.1:9"], patience_seconds=0.3)


@pytest.mark.parametrize("trouble", ["models_429", "models_always_500", "gateway_503"])
def test_only_silence_and_a_gateway_take_requests_away(at, trouble: str, caplog, monkeypatch):
    monkeypatch.setattr(endpoint_pool, "PROBE_SECONDS", 0.02)
    assert_right(ask(at(trouble, FOR_EVER)))
    assert ("no answer to 3 probes (status 503" in caplog.text) == (trouble == "gateway_503")


def test_no_request_goes_where_models_was_answered(at, caplog):
    """`transformers serve` without a hub cache fails there, and closes each connection on which it has."""
    assert_right(ask(at("models_500")))
    assert "disconnected" not in caplog.text.lower()


@pytest.mark.parametrize(("trouble", "less"), [("sglang_no_room", 4088), ("tgi_no_room", 160), ("vllm_at_least", 2048)])
def test_a_chain_ends_where_the_context_does(at, trouble: str, less: int, caplog):
    finished = ask(at(trouble, FOR_EVER))
    for each in finished:
        room = less if each.unit % 3 == 1 else 4096
        said = write_chain(Request(each.unit, 0, 1000 + each.unit, f"prompt {each.unit}", None, room))
        assert (each.text, each.finish_reason, each.completion_tokens) == said
    assert caplog.text.count("chains end at its context of") == 1


@pytest.mark.parametrize("trouble", ["sglang_too_long", "llamacpp_too_long_200"])
def test_a_prompt_that_does_not_fit_is_an_empty_truncated_answer(at, trouble: str, caplog):
    finished = ask(at(trouble, FOR_EVER))
    cut = [each for each in finished if each.unit % 3 == 1]
    assert {(each.text, each.finish_reason, each.completion_tokens) for each in cut} == {("", LENGTH, 0)}
    assert_right([each for each in finished if each.unit % 3 != 1])
    assert "is too long" in caplog.text


def test_a_null_text_is_an_empty_one(at):
    finished = ask(at("null_text", FOR_EVER))
    assert {each.text for each in finished if each.unit % 3 == 1} == {""}
    assert_right([each for each in finished if each.unit % 3 != 1])


@pytest.mark.parametrize("trouble", ["invalid_json", "500", "no_choices"])
def test_what_never_gets_better_is_left_for_a_rerun_and_the_others_are_answered(at, trouble: str):
    finished = ask(at(trouble, FOR_EVER))
    assert {each.finish_reason for each in finished if each.unit % 3 == 1} == {FAILED}
    assert_right([each for each in finished if each.unit % 3 != 1])


@pytest.mark.parametrize(
    ("trouble", "message"),
    [("quota", "no credit is left"), ("no_credit", "Insufficient Balance"), ("unauthorised", "set OPENAI_API_KEY")],
)
def test_what_no_waiting_mends_ends_the_run_in_one_line(at, trouble: str, message: str):
    with pytest.raises(InputError, match=message) as caught:
        ask(at(trouble, FOR_EVER))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("trouble", "error", "message"),
    [
        ("unknown_400", InputError, r"refused a request .*Could not parse the request"),
        ("openrouter_filter", InputError, r"refused a request .*requires moderation"),
        ("reason_abort", BackendFailedError, r"a request was broken off for .*'abort'"),
    ],
)
def test_what_befalls_all_requests_ends_the_run(at, trouble: str, error: type[Exception], message: str, monkeypatch):
    monkeypatch.setattr(endpoint_pool, "LONGEST_PAUSE", 0.01)
    settings = EndpointSettings([at(trouble, FOR_EVER)], "tiny", context=5000, gives_up=True, patience_seconds=1.0)
    backend = OpenAIEndpoints(settings, SamplingSettings(0.8, 0.95, 1.0, (2,)))
    try:
        for unit in range(1, 3 * 12, 3):  # only prompts that meet the trouble
            backend.submit(Request(unit, 0, unit, f"prompt {unit}", None, 10))
        with pytest.raises(error, match=message):
            collections.deque(iter(lambda: backend.poll(0.2), None), maxlen=0)
    finally:
        backend.close()


def test_a_wait_longer_than_patience_ends_the_run(at):
    with pytest.raises(BackendFailedError, match="no server has answered"):
        ask(at("429", FOR_EVER), patience_seconds=0.5, concurrency=1)


def test_a_chat_only_server_is_asked_for_chat(at):
    with pytest.raises(InputError, match=r"--api chat or completions says which it has"):
        ask(at("chat_only"))
    assert_right(ask(at("chat_only"), chat=True))


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content", "thinking_parts"])
def test_a_thought_served_apart_is_handed_on(at, field: str):
    finished = ask(at(field, FOR_EVER), chat=True)
    assert {(each.reasoning, each.text) for each in finished if each.unit % 3 == 1} == {("17 and 4", "It is 21.")}


def test_a_server_behind_a_redirect_is_asked_where_it_is(at):
    assert_right(ask(at("moved")))


def test_a_certificate_of_ones_own(start_troubled, tmp_path: Path):
    certificate = tmp_path / "own.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", certificate, "-days", "2"),
            *("-out", tmp_path / "c.pem", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    with certificate.open("ab") as file:
        file.write((tmp_path / "c.pem").read_bytes())
    server = start_troubled(certificate=certificate)
    url = server.url.replace("http://", "https://").replace("/v1", "/none/0/v1")
    with pytest.raises(InputError, match="--ca_file names the certificate to trust"):
        ask(url)
    assert_right(ask(url, ca_file=str(tmp_path / "c.pem")))
    for wrong in (tmp_path / "nowhere.pem", Path(__file__)):
        with pytest.raises(InputError, match=r"--ca_file .*no certificates to read"):
            ask(url, ca_file=str(wrong))


def test_retry_after_in_seconds_and_as_a_date():
    assert retry_after("7") == 7
    assert retry_after("0.5") == 0.5
    assert retry_after("-3") == 0
    assert 55 < retry_after(in_seconds(60)) <= 60
    assert retry_after(in_seconds(-60)) == 0
    assert [retry_after(text) for text in (None, "", "soon", "nan")] == [None] * 4
