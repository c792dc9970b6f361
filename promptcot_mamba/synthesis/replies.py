"""Replies as models write them: what was asked for is cut out of chatter, fences, other markup, labels or JSON.

A model seldom gives the form alone. What can be read without a guess is read; what cannot is refused with a reason of
its own: a thought that never ended, a refusal, the form repeated, two problems, a section missing or never closed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from promptcot_mamba.chat_format import split
from promptcot_mamba.synthesis.faults import ends_in_request, is_answers_form
from promptcot_mamba.synthesis.json_replies import find_objects
from promptcot_mamba.synthesis.templates import Format, load_format

RATIONALE, PROBLEM = "rationale", "problem"
NO_MARKUP = "not one rationale and one problem"
LEAST_THOUGHT = 100  # bytes before an unmarked problem that are a rationale


@dataclass(frozen=True)
class Rejected:
    """Why a reply could not be used; `reparable`: the model may be shown it and asked for the form once more."""

    reason: str
    reparable: bool = False


_SPECIAL = (
    r"<\|start_header_id\|>\w*<\|end_header_id\|>|<\|[\w ]{1,40}\|>|<｜[^｜<>]{1,40}｜>|</?s>"
    r"|<(?:bos|eos|pad|end_of_turn)>"
)
_SPECIAL_ENDS = re.compile(rf"\A(?:\s*(?:{_SPECIAL}))+|(?:(?:{_SPECIAL})\s*)+\Z")
_REFUSAL = re.compile(
    r"\A\W*(?:(?:i['’]?m|i am|we['’]re)\s+(?:very\s+|so\s+|really\s+)?(?:sorry|afraid|unable|not able)\b"
    r"|sorry,|i (?:can(?:no|['’])t|could(?:n['’]| no)t|won['’]t|must decline)\b|as an ai\b|unfortunately, i\b"
    r"|抱歉|对不起|很遗憾|我无法|je suis désolé|lo siento|es tut mir leid)",
    re.IGNORECASE,
)
_OPENER = re.compile(
    r"\A(?:(?:sure|certainly|of course|absolutely|okay|ok|great|understood)\b|here(?:['’]s| is| are)\b|below is\b)"
    r"(?:[^\n]*:|(?:[^\s]*[ \t]+){0,12}[^\s]*)[ \t]*\n+",
    re.IGNORECASE,
)
_CLOSER = re.compile(
    r"\n\s*\n(?:\W*(?:i hope (?:this|that|it)|let me know|feel free|would you like|enjoy|please let me"
    r"|if you(?:['’]d| would) like"
    r"|this (?:problem|question) (?:requires|integrates|combines|tests|involves|is designed))\b[^\n]*\s*)\Z",
    re.IGNORECASE,
)
_FENCE = re.compile(r"\A\s*(`{3,}|~{3,})[^\n`]*\n(.*?)\n?\s*\1\s*\Z", re.DOTALL)
_RULE = re.compile(r"\A(?:\s*(?:-{3,}|\*{3,}|_{3,})\s*(?:\n|\Z))+|(?:\n\s*(?:-{3,}|\*{3,}|_{3,}))+\s*\Z")

# A mark: <rationale>, </ problem >, [PROBLEM], <!-- END RATIONALE -->, as they are or escaped, bold or ticked.
_MARK = re.compile(
    r"(?P<around>\*\*|`|)(?:(?:\\?<|&lt;)\s*(?P<close>/?)\s*(?P<angle>rationale|problem)(?:_statement)?\b[^<>\n]{0,80}?(?:\\?>|&gt;)"
    r"|\[(?P<close2>/?)(?P<square>rationale|problem)\]"
    r"|(?:<|&lt;)!?-{1,3}\s*(?P<word>begin|end)\s+(?P<comment>rationale|problem)\s*-{1,3}(?:>|&gt;):?)(?P=around)",
    re.IGNORECASE,
)
_NAMES = {
    RATIONALE: (
        r"rationale|thinking process|thought process|train of thought|reasoning|justification|design process"
        r"|设计思路|思路|理由|begründung|gedankengang|justificación|razonamiento"
    ),
    PROBLEM: r"problem|problem statement|question|task|题目|问题|aufgabe|problème|problema|enunciado",
}
_ANSWERS = r"answer|solution|final answer|correct answer|reference answer|答案|解答|lösung|réponse|solución|respuesta"
_NUMBER = r"(?:[^\w\s*#`<>|:$\\\[\](){}.,-]{1,2}[ \t]*)?(?:(?:\d{1,2}|[A-D])[.)][ \t]*)?"
_WORDS = r"(?:(?:the|final|new|proposed|design|complete)[ \t]+)*"


def _label(names: str, count: str = r"(?:[ \t]+\d+)?") -> re.Pattern[str]:
    """A line that begins with one of these names as a label: with a colon; or as a heading, bold or lettered, alone."""
    name = rf"{_NUMBER}{_WORDS}(?:{names}){count}[ \t]*(?:\([^()\n]{{0,40}}\)[ \t]*)?"
    colon = (
        rf"[ \t]*(?:#{{1,6}}[ \t]*)?{_NUMBER}(?P<bold>\*\*|__)?[ \t]*{name}"
        r"(?(bold)(?:[:：][ \t]*(?P=bold)|(?P=bold)[ \t]*[:：])|[:：])[ \t]*\|?"
    )
    bold = rf"(?:\*\*|__)[ \t]*{name}(?:\*\*|__)"
    alone = rf"[ \t]*(?:#{{1,6}}[ \t]+(?:{bold}|{name})|{bold}|[A-D][.)][ \t]+(?:{names}))[ \t]*$"
    return re.compile(rf"^(?:{colon}|{alone})", re.IGNORECASE | re.MULTILINE)


_LABELS = {kind: _label(names) for kind, names in _NAMES.items()}
_ANSWER = _label(_ANSWERS, count="")  # "Solution 1: 0.5 M NaCl" is what a problem is about
_ANSWER_TAG = re.compile(r"^\s*<(?:answer|solution)>|^#{4}[ \t]+\S{1,40}[ \t]*\Z", re.IGNORECASE | re.MULTILINE)
_FORM_AGAIN = re.compile(
    r"\A(?:\.{3}|…|\[[^\[\]\n]*\]|\{[^{}\n]*\}|<[^<>\n]*>"
    r"|how the problem is designed|the problem, complete in itself)\Z"
)


def read_answer(reply: str) -> str | Rejected:
    """What of a reply stands after a thought, without special tokens, openers and a fence around all of it."""
    parts = split(reply)
    if parts.closed is False:
        return Rejected("the thought was never closed")
    text = _SPECIAL_ENDS.sub("", parts.answer.replace("\r\n", "\n")).strip()
    if parts.closed and not text:
        return Rejected("nothing after the thought")
    lines = text.split("\n")
    if len(lines) > 1 and all(line.startswith(">") for line in lines if line.strip()):
        text = "\n".join(line.removeprefix(">").removeprefix(" ") for line in lines)
    return text


def trim(text: str) -> str:
    """A text less rules and a fence around all of it."""
    text = _RULE.sub("", text.strip()).strip()
    fence = _FENCE.match(text)
    return _RULE.sub("", fence[2] if fence else text).strip()


def trim_chat(text: str) -> str:
    """A whole reply less what opens and closes a chat, too: within a section such lines are the model's own."""
    return trim(_CLOSER.sub("", _OPENER.sub("", trim(text))))


