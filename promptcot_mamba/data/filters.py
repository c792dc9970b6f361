"""Which canonical rows are fit to learn from: each refusal has one name, under which it is counted.

The checks are ordered from cheap and certain to costly; the first that fails names the row. Length in tokens,
duplicates and contamination are checked elsewhere, where what they need is at hand.
"""

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from rapidfuzz.distance import Postfix, Prefix

from promptcot_mamba.chat_format import THINK_END, THINK_START
from promptcot_mamba.data.canonical import CanonicalRow
from promptcot_mamba.data.messages import has_no_question
from promptcot_mamba.grading.math.answers import extract_boxed

REASONS = {
    "no_prompt": "the question is empty or could not be joined",
    "no_completion": "the answer side is empty",
    "not_one_exchange": "the conversation is not one question and one answer",
    "turn_order": "the conversation's turns do not go user, assistant, user, ...",
    "unknown_role": "a turn of a role that is no system's, user's or assistant's",
    "not_text": "a turn holds images or other things than text",
    "rejected_answer": "its `label` says that people do not want this answer (unpaired preferences)",
    "other_mode": "not a chain of thought: calls tools, or chooses among answers",
    "other_domain": "not of the domains that the recipe asks of this source",
    "unreadable": "the line is not JSON (only with bad_rows: drop)",
    "chat_markers": "markup of chat turns inside the question or the completion",
    "control_text": "spells control tokens of the tokenizer (only with --control_text drop)",
    "think_pair": "not exactly one `<think>` ... `</think>`, in order, at the start",
    "empty_thought": "nothing between `<think>` and `</think>`",
    "unfinished": "cut: finish_reason is not stop, or a fence or `\\boxed{` is left open",
    "empty_answer": "nothing after `</think>`",
    "no_boxed_answer": "maths without `\\boxed{...}` after the thought",
    "no_program": "code without a fenced program after the thought",
    "encoding": "undecoded bytes: U+FFFD, lone surrogates, control characters or text decoded twice",
    "language": "mostly letters of another script",
    "repetition_loop": "a stretch repeats itself many times on end, or says a few phrases over and over",
    "gold_mismatch": "the boxed answer differs from the reference",
    "contaminated": "holds a benchmark problem, in its prompt or in its answer",
    "too_short": "fewer tokens than min_tokens",
    "too_long": "more tokens than max_tokens",
    "exact_duplicate": "the same prompt and completion as an earlier row, but for case, line ends and spaces",
    "near_duplicate": "the prompt nearly equals that of an earlier row",
    "too_many_answers": "max_answers_per_prompt answers to this prompt came earlier",
    "not_selected": "left out by the mixture's weights or counts",
}

# Turns of a chat that was not taken apart, or was cut at the wrong place.
CHAT_MARKERS = (
    "<|im_start|>", "<|im_end|>", "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<|endoftext|>", "<|eot_id|>",
    "<|start_header_id|>", "<|end_header_id|>", "[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>",
)  # fmt: skip
_BAD_CHARACTERS = re.compile("[\ufffd\ud800-\udfff\x00-\x08\x0b\x0e-\x1f]")
# UTF-8 read as Latin-1 or Windows-1252: accented letters and typographic quotes become these pairs.
_DECODED_TWICE = re.compile("\u00c3[\u0080-\u00bf\u2018-\u201e]|\u00e2[\u20ac\u0080\u02c6]|\u00c2[\u0080-\u00bf]")
MAX_DECODED_TWICE = 3  # one may be a quotation about it
_LETTER = re.compile(r"[^\W\d_]")
_LATIN_OR_GREEK = re.compile("[A-Za-z\u00aa-\u024f\u0370-\u03ff\u1d00-\u1fff\u2100-\u214f\U0001d400-\U0001d7ff]")
MAX_FOREIGN_SHARE = 0.3  # of the letters

