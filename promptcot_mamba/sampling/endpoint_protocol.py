"""The OpenAI completions protocol as we speak it: where it is spoken, and what is sent."""

import asyncio
import os
import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit

from promptcot_mamba.errors import InputError
from promptcot_mamba.sampling.backend import Request, SamplingSettings
from promptcot_mamba.sampling.endpoint_errors import DeniedError, PromptTooLongError, RejectedError
from promptcot_mamba.sampling.endpoint_troubles import Troubles
from promptcot_mamba.token_scores import TOP

# `owned_by` of a model's card: whose names for settings are known, and whose own defaults would else change samples
# (llama-cpp-python draws with repeat_penalty 1.1, top_k 40 and min_p 0.05 unless told).
LLAMA_CPP = ("llamacpp", "me")  # llama-server, llama-cpp-python
SGLANG = "sglang"
LM_STUDIO = ("organization_owner", "organization-owner")  # today's word, and the one before
TAKE_IDS = (SGLANG, "llamacpp")  # and vLLM, as `prompt` of a completion; llama-cpp-python takes text alone
OLLAMA = ("library", "fp_ollama")  # owner of all models but people's own; `system_fingerprint` of answers
# Settings that such servers drop: ollama/ollama#11325; what LM Studio's documentation does not list.
DROPPED = {
    **dict.fromkeys(OLLAMA, ("repetition_penalty", "top_k", "min_p")),
    **dict.fromkeys(LM_STUDIO, ("min_p",)),
}
NEUTRAL = {"repetition_penalty": 1.0, "top_k": 0, "min_p": 0.0}  # settings that change nothing
TELLING = ("vllm", SGLANG, *LLAMA_CPP, *OLLAMA)  # list all that they serve
_NEARBY = re.compile(r"[^.]+|.*[:\]].*|[\d.]+|.*\.(?:local|localhost|internal|lan)", re.IGNORECASE)
_VERSION = re.compile(r"/v\d+(?:alpha|beta)?\d*(?:/|$)")
_REQUEST_PATH = re.compile(r"/+(?:chat/)?completions$|(?<=/v\d)/+models$")  # as it is copied from a page
# Fields of a request that count or match what is generated after its prompt: of a chain that goes on from its tokens,
# which are sent as prompt, they would see the rest alone. vLLM's and SGLang's names; all are off where empty.
OF_ONE_PIECE = ("presence_penalty", "frequency_penalty", "min_tokens", "stop", "stop_regex", "response_format",
                "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "json_schema",
                "regex", "ebnf", "thinking_token_budget", "repetition_detection")  # fmt: skip
CHECK = -1  # unit of a request that nobody waits for
EVERY_TOKEN = 1 << 20  # that llama.cpp penalises, not its 64: beyond any context; newer ones refuse -1, its word for it
MOST_ALTERNATIVES = 5  # that OpenAI-like completions tell of a token; vLLM and chat tell more


@dataclass
class Pending:
    """One request on its way: what it has said, and what went wrong with its chain."""

    request: Request
    submitted: float
    ids: array = field(default_factory=lambda: array("i"))  # of the completion, those kept from before included
    troubles: Troubles = field(default_factory=Troubles)
    dropped: bool = False  # whoever submitted it wants nothing of it
    sent: float = 0.0  # when it last was
    keeps_ids: bool = False  # what it says now can be gone on from elsewhere
    ended: asyncio.Event = field(default_factory=asyncio.Event)  # its stream has said all, though not closed

    @property
    def fresh(self) -> int:
        return len(self.ids) - len(self.request.kept)

    @property
    def goes_on(self) -> bool:
        """Whether the chain can be continued from what it has said, and has not said all."""
        return self.fresh > 0 and self.keeps_ids and not self.ended.is_set()

    @property
    def is_check(self) -> bool:
        """Whether only the server is judged by what becomes of it."""
        return self.request.unit == CHECK


@dataclass
class Held:
    """A request that a server will not take, until another one's answer tells whose fault that is."""

    pending: Pending
    error: RejectedError | PromptTooLongError
    since: float


def normal_url(url: str) -> str:
    """A base URL up to and including its version, as OpenAI clients take it: `host:8000` -> `http://host:8000/v1`.

    A public name without a port is asked by https: a key must not go out in clear. A path that has a version anywhere
    is complete (`/v1beta/openai`); a request's own path behind it is taken off.
    Raises InputError for an address with a query, which would stand in the middle, or one that is none.
    """
    url = url.strip()
    if "?" in url:
        raise InputError(f"--base_url {url}: give the address up to its version, without ?...")
    host, slash, path = _REQUEST_PATH.sub("", url.rstrip("/")).rpartition("://")[2].partition("/")
    scheme = url.partition("://")[0] if "://" in url else "http" if _NEARBY.fullmatch(host) else "https"
    base = f"{scheme}://{host}{slash}{path}"
    try:
        is_none = not urlsplit(base).hostname or urlsplit(base).port == 0
    except ValueError:
        is_none = True
    if is_none:
        raise InputError(f"--base_url {url}: is no address; give http://HOST:PORT with a port of 1 to 65535")
    return base if _VERSION.search(slash + path) else f"{base.rstrip('/')}/v1"


