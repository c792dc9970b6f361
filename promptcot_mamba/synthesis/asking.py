"""Asking a model many questions: a bounded window of requests, unusable replies asked for again."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from promptcot_mamba.chat_format import read_completion, rewrite_thought, split, with_open_thought
from promptcot_mamba.jsonl import DurableAppender, Row
from promptcot_mamba.records import derive_seed
from promptcot_mamba.sampling.backend import LENGTH, REFUSED, Backend, Generated, Request
from promptcot_mamba.sampling.decode import count_by_bytes
from promptcot_mamba.synthesis.replies import Rejected
from promptcot_mamba.synthesis.spending import USED, Spending
from promptcot_mamba.synthesis.templates import Format, mark_for

POLL_SECONDS = 0.5


class Model(Protocol):
    """A text model as the stages use it; `identity` is what of it changes replies."""

    identity: dict[str, Any]

    @property
    def backend(self) -> Backend:
        """The engine or the connections; slow to start."""

    @property
    def context(self) -> int | None:
        """Tokens of prompt and reply together; None where only the server knows."""

    def render(self, prompt: str) -> str:
        """The text to send: the prompt, or the prompt within the model's chat template."""

    def encode(self, text: str) -> list[int] | None:
        """Token ids; None where only the server has the tokenizer."""

    def score(self, pairs: Iterable[tuple[str, str]]) -> Iterator[float | None]:
        """log p(continuation | prompt) in nats for each pair, in order; None for one longer than the context.

        The prompt goes through `render`.
        """


@dataclass(frozen=True)
class Task:
    """One question to a model. `row` is what the stage already knows and the parsed reply is added to."""

    key: str
    prompt: str
    row: Row


Parse = Callable[[Row, str], "Row | Rejected"]


@dataclass(frozen=True)
class Ask:
    """One request of a task: its attempt, and whether it shows the model a reply to be written again."""

    unit: int
    attempt: int
    prompt: str
    mends: Rejected | None = None  # what was wrong with the reply that it shows
    tokens: int = 0  # it may take, once it is on its way

    @property
    def is_repair(self) -> bool:
        return self.mends is not None


@dataclass(frozen=True)
class Settled:
    """A task with what came of it: the row parsed from a reply, or why there is none."""

    task: Task
    ask: Ask
    result: Row | Rejected
    text: str


@dataclass
class Asker:
    """Feeds a back end a bounded window of tasks and asks again where a reply cannot be used.

    Each of `attempts` has a seed of its own. If the last one is rejected though its content seems to be there, it is
    shown to the model once, to be written again in the form that was asked for (`form.repairs`).
    """

    name: str  # of the model, as usage names it
    model: Model
    form: Format
    seed: int
    max_tokens: int
    attempts: int
    spending: Spending
    usage: DurableAppender

    def replies(self, tasks: Sequence[Task], parse: Parse) -> Iterator[Settled]:
        """Each task once it is settled. Raises what `Spending.fits` does."""
        waiting = deque(Ask(unit, 0, task.prompt) for unit, task in enumerate(tasks))
        if not waiting:
            return  # and start no engine
        flying: dict[int, Ask] = {}
        backend = None
        while waiting or flying:
            while waiting and (backend is None or len(flying) < backend.window):
                ask = waiting.popleft()
                sent = self._submit(tasks[ask.unit], ask)
                if isinstance(sent, Rejected):
                    yield Settled(tasks[ask.unit], ask, ask.mends or sent, "")
                elif sent is None:  # no room in the budget until another is answered
                    waiting.appendleft(ask)
                    break
                else:
                    flying[ask.unit] = sent
                backend = self.model.backend if flying else backend
            for reply in backend.poll(POLL_SECONDS) if backend is not None else ():
                ask = flying.pop(reply.unit)
                task = tasks[ask.unit]
                text, result = self._read(parse, task, ask, reply)
                again = self._ask_again(task, ask, result, text)
                if again is None:
                    yield Settled(task, ask, result, text)
                else:
                    waiting.appendleft(again)

    def _submit(self, task: Task, ask: Ask) -> Ask | Rejected | None:
        """Ask; None where the budget has no room now, Rejected where the prompt leaves none for a reply."""
        prompt = self.model.render(ask.prompt)
        ids = self.model.encode(prompt)
        if ids is not None and self.model.context is not None and len(ids) >= self.model.context:
            return Rejected("prompt over the context")
        tokens = self.max_tokens + (count_by_bytes(prompt) if ids is None else len(ids))
        if not self.spending.fits(tokens):
            return None
        self.spending.take(tokens)
        address = (task.key, ask.attempt, "repair") if ask.is_repair else (task.key, ask.attempt)
        seed = derive_seed(self.seed, *address)
        self.model.backend.submit(Request(ask.unit, ask.attempt, seed, prompt, ids, self.max_tokens))
        return replace(ask, tokens=tokens)

    def _read(self, parse: Parse, task: Task, ask: Ask, reply: Generated) -> tuple[str, Row | Rejected]:
        """What a reply says and what is made of it; counted."""
        text = read_text(self.model.render(ask.prompt), reply, self.form)
        result = judge_reply(parse, task.row, text, reply.finish_reason)
        row = {
            "key": task.key,
            "attempt": ask.attempt,
            "model": self.name,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "outcome": result.reason if isinstance(result, Rejected) else USED,
        }
        self.spending.settle(self.usage, ask.tokens, {**row, "repair": True} if ask.is_repair else row)
        return text, result

    def _ask_again(self, task: Task, ask: Ask, result: Row | Rejected, text: str) -> Ask | None:
        if not isinstance(result, Rejected) or ask.is_repair:
            return None
        if ask.attempt + 1 < self.attempts:
            return Ask(ask.unit, ask.attempt + 1, task.prompt)
        if result.reparable and self.form.repairs:
            answer = split(text).answer
            values = {"reason": result.reason, "mark": mark_for(answer), "reply": answer, "question": task.prompt}
            return Ask(ask.unit, ask.attempt, self.form.render("repair", **values), result)
        return None


def read_text(prompt: str, reply: Generated, form: Format) -> str:
    """A reply, its thought in `<think>` tags in whatever marks it came or if served apart; "" where it is all thought.

    What the form itself begins with opens no thought: a form of yours may call its rationale `<reasoning>`.
    """
    if not reply.text.strip():
        return ""
    if rewrite_thought(form.opening) is not None and reply.text.lstrip().startswith(form.opening):
        return reply.text if reply.reasoning else with_open_thought(prompt, reply.text)
    return read_completion(prompt, reply.text, reasoning=reply.reasoning)[0]


def judge_reply(parse: Parse, row: Row, text: str, finish_reason: str) -> Row | Rejected:
    """Refuse what no parser should see: a server's refusal, an empty reply, or one cut at its length."""
    if finish_reason == REFUSED:
        return Rejected("refused by the server")
    if finish_reason == LENGTH:
        return Rejected("over length")
    if not text.strip():
        return Rejected("empty")
    return parse(row, text)
