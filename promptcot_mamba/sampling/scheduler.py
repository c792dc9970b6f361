"""Keep a back end busy until every sample of a ledger is settled.

Everything is submitted at once, through a bounded window: a slow chain delays nobody, an invalid attempt is retried at
once instead of in a second wave, and what an earlier run left of a chain is continued, the longest first.
"""

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass

from promptcot_mamba.chat_format import is_format_valid, read_completion, split
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import DurableAppender, checksum, join_halves
from promptcot_mamba.log import logger
from promptcot_mamba.records import Sample, derive_seed
from promptcot_mamba.sampling.backend import CUT, FAILED, LENGTH, REFUSED, STOP, Backend, Generated
from promptcot_mamba.sampling.chain import Chain, Cuts
from promptcot_mamba.sampling.decisions import Decisions
from promptcot_mamba.sampling.ledger import CHECKSUM, Ledger
from promptcot_mamba.sampling.partial import PartialFile
from promptcot_mamba.sampling.prompts import PromptBook
from promptcot_mamba.token_scores import TokenScores

POLL_SECONDS = 0.5  # the longest a signal, a sync or the progress line waits
# Between two saves of what chains have said. A chain is saved from the second look on: one that is killed younger than
# that is drawn again from its own seed, to the same letters, and none loses more than twice this.
SAVE_SECONDS = 4.5
NO_CUTS = Cuts()


