r"""The one place that writes and splits chat text: `<|im_start|>` turns and `<think>` thoughts.

A document is `prompt + completion + eos_token`. Published prompts end in `<think>\n`, published predictions
begin with it; `join` keeps exactly one whichever side holds it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from promptcot_mamba.chat_markup import Part, Parts, Turn, find_rendered

USER_START = "<|im_start|>user\n"
TURN_END = "<|im_end|>\n"
ASSISTANT_START = "<|im_start|>assistant\n"
THINK_START = "<think>"
THINK_END = "</think>"
MATH_INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."
NEWLINE = "\n"


class Marks(NamedTuple):
    """What stands before a thought, what ends it (first of all what closes it for a model), and around the answer."""

    begin: str
    ends: tuple[str, ...]
    around: tuple[str, ...] = ()
    worded: bool = False  # plain words, which open a thought only where an end stands too


# How a model may think: in `<think>` tags, not at all, or between its own marks. s1: the training format of
# simplescaling/s1. begin_of_thought: the system prompt of Sky-T1 and Bespoke-Stratos. harmony: gpt-oss's channels, also
# as they read without special tokens. thinking, reasoning: what prompts ask models for. The others are those of model
# cards and of vLLM 0.32's reasoning parsers, whose names a test holds against these: Magistral, EXAONE Deep, Gemma 4,
# Seed-OSS, Command A, MiniMax-M3, Kimi-VL, Granite 3.2, Apriel, Kimi K3, K2 Horizon, PLaMo 3, Inkling, Muse Glimmer.
# LongCat-Flash-Thinking, openPangu-Embedded and Apertus are served without a parser of theirs. Hunyuan's tags end in a
# suffix of the checkpoint's own (`<think:opensource>`).
_OTHER_MARKS = {
    "s1": (Marks("<|im_start|>think", ("<|im_start|>answer",)),),
    "begin_of_thought": (
        Marks(
            "<|begin_of_thought|>",
            ("<|end_of_thought|>", "<|begin_of_solution|>"),  # the first is skipped at times
            ("<|begin_of_solution|>", "<|end_of_solution|>"),
        ),
    ),
    "mistral": (Marks("[THINK]", ("[/THINK]",)),),
    "harmony": (
        Marks(
            "<|channel|>analysis<|message|>",
            ("<|end|><|start|>assistant<|channel|>final<|message|>", "<|channel|>final<|message|>"),
            ("<|return|>", "<|end|>"),
        ),
        Marks("analysis", ("assistantfinal",), worded=True),
    ),
    "thinking": (Marks("<thinking>", ("</thinking>",)),),
    "thought": (Marks("<thought>", ("</thought>",)),),
    "reasoning": (Marks("<reasoning>", ("</reasoning>",)),),
    "gemma": (Marks("<|channel>thought", ("<channel|>",), ("<turn|>",)),),
    "seed": (Marks("<seed:think>", ("</seed:think>",)),),
    "cohere": (
        Marks(
            "<|START_THINKING|>",
            ("<|END_THINKING|>", "<|START_RESPONSE|>"),
            ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
        ),
    ),
    "minimax": (Marks("<mm:think>", ("</mm:think>",)),),
    "kimi": (Marks("\u25c1think\u25b7", ("\u25c1/think\u25b7",)),),
    "kimi_k3": (
        Marks(
            "<|open|>think<|sep|>",
            ("<|close|>think<|sep|><|open|>response<|sep|>", "<|close|>think<|sep|>", "<|open|>response<|sep|>"),
            ("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"),
        ),
    ),
    "k2_horizon": tuple(Marks(f"<ifm|{tag}>", (f"</ifm|{tag}>",)) for tag in ("think", "think_fast", "think_faster")),
    "plamo": (Marks("<|plamo:begin_think:plamo|>", ("<|plamo:end_think:plamo|>",), ("<|plamo:tag|>",)),),
    "inkling": (
        Marks(
            "<|content_thinking|>",
            ("<|end_message|><|message_model|><|content_text|>", "<|content_text|>"),
            ("<|message_model|>", "<|content_text|>", "<|end_message|>", "<|content_model_end_sampling|>"),
        ),
    ),
    "muse": (
        Marks(
            "to=self<|message|>",
            ("<|eom|><|start|>assistant to=user<|message|>", "to=user<|message|>"),
            ("<|eom|>", "<|eot|>"),
        ),
    ),
    "granite": (
        Marks("Here is my thought process:", ("Here is my response:", "Here's my response:"), worded=True),
        Marks("Here's my thought process:", ("Here's my response:", "Here is my response:"), worded=True),
    ),
    "apriel": (
        Marks(
            "Here are my reasoning steps:", ("[BEGIN FINAL RESPONSE]",), ("[END FINAL RESPONSE]", "<|end|>"),
            worded=True,
        ),
    ),
    "longcat": (Marks("<longcat_think>", ("</longcat_think>",)),),
    "pangu": (Marks("[unused16]", ("[unused17]",), ("[unused10]",)),),
    "apertus": (Marks("<|inner_prefix|>", ("<|inner_suffix|>",), ("<|assistant_end|>",)),),
    "hunyuan": (),
}  # fmt: skip
# Most completions begin with none of them, which one look tells.
_BEGINNINGS = ("<think:", *(marks.begin for forms in _OTHER_MARKS.values() for marks in forms))
# One of them is in every mark that ends a thought, and in few long texts.
_END_SIGNS = ("</", "|>", "[/", "\u25c1/", "[unused")
# Code between its fences, or to the end of the text, or else `<think>` on a line of its own.
_FENCE_OR_THINK = re.compile(
    r"^ {0,3}(?P<fence>`{3,}|~{3,})[^`\n]*$.*?(?:^ {0,3}(?P=fence)[`~]*[ \t]*$|\Z)|^ {0,3}(?P<think><think>)[ \t\r]*$",
    re.MULTILINE | re.DOTALL,
)
_HUNYUAN = re.compile(r"</?think(:[^\s<>]+)>")
_HARMONY_KIND = re.compile(r"(<\|channel\|>final) ?<\|constrain\|>\w+(?=<\|message\|>)")  # such as json
THINKING = ("auto", "none", "think", *_OTHER_MARKS)
QUESTION_MARK = "{question}"  # where an instruction that frames the question holds it
# Other spellings of it in published prompts, removed with the chat markers around a question.
_INSTRUCTIONS = (MATH_INSTRUCTION, r"Please reason step by step, and put your final answer within \boxed{{}}.")
_USER_TURN = re.compile(
    r"<\|im_start\|>user\n(.*?)<\|im_end\|>"  # ChatML: Qwen's and ours
    r"|<\uff5cUser\uff5c>(.*?)(?:<\uff5cAssistant\uff5c>|\Z)",  # DeepSeek-R1's
    re.DOTALL,
)
_CLOSED_THOUGHT = re.compile(r"(?:<think>\s*)?</think>\s*\Z")  # opens an answer without a thought
_UNOPENED = ("\n<|im_start|>assistant\n", "<\uff5cAssistant\uff5c>")  # what a prompt lacks that ends with its user turn

# The same text as `render_prompt` and `render_turns`, for `tokenizer.apply_chat_template` and `vllm serve`: messages as
# they are, less the thoughts of earlier turns. Who asks a maths question over HTTP adds MATH_INSTRUCTION.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% set text = message['content'] %}"
    "{% if message['role'] == 'assistant' %}{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + text + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)


def frame_question(question: str, instruction: str = MATH_INSTRUCTION) -> str:
    """A user's turn: the question where the instruction says `{question}`, else before it, on a line of its own."""
    if QUESTION_MARK in instruction:
        return instruction.replace(QUESTION_MARK, question.strip("\n"), 1)
    return f"{question}\n{instruction}" if instruction else question


