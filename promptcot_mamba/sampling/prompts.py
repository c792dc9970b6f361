"""From a problem's row to the exact text, and token ids, a chain starts from, and what a sample's row says of it."""

import ast
import hashlib
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from promptcot_mamba.benchmarks import BENCHMARKS
from promptcot_mamba.benchmarks.humaneval import INSTRUCTION as FUNCTION_INSTRUCTION
from promptcot_mamba.benchmarks.livecodebench import FROM_STDIN
from promptcot_mamba.chat_format import (
    MATH_INSTRUCTION,
    asks_for_box,
    bare_text,
    frame_question,
    has_turns,
    read_turns,
    render_prompt,
    user_question,
)
from promptcot_mamba.chat_markup import Part, Turn, find_rendered
from promptcot_mamba.data.encode import encode_prompt
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row
from promptcot_mamba.records import Problem

PROMPT_SOURCES = ("auto", "prompt", "question")
KEPT_PROMPTS = 4096
MISTRAL_COMMON = "MistralCommonBackend"  # transformers' tokenizer around Mistral's code, which has no template
ANY_SYSTEM = "Answer in one word."  # of a system turn that no template waits for
ASKS_TIME = "strftime_now"  # by which a template asks transformers, and vLLM, for the time
Message = dict[str, str]


def instruction_of(row: Row) -> str:
    r"""What a row asks for beside its question: its own `instruction`, else what its kind is usually asked.

    A function's head (`entry_point`) and other code never get `\boxed{}`; what is not known to be code is maths.
    """
    if isinstance(row.get("instruction"), str):
        return row["instruction"]
    if "entry_point" in row:
        return FUNCTION_INSTRUCTION
    code_sources = {source for one in BENCHMARKS.values() if one.kind == "code" for source in one.sources}
    if row.get("source") in code_sources or "tests" in row:
        return f"{{question}}\n\n{FROM_STDIN.strip()}"
    return MATH_INSTRUCTION


def user_message(problem: Problem, source: str = "auto") -> str:
    """What the user says, without any model's chat markers: the framed question, or a written prompt's user turn.

    `source` is "prompt" or "question" to insist on one of the row's keys. With "auto" the question is taken where the
    row tells how it is asked (`instruction`) or has no prompt. Raises InputError naming the problem.
    """
    source = _source_of(problem, source)
    text = _text_of(problem, source)
    if source == "question" or _is_bare_function(problem.fields, text):
        return frame_question(text, instruction_of(problem.fields))
    question = user_question(text)
    turns = read_turns(text)
    asking = [turn.text for turn in turns if turn.role == "system" or turn is turns[-1]] or [text]
    return frame_question(question) if any(map(asks_for_box, asking)) else question


def turns_before(problem: Problem, source: str = "auto") -> list[Turn]:
    """What a written prompt says before its last user turn: its system turn, the turns of shown examples.

    Of a system turn the maths instruction is left out, which `user_message` says. Raises InputError naming the problem
    for a prompt with a user's turn that cannot be taken apart: a chat template would drop what is around that.
    """
    source = _source_of(problem, source)
    if source == "question":
        return []
    text = _text_of(problem, source)
    turns = read_turns(text)
    if not turns and has_turns(text):
        raise InputError(
            f"problem {problem.id!r}: its prompt is no chat whose last turn is the user's, which a chat template could "
            "write; give its 'question' and 'instruction', or send it as it stands, without a template"
        )
    before = [turn._replace(text=bare_text(turn.text)) if turn.role == "system" else turn for turn in turns[:-1]]
    return [turn for turn in before if turn.text or turn.role != "system"]


def _source_of(problem: Problem, source: str) -> str:
    """Which of the row's keys "auto" means."""
    if source != "auto":
        return source
    return "question" if problem.prompt is None or {"question", "instruction"} <= set(problem.fields) else "prompt"


def _is_bare_function(row: Row, prompt: str) -> bool:
    """Whether a prompt is a function's head and nothing else, as HumanEval's publisher writes it: it is Python."""
    if "entry_point" not in row or has_turns(prompt):
        return False
    try:
        ast.parse(prompt)
    except SyntaxError:
        return False
    return True


def _text_of(problem: Problem, key: str) -> str:
    text = problem.fields.get(key)
    if text is None:
        raise InputError(f"problem {problem.id!r} has no {key!r}; see --prompt_from")
    return text


