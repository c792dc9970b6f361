r"""Chat text in the formats that models are published with: recognised, taken apart into turns, told from data.

A rendered prompt is `(markup, text, markup, text, ..., markup)` and ends where the assistant's turn has been opened.
Markup is recognised where it has its place (a turn ends where the next begins), so that a question about
`<|im_end|>` stays a question.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

THOUGHT_OPEN = r"(?:<think>\s*)?"


class Part(NamedTuple):
    """A stretch of a document: `placed` is markup of a chat format, the rest is data."""

    text: str
    placed: bool


Parts = tuple[Part, ...]


class Turn(NamedTuple):
    """One turn of a conversation; `role` is system, user or assistant."""

    role: str
    text: str


def whole_text(parts: Parts) -> str:
    """A document's text, markup included."""
    return "".join(part.text for part in parts)


@dataclass(frozen=True)
class Family:
    """A chat format by the markup (regular expressions) between the turns, and a template that writes it."""

    name: str
    begin: str  # of text; may be absent
    system: str | None  # opens a system turn right after it; "" where its text stands there bare
    user: str  # opens the first user turn, ending a system turn
    assistant: str  # ends a user turn and opens the assistant's
    again: str  # ends an assistant turn and opens the user's
    end: str  # ends an assistant turn
    template: str


# The templates write system, user and assistant turns; thoughts of earlier turns are dropped, as the publishers' do.
_EARLIER = (
    "{% set text = m['content'] %}"
    "{% if m['role'] == 'assistant' and '</think>' in text %}{% set text = text.split('</think>')[-1].lstrip('\\n') %}"
    "{% endif %}"
)


def _template(system: str, user: str, assistant: str, *, opened: str, begin: str = "") -> str:
    """A template from what is written for each role; `{t}` is the turn's text."""

    def write(form: str) -> str:
        before, _, after = form.partition("{t}")
        pieces = [f"'{before}'" if before else "", "text", f"'{after}'" if after else ""]
        return "{{ " + " + ".join(filter(None, pieces)) + " }}"

    return (
        (f"{{{{ '{begin}' }}}}" if begin else "")
        + "{% for m in messages %}"
        + _EARLIER
        + f"{{% if m['role'] == 'system' %}}{write(system)}{{% elif m['role'] == 'user' %}}{write(user)}"
        + f"{{% else %}}{write(assistant)}{{% endif %}}{{% endfor %}}"
        + f"{{% if add_generation_prompt %}}{{{{ '{opened}' }}}}{{% endif %}}"
    )


def _headers(role: str) -> str:
    return rf"<\|start_header_id\|>{role}<\|end_header_id\|>\s*"