def render_prompt(question: str, instruction: str = MATH_INSTRUCTION) -> str:
    """The prompt of one question, up to and including the opened thought."""
    return f"{USER_START}{frame_question(question, instruction)}{TURN_END}{ASSISTANT_START}{THINK_START}\n"


def drop_thought(answer: str) -> str:
    """An assistant's turn as later turns see it: what stands after its thought."""
    return answer.rpartition(THINK_END)[2].lstrip("\n")


def render_turns(turns: Sequence[Turn]) -> Parts:
    """The prompt of a conversation that ends in a user's turn, in parts, up to and including the opened thought."""
    parts: list[Part] = []
    markup = ""
    for role, text in turns:
        parts.append(Part(f"{markup}<|im_start|>{role}\n", placed=True))
        text = drop_thought(text) if role == "assistant" else text
        parts += [Part(text, placed=False)] if text else []
        markup = TURN_END
    return (*parts, Part(f"{markup}{ASSISTANT_START}{THINK_START}\n", placed=True))


def split_completion(completion: str, *, opened: bool) -> Parts:
    """A completion in parts: its `<think>` and the last `</think>` are markup, whatever else it spells is text.

    `opened` says that the prompt had opened the thought already, as `join` leaves the two.
    """
    body = completion.lstrip()
    opened = not opened and body.startswith(THINK_START)
    body = body[len(THINK_START) :] if opened else completion
    thought, end, answer = body.rpartition(THINK_END)
    parts = (
        Part(THINK_START if opened else "", placed=True),
        Part(thought, placed=False),
        Part(end, placed=True),
        Part(answer, placed=False),
    )
    return tuple(part for part in parts if part.text)


