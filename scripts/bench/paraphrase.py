"""Benchmark problems as they turn up in training data: copied, respelled, reworded a little; and clean look-alikes."""

import html
import json
import random
import re
from collections.abc import Callable

CONFUSABLES = dict(zip("aceopxyiABCEHKMOPTX", "асеорхуіАВСЕНКМОРТХ", strict=True))
ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
FILLERS = (
    "value", "quantity", "object", "figure", "result", "given", "clearly", "several", "certain", "specific", "simple",
    "final", "another", "general", "measure", "during", "careful", "element", "formal", "direct", "exactly", "whole",
    "proper", "total", "example",
)  # fmt: skip


THOUGHTS = (
    "Hmm, let me see what that means.", "So that is a condition to keep in mind.", "Right, I wrote this down.",
    "Wait, careful here.", "That tells me something about how it is built.", "Let me name it before I go on.",
    "Maybe an invariant helps with this later on.",
)  # fmt: skip
READ_OUT = (
    (r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r" the fraction \1 over \2 "),
    (r"\\sqrt\s*\{([^{}]*)\}", r" the square root of \1 "),
    (r"\\(?:text|mathrm|mathbb|mathbf|operatorname)\s*\{([^{}]*)\}", r"\1"),
    (r"\^\s*(?:2(?!\d)|\{2\})", " squared "), (r"\^\s*(?:3(?!\d)|\{3\})", " cubed "),
    (r"\^\s*(?:\{([^{}]*)\}|(\w))", r" to the power of \1\2 "), (r"_\s*(?:\{([^{}]*)\}|(\w))", r" sub \1\2 "),
    (r"\\leq?(?![a-z])", " is less than or equal to "), (r"\\geq?(?![a-z])", " is greater than or equal to "),
    (r"<", " is less than "), (r">", " is greater than "), (r"=", " equals "), (r"\+", " plus "), (r"-", " minus "),
    (r"\\(?:cdot|times)(?![a-z])", " times "), (r"\\c?l?dots(?![a-z])", " and so on up to "),
)  # fmt: skip


def in_words(number: int) -> str:
    """A number below a million, in English."""
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10] + (f"-{ONES[number % 10]}" if number % 10 else "")
    if number < 1000:
        rest = f" and {in_words(number % 100)}" if number % 100 else ""
        return f"{ONES[number // 100]} hundred{rest}"
    rest = f" {in_words(number % 1000)}" if number % 1000 else ""
    return f"{in_words(number // 1000)} thousand{rest}"


def verbatim(text: str, rng: random.Random) -> str:
    return text


def in_other_case(text: str, rng: random.Random) -> str:
    return re.sub(r"\s+", lambda _: rng.choice([" ", "  ", "\n"]), text.upper() if rng.random() < 0.5 else text.lower())


def latex_respelled(text: str, rng: random.Random) -> str:
    """Other commands and spacing for the same formulas."""
    swaps = (
        ("\\frac", "\\dfrac"), ("\\leq", "\\le"), ("\\geq", "\\ge"), ("\\ldots", "\\dots"), ("\\left", ""),
        ("\\right", ""), ("\\times", "\\cdot "), ("\\neq", "\\ne"), ("$$", "$"), ("\\mathrm", "\\text"),
    )  # fmt: skip
    for old, new in swaps:
        if rng.random() < 0.8:
            text = re.sub(re.escape(old) + r"(?![a-z])", new.replace("\\", r"\\"), text)
    text = re.sub(r"([_^])(\w)(?!\w)", r"\1{\2}", text)
    text = re.sub(
        r"\$([^$]+)\$", lambda match: f"\\( {match.group(1)} \\)" if rng.random() < 0.5 else match.group(), text
    )
    return text.replace(" + ", "\\, + \\,")


def plain_maths(text: str, rng: random.Random) -> str:
    """Formulas as one types them without LaTeX."""
    text = re.sub(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"(\1)/(\2)", text)
    text = re.sub(r"\\sqrt\s*\{([^{}]*)\}", r"sqrt(\1)", text)
    for old, new in (
        ("\\leq", "<="), ("\\le", "<="), ("\\geq", ">="), ("\\ge", ">="), ("\\neq", "!="), ("\\cdot", "*"),
        ("\\times", "*"), ("\\ldots", "..."), ("\\dots", "..."), ("\\cdots", "..."), ("\\infty", "infinity"),
        ("\\pi", "pi"), ("\\circ", "deg"), ("\\alpha", "alpha"), ("\\theta", "theta"), ("\\in", "in"), ("\\quad", " "),
        ("\\left", ""), ("\\right", ""),
    ):  # fmt: skip
        text = re.sub(re.escape(old) + r"(?![a-zA-Z])", new.replace("\\", r"\\"), text)
    text = re.sub(r"\\(?:text|mathrm|mathbb|mathbf|operatorname|textbf)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\([a-zA-Z]+)", r"\1", text)
    return re.sub(r"[${}]|\\[,;!\[\]()]", "", text)


