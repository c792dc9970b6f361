"""What a row means, the same in training on it and in preparing it: its turns, its answer, the text they become.

A bare prompt is a user's turn and is rendered by the chat format; a prompt that a chat format wrote is kept as it is.
A conversation becomes one example for each answer under the loss: the turns before it, without the thoughts of
earlier answers, are the prompt, and the document ends where the answer ends, which is what sampling sees of that turn.
An answer without a thought is trained under an empty one, because sampling opens a thought before every answer.
"""

import re
from dataclasses import dataclass
from typing import Any

from promptcot_mamba.chat_format import (
    MATH_INSTRUCTION,
    THINK_END,
    THINK_START,
    extract_question,
    opens_thought,
    render_turns,
)
from promptcot_mamba.chat_markup import (
    CHATML,
    FAMILIES,
    Part,
    Parts,
    Rendered,
    Turn,
    begins_rendered,
    find_rendered,
    strip_end,
    whole_text,
)
from promptcot_mamba.data.canonical import CanonicalRow, UnusableRowError, hash_text
from promptcot_mamba.errors import InputError

PROMPT_FORMATS = ("auto", "rendered", "bare")
LOSS_ON = ("assistant", "last")
CONTROL_TEXT = ("auto", "keep", "drop")
OURS, OWN, UNKNOWN = "ours", "own", "unknown"  # how a prompt was rendered, beside the names of chat_markup.FAMILIES
EMPTY_THOUGHT = f"{THINK_START}\n\n{THINK_END}\n\n"
_BOX_INSTRUCTION = re.compile(r"\\boxed\s*\{\s*(?:\.\.\.|\{\}|\[?[a-z ]*\]?|\\[a-z]+)?\s*\}", re.IGNORECASE)
# How other formats open an answer: a tag that names who speaks, alone or before another tag; or a line of its own.
_OPENS_ANSWER = re.compile(
    r"(?:<[^<>\n]{0,30}(?:assistant|chatbot)[^<>\n]{0,30}>|>\s*assistant\s*(?:<[^<>\n]{1,30}>)?"
    r"|(?:\A|\s)(?:#+ ?)?Assistant:)\s*(?:<think>\s*)?\Z",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class OwnTemplate:
    """What a tokenizer's own chat template writes around one user turn; recognises prompts that it rendered."""

    before: str
    after: str

    def find(self, prompt: str) -> Rendered | None:
        fits = prompt.startswith(self.before) and prompt.endswith(self.after)
        if not (self.before or self.after) or not fits or len(prompt) < len(self.before) + len(self.after):
            return None
        question = prompt[len(self.before) : len(prompt) - len(self.after)]
        marks = (Part(self.before, placed=True), Part(question, placed=False), Part(self.after, placed=True))
        parts = tuple(part for part in marks if part.text)
        return Rendered(OWN, (Turn("user", question.strip()),), parts, opens_thought(self.after))


def own_template(tokenizer: Any) -> OwnTemplate | None:
    """What a tokenizer's chat template writes, None if it has none or it cannot render one user turn."""
    if getattr(tokenizer, "chat_template", None) is None:
        return None
    from jinja2 import TemplateError

    probe = "\ue000question\ue001"
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": probe}], tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, ValueError, TypeError):
        return None  # one that asks for tools or other roles renders nothing we could recognise
    before, found, after = text.partition(probe)
    return OwnTemplate(before, after) if found else None


@dataclass(frozen=True)
class Reading:
    """How rows are read: the flags of both programs, in one place.

    prompt_format: whether prompts are chat text already (auto: told by their markup). loss_on: every answer of a
    conversation, or the last. control_text: rows that spell control tokens: keep them as text or drop them; auto drops
    those that spell turns of a chat (only in preparation).
    """

    prompt_format: str = "auto"
    loss_on: str = "assistant"
    control_text: str = "auto"
    own: OwnTemplate | None = None

    def __post_init__(self) -> None:
        for name, known in (("prompt_format", PROMPT_FORMATS), ("loss_on", LOSS_ON), ("control_text", CONTROL_TEXT)):
            if getattr(self, name) not in known:
                raise InputError(f"--{name} {getattr(self, name)}: expected one of {', '.join(known)}")

    @property
    def key(self) -> str:
        """What encoded rows depend on, in a word for the name of a cache."""
        own = (self.own.before, self.own.after) if self.own else ()
        return hash_text(self.prompt_format, self.loss_on, self.control_text, *own).hex()[:8]

    def find_rendered(self, prompt: str) -> Rendered | None:
        """The markup of a rendered prompt, None for a bare one.

        Raises InputError for text that begins as a chat format does but does not end in an opened answer, and
        UnusableRowError for text that ends as one does which is not known (Granite's, Command's, R1-Zero's plain text).
        """
        if self.prompt_format == "bare":
            return None
        found = find_rendered(prompt) or (self.own.find(prompt) if self.own else None)
        if found is None and self.prompt_format == "rendered":
            return Rendered(UNKNOWN, (Turn("user", prompt),), (Part(prompt, placed=True),), opens_thought(prompt))
        if found is None and (begun := begins_rendered(prompt)):
            raise InputError(
                f"the prompt begins as {begun} chat text but does not end where an answer begins; pass "
                "--prompt_format rendered to keep it as it is, bare to take it for a question"
            )
        if found is None and (opened := _OPENS_ANSWER.search(prompt, max(0, len(prompt) - 100))):
            raise UnusableRowError(
                "chat_markers",
                f"the prompt ends in {opened[0].strip()!r}, as chat text of a format that is unknown here; "
                "--prompt_format rendered keeps it as it is, bare takes it for a question",
            )
        return found


def with_line_end(rendered: Rendered | None, prompt: str, completion: str) -> Rendered | None:
    """A prompt's markup with the white space that ends it where the completion begins with that.

    PromptCoT 2.0 publishes `...<|im_start|>assistant` and a completion that begins with the line end.
    """
    begun = completion[: len(completion) - len(completion.lstrip())]
    whole = find_rendered(prompt + begun) if rendered and begun and not prompt[-1].isspace() else None
    return whole if whole and rendered and whole.family == rendered.family else rendered


def has_box_instruction(question: str) -> bool:
    r"""Whether a question already says to put the answer in `\boxed{}`."""
    return bool(_BOX_INSTRUCTION.search(question))


def with_thought(prompt_opens: bool, completion: str) -> str:
    """The completion under an empty thought if it has none; `prompt_opens`: the chat format opens one."""
    if not prompt_opens or THINK_END in completion or completion.lstrip().startswith(THINK_START):
        return completion
    return EMPTY_THOUGHT + completion.lstrip("\n")


def render_row(row: CanonicalRow, instruction: str | None = None) -> tuple[Parts, str]:
    """`(prompt, completion)` as the model sees them.

    `instruction` None asks for what evaluation asks of this domain: the boxed-answer sentence for maths, nothing for
    the rest; a question that has such a sentence gets no second one.
    """
    if row.rendered is not None:
        known = row.rendered.family in FAMILIES
        return row.rendered.parts, strip_end(row.completion, row.rendered.family) if known else row.completion
    if instruction is None:
        instruction = MATH_INSTRUCTION if row.domain == "math" and not has_box_instruction(row.prompt) else ""
    question = f"{row.prompt}\n{instruction}" if instruction else row.prompt
    return render_turns((*row.history, Turn("user", question))), with_thought(True, row.completion)


def format_of(row: CanonicalRow) -> str:
    """How the prompt of a row is rendered: OURS, OWN, UNKNOWN or a published format's name."""
    found = row.rendered
    if found is None:
        return OURS
    is_ours = found.family == CHATML and whole_text(render_turns(found.turns)) == whole_text(found.parts)
    return OURS if is_ours else found.family


def guess_domain(source: str, completion: str) -> str:
    """By the source's name where it tells, else by what stands after the thought."""
    name = source.lower()
    for domain, words in (("math", MATH_WORDS), ("code", CODE_WORDS)):
        if any(word in name for word in words):
            return domain
    answer = completion.rpartition(THINK_END)[2]
    if "\\boxed" in answer:
        return "math"
    return "code" if "```" in answer else "other"


# Words of a `source` column that tell the domain; the rest is told by the form of the answer.
MATH_WORDS = ("math", "numina", "olympiad", "aops")
CODE_WORDS = ("code", "program", "taco", "apps", "leetcode", "golf")


def split_rendered(rendered: Rendered) -> tuple[tuple[Turn, ...], str]:
    """The earlier turns and the bare last question of a rendered prompt."""
    *history, last = rendered.turns
    return tuple(history), extract_question(last.text)