@dataclass
class Scheduler:
    """Feeds a back end the ledger's missing samples and writes what it returns.

    `partial` keeps what chains have said so far; None keeps nothing. With `cuts.segment_len` it holds whole segments
    alone, and a chain that is interrupted and continued equals one that never was. `scores` is the file of
    log-probabilities, which are asked for where there is one.
    """

    ledger: Ledger
    backend: Backend
    prompts: PromptBook
    _: KW_ONLY
    base_seed: int
    max_len: int
    context: int
    cuts: Cuts = NO_CUTS
    partial: PartialFile | None = None
    scores: DurableAppender | None = None
    decisions: Decisions | None = None
    sent: dict | None = None
    thinking: str = "auto"
    chat: bool = False
    tick: Callable[[], None] = lambda: None
    should_stop: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        self.in_flight: dict[int, Chain] = {}
        self.too_long: set[str] = set()  # ids of problems whose prompt leaves no room
        self.failed: dict[int, str] = {}  # units that no server could answer, and its words
        self._ready: deque[Chain] = deque()  # retries and chains to be continued: before any new one
        self._stuck: deque[Chain] = deque()  # chains that were cut without getting on: one to each new one
        self._next_save = time.monotonic() + SAVE_SECONDS

    def run(self) -> bool:
        """Sample until nothing is missing (True) or `should_stop` says so (False)."""
        todo = self._todo()
        try:
            while not self.should_stop():
                self._fill(todo)
                if not self.in_flight:
                    return not self.failed
                for generated in self.backend.poll(POLL_SECONDS):
                    self._take(self.in_flight.pop(generated.unit), generated)
                self._spare_decided()
                if self.partial is not None:
                    self.partial.flush()
                self.ledger.sync_if_due()
                if self.scores is not None:
                    self.scores.sync_if_due()
                if time.monotonic() >= self._next_save:
                    self._save_growing()
                self.tick()
            return False
        finally:
            self._save_growing(last=True)

    def _spare_decided(self) -> None:
        """Make no more samples of problems whose majority is decided; those under way are dropped."""
        while self.decisions is not None and self.decisions.decided:
            for unit in self.ledger.spare(self.decisions.decided.pop()):
                chain = self.in_flight.pop(unit, None)
                if chain is not None:
                    self.backend.drop(unit)
                    if self.partial is not None:
                        self.partial.forget(chain.key)

    def longest(self, count: int) -> list[int]:
        """Lengths in tokens of the longest chains that are being generated."""
        return heapq.nlargest(count, map(len, self.backend.growing().values()))

    def describe_failed(self) -> str:
        """What could not be sampled, for the run's last line."""
        words = next(iter(self.failed.values()))
        return f"{len(self.failed):,} sample(s) could not be made ({words})"

    # -- what is to be done -------------------------------------------------------------------------------------

    def _todo(self) -> Iterator[Chain | None]:
        """Chains to start, those under way first; it yields None when it is asked with nothing left."""
        missing = self._missing()
        turn = False
        chain: Chain | None
        while True:
            turn = not turn
            if self._ready:
                chain = self._ready.popleft()
            elif self._stuck and turn:
                chain = self._stuck.popleft()
            else:
                chain = next(missing, None) or (self._stuck.popleft() if self._stuck else None)
            if chain is None or self.ledger.is_missing(chain.unit):  # not spared meanwhile
                yield chain

    def _missing(self) -> Iterator[Chain]:
        """The ledger's missing samples: first what an earlier run began, the longest first, so that none of them is
        alone at the end."""
        found = self.partial.found if self.partial is not None else {}
        begun = dict(self.ledger.resumed_attempts)
        longest = sorted(found.items(), key=lambda item: -len(item[1].ids))
        started = set()
        for (problem_id, run, attempt), _ in longest:
            unit = self.ledger.unit_of(problem_id, run)
            if unit is not None and self.ledger.is_missing(unit) and attempt == begun.get(unit, 0):
                started.add(unit)
                yield self._chain(unit, attempt)
        for unit, attempt in self.ledger.missing():
            if unit not in started:
                yield self._chain(unit, attempt)

    def _chain(self, unit: int, attempt: int) -> Chain:
        """A chain at its beginning, or at what the partial file holds of it."""
        run, index = divmod(unit, len(self.ledger.problems))
        identity = self.ledger.problems[index].id
        prompt, prompt_ids, messages = self._prompt(index)
        room = self.context - len(prompt_ids) if prompt_ids is not None else self.max_len
        seed = derive_seed(self.base_seed, identity, run, attempt)
        chain = Chain(unit, identity, run, attempt, seed, prompt, prompt_ids, min(self.max_len, room), messages)
        chain.scores = TokenScores() if self.scores is not None else None
        if self.partial is None:
            return chain
        saved = self.partial.found.pop(chain.key, None)
        if saved is None:
            return chain
        if prompt_ids is None or (saved.seed, saved.prompt_crc) != (seed, chain.prompt_crc):
            self.partial.forget(chain.key)  # of another prompt or seed: this one is saved from its first token on
        else:
            chain.seconds, chain.continued, chain.closed = saved.seconds, saved.continued, saved.closed
            chain.scores = saved.scores or chain.scores if chain.scores is not None else None
            chain.continue_from(saved.ids, planned=self.cuts.segment_len is not None)
        return chain

    def _prompt(self, index: int) -> tuple[str, Sequence[int] | None, Sequence[dict[str, str]] | None]:
        """What is sent for a problem: text and token ids, or the turns that a chat server writes the prompt from."""
        if not self.chat:
            return *self.prompts.get(index), None
        return self.prompts.spoken(index), None, self.prompts.messages(index)

    def _fill(self, todo: Iterator[Chain | None]) -> None:
        while len(self.in_flight) < self.backend.window and (chain := next(todo)) is not None:
            if chain.limit < 1:
                self._report_too_long(chain)
                assert chain.prompt_ids is not None  # by their number it is too long
                self._settle(chain, Generated(chain.unit, "", LENGTH, len(chain.prompt_ids), 0, 0.0))
                continue
            if chain.kept and chain.kept[-1] in self.cuts.stop_ids:  # it had ended when something cut it
                self._settle_kept(chain, STOP)
                continue
            if self.cuts.spent(chain):
                self._close_thought(chain)
            stop = self.cuts.next_stop(chain)
            if stop <= len(chain.kept):  # closing its thought took the last of its room: it ends where it is
                self._settle_kept(chain, LENGTH)
                continue
            self.in_flight[chain.unit] = chain
            chain.submitted = time.monotonic()
            self.backend.submit(chain.request(stop))

    def _settle_kept(self, chain: Chain, reason: str) -> None:
        """It ends with what is kept of it."""
        chain.continued = tuple(at for at in chain.continued if at < len(chain.kept))
        prompt_tokens, tokens = len(chain.prompt_ids or ()), len(chain.kept)
        self._settle(chain, Generated(chain.unit, self._text(chain, reason), reason, prompt_tokens, tokens, 0.0))

    def _text(self, chain: Chain, reason: str = LENGTH) -> str:
        """What it has said."""
        assert self.cuts.text_of is not None
        assert chain.prompt_ids is not None  # a budget needs the tokenizer, and so does what is kept
        return self.cuts.text_of(chain.prompt_ids, chain.kept, reason)

    def _close_thought(self, chain: Chain) -> None:
        """Close the thought of a chain that has taken its budget, where it is still open."""
        text = self._text(chain)
        completion, thinking = read_completion(chain.prompt, text, self.thinking)
        if thinking == "think" and split(completion).closed is False:
            assert self.cuts.closing is not None
            chain.closed = len(chain.kept)
            chain.kept.extend(self.cuts.closing(chain.prompt, text))
            chain.fit_scores()

    def _report_too_long(self, chain: Chain) -> None:
        if chain.problem_id not in self.too_long:
            self.too_long.add(chain.problem_id)
            assert chain.prompt_ids is not None
            tokens = len(chain.prompt_ids)
            logger.warning(
                "problem %s: its prompt of %d tokens exceeds the context; not sampled", chain.problem_id, tokens
            )

    # -- what came back -----------------------------------------------------------------------------------------

    def _take(self, chain: Chain, generated: Generated) -> None:
        """A request came to its end: settle the chain, or go on with it."""
        reason, ids = generated.finish_reason, generated.token_ids
        chain.seconds += generated.seconds
        planned_stop = self.cuts.next_stop(chain)
        is_cut = planned_stop < chain.limit
        if reason == FAILED:
            self.failed[chain.unit] = generated.note
            if self.partial is not None and ids is not None and self._may_save(chain):
                self.partial.save(chain, ids, chain.seconds)
        elif reason == CUT:
            # In segments, and where the chain was too young to be saved, it begins again where it began: with the same
            # seed, so to the same letters. One that breaks again and again must not keep all others waiting.
            before = len(chain.kept)
            if self.cuts.segment_len is None and (chain.grew or chain.continued):
                assert ids is not None  # of a chain that grew
                chain.continue_from(ids, planned=False)
                self._save(chain)
            chain.grew = False
            chain.fit_scores()
            chain.stuck = 0 if len(chain.kept) > before else chain.stuck + 1
            if chain.stuck > 1:
                self._stuck.append(chain)
            else:
                self._ready.appendleft(chain)
        elif reason == LENGTH and is_cut and ids is None and generated.completion_tokens > len(chain.kept):
            raise InputError(
                "--segment_len, --thinking_budget: a server returns no token ids, so a chain cannot go on where it was "
                "cut; vLLM and SGLang servers do, if they are not too old"
            )
        elif reason == LENGTH and is_cut and ids is not None and len(ids) == planned_stop:
            chain.continue_from(ids, planned=True)
            chain.stuck = 0
            self._save(chain)
            self._ready.appendleft(chain)
        else:
            self._settle(chain, generated)

    def _settle(self, chain: Chain, generated: Generated) -> None:
        completion, thinking = read_completion(chain.prompt, generated.text, self.thinking, generated.reasoning)
        completion = join_halves(completion)  # the text that its row will give back
        refused = generated.finish_reason == REFUSED
        own_prompt = self.ledger.problems[chain.unit % len(self.ledger.problems)].prompt
        sample = Sample(
            problem_id=chain.problem_id,
            run=chain.run,
            attempt=chain.attempt,
            seed=chain.seed,
            completion=completion,
            finish_reason=generated.finish_reason,
            prompt_tokens=generated.prompt_tokens,
            completion_tokens=generated.completion_tokens,
            seconds=round(chain.seconds, 3),
            format_valid=not refused and is_format_valid(completion, thinking),
            prompt=None if chain.prompt == own_prompt else chain.prompt,
            thinking=thinking,
            sent=self._sent(chain),
            continued=chain.continued or None,
            thought_closed=chain.closed,
            refusal=generated.note if refused else None,
        )
        if self.scores is not None and chain.scores is not None:  # before the row, which nothing would make again
            if generated.token_ids is not None:
                chain.scores.fit(generated.completion_tokens)
            named = {"problem_id": chain.problem_id, "run": chain.run, "attempt": chain.attempt}
            self.scores.append(named | {CHECKSUM: checksum(completion)} | chain.scores.pack())
        settled = self.ledger.append(chain.unit, sample)
        if self.partial is not None:
            self.partial.forget(chain.key)  # after the row: what cannot be written is not lost
        if not settled:
            self._ready.append(self._chain(chain.unit, chain.attempt + 1))

    def _sent(self, chain: Chain) -> dict | None:
        """What was sent with its prompt, which may have left it less room than --max_len."""
        if self.sent is None or "max_tokens" not in self.sent:
            return self.sent
        return self.sent | {"max_tokens": chain.limit}

    # -- what is saved of chains under way ----------------------------------------------------------------------

    def _save(self, chain: Chain) -> None:
        if self.partial is not None:
            self.partial.save(chain, chain.kept, chain.seconds)

    def _may_save(self, chain: Chain) -> bool:
        """Whether what a chain says between its cuts is saved: of segments whole ones are, and no chain that is too
        young."""
        return self.cuts.segment_len is None and bool(chain.grew or chain.kept)

    def _save_growing(self, *, last: bool = False) -> None:
        """Save what chains have said, of those that were growing at the last look already."""
        if self.partial is None:
            return
        for unit, ids in self.backend.growing().items():
            chain = self.in_flight.get(unit)
            if chain is None:  # dropped, and its engine has not noticed yet
                continue
            if self._may_save(chain):
                self.partial.save(chain, ids, chain.seconds + time.monotonic() - chain.submitted)
            chain.grew = chain.grew or not last
        self.partial.sync()
        self._next_save = time.monotonic() + SAVE_SECONDS