def bare_text(text: str) -> str:
    """A turn's text without the maths instruction before or after it."""
    text = text.strip()
    for instruction in _INSTRUCTIONS:
        text = text.removesuffix(instruction).removeprefix(instruction).strip()
    return text


def extract_question(prompt: str) -> str:
    """The bare question of a published prompt: the (first) user turn's text, without the maths instruction.

    A prompt without chat markers is its own user turn.
    """
    turn = _USER_TURN.search(prompt)
    return bare_text("".join(turn.groups("")) if turn else prompt)


def read_turns(prompt: str) -> tuple[Turn, ...]:
    """The turns of a prompt rendered in any known chat format, the last of them the user's; none of other text.

    The answer may be begun by a closed thought, as for a model that is told not to think, or not be opened yet.
    """
    prompt = _CLOSED_THOUGHT.sub("", prompt)
    rendered = find_rendered(prompt)
    if rendered is not None:
        return rendered.turns
    for opening in _UNOPENED:
        rendered = find_rendered(f"{prompt.rstrip()}{opening}")
        if rendered is not None and opening.strip() not in rendered.turns[-1].text:  # that would be an answer
            return rendered.turns
    return ()


def has_turns(prompt: str) -> bool:
    """Whether a prompt holds a user's turn between the markers of a chat format that is known here."""
    return _USER_TURN.search(prompt) is not None or bool(read_turns(prompt))


def user_question(prompt: str) -> str:
    """The bare question of a prompt rendered in any known chat format, as `extract_question`: its last user turn."""
    turns = read_turns(prompt)
    texts = [turns[-1].text] if turns else ["".join(groups) for groups in _USER_TURN.findall(prompt)]
    return bare_text(texts[-1] if texts else prompt)


def asks_for_box(prompt: str) -> bool:
    """Whether a written prompt holds the maths instruction, in one of its spellings."""
    return any(instruction in prompt for instruction in _INSTRUCTIONS)


def opens_thought(prompt: str) -> bool:
    """Whether the prompt has already written `<think>`."""
    return prompt.rstrip().endswith(THINK_START)