def api_key() -> str | None:
    """The key that is set in the environment, without the line's end of the file that it was read from. Raises
    InputError for one that no header can hold."""
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):
        raise InputError("OPENAI_API_KEY: holds a line break or letters that no key has; copy it anew")
    return key or None


def dropped_flags(owner: str, sampling: SamplingSettings) -> str:
    """The flags among those that are set which a server of this owner drops without a word."""
    return ", ".join(f"--{name}" for name in DROPPED.get(owner, ()) if getattr(sampling, name) != NEUTRAL[name])


def is_elsewhere(served: str, wanted: str) -> bool:
    """Whether two paths that end alike are different folders, as far as can be seen from here."""
    one, other = Path(served), Path(wanted)
    return one.is_absolute() and (other.is_absolute() or other.is_dir()) and one.resolve() != other.resolve()


def find_model(models: list[dict[str, Any]], wanted: str, url: str = "") -> dict[str, Any] | None:
    """The card of the wanted model in a `/models` answer: by its id or root in full, else by its last path part, in any
    case. Ollama's `:latest` need not be said; what else is said behind a colon (a gateway's provider) is sent along.
    Raises DeniedError where several models have that last part."""
    cards = [card for card in models if isinstance(card, dict)]

    def named(name: str, part: Callable[[str], str]) -> list[dict[str, Any]]:
        for fold in (str, str.lower):
            for key in ("id", "root"):
                wants = fold(part(name))
                if found := [card for card in cards if card.get(key) and fold(part(str(card[key]))) == wants]:
                    return found
        return []

    if found := named(wanted, _whole) or named(f"{wanted}:latest", _whole):
        return found[0]
    if base := [card for card in cards if card.get("id") == wanted.rpartition(":")[0]]:
        return base[0] | {"id": wanted}
    found = named(wanted, _last_part)
    if len({str(card.get("root") or card.get("id")) for card in found}) > 1:  # one may be served under several names
        names = ", ".join(str(card.get("id")) for card in found)[:300]
        raise DeniedError(f"--base_url {url}: serves {names}: any may be {wanted}; --served_model_name says which")
    return found[0] if found else None


def _whole(name: str) -> str:
    return name.rstrip("/")


def _last_part(name: str) -> str:
    return PurePath(name).name


def added_bos(tokenizer: Any) -> str:
    """The beginning-of-text token that a server's tokenizer puts before a text, as ours does; empty where it does not.

    A rendered chat template begins with its own, which would then stand there twice.
    """
    bos = getattr(tokenizer, "bos_token", None)
    return bos if bos and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id] else ""


def refuse_ollama(said: dict[str, Any], url: str) -> None:
    """Raise InputError where a model's card or a completion is Ollama's, which puts the model's template around every
    prompt (ollama/ollama#5544, #12636)."""
    if said.get("owned_by") in OLLAMA or said.get("system_fingerprint") in OLLAMA:
        raise InputError(
            f"--base_url {url}: Ollama puts every prompt into the model's template, also one that is written already; "
            "give --api chat"
        )


def payload(
    request: Request,
    sampling: SamplingSettings,
    model: str,
    *,
    is_vllm: bool,
    stream: bool,
    owner: str = "",
    text: str | None = None,
    chat: bool = False,
    token_ids: bool = False,
) -> dict[str, Any]:
    """The body of one completion request, or of a chat completion; `token_ids` asks for those of the answer.

    vLLM and SGLang (`owner`) are told everything, so that a checkpoint's generation defaults change nothing; llama.cpp
    and LM Studio are told how to draw in their own words; other servers get the fields that most understand. Where a
    server takes token ids it is given them, so that its view of special tokens changes nothing; else `text`, or the
    prompt as it stands.
    """
    body: dict[str, Any] = {
        "model": model,
        "prompt": request.prompt if text is None else text,
        "max_tokens": request.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": request.seed,
    }
    is_told_all = is_vllm or owner in (SGLANG, *LLAMA_CPP, *LM_STUDIO)
    for name, none in NEUTRAL.items():
        if (is_told_all and name not in DROPPED.get(owner, ())) or getattr(sampling, name) != none:
            body[name] = getattr(sampling, name)
    if owner == SGLANG:
        body["top_k"] = sampling.top_k or -1
    if owner in (*LLAMA_CPP, *LM_STUDIO):
        body["repeat_penalty"] = body.pop("repetition_penalty")
    if owner in LLAMA_CPP:
        body["repeat_last_n"] = EVERY_TOKEN
    if is_vllm or owner == SGLANG:
        body |= {
            "stop_token_ids": list(sampling.stop_token_ids),
            "skip_special_tokens": sampling.skip_special_tokens,
            "ignore_eos": sampling.ignore_eos,
        }
    if chat:
        del body["prompt"]
        body["messages"] = list(request.messages or [{"role": "user", "content": request.prompt}])
    elif request.prompt_ids is not None and (is_vllm or owner in TAKE_IDS):
        body["prompt"] = [*request.prompt_ids, *request.kept]
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


def score_payload(request: Request, model: str) -> dict[str, Any]:
    """The body that asks vLLM for its prompt's log-probabilities; the one token it must generate is dropped."""
    ids = list(request.prompt_ids or ())
    return {"model": model, "prompt": ids, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
