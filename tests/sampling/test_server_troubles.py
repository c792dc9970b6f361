"""What servers do wrong: nothing is lost, nothing comes twice, and each trouble is one clear line."""

from __future__ import annotations

import collections
import logging
import re
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


def ask(url: str | list[str], count: int = COUNT, *, stop_on_loop: bool = False, **settings: object) -> list[Generated]:
    """Send the requests to one server or several, and poll until all have come back."""
    how = {"concurrency": 8, "patience_seconds": 60.0, "gives_up": True, **settings}
    backend = OpenAIEndpoints(
        EndpointSettings([url] if isinstance(url, str) else url, "tiny", context=5000, **how),
        SamplingSettings(0.8, 0.95, 1.0, (2,), stop_on_loop=stop_on_loop),
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


# Troubles that pass: after them every request has its own right answer. What is said of each, whole, or None: nothing.
PASSING = {
    "429": "status 429: Rate limit reached for requests; requests; rate_limit_exceeded",
    "429_seconds": "status 429: Rate limit reached for requests; requests; rate_limit_exceeded",
    "429_date": "status 429: Rate limit reached for requests; requests; rate_limit_exceeded",
    "429_garbled": "status 429: Rate limit reached for requests; requests; rate_limit_exceeded",
    "429_words": "status 429: Rate limit reached for gpt-4o in organization .* Please try again in 20ms. .*",
    "529": "status 529: Overloaded; overloaded_error",
    "500": "status 500: Internal Server Error",
    "502_html": "status 502: 502 Bad Gateway 502 Bad Gateway",
    "503_loading": "status 503: Loading model; unavailable_error; 503",
    "504": "status 504: upstream request timeout",
    "408": "status 408: Request Timeout",
    "error_in_200": "status 502: Provider returned error; 502",
    "busy_in_200": "status 429: rate-limited upstream; 429",
    "invalid_json": """not JSON: '{"choices": \\[{"text": "half an ans'""",
    "empty_body": "not JSON: ''",
    "html_200": "not JSON: 'Please sign in'",
    "json_list": r"JSON of another kind: \[\]",
    "no_choices": r"answer of another form: {'choices': \[\], 'usage': .*",
    "error_text_200": "status 500: model is overloaded, please try again",
    "error_list_200": """status 500: \\[{"message": "upstream failed"}\\]""",
    "sglang_error_200": "status 500: Internal error: out of KV cache; InternalServerError; 500",
    "choices_null": "answer of another form: {'choices': None, 'usage': None}",
    "choice_null": r"answer of another form: {'choices': \[None\]}",
    "text_number": "text of another kind: {'a': 1}",
    "deep": r"not JSON: '\[+'",
    "json_then_junk": """not JSON: '{"choices": \\[\\]}{"choices": \\[\\]}'""",
    "524_html": "status 524: example.com \\| 524: A timeout occurred( x)+ ?",
    "503_date": "status 503: 502 Bad Gateway 502 Bad Gateway",
    "503_odd_date": "status 503: Service Unavailable",
    "reloading": r"refused a request \(status 404: The model `tiny` does not exist.; NotFoundError; 404\); "
    "--api chat or completions says which it has",
    "gzip_lies": "400, message: Can not decode content-encoding: gzip.*",
    "reset": r"Server disconnected|\[Errno 104\] Connection reset by peer",
    "reset_midway": r"Response payload is not completed: .*|\[Errno 104\] Connection reset by peer",
    "reason_abort": "finish_reason 'abort'",
    "reason_error": "finish_reason 'error'",
    "reason_unknown": "finish_reason 'because'",
    "no_reason_no_usage": "answer without finish_reason and usage",
    "reason_eos": None,
    "reason_eos_token": None,
    "reason_end_turn": None,
    "reason_upper": None,
    "drip": None,
    "no_usage": "--base_url: the server sends no usage; tokens are estimated, .* bytes of text each",
    "null_usage": "--base_url: the server sends no usage; tokens are estimated, .* bytes of text each",
    "no_reason": None,
    "redirect_301": None,
    "redirect_302": None,
    "redirect_307": None,
    "redirect_308": None,
    "424_tgi": "status 424: Request failed during generation: Server error: out of memory",
    "499": "status 499: without a word",
    "no_models": "has no /models; asked for tiny as it stands",
    "lists_nothing": "lists no models; asked for tiny as it stands",
    "models_null": "lists no models; asked for tiny as it stands",
    "models_nameless": "lists no models; asked for tiny as it stands",
    "models_bare": None,
    "models_ollama": None,
    "models_500": r"has no /models that can be read \(status 500: Internal Server Error\); asked for tiny as it stands",
    "models_html": r"has no /models that can be read \(not JSON: .*\); asked for tiny as it stands",
    "still_loading": "status 503: Loading model; unavailable_error; 503",
}
# Each time a server is left alone is said; what asks again on its own is said once a minute.
SAID_ONCE = [
    name for name, said in PASSING.items() if said and re.match("status (429|529)|(has no|lists)|--base_url", said)
]
AGAIN = r"; (?:this request is sent|asked) again in [0-9.]+ s(?:, others go on)?"


def said_of(url: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of a server's trouble, each time, without when it is asked again."""
    lines = [record.getMessage() for record in caplog.records if record.name == log.ROOT]
    assert not any("\n" in line for line in lines)
    assert all(len(line) < 500 for line in lines)
    return [re.sub(f"{AGAIN}$", "", line).removeprefix(f"{url}: ") for line in lines]


@pytest.mark.parametrize("trouble", PASSING)
def test_what_passes_leaves_every_answer_right_and_one_clear_line(at, trouble: str, caplog):
    finished = ask(at(trouble))
    if trouble in ("reason_eos", "reason_eos_token", "reason_end_turn", "reason_upper"):  # said of truncated ones too
        finished = [each for each in finished if right(each.unit)[1] == "stop"]
    assert_right(finished)
    lines, said = said_of(at(trouble), caplog), PASSING[trouble]
    if trouble in ("models_500", "models_html"):  # it is looked at some more times before
        lines = lines[-1:]
    assert set(map(bool, lines)) == ({True} if said else set())
    assert all(re.fullmatch(said or "", line) for line in lines)
    assert len(set(lines)) <= (2 if "|" in (said or "") else 1)
    if trouble in SAID_ONCE:
        assert len(lines) == 1


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
def test_a_refusal_is_an_answer(at, trouble: str, chat: bool, caplog):
    finished = ask(at(trouble, FOR_EVER), chat=chat)
    refused = [each for each in finished if each.finish_reason == REFUSED]
    assert [each.unit % 3 for each in refused] == [1] * TROUBLED
    assert all(each.text == "" and each.note for each in refused)
    assert_right([each for each in finished if each.unit % 3 != 1])
    assert not said_of(at(trouble, FOR_EVER), caplog)  # the run's table counts them


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("form", ["huge_headers", *BYTES])
def test_an_odd_form_of_a_right_answer_is_read_at_once(at, form: str, chat: bool, caplog):
    if chat and form == "two_choices":
        pytest.skip("made for completions")
    assert_right(ask(at(form, FOR_EVER), chat=chat))
    assert not [line for line in said_of(at(form, FOR_EVER), caplog) if "sends no usage" not in line]


def test_a_flag_that_needs_token_ids_is_named_where_a_server_does_not_know_the_field(at):
    with pytest.raises(InputError, match=r"^--stop_on_loop: http.* tells no token ids; vLLM and SGLang servers do$"):
        ask(at("no_token_ids", FOR_EVER), chat=True, stop_on_loop=True)


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
    words = {"sglang_too_long": "status 400: The input", "llamacpp_too_long_200": "status 400: request"}[trouble]
    lines = sorted(said_of(at(trouble, FOR_EVER), caplog))
    assert len(lines) == 2
    for length, line in zip((8, 9), lines, strict=True):  # of the prompts
        assert re.fullmatch(rf"a prompt of {length} characters is too long \({words} .*\); not sampled", line)


def test_a_null_text_is_an_empty_one(at):
    finished = ask(at("null_text", FOR_EVER))
    assert {each.text for each in finished if each.unit % 3 == 1} == {""}
    assert_right([each for each in finished if each.unit % 3 != 1])


@pytest.mark.parametrize("trouble", ["invalid_json", "500", "no_choices"])
def test_what_never_gets_better_is_left_for_a_rerun_and_the_others_are_answered(at, trouble: str, caplog):
    finished = ask(at(trouble, FOR_EVER))
    assert {each.finish_reason for each in finished if each.unit % 3 == 1} == {FAILED}
    assert_right([each for each in finished if each.unit % 3 != 1])
    given_up = [line for line in said_of(at(trouble, FOR_EVER), caplog) if "left for a rerun" in line]
    assert len(given_up) == TROUBLED
    said = f"one request was answered badly 8 times: {PASSING[trouble]}; its sample is left for a rerun"
    assert all(re.fullmatch(said, line) for line in given_up)


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("quota", "status 429: You exceeded your current quota, .*; no credit is left there"),
        ("no_credit", "status 402: Insufficient Balance; .*; no credit is left there"),
        ("unauthorised", r"refused \(status 401: Incorrect API key provided\); set OPENAI_API_KEY"),
    ],
)
def test_what_no_waiting_mends_ends_the_run_in_one_line(at, trouble: str, message: str, caplog):
    with pytest.raises(InputError) as caught:
        ask(at(trouble, FOR_EVER))
    assert re.fullmatch(f"--base_url {at(trouble, FOR_EVER)}: {message}", str(caught.value))
    said = [line for line in said_of(at(trouble, FOR_EVER), caplog) if "answers are waited for" not in line]
    assert trouble == "unauthorised" or not said


@pytest.mark.parametrize(
    ("trouble", "error", "message"),
    [
        ("unknown_400", InputError, r"refused a request \(status 400: Could not parse the request; .*\)$"),
        (
            "openrouter_filter",
            InputError,
            r"refused a request \(status 403: Your chosen model .*\)$",
        ),
        ("reason_abort", BackendFailedError, r"^a request was broken off for \d+ s: finish_reason 'abort'$"),
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
    said = r"no server has answered for \d+ s \(the last: status 429: Rate limit reached for requests; [a-z_; ]+\)"
    with pytest.raises(BackendFailedError, match=f"^{said}$"):
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