class PromptBook:
    """Prompts of all problems by index, rendered and tokenised on demand; the last few thousand are kept.

    With `use_chat_template` a prompt is the tokenizer's own template, or `chat_template`, around the user's message,
    after `system_prompt` and with `template_args` given to it (such as `enable_thinking`). A written prompt's own turns
    before its question go with it, but for its system turn where `system_prompt` says another, or "" none. Without a
    template the row's `prompt` is sent as it stands, or its question in this project's chat format. Raises InputError
    for a template that is missing, refuses, loses the question or a system turn, or does not know an argument, and for
    a prompt that it cannot write.
    """

    def __init__(
        self,
        problems: list[Problem],
        tokenizer: Any,
        *,
        source: str = "auto",
        use_chat_template: bool = False,
        chat_template: str | None = None,
        system_prompt: str | None = None,
        template_args: Mapping[str, Any] | None = None,
        started: datetime | None = None,
    ):
        """`started` is the time that a template is told which asks for it (gpt-oss's, Llama 3's and Mistral's write the
        day into the prompt): that of the run's first start, or a rerun would send another prompt."""
        self.template_text: str | None = None
        self.started: datetime | None = None
        if use_chat_template:
            self.template_text = _template_of(tokenizer, chat_template)
            _refuse_unknown(self.template_text, template_args or {})
            if ASKS_TIME in self.template_text:
                self.started = started or datetime.now().replace(microsecond=0)
        self._problems = problems
        self._tokenizer = tokenizer
        self._source = source
        self._system = system_prompt
        self._args = dict(template_args or {})
        self._template_from = "tokenizer" if chat_template is None else "given"
        self.get = lru_cache(maxsize=KEPT_PROMPTS)(self._get)

    def messages(self, index: int) -> list[Message]:
        """The turns before the assistant's, for a chat template or a server that has one."""
        problem = self._problems[index]
        turns = self._before(problem)
        if self._system:
            turns.insert(0, Turn("system", self._system))
        return [
            *({"role": turn.role, "content": turn.text} for turn in turns),
            {"role": "user", "content": user_message(problem, self._source)},
        ]

    def _before(self, problem: Problem) -> list[Turn]:
        """What the written prompt says before its question, less its system turn where another or none is asked for."""
        turns = turns_before(problem, self._source)
        return turns if self._system is None else [turn for turn in turns if turn.role != "system"]

    def spoken(self, index: int) -> str:
        """What a server is told that renders the turns, as a row has it: the user's message, after the prompt's turns.

        `describe` has the system prompt of all problems.
        """
        problem = self._problems[index]
        before = [f"{turn.role}: {turn.text}" for turn in self._before(problem)]
        said = user_message(problem, self._source)
        return "\n\n".join([*before, f"user: {said}"]) if before else said

    def text(self, index: int) -> str:
        """The whole prompt of problem `index`, as it is sent."""
        problem = self._problems[index]
        if self.template_text is not None:
            return self._render(self.messages(index), problem.id)
        if self._source == "question" or problem.prompt is None:
            return render_prompt(_text_of(problem, "question"), instruction_of(problem.fields))
        return problem.prompt

    def of_each_kind(self) -> list[int]:
        """The first problem, and the first whose prompt brings a system turn: they show what a template refuses."""
        roles = ([turn.role for turn in self._before(problem)] for problem in self._problems)
        told = next((index for index, before in enumerate(roles) if "system" in before), 0)
        return [0, told] if told else [0]

    def _render(self, messages: list[Message], name: str) -> str:
        if self.template_text == MISTRAL_COMMON:
            return self._tokenizer.decode(self._mistral_ids(messages), skip_special_tokens=False)
        text = self._apply(messages, name)
        longest = max(messages[-1]["content"].splitlines(), key=len, default="")  # some drop a word such as /think
        if longest.strip() not in text:
            raise InputError(
                f"problem {name!r}: the chat template leaves its question out, as those do that want messages in parts "
                "(of images and text); give one that writes text with --chat_template, or ask a server with --api chat"
            )
        if messages[0]["role"] == "system" and self._loses_system(messages, text, name):
            mend = "say it in the user's turn, give a template that writes it with --chat_template, or drop the flag"
            if not self._system:
                mend = "give one that writes it with --chat_template; --system_prompt '' leaves it out knowingly"
            whose = "--system_prompt" if self._system else "its prompt's own system turn"
            raise InputError(f"problem {name!r}: the chat template leaves {whose} out; {mend}")
        return text

    def _loses_system(self, messages: list[Message], text: str, name: str) -> bool:
        """Whether a template writes the same text for any system turn and none, as Phi-3-mini's first did.

        One alone may say what the template says by itself (Qwen2.5's own words, Nemotron's /think), or be a switch.
        """
        others = [messages[1:], [{"role": "system", "content": ANY_SYSTEM}, *messages[1:]]]
        try:
            return all(text == self._apply(other, name) for other in others)
        except InputError:  # it wants one
            return False

    def _apply(self, messages: list[Message], name: str) -> str:
        """What the template makes of the messages; raises InputError where it refuses them."""
        from jinja2 import TemplateError

        told = {ASKS_TIME: self.started.strftime} if self.started is not None else {}
        given = {"chat_template": self.template_text, "add_generation_prompt": True} | told | self._args
        try:
            return self._tokenizer.apply_chat_template(messages, tokenize=False, **given)
        except (TemplateError, TypeError, ValueError) as error:
            mend = ""
            if self._system:
                mend = "; drop --system_prompt, or say it in the user's turn"
            elif messages[0]["role"] == "system":
                mend = "; the system turn is its prompt's own: --system_prompt '' leaves it out"
            raise InputError(f"problem {name!r}: the chat template refuses it ({error}){mend}") from None

    def _mistral_ids(self, messages: list[Message]) -> list[int]:
        """Tokens of the turns by Mistral's own code, which alone can write its markup: no text is read as such."""
        return self._tokenizer.apply_chat_template(messages, **self._args)["input_ids"]

    def describe(self) -> Row:
        """The first part of a row's `sent`: which template wrote the prompt, after which system prompt, told what.

        "file" is the problem file's own prompt, or its question in this project's format where it has none.
        """
        template = "file"
        if self.template_text is not None:
            template = f"{self._template_from}:{hashlib.sha256(self.template_text.encode()).hexdigest()[:12]}"
        elif self._source == "question":
            template = "promptcot"
        return {"template": template, "system": self._system, "template_args": self._args}

    def _get(self, index: int) -> tuple[str, list[int] | None]:
        """Text and token ids of problem `index`; ids are None without a tokenizer.

        A rendered chat template writes its own beginning-of-text token, so the tokenizer must not add one. Other text
        becomes the ids that training puts before the loss; of markup that no chat format here writes, all is placed.
        """
        text = self.text(index)
        if self._tokenizer is None:
            return text, None
        if self.template_text == MISTRAL_COMMON:
            return text, self._mistral_ids(self.messages(index))
        if self.template_text is not None or getattr(self._tokenizer, "backend_tokenizer", None) is None:
            return text, self._tokenizer(text, add_special_tokens=self.template_text is None)["input_ids"]
        found = find_rendered(text)
        return text, encode_prompt(self._tokenizer, found.parts if found else (Part(text, placed=True),))