# A loop is a unit of at most LOOP_PERIOD characters standing LOOP_REPEATS times or more on end, over LOOP_SPAN or more.
LOOP_PERIOD = 1024
LOOP_REPEATS = 8
LOOP_SPAN = 512
FEW_SPAN = 3072  # bytes looked at at a time for a few phrases in random order...
FEW_SHARE = 0.13  # ...and what they compress to
_FENCE = re.compile(r" {0,3}(?P<ticks>`{3,})(?P<info>[^`]*)$")
_PROBE = 32
_STRIDE = 256


def has_bad_encoding(text: str) -> bool:
    is_twice = not text.isascii() and len(_DECODED_TWICE.findall(text)) >= MAX_DECODED_TWICE
    return is_twice or bool(_BAD_CHARACTERS.search(text))


def is_foreign(text: str) -> bool:
    """Whether more than MAX_FOREIGN_SHARE of the letters are neither Latin nor Greek (mathematics writes both)."""
    outside = len(text) - len(text.encode("ascii", "ignore"))
    if outside <= 0.1 * len(text):
        return False
    letters = _LETTER.findall(text)
    foreign = sum(1 for letter in letters if not _LATIN_OR_GREEK.match(letter))
    return foreign > MAX_FOREIGN_SHARE * len(letters)


def has_loop(text: str) -> bool:
    """Whether some stretch repeats itself exactly, LOOP_REPEATS times on end over at least LOOP_SPAN characters.

    A probe every _STRIDE characters looks for its own next occurrence, whose distance is the period to verify;
    _STRIDE + _PROBE < LOOP_SPAN, so no loop lies between two probes.
    """
    for start in range(0, len(text) - LOOP_SPAN + _STRIDE + 1, _STRIDE):
        probe = text[start : start + _PROBE]
        again = text.find(probe, start + 1, start + LOOP_PERIOD + _PROBE)
        if again < 0:
            continue
        period = again - start
        unit = text[start:again]
        begin, end = start, again
        while text.startswith(unit, end):
            end += period
        while begin >= period and text.startswith(unit, begin - period):
            begin -= period
        end += Prefix.similarity(text[end : end + period], unit)
        begin -= Postfix.similarity(text[max(0, begin - period) : begin], unit)
        if end - begin >= max(LOOP_SPAN, LOOP_REPEATS * period):
            return True
    return False


