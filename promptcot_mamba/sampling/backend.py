"""What the scheduler asks of whatever generates text: submit requests, poll for what finished."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from promptcot_mamba.token_scores import TokenScores

STOP, LENGTH, LOOP = "stop", "length", "loop"
REFUSED = "refused"  # the server's filter or policy: an answer, and final
# Never in a row. CUT: the server went away, `token_ids` are what it had said. FAILED: no server could answer this one.
CUT, FAILED = "cut", "failed"


@dataclass(frozen=True)
class SamplingSettings:
    """How tokens are drawn. Everything here changes samples."""

    temperature: float
    top_p: float
    repetition_penalty: float
    stop_token_ids: tuple[int, ...]
    skip_special_tokens: bool = True
    stop_on_loop: bool = False
    ignore_eos: bool = False  # every chain runs to its `max_tokens`: for benchmarks, whose lengths are drawn
    top_k: int = 0  # 0: all tokens
    min_p: float = 0.0


@dataclass(frozen=True)
class Request:
    """One attempt at one sample, with its own seed. `unit` is the sample's place: run * problems + problem.

    `kept` are tokens of the completion that were generated before: they are read after the prompt, and the answer
    (text, ids, counts, the look for loops) covers them. `max_tokens` counts fresh ones. `scores`, where given, hold
    what is known of the kept tokens, and the back end adds those of each fresh one as it hears of it.
    """

    unit: int
    attempt: int
    seed: int
    prompt: str
    prompt_ids: Sequence[int] | None  # None where no tokenizer is at hand: the server counts and bounds
    max_tokens: int
    score_from: int | None = None  # set: nothing is drawn, log p(prompt_ids[score_from:] | those before) is asked for
    kept: Sequence[int] = ()
    messages: Sequence[dict[str, str]] | None = None  # for chat completions; None: the prompt is the one message
    scores: TokenScores | None = None


@dataclass(frozen=True)
class Generated:
    """What a back end returns for one request. `text` excludes the prompt and the stop token."""

    unit: int
    text: str
    finish_reason: str  # stop | length | loop | refused | cut | failed
    prompt_tokens: int
    completion_tokens: int
    seconds: float  # from submission to the last token
    log_likelihood: float | None = None  # of a request with `score_from`, in nats
    token_ids: Sequence[int] | None = None  # of the completion, `kept` included; None where the server tells none
    reasoning: str | None = None  # a thought that was served apart from the answer
    note: str = ""  # the server's words, where it refused or failed


class BackendFailedError(Exception):
    """The engine or all servers are gone for good; what is sampled is safe and a rerun continues."""


class Backend(Protocol):
    """A generator of text. Order of completion is free; each request's text depends on that request alone."""

    window: int  # how many requests keep it busy; the scheduler never has more in flight

    @property
    def generated_tokens(self) -> int:
        """Completion tokens seen so far, finished or not."""

    def submit(self, request: Request) -> None:
        """Take one request; returns at once."""

    def poll(self, timeout: float) -> list[Generated]:
        """Work on, or wait for, the requests in flight for about `timeout` seconds; return those that finished."""

    def drop(self, unit: int) -> None:
        """Forget a request in flight: nothing comes back for it."""

    def running(self) -> int:
        """How many requests are being generated now."""

    def growing(self) -> Mapping[int, Sequence[int]]:
        """Completion token ids so far of the requests being generated, by unit; none where nobody tells them."""

    def close(self) -> None:
        """Free the engine or the connections; requests in flight are dropped."""