def join(prompt: str, completion: str) -> tuple[str, str]:
    """Return `(prompt, completion)` such that their concatenation holds one opening `<think>`.

    If both sides open the thought, the completion's is dropped; if one does, nothing changes.
    """
    if opens_thought(prompt) and completion.lstrip().startswith(THINK_START):
        completion = completion.lstrip()[len(THINK_START) :].removeprefix("\n")
    return prompt, completion


def with_open_thought(prompt: str, completion: str) -> str:
    """The completion as predictions publish it: beginning with `<think>` also when the prompt had opened it."""
    if opens_thought(prompt) and not completion.lstrip().startswith(THINK_START):
        return f"{THINK_START}\n{completion}"
    return completion


def read_completion(prompt: str, text: str, thinking: str = "auto", reasoning: str | None = None) -> tuple[str, str]:
    """A completion as rows hold it, and how it is to be read: "think" or "none".

    `prompt` is what was sent, `text` what came back, `reasoning` a thought that a server served apart. Thoughts in
    other marks are rewritten to `<think>` form. `thinking`, one of THINKING, says how the model thinks: "auto" goes by
    the marks in prompt and text, "think" takes a text without any for a thought that was cut off, and "none" takes all
    of it for the answer.
    """
    if thinking == "none":
        return text if text.strip() else reasoning or text, "none"  # a parser may take an answer for a thought
    if reasoning and reasoning.strip():
        thought = f"{THINK_START}\n{reasoning.strip(NEWLINE)}"
        if text.lstrip().startswith(THINK_START):  # said twice
            text = drop_thought(text) if THINK_END in text else ""
        return (f"{thought}\n{THINK_END}\n\n{text}" if text.strip() else thought), "think"
    marks = _find_opening(prompt, text, thinking)
    if marks is not None:
        return _rewrite(text.lstrip().removeprefix(marks.begin), marks), "think"
    completion = with_open_thought(prompt, text)
    if completion.lstrip().startswith(THINK_START):
        return completion, "think"
    if THINK_END in completion or thinking == "think" or _thinks_late(completion, thinking):
        # opened by a template that nobody here has seen, or after some words of another kind
        return f"{THINK_START}\n{completion}", "think"
    return _read_unopened(text, thinking)


def _thinks_late(text: str, thinking: str) -> bool:
    """Whether a text opens a thought after other words ("### Thought") and leaves it open: with the tag on a line of
    its own, as models write it. Within a line or in code it is spoken of."""
    if thinking == "auto":
        return THINK_START in text and any(found["think"] for found in _FENCE_OR_THINK.finditer(text))
    return any(
        re.search(rf"^ {{0,3}}{re.escape(marks.begin)}[ \t\r]*$", text, re.MULTILINE)
        for marks in _listed_marks(thinking)
        if not marks.worded and not any(end in text for end in marks.ends)
    )


def _read_unopened(text: str, thinking: str) -> tuple[str, str]:
    """A completion that no mark begins: one that ends a thought tells what stands before it, if anything does."""
    if not any(sign in text for sign in _END_SIGNS):
        return text, "none"
    plain = _HARMONY_KIND.sub(r"\1", text.lstrip())
    for marks in _known_marks(thinking, plain):
        ends = [] if marks.worded else [end for end in marks.ends if end in plain]
        for end in ends:
            if plain.startswith(end):
                return _drop_around(plain.removeprefix(end), marks), "none"
        if ends:
            return _rewrite(text, marks), "think"
    return text, "none"


def rewrite_thought(text: str, thinking: str = "auto") -> str | None:
    """A completion that begins with a thought in other marks (`thinking`: in these), in `<think>` form; else None."""
    marks = _find_opening("", text, thinking)
    return None if marks is None else _rewrite(text.lstrip().removeprefix(marks.begin), marks)


@cache
def _listed_marks(thinking: str) -> tuple[Marks, ...]:
    return tuple(marks for name, forms in _OTHER_MARKS.items() if thinking in ("auto", name) for marks in forms)