def numerals_in_words(text: str, rng: random.Random) -> str:
    return re.sub(r"(?<![\d.,_^{\\])\b\d{1,6}\b(?![\d.,}])", lambda match: in_words(int(match.group())), text)


def look_alikes(text: str, rng: random.Random) -> str:
    share = rng.uniform(0.2, 1.0)
    return "".join(CONFUSABLES[c] if c in CONFUSABLES and rng.random() < share else c for c in text)


def change_every(step: int) -> Callable[[str, random.Random], str]:
    """Every so many words, starting anywhere, one is another."""

    def change(text: str, rng: random.Random) -> str:
        pieces = re.split(r"(\s+)", text)
        words = [at for at, piece in enumerate(pieces) if piece.strip()]
        for at in words[rng.randrange(step) :: step]:
            pieces[at] = rng.choice(FILLERS)
        return "".join(pieces)

    return change


def rename_variables(text: str, rng: random.Random) -> str:
    """Single letters that stand alone become other letters, each always the same."""
    letters = list("abcdefghjklmnpqrstuvwxyzABCDEFGHJKLMNOPQRSTUVWXYZ")
    others = letters.copy()
    rng.shuffle(others)
    names = dict(zip(letters, others, strict=True))
    names["a"] = "a"  # an article more often than a variable
    return re.sub(r"(?<![a-zA-Z\\])[b-hj-np-zA-HJ-Z](?![a-zA-Z])", lambda match: names[match.group()], text)


def as_html(text: str, rng: random.Random) -> str:
    """As pages have it: tags around paragraphs and some words, signs as entities."""
    words = html.escape(text).replace("\n\n", "</p><p>").replace("\n", "<br/>").split(" ")
    return "<p>" + " ".join(f"<b>{word}</b>" if rng.random() < 0.1 else word for word in words) + "</p>"


def hidden_marks(text: str, rng: random.Random) -> str:
    """Joiners, soft hyphens and accents that a reader hardly sees."""
    marks = ["\u200b", "\u00ad", "\u2060", "\u0301", "\u0308"]
    return "".join(c + rng.choice(marks) if c.isalpha() and rng.random() < 0.3 else c for c in text)


def rename_points(text: str, rng: random.Random) -> str:
    """In formulas every capital letter becomes another, names such as ABC too."""
    letters = list("ABCDEFGHJKLMNOPQRSTUVWXYZ")
    names = dict(zip(letters, rng.sample(letters, len(letters)), strict=True))

    def rename(found: re.Match[str]) -> str:
        return re.sub(
            r"(?<![A-Za-z\\])[A-Z]{1,6}(?![a-z])", lambda name: "".join(names.get(c, c) for c in name[0]), found[0]
        )

    return re.sub(r"\$[^$]+\$", rename, text)


def without_samples(text: str, rng: random.Random) -> str:
    """The statement of a programming problem in another frame, without sample inputs and outputs."""
    statement = re.split(r"\n\s*(?:Sample Input|Example 1)", text)[0].partition("Question: ")
    return f"Solve in Python:\n\n{statement[2] or statement[0]}"


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.?!])\s+", text)


def in_another_order(text: str, rng: random.Random) -> str:
    """The sentences shuffled."""
    parts = _sentences(text)
    return " ".join(rng.sample(parts, len(parts)))


def with_thoughts(text: str, rng: random.Random) -> str:
    """As models restate a problem: a sentence, what they think of it, the next sentence."""
    return "\n".join(f"{part}\n{' '.join(rng.sample(THOUGHTS, 2))}" for part in _sentences(text))


def _read(formula: re.Match[str]) -> str:
    text = formula[0]
    for _ in range(3):  # as deep as formulas are nested
        for form, said in READ_OUT:
            text = re.sub(form, said, text)
    return re.sub(r"[{}$\\]|\\left|\\right", "", text)


def read_out(text: str, rng: random.Random) -> str:
    """Formulas as one reads them to somebody who cannot see them."""
    return re.sub(r"\$[^$]+\$|\\\[.+?\\\]", _read, text, flags=re.DOTALL)


def carried(text: str, rng: random.Random) -> str:
    """In what carries text from one place to another: a table, a quotation, a numbered listing, JSON."""
    lines = [line for part in _sentences(text) for line in part.split("\n")]
    return rng.choice([
        "| no | text |\n|---|---|\n" + "\n".join(f"| {at} | {line} |" for at, line in enumerate(lines, start=1)),
        "> " + "\n> ".join(lines),
        "\n".join(f"{at:3d}  {line}" for at, line in enumerate(text.split("\n"), start=1)),
        json.dumps({"id": rng.randrange(10**6), "problem": text}),
    ])  # fmt: skip