def _template_of(tokenizer: Any, given: str | None) -> str:
    """The text of the chat template that is given, else of the tokenizer's; of several, the one used by default."""
    if type(tokenizer).__name__ == MISTRAL_COMMON:
        if given:
            raise InputError("--chat_template: Mistral's own tokenizers write prompts by their own code alone")
        return MISTRAL_COMMON
    template = getattr(tokenizer, "chat_template", None) if given is None else given
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise InputError(
            "--use_chat_template: the tokenizer has no chat template; give one with --chat_template, or ask a server "
            "that has one with --base_url and --api chat"
        )
    return template


def _refuse_unknown(template: str, args: Mapping[str, Any]) -> None:
    """Raise InputError for arguments that a template does not read: jinja drops them, and a row would say they held."""
    if not args:
        return
    if template == MISTRAL_COMMON:
        known = {"reasoning_effort"}
    else:
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import _get_template_variables

        try:
            known = set(_get_template_variables(template)) - {"messages", "add_generation_prompt"}
        except TemplateError as error:
            raise InputError(f"the chat template cannot be read ({error})") from None
    if unknown := sorted(set(args) - known):
        raise InputError(
            f"--chat_template_kwargs: the chat template does not read {', '.join(unknown)}; it reads "
            f"{', '.join(sorted(known)) or 'nothing'}; give it what it reads, or '{{}}'"
        )