CHATML = "chatml"
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            CHATML, r"(?:<s>|<\|begin_of_text\|>|<\|endoftext\|>)?\s*", r"<\|im_start\|>system\n",
            r"(?:<\|im_end\|>\s*)?<\|im_start\|>user\n", r"<\|im_end\|>\s*<\|im_start\|>assistant\s*",
            r"<\|im_end\|>\s*<\|im_start\|>user\n", r"<\|im_end\|>",
            _template(*("<|im_start|>" + role + "\\n{t}<|im_end|>\\n" for role in ("system", "user", "assistant")),
                      opened="<|im_start|>assistant\\n"),
        ),
        Family(
            "deepseek", "(?:<\uff5cbegin\u2581of\u2581sentence\uff5c>)?", "", "<\uff5cUser\uff5c>",
            "<\uff5cAssistant\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c><\uff5cUser\uff5c>",
            "<\uff5cend\u2581of\u2581sentence\uff5c>",
            _template("{t}", "<\uff5cUser\uff5c>{t}",
                      "<\uff5cAssistant\uff5c>{t}<\uff5cend\u2581of\u2581sentence\uff5c>",
                      opened="<\uff5cAssistant\uff5c>", begin="<\uff5cbegin\u2581of\u2581sentence\uff5c>"),
        ),
        Family(
            "llama3", r"(?:<\|begin_of_text\|>)?\s*", _headers("system"), rf"(?:<\|eot_id\|>)?{_headers('user')}",
            rf"<\|eot_id\|>{_headers('assistant')}", rf"<\|eot_id\|>{_headers('user')}", r"<\|eot_id\|>",
            _template(*("<|start_header_id|>" + role + "<|end_header_id|>\\n\\n{t}<|eot_id|>"
                        for role in ("system", "user", "assistant")),
                      opened="<|start_header_id|>assistant<|end_header_id|>\\n\\n", begin="<|begin_of_text|>"),
        ),
        Family(
            "llama2", r"(?:<s>)?\s*", r"\[INST\]\s*<<SYS>>\s*", r"\s*<</SYS>>\s*", r"\s*\[/INST\]\s*",
            r"\s*</s>\s*(?:<s>)?\s*\[INST\]\s*", r"</s>",
            _template(
                "[INST] <<SYS>>\\n{t}\\n<</SYS>>\\n\\n", "{t} [/INST]", " {t} </s><s>", opened="", begin="<s>"
            ).replace(
                "{{ text + ' [/INST]' }}",
                "{{ '' if loop.index0 == 1 and messages[0]['role'] == 'system' else '[INST] ' }}"
                "{{ text + ' [/INST]' }}",
            ),
        ),
        Family(
            "mistral", r"(?:<s>)?\s*", r"\[SYSTEM_PROMPT\]\s*", r"(?:\s*\[/SYSTEM_PROMPT\])?\s*\[INST\]\s*",
            r"\s*\[/INST\]\s*", r"\s*</s>\s*(?:<s>)?\s*\[INST\]\s*", r"</s>",
            _template("[SYSTEM_PROMPT]{t}[/SYSTEM_PROMPT]", "[INST] {t}[/INST]", " {t}</s>", opened="", begin="<s>"),
        ),
        Family(
            "gemma", r"(?:<bos>)?\s*", r"<start_of_turn>system\n", r"(?:<end_of_turn>\s*)?<start_of_turn>user\n",
            r"<end_of_turn>\s*<start_of_turn>model\n", r"<end_of_turn>\s*<start_of_turn>user\n", r"<end_of_turn>",
            _template(*("<start_of_turn>" + role + "\\n{t}<end_of_turn>\\n" for role in ("system", "user", "model")),
                      opened="<start_of_turn>model\\n", begin="<bos>"),
        ),
        Family(
            "zephyr", r"(?:<s>)?\s*", r"<\|system\|>\s*", r"(?:(?:<\|end\|>|</s>)\s*)?<\|user\|>\s*",
            r"\s*(?:<\|end\|>|</s>|<\|endoftext\|>)?\s*<\|assistant\|>\s*",
            r"\s*(?:<\|end\|>|</s>|<\|endoftext\|>)\s*<\|user\|>\s*", r"<\|end\|>|</s>|<\|endoftext\|>",
            _template(*("<|" + role + "|>\\n{t}</s>\\n" for role in ("system", "user", "assistant")),
                      opened="<|assistant|>\\n"),
        ),
        Family(
            "alpaca", "", "", r"### (?:Instruction|Input):\n", r"\n+### Response:\s*", r"\n+### Instruction:\n", r"\Z",
            _template("{t}\\n\\n", "### Instruction:\\n{t}\\n\\n", "### Response:\\n{t}\\n\\n",
                      opened="### Response:\\n"),
        ),
        Family(
            "vicuna", r"(?:<s>)?", "", r"USER: ", r"\s*ASSISTANT:\s*", r"\s*</s>\s*USER: ", r"</s>",
            _template("{t} ", "USER: {t} ", "ASSISTANT: {t}</s>", opened="ASSISTANT:"),
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Rendered:
    """A prompt that chat markup was placed in: the format's name, its turns, and which parts are markup."""

    family: str
    turns: tuple[Turn, ...]
    parts: Parts
    opens_thought: bool


class _Cut:
    """Cuts a text into alternating markup and data."""

    def __init__(self, text: str):
        self.text, self.at = text, 0
        self.parts: list[Part] = []
        self.turns: list[Turn] = []

    def data(self, stop: int, role: str) -> None:
        text = self.text[self.at : stop]
        if text:
            self.parts.append(Part(text, placed=False))
        if role != "system" or text.strip():
            self.turns.append(Turn(role, text.strip()))
        self.at = stop

    def markup(self, stop: int) -> None:
        if stop > self.at:
            self.parts.append(Part(self.text[self.at : stop], placed=True))
        self.at = stop


def _take_apart(prompt: str, family: Family, tail: re.Match[str]) -> Rendered | None:
    """The turns of a prompt whose markup is `family`'s, None if it does not begin as that format does."""
    cut = _Cut(prompt)
    cut.markup(re.match(family.begin, prompt).end())  # type: ignore[union-attr]
    first_user = re.compile(family.user).search(prompt, cut.at, tail.start() + 1)
    if first_user is None or first_user.end() > tail.start():
        return None
    if first_user.start() > cut.at:
        opening = None if family.system is None else re.compile(family.system).match(prompt, cut.at)
        if opening is None or (family.system and opening.end() > first_user.start()):
            return None
        cut.markup(opening.end())
        cut.data(first_user.start(), "system")
    cut.markup(first_user.end())
    for again in re.compile(family.again).finditer(prompt, cut.at, tail.start()):
        reply = re.compile(family.assistant).search(prompt, cut.at, again.start())
        if reply is None:
            continue  # two user turns on end: the second belongs to the text
        cut.data(reply.start(), "user")
        cut.markup(reply.end())
        cut.data(again.start(), "assistant")
        cut.markup(again.end())
    cut.data(tail.start(), "user")
    cut.markup(len(prompt))
    return Rendered(family.name, tuple(cut.turns), tuple(cut.parts), prompt.rstrip().endswith("<think>"))


_TAILS = {name: re.compile(f"(?:{family.assistant}){THOUGHT_OPEN}\\Z") for name, family in FAMILIES.items()}
_HEADS = {
    name: re.compile(f"{family.begin}(?:{'|'.join(filter(None, (family.system, family.user)))})")
    for name, family in FAMILIES.items()
}


def find_rendered(prompt: str) -> Rendered | None:
    """What a rendered prompt is made of; None for text that no known format wrote."""
    for name, family in FAMILIES.items():
        tail = _TAILS[name].search(prompt, max(0, len(prompt) - 256))
        if tail is not None:
            found = _take_apart(prompt, family, tail)
            if found is not None:
                return found
    return None


def begins_rendered(prompt: str) -> str | None:
    """The format whose markup a prompt begins with, whether or not it ends as a rendered prompt does."""
    for name, head in _HEADS.items():
        if name not in ("alpaca", "vicuna") and head.match(prompt):
            return name
    return None


def strip_end(completion: str, family: str) -> str:
    """A completion without the markup that ends its turn, which the end of text says already."""
    return re.sub(rf"(?:{FAMILIES[family].end})\s*\Z", "", completion)