def cut_off(text: str, rng: random.Random) -> str:
    """Without the last fifth of its words."""
    words = text.split(" ")
    return " ".join(words[: len(words) - len(words) // 5])


def embedded(text: str, rng: random.Random) -> str:
    before = rng.choice(["Solve this for me. ", "Here is my homework:\n\n", "Problem 12. ", "Please help! Question: "])
    return before + text + rng.choice(["\n\nShow your work.", " Thanks!", "\nAnswer:", ""])


def other_digits(text: str, rng: random.Random) -> str:
    zero = ord(rng.choice("\u0660\u06f0\u0966\u09e6\u0e50"))  # Arabic (two), Devanagari, Bengali, Thai
    return re.sub(r"[0-9]", lambda digit: chr(zero + int(digit[0])), text)


def styled_html(text: str, rng: random.Random) -> str:
    """A page's markup, with classes and styles."""
    sentences = "".join(f'<p style="margin: 0">{html.escape(one)}</p>' for one in re.split(r"(?<=[.?])\s+", text))
    return f'<div id="q{rng.randint(1, 99)}" class="problem-statement">{sentences}</div><br/><a href="/7">Source</a>'


def first_half(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    return " ".join(words[: (len(words) + 1) // 2])


def formulas_out(text: str, rng: random.Random) -> str:
    return re.sub(r"\\\[.*?\\\]|\$\$.*?\$\$|\$[^$]*\$", " ", text, flags=re.DOTALL)


KINDS: dict[str, Callable[[str, random.Random], str]] = {
    "verbatim": verbatim, "other case": in_other_case, "embedded": embedded, "LaTeX respelled": latex_respelled,
    "plain-text maths": plain_maths, "numerals in words": numerals_in_words, "look-alikes": look_alikes,
    "every 12th word": change_every(12), "every 8th word": change_every(8), "renamed variables": rename_variables,
    "renamed points": rename_points, "HTML": as_html, "hidden marks": hidden_marks, "without samples": without_samples,
    "another order": in_another_order, "with thoughts": with_thoughts, "read out": read_out, "carried": carried,
    "cut off": cut_off, "other digits": other_digits, "HTML, styled": styled_html, "first half": first_half,
    "formulas out": formulas_out,
}  # fmt: skip
REQUIRED = dict.fromkeys(KINDS, 0.95) | {
    "every 12th word": 0.85,
    "renamed variables": 0.85,
    "renamed points": 0.85,
    "every 8th word": 0.7,
    "cut off": 0.85,
    "first half": 0.55,  # of a short one it tells nothing,
    "formulas out": 0.55,  # nor does what was all formula
}

TEMPLATES = (
    "What is the remainder when {a} is divided by {b}?",
    "Find the greatest common divisor of {a} and {b}.",
    "How many positive divisors does {a} have?",
    "What is the sum of the first {a} positive integers?",
    "A rectangle has length {a} and width {b}. What is its area?",
    "Compute $\\binom{{{b}}}{{{c}}}$.",
    "Solve for $x$: ${c}x + {b} = {a}$.",
    "What is the smallest positive multiple of {a} greater than {b}?",
    "Evaluate $\\log_{c} {a}$.",
    "Convert the point $({a},{b})$ in rectangular coordinates to polar coordinates.",
    "What is {c} percent of {a}?",
    "Let $f(x) = {c}x^2 - {b}x + {a}$. Find $f({c})$.",
    "If $x + y = {a}$ and $xy = {b}$, what is $x^2 + y^2$?",
    "How many integers are there between {b} and {a}, inclusive?",
    "The mean of {c} numbers is {b}. What is their sum?",
    "Two fair {b}-sided dice are rolled. What is the probability that the sum is {c}?",
    "A train travels {a} miles in {c} hours. What is its average speed in miles per hour?",
    "You are given an integer array nums of length {a}. Return the maximum sum of a subarray of length {c}. Since the "
    "answer may be very large, return it modulo 10^9 + 7.",
    "The input is given from Standard Input in the following format: N A_1 A_2 ... A_N. Print the number of elements "
    "greater than {b}.",
    "Find all real numbers $x$ such that $x^2 - {b}x + {c} = 0$.",
)


def make_template(rng: random.Random) -> str:
    """A question as synthetic sets have thousands of: a template with its own numbers."""
    return rng.choice(TEMPLATES).format(a=rng.randint(50, 999), b=rng.randint(11, 49), c=rng.randint(2, 10))
