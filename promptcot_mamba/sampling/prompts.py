"""From a problem's row to the exact text, and token ids, a chain starts from."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from promptcot_mamba.chat_format import MATH_INSTRUCTION, USER_START, render_prompt
from promptcot_mamba.errors import InputError
from promptcot_mamba.records import Problem

PROMPT_SOURCES = ("auto", "prompt", "question")


def render_problem(problem: Problem, source: str = "auto", chat_tokenizer: Any = None) -> str:
    """The text a chain starts from: the row's `prompt` as is, or its `question` in our chat format.

    `source` is "prompt" or "question" to insist on one, "auto" to prefer the prompt. With `chat_tokenizer` the text
    is a user turn in that tokenizer's own chat template. Raises InputError naming the problem.
    """
    field = source if source != "auto" else ("prompt" if problem.prompt is not None else "question")
    text = problem.fields.get(field)
    if text is None:
        raise InputError(f"problem {problem.id!r} has no {field!r}; see --prompt_from")
    if chat_tokenizer is None:
        return text if field == "prompt" else render_prompt(text)
    if USER_START in text:
        raise InputError(
            f"problem {problem.id!r}: its {field} already holds chat markers; drop --use_chat_template or use "
            "--prompt_from question"
        )
    content = text if field == "prompt" else f"{text}\n{MATH_INSTRUCTION}"
    return chat_tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )


class PromptBook:
    """Prompts of all problems by index, rendered and tokenised on demand; the last few thousand are kept."""

    def __init__(self, problems: list[Problem], tokenizer: Any, *, source: str = "auto", use_chat_template=False):
        if use_chat_template and getattr(tokenizer, "chat_template", None) is None:
            raise InputError("--use_chat_template: the tokenizer has no chat template")
        self._problems = problems
        self._tokenizer = tokenizer
        self._source = source
        self._chat_tokenizer = tokenizer if use_chat_template else None
        self.get = lru_cache(maxsize=4096)(self._get)

    def text(self, index: int) -> str:
        return render_problem(self._problems[index], self._source, self._chat_tokenizer)

    def _get(self, index: int) -> tuple[str, list[int] | None]:
        """Text and token ids of problem `index`; ids are None without a tokenizer.

        A rendered chat template writes its own beginning-of-text token, so the tokenizer must not add one.
        """
        text = self.text(index)
        if self._tokenizer is None:
            return text, None
        return text, self._tokenizer(text, add_special_tokens=self._chat_tokenizer is None)["input_ids"]