def is_refusal(text: str) -> bool:
    """Whether a reply begins as refusals do."""
    return _REFUSAL.match(text[:400]) is not None


def read_pair(reply: str, form: Format | None = None) -> tuple[str, str] | Rejected:
    """(rationale, problem) of a reply, in `form`'s markup, in any known one, in JSON, or under labels."""
    text = read_answer(reply)
    if isinstance(text, Rejected):
        return text
    own = (form or load_format()).pattern.findall(text)
    if len(own) == 1 and not _MARK.search(text):  # a user's own markup: none of those that are looked for below
        found = (form or load_format()).pattern.search(text)
        assert found is not None
        return _settle([found[RATIONALE]], [found[PROBLEM]])
    if _MARK.search(text):
        return _read_marks(text)
    objects = [_fields(each) for each in find_objects(text, _NAMES[PROBLEM])]
    if objects:
        return _settle([r for r, _ in objects], [p for _, p in objects])
    labelled = _read_labels(trim_chat(text))
    if labelled is not None:
        return labelled
    return Rejected("refused") if is_refusal(text) else Rejected(NO_MARKUP, reparable=True)


def _read_marks(text: str) -> tuple[str, str] | Rejected:
    sections: dict[str, list[str]] = {RATIONALE: [], PROBLEM: []}
    for kind, section, is_closed in iter_sections(text):
        if kind == PROBLEM and not is_closed:
            return Rejected("the problem is not closed", reparable=True)
        sections[kind].append(section)
    before = text[: next(_MARK.finditer(text)).start()]
    return _settle(sections[RATIONALE] or _thinking_aloud(before), sections[PROBLEM])


def _thinking_aloud(before: str) -> list[str]:
    """What stands before a problem is its rationale, if nothing is marked as one and it is more than an opener."""
    before = trim_chat(before)
    return [before] if len(before.encode("utf-8", "replace")) >= LEAST_THOUGHT else []