def has_few_phrases(text: str) -> bool:
    """Whether some stretch says a few phrases over and over, in whatever order: it compresses to next to nothing.

    Level 1 brings four phrases in random order to 7 to 12 per cent, lists of counted-up trials to 18 or more.
    """
    for start in range(0, max(1, len(text) - FEW_SPAN // 2), FEW_SPAN // 2):
        stretch = text[start : start + FEW_SPAN].encode("utf-8", "surrogatepass")
        if len(stretch) >= FEW_SPAN // 2 and len(zlib.compress(stretch, 1)) < FEW_SHARE * len(stretch):
            return True
    return False


def read_fences(answer: str) -> tuple[list[str], bool]:
    """`(programs, open)`: what stands in fences, and whether the last one never closes.

    A fence is a line of its own; one that a program prints is not. A bare fence at the very end closes whatever it
    stands under: text that was cut ends in the middle of something.
    """
    programs: list[str] = []
    held: list[str] | None = None
    width = 0
    lines = answer.rstrip().split("\n")
    for number, line in enumerate(lines):
        found = _FENCE.match(line)
        if found is None or (held is not None and (found["info"].strip() or len(found["ticks"]) < width)):
            if held is not None:
                held.append(line)
        elif held is None:
            if not found["info"].strip() and number == len(lines) - 1 and programs:
                return programs, False
            held, width = [], len(found["ticks"])
        else:
            programs.append("\n".join(held))
            held = None
    return programs, held is not None


def is_cut(answer: str, finish_reason: str | None) -> bool:
    r"""Whether the answer stops in the middle: told so, or an open fence, or a `\boxed{` that never closes."""
    if finish_reason not in (None, "stop", "eos", "end_turn"):
        return True
    if read_fences(answer)[1]:
        return True
    last = answer.rfind("\\boxed{")
    return last >= 0 and answer.count("{", last) > answer.count("}", last)


@dataclass(frozen=True)
class FilterRules:
    """What is asked of every row of one source."""

    require_answer: bool = True  # a boxed answer (math) or a fenced program (code)
    check_language: bool = True
    check_gold: bool = False  # compare with the reference answer, where a row has one
    require_thought: bool | None = None  # None: of all rows but a conversation's
    control_text: str = "auto"  # keep: markup of chat turns in a row is text like any other


def may_lack_thought(row: CanonicalRow, rules: FilterRules) -> bool:
    """Whether a row without any thought is fit: it is trained under an empty one."""
    return not rules.require_thought if rules.require_thought is not None else row.from_turns


def explain_fault(row: CanonicalRow, fault: str) -> str:
    """What a recipe would say to keep a row that was left out for the way its source writes; "" where nothing helps."""
    opens, closes = THINK_START in row.completion, row.completion.count(THINK_END)
    if fault == "think_pair" and not opens:
        if not closes:
            return "has no thought (require_thought: false trains it under an empty one)"
        if closes == 1:
            return "never opens its thought (thought_opened: true if the teacher's template did)"
    if fault == "chat_markers":
        return "holds markup of chat turns (--control_text keep takes it for text)"
    return ""


def find_fault(row: CanonicalRow, rules: FilterRules, agrees: Callable[[str, str], bool] | None = None) -> str | None:
    """The reason to leave a row out, None if there is none.

    `agrees(gold, answer)` compares answers where `rules.check_gold`; rows without a reference pass.
    """
    completion = row.completion
    if has_no_question(row.prompt):
        return "no_prompt"
    if rules.control_text != "keep" and has_chat_markers(row):
        return "chat_markers"
    if THINK_START not in completion and THINK_END not in completion and may_lack_thought(row, rules):
        answer = completion
    else:
        fault, answer = _take_apart(row, rules)
        if fault is not None:
            return fault
    return _answer_fault(row, answer, rules) or _text_fault(row, answer, rules, agrees)


def has_chat_markers(row: CanonicalRow) -> bool:
    return any(
        marker in text for text in (row.completion, row.prompt, *(turn.text for turn in row.history))
        for marker in CHAT_MARKERS
    )  # fmt: skip


def _take_apart(row: CanonicalRow, rules: FilterRules) -> tuple[str | None, str]:
    """`(fault, answer)`: what is wrong with the thought, or what stands after it."""
    completion = row.completion
    if completion.count(THINK_START) != 1 or not completion.startswith(THINK_START):
        return "think_pair", ""
    if completion.count(THINK_END) != 1:
        # A thought that was never closed was cut; two closings are a broken pair.
        cut = THINK_END not in completion and row.finish_reason == "length"
        return "unfinished" if cut else "think_pair", ""
    thought, _, answer = completion[len(THINK_START) :].partition(THINK_END)
    if not thought.strip() and not may_lack_thought(row, rules):  # Qwen3's way of having none
        return "empty_thought", ""
    return None, answer


def _answer_fault(row: CanonicalRow, answer: str, rules: FilterRules) -> str | None:
    if not answer.strip():
        return "empty_answer"
    if is_cut(answer, row.finish_reason):
        return "unfinished"
    if rules.require_answer and row.domain == "math" and extract_boxed(answer).answer is None:
        return "no_boxed_answer"
    if rules.require_answer and row.domain == "code" and not any(map(str.strip, read_fences(answer)[0])):
        return "no_program"  # no fence holds a line that is not blank
    return None


def _text_fault(
    row: CanonicalRow, answer: str, rules: FilterRules, agrees: Callable[[str, str], bool] | None
) -> str | None:
    completion = row.completion
    if has_bad_encoding(completion) or has_bad_encoding(row.prompt):
        return "encoding"
    if rules.check_language and (is_foreign(row.prompt) or is_foreign(completion)):
        return "language"
    if has_loop(completion) or has_few_phrases(completion):
        return "repetition_loop"
    if rules.check_gold and row.gold and agrees is not None and not agrees(row.gold, answer):
        return "gold_mismatch"
    return None
