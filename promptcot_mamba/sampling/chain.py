"""A chain under way, and where it is cut by plan: in segments, or where its thought has taken all it may."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from promptcot_mamba.jsonl import checksum
from promptcot_mamba.records import derive_seed
from promptcot_mamba.sampling.backend import Request
from promptcot_mamba.token_scores import TokenScores

Key = tuple[str, int, int]  # problem id, run, attempt: what a chain is, whatever order problems stand in


@dataclass
class Chain:
    """One attempt at one sample until it is settled: what is kept of it, and what it may still take."""

    unit: int
    problem_id: str
    run: int
    attempt: int
    seed: int
    prompt: str
    prompt_ids: Sequence[int] | None
    limit: int  # most tokens of its completion
    messages: Sequence[dict[str, str]] | None = None
    kept: array = field(default_factory=lambda: array("i"))  # tokens of earlier requests
    continued: tuple[int, ...] = ()  # lengths at which something unplanned cut it
    closed: int | None = None  # length at which its thought was closed for it
    seconds: float = 0.0  # that earlier requests took
    submitted: float = 0.0  # when this one began, by the monotonic clock
    stuck: int = 0  # times in a row that something cut it before it had got on
    grew: bool = False  # it was growing when last looked at, so it is old enough to be saved
    scores: TokenScores | None = None  # of its tokens, where they are asked for; grows with the request's answer

    @property
    def key(self) -> Key:
        return self.problem_id, self.run, self.attempt

    @property
    def prompt_crc(self) -> int:
        return checksum(self.prompt)

    def request(self, stop: int) -> Request:
        """Ask for its tokens up to `stop` of them. What follows kept tokens has a seed of its own, so that drawing
        goes on from there as it would have gone on anywhere: with numbers that nothing before has used."""
        seed = derive_seed(self.seed, "after", len(self.kept)) if self.kept else self.seed
        fresh = stop - len(self.kept)
        return Request(
            self.unit, self.attempt, seed, self.prompt, self.prompt_ids, fresh, kept=self.kept, messages=self.messages,
            scores=self.scores,
        )  # fmt: skip

    def continue_from(self, ids: Sequence[int], *, planned: bool) -> None:
        """Keep these tokens; the next request reads them."""
        self.kept = array("i", ids)
        self.fit_scores()
        if not planned:
            self.continued = (*self.continued, len(self.kept))

    def fit_scores(self) -> None:
        """Scores of the kept tokens alone: what a request that goes on from them finds."""
        if self.scores is not None:
            self.scores.fit(len(self.kept))


@dataclass(frozen=True)
class Cuts:
    """Where chains are cut by plan.

    `closing` tells, of a prompt and what was said after it, the ids that close a thought which has taken its budget;
    `text_of` makes text of a prompt's and a completion's ids, and of why it ended; behind a `stop_ids` none goes on.
    """

    segment_len: int | None = None
    thinking_budget: int | None = None
    closing: Callable[[str, str], Sequence[int]] | None = None
    text_of: Callable[[Sequence[int], Sequence[int], str], str] | None = None
    stop_ids: tuple[int, ...] = ()

    def next_stop(self, chain: Chain) -> int:
        """How long the chain is when it is looked at next: a function of what it holds, not of what interrupted it."""
        length, stops = len(chain.kept), [chain.limit]
        if self.segment_len is not None:
            stops.append((length // self.segment_len + 1) * self.segment_len)
        if self.thinking_budget is not None and length < self.thinking_budget:
            stops.append(self.thinking_budget)
        return min(stops)

    def spent(self, chain: Chain) -> bool:
        """Whether the chain has reached the budget of its thought, and nobody has looked whether it is still open."""
        return self.thinking_budget is not None and chain.closed is None and len(chain.kept) >= self.thinking_budget