def iter_sections(text: str) -> Iterator[tuple[str, str, bool]]:
    """(rationale or problem, what stands in it, whether anything ends it) of a text with marks.

    A section ends at its closing mark or, where that is missing, at the next opening one. A closing mark of nothing
    open closes what stands before it.
    """
    is_escaped = "&lt;" in text
    kind, start, last = "", 0, 0
    for mark in _MARK.finditer(text):
        name = (mark["angle"] or mark["square"] or mark["comment"]).lower()
        closes = bool(mark["close"] or mark["close2"] or (mark["word"] or "").lower() == "end")
        if kind or (closes and text[last : mark.start()].strip()):
            body = text[start if kind else last : mark.start()]
            yield kind or name, _unescape(body) if is_escaped else body, True
        kind, start, last = ("" if closes else name), mark.end(), mark.end()
    if kind:
        yield kind, text[start:], False


def _unescape(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")


def _read_labels(text: str) -> tuple[str, str] | Rejected | None:
    """Sections under `**Rationale:**` and `### Problem`; None where there is neither label."""
    marks = sorted((m.start(), m.end(), kind) for kind in (RATIONALE, PROBLEM) for m in _LABELS[kind].finditer(text))
    if not marks:
        return None
    sections: dict[str, list[str]] = {RATIONALE: [], PROBLEM: []}
    for (_, start, kind), (end, *_) in zip(marks, [*marks[1:], (len(text), 0, "")], strict=True):
        sections[kind].append(text[start:end])
    return _settle(sections[RATIONALE] or _thinking_aloud(text[: marks[0][0]]), sections[PROBLEM])


def _fields(found: dict[str, Any]) -> tuple[str, str]:
    values = {str(key).lower().replace("_", " "): value for key, value in found.items()}

    def text(kind: str) -> str:
        value = next((values[key] for key in values if re.fullmatch(_NAMES[kind], key)), "")
        return value if isinstance(value, str) else ""

    return text(RATIONALE), text(PROBLEM)


def _settle(rationales: list[str], problems: list[str]) -> tuple[str, str] | Rejected:
    """The one rationale and the one problem; said twice alike they are one."""
    found = {
        RATIONALE: list(dict.fromkeys(filter(None, map(clean_rationale, rationales)))),
        PROBLEM: list(dict.fromkeys(filter(None, map(clean_problem, problems)))),
    }
    for kind in (PROBLEM, RATIONALE):
        if len(found[kind]) > 1:
            return Rejected(f"more than one {kind}", reparable=True)
    for kind in (RATIONALE, PROBLEM):
        if not found[kind]:
            return Rejected(f"no {kind}", reparable=True)
    (rationale,), (problem,) = found[RATIONALE], found[PROBLEM]
    if _FORM_AGAIN.match(rationale) or _FORM_AGAIN.match(problem):
        return Rejected("repeats the form", reparable=True)
    return rationale, problem


def clean_rationale(text: str) -> str:
    """A rationale less a label of its own, rules and a fence around it."""
    return trim(_drop_label(trim(text), RATIONALE))


def clean_problem(text: str) -> str:
    """A problem less a label of its own, rules, a fence around it, and an answer or solution after it.

    Nothing is cut where the problem goes on and asks behind it, or runs on into the label ("Give the answer as"): less
    a part it would be another problem.
    """
    text = _drop_label(trim(text), PROBLEM)
    text = text.split("<think>", 1)[0]  # some go on thinking about what they have just stated
    labels = (
        next((each for each in _ANSWER.finditer(text) if not is_answers_form(text, each)), None),
        _ANSWER_TAG.search(text),
    )
    ends = [found for found in labels if found]
    end = min(ends, key=re.Match.start, default=None)
    goes_on = end is not None and ends_in_request(_CLOSER.sub("", text[end.end() :]))
    return trim(text if end is None or goes_on else text[: end.start()])


def _drop_label(text: str, kind: str) -> str:
    label = _LABELS[kind].match(text)
    return text[label.end() :] if label else text


def read_rationale(reply: str) -> str | Rejected:
    """A reply that is all rationale, or holds it under a mark, a label or a key."""
    text = read_answer(reply)
    if isinstance(text, Rejected):
        return text
    if _MARK.search(text):
        return _read_marked_rationale(text)
    for found in find_objects(text, RATIONALE):
        if isinstance(found.get(RATIONALE), str):
            return clean_rationale(found[RATIONALE])
    label = _LABELS[RATIONALE].search(text)
    text = clean_rationale(trim_chat(text[label.end() :] if label else text))
    return Rejected("refused") if is_refusal(text) else text


def _read_marked_rationale(text: str) -> str | Rejected:
    sections = list(iter_sections(text))
    if any(kind == RATIONALE and not is_closed and section.strip() for kind, section, is_closed in sections):
        return Rejected("the rationale is not closed", reparable=True)
    found = [clean_rationale(section) for kind, section, is_closed in sections if kind == RATIONALE and is_closed]
    if len(found) != 1 or sections[0][0] != RATIONALE:
        return Rejected("holds markup", reparable=True)
    return found[0]