def _known_marks(thinking: str, *texts: str) -> Sequence[Marks]:
    """The marks of `thinking`, of all ways with "auto"; Hunyuan's with the suffix that these texts have."""
    known = _listed_marks(thinking)
    if thinking in ("auto", "hunyuan"):
        found = (_HUNYUAN.search(text) for text in texts)
        known += tuple(Marks(f"<think{one[1]}>", (f"</think{one[1]}>",)) for one in found if one)
    return known


def _find_opening(prompt: str, text: str, thinking: str) -> Marks | None:
    """The marks that a completion begins with, or that its prompt has opened a thought with."""
    prompt, text = prompt.rstrip(), text.lstrip()
    if not text.startswith(_BEGINNINGS) and not prompt.endswith(_BEGINNINGS) and "<think:" not in prompt[-64:]:
        return None
    for marks in _known_marks(thinking, prompt[-64:], text[:64]):
        begun = text.startswith(marks.begin) and (
            not marks.worded or thinking != "auto" or any(end in text for end in marks.ends)
        )
        if begun or prompt.endswith(marks.begin):
            return marks
    return None


def tells_marks(text: str) -> bool:
    """Whether a text names the marks of a thought, as system turns that explain them do."""
    return any(mark in text for one in _known_marks("auto") if not one.worded for mark in (one.begin, *one.ends))


def marks_hold(token: str) -> bool:
    """Whether thoughts are marked by this special token, so that a text without it says no more where they begin.

    s1's, which are ChatML's as well, are asked for by name.
    """
    known = [marks for name, forms in _OTHER_MARKS.items() if name != "s1" for marks in forms if not marks.worded]
    is_tag = token in (THINK_START, THINK_END) or _HUNYUAN.fullmatch(token) is not None
    return is_tag or any(token in marks.begin for marks in known)


def closing_mark(prompt: str, text: str, thinking: str = "auto") -> str:
    """What ends the thought that a completion has begun, or its prompt has opened, and begins the answer."""
    marks = _find_opening(prompt, text, thinking)
    return f"{NEWLINE}{THINK_END}{NEWLINE}{NEWLINE}" if marks is None else marks.ends[0]


def _rewrite(text: str, marks: Marks) -> str:
    """A thought between other marks, without the first, in `<think>` tags; those around the answer are dropped."""
    text = _HARMONY_KIND.sub(r"\1", text)
    end = re.search("|".join(map(re.escape, marks.ends)), text)
    thought = f"{THINK_START}\n{text[: end and end.start()].strip(NEWLINE)}"
    return thought if end is None else f"{thought}\n{THINK_END}\n\n{_drop_around(text[end.end() :], marks)}"


def _drop_around(answer: str, marks: Marks) -> str:
    for mark in marks.around:
        answer = answer.replace(mark, "")
    return answer.strip(NEWLINE)


@dataclass(frozen=True)
class Split:
    """A completion cut at its thought. `closed` is None where there is no thought at all."""

    thought: str
    answer: str
    closed: bool | None


def split(completion: str) -> Split:
    """Cut a completion (as `with_open_thought` writes it) into thought and answer.

    Without `</think>` an opened completion is all thought; one that never opens a thought is all answer. The
    answer starts after the *last* `</think>`, so text a model wrote inside its thought is never an answer.
    """
    opened = completion.lstrip().startswith(THINK_START)
    body = completion.lstrip()[len(THINK_START) :] if opened else completion
    thought, end, answer = body.rpartition(THINK_END)
    if end:
        return Split(thought.strip("\n"), answer, closed=True)
    return Split(body, "", closed=False) if opened else Split("", body, closed=None)


def is_format_valid(completion: str, thinking: str = "think") -> bool:
    """Exactly one closed, non-empty thought at the start, then a non-empty answer; of no thought, just the answer."""
    if thinking == "none":
        return bool(completion.strip())
    if completion.count(THINK_START) != 1 or completion.count(THINK_END) != 1:
        return False
    parts = split(completion)
    return completion.lstrip().startswith(THINK_START) and bool(parts.thought.strip()) and bool(parts.answer.strip())
