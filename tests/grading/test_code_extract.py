"""Programs cut out of answers as models write them: fences in lists, quotes, sentences, and inside programs."""

from __future__ import annotations

import ast
import random
import time

import pytest

from promptcot_mamba.grading.code.extract import READER, Extracted, Wanted, extract_program, fenced_blocks

PROGRAM = "```python\nprint(1)\n```"
ENDLESS_SECONDS = 120  # a guard against quadratic work, which would take hours


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (f"<think>\nhm\n</think>\n{PROGRAM}", "print(1)\n"),
        (PROGRAM, "print(1)\n"),
        (f"<think>\n```python\nprint(0)\n```\n</think>\nSo:\n{PROGRAM}\nDone.", "print(1)\n"),
        ("</think>\n```python\nprint(0)\n```\nBetter:\n" + PROGRAM, "print(1)\n"),
        ("</think>\n" + PROGRAM + "\nOutput:\n```\n1\n```", "print(1)\n"),
        ("</think>\n```\nprint(1)\n```", "print(1)\n"),
        ("</think>\n```py\nprint(1)\r\n```\r\n", "print(1)\n"),
        ("</think>\n````python\nprint('''\n```\n''')\n````", "print('''\n```\n''')\n"),
        ("</think>\n~~~python\nprint(1)\n~~~", "print(1)\n"),
        ("</think>\n```python\nprint(1)\n```\n```bash\nrm x\n```", "print(1)\n"),
        ("</think>\n" + PROGRAM + "\n```python\nprint(2", "print(1)\n"),
    ],
)
def test_the_last_program_after_the_thought(completion, expected):
    assert extract_program(completion) == Extracted(expected)


@pytest.mark.parametrize(
    ("completion", "finish", "reason"),
    [
        (f"<think>\nstill {PROGRAM}", None, "truncated"),
        ("<think>\nx</think>\nno program", "stop", "no_code"),
        ("<think>\nx</think>\n```python\nprint(1", "length", "truncated"),
        ("<think>\nx</think>\n" + PROGRAM + "\nbetter:\n```python\nprint(", "length", "truncated"),
        ("<think>\nx</think>\n```python\nprint(1", "stop", "no_code"),
        ("<think>\nx</think>\n```python\n\n```", "stop", "no_code"),
        ("<think>\nx</think>\n```json\n{}\n```", "stop", "no_code"),
        ("", "stop", "no_code"),
    ],
)
def test_no_program_is_told_apart_from_an_unfinished_one(completion, finish, reason):
    assert extract_program(completion, finish) == Extracted(None, reason)


def livecodebench(answer: str) -> str:
    """What LiveCodeBench takes of an answer: all between the last two lines that hold backticks."""
    lines = answer.split("\n")
    marks = [place for place, line in enumerate(lines) if "```" in line]
    return "\n".join(lines[marks[-2] + 1 : marks[-1]]) if len(marks) >= 2 else ""


ONE = "print(1)"
AS_LIVECODEBENCH = [
    "Here is the code: ```python\nprint(1)\n```",
    "**Solution**:```python\nprint(1)\n```",
    "Use `x` and ``y``: ```py\nprint(1)\n```\n",
    *(
        f"```{info}\nprint(1)\n```"
        for info in (
            "python:main.py", "ipython3", "Python 3", "Python", "PYTHON3", "python3.11", " python ", "{.python .lines}",
            "python title=\"a.py\"", "main.py", "solution", "code", "text", "plaintext", "python,runnable", "pypy3", "",
            "Python (PyPy)", "sage", "python\t", "python3 # final",
        )
    ),
    "```\nprint(1)\n``` \nDone.",
    "```python\nprint(1)\n``` This prints 1.",
    "```python\nprint(1)\n```.",
    "```python\nprint(1)\n   ```",
    "```python\nprint(0)\n```\nNo:\n```\nprint(1)\n```",
    "```cpp\nint main() {}\n```\nIn Python:\n```python\nprint(1)\n```",
    "```python\nx = 1\n```\n\n```python\nprint(1)\n```\nThat is all.",
]  # fmt: skip


@pytest.mark.parametrize("answer", AS_LIVECODEBENCH)
def test_where_livecodebench_finds_the_program_so_do_we(answer):
    assert livecodebench(answer).strip() == ONE
    assert extract_program("<think>\nhm\n</think>\n" + answer) == Extracted(ONE + "\n")


LOOP = "for x in range(2):\n    print(x)"
FENCE_IN_TEXT = "print('''\n```\nx\n```\n''')"
BETTER = [
    ("1. Read.\n\n   ```python\n   for x in range(2):\n       print(x)\n   ```\n", LOOP),
    ("- so:\n  ```python\n  for x in range(2):\n      print(x)\n  ```", LOOP),
    ("- ```python\n  for x in range(2):\n      print(x)\n  ```", LOOP),
    ("1) Code: ```python\n    for x in range(2):\n        print(x)\n    ```", LOOP),
    ("\t```python\n\tfor x in range(2):\n\t    print(x)\n\t```", LOOP),
    ("> ```python\n> for x in range(2):\n>     print(x)\n> ```", LOOP),
    (">```python\n>for x in range(2):\n>    print(x)\n>```", LOOP),
    ("> > ```python\n> > for x in range(2):\n> >     print(x)\n> > ```", LOOP),
    ("> - ```python\n>   for x in range(2):\n>       print(x)\n>   ```", LOOP),
    ("```python\nprint(1)\n```\nIt prints\n```\n1\n```", ONE),
    ("```python\nprint(1)\n```\nIt prints\n```text\nYes\n```", ONE),
    ("```\nprint(1)\n```\nIt prints\n```\n[1, 2]\n```", ONE),
    ("~~~python\nprint(1)\n~~~", ONE),
    ("```python\nprint(1)\n```\nRun it: ```python main.py```.", ONE),
    ("```python\nprint(1)```", ONE),
    ("```python\nprint(1)\n```\nThat's it```", ONE),
    (f"```python\n{FENCE_IN_TEXT}\n```", FENCE_IN_TEXT),
    (f"Fine.\n```python\n{FENCE_IN_TEXT}\n```\nOutput:\n```\nx\n```", FENCE_IN_TEXT),
    ("```python\nprint('```')\nprint(\"```python\")\n```", "print('```')\nprint(\"```python\")"),
    ("```python\nx = 1  # ```\nprint(x)\n```", "x = 1  # ```\nprint(x)"),
    ("```python\nprint(0)\n```python\nprint(1)\n```", ONE),
    ("```python\nprint(1)\n```\n```json\n{}\n```", ONE),
    ("````python\nprint(1)\n````\n", ONE),
    ("```python\r\nprint(1)\r\n```\r\n", ONE),
    ("```python\nprint 1\n```", "print 1"),  # no Python 3, and still what the answer gives
]


@pytest.mark.parametrize(("answer", "program"), BETTER)
def test_where_livecodebench_would_lose_it(answer, program):
    assert extract_program(answer) == Extracted(program + "\n")


ECHO = "n = int(input())\nprint(n)"
METHOD = "class Solution:\n    def f(self, x):\n        return x"
FENCED_ECHO, FENCED_METHOD = f"```python\n{ECHO}\n```\n", f"```python\n{METHOD}\n```\n"
BEHIND = (  # what models add behind their program, which LiveCodeBench would take for it
    "```python\nprint(n)\n```",
    "```python\n# 3 -> 3\nassert max(1, 3) == 3\n```",
    "```\nTime: O(n)\nSpace: O(1)\n```",
    "```\nfor each x:\n    add(x)\n```",
    "```text\nanswer = max(a, b)\n```",
    "```python\ns = Solution()\nprint(s.f(3))\n```",
    "```python\ndef test():\n    assert max(3, 2) == 3\n\ntest()\n```",
    "```python\nn = int(input())\n```",
)


@pytest.mark.parametrize("behind", BEHIND)
def test_an_example_behind_the_program_is_not_the_program(behind):
    assert extract_program(f"{FENCED_ECHO}Note:\n{behind}", "stop").code == ECHO + "\n"
    assert extract_program(f"{FENCED_METHOD}Note:\n{behind}", "stop", Wanted("f")).code == METHOD + "\n"
    function = "f = lambda x: x"
    assert extract_program(f"```py\n{function}\n```\n{behind}", "stop", Wanted("f")).code == function + "\n"


@pytest.mark.parametrize(
    "final",
    [
        "import sys\nprint(sys.stdin.read())",
        "from sys import stdin as s\nprint(*s)",
        "import os\nprint(os.read(0, 9))",
        "print(open(0).read())",
        "import os\nos.write(1, os.read(0, 9))",
        "import sys\nout = sys.stdout.write\nout(input())",
        "import fileinput\nprint(*fileinput.input())",
        "for line in iter(input, ''):\n    print(line)",
        "read = input\nprint(read())",
        "exec('print(in' + 'put())')",
        "n = int(input()\nprint(n)",  # broken, and still the answer
    ],
)
def test_the_last_program_that_reads_is_the_answer(final):
    assert extract_program(f"{FENCED_ECHO}Better:\n```python\n{final}\n```", "stop").code == final + "\n"


def test_where_no_program_reads_the_last_is_the_answer():
    answer = "```python\nprint(1)\n```\nNo:\n```python\nprint(2)  # without input\n```"
    assert extract_program(answer, "stop").code == "print(2)  # without input\n"
    assert extract_program(answer, "stop", Wanted("f")).code == "print(2)  # without input\n"


def test_the_language_below_the_fence():
    assert extract_program(f"```\npython\n{ECHO}\n```", "stop").code == ECHO + "\n"
    assert extract_program(f"```python\nPython3\n{METHOD}\n```", "stop", Wanted("f")).code == METHOD + "\n"


@pytest.mark.parametrize("tick", ["```", "````"])
def test_an_answer_wrapped_in_markdown_is_opened(tick):
    answer = f"{tick}markdown\nHere it is.\n\n{FENCED_ECHO}{tick}\n"
    assert extract_program(answer, "stop").code == ECHO + "\n"


def test_a_program_that_is_indented_as_a_whole():
    indented = "\n".join("    " + line for line in METHOD.split("\n"))
    assert extract_program(f"```python\n{indented}\n```", "stop", Wanted("f")).code == METHOD + "\n"
    function = "    def double(x):\n        return 2 * x"
    for body, found in ((function, "def double(x):\n    return 2 * x"), ("    return 2 * x", "    return 2 * x")):
        assert extract_program(f"```python\n{body}\n```", "stop", WANTED).code == found + "\n"


@pytest.mark.parametrize(
    "answer", ["Use ```print(1)``` only.", "```cpp\nint main() { f(); }\n```", "```bash\nls\n```", "a ```"]
)
def test_what_is_no_program_is_none(answer):
    assert extract_program(answer, "stop") == Extracted(None, "no_code")


def test_code_only_in_the_thought_is_no_answer():
    assert extract_program(f"<think>\n{PROGRAM}\n</think>\nDone.", "stop") == Extracted(None, "no_code")


PROGRAMS = (  # what is wanted, and programs that are all of its kind
    (READER, ("import sys\n\ndef main():\n    n = int(input())\n    # read `n`\n    print(n)\n\nmain()",
              "n = int(input())\nprint('Yes' if n else 'No')", "import sys\nprint(sys.stdin.read())")),
    (READER, ("print(1)", "for x in range(9):\n    print(x)")),
    (Wanted("f"), ('class Solution:\n    def f(self, x):\n        """it\'s"""\n        return x',
                   "def f(x):\n    return 3")),
)  # fmt: skip
PROSE = (
    "Let me think.\n", "Here's it:\n", "\n", "The idea is to use `dp[i]`.\n\n", "### Solution\n",
    "1. Sort.\n2. Scan.\n", "> note\n", "$O(n)$ `a` ``b``\n", "It's O(n) - don't worry.\n", "---\n",
)  # fmt: skip
OPENINGS = (
    "```python\n",
    "```Python\n",
    "```\n",
    "``` python\n",
    "Answer: ```python\n",
    "```python:main.py\n",
    "```x\n",
)


def likely_answer(rng: random.Random) -> tuple[str, str, Wanted]:
    """Prose, perhaps a first program, more prose, and the last program; that program, and what it does."""
    wanted, programs = rng.choice(PROGRAMS)
    program = rng.choice(programs)
    first = rng.choice(OPENINGS) + rng.choice(programs) + "\n```\n" if rng.random() < 0.3 else ""
    parts = [*rng.choices(PROSE, k=rng.randrange(4)), first, *rng.choices(PROSE, k=rng.randrange(3))]
    closing = rng.choice(["```", "``` ", "```\n", "```\n\nDone, it's fine.\n"])
    return "".join(parts) + rng.choice(OPENINGS) + program + "\n" + closing, program, wanted


def test_likely_answers_give_what_livecodebench_takes():
    rng = random.Random(0)
    for _ in range(2000):
        answer, program, wanted = likely_answer(rng)
        assert livecodebench(answer) == program
        assert extract_program(answer, "stop", wanted).code == program + "\n", answer


def test_inputs_between_fences_stay_as_many():
    text = "```\n1 2\n```\n\n```\nit's\n```\n```input\n'''\n```\n```\n3\n```"
    assert [body for _, body in fenced_blocks(text)[0]] == ["1 2", "it's", "'''", "3"]


HEAD = 'from typing import List\n\n\ndef double(x: int) -> int:\n    """Twice x."""\n'
WANTED = Wanted("double", HEAD)


@pytest.mark.parametrize(
    "answer",
    [
        "def double(x):\n    return 2 * x",
        "Here you go:\n\ndef double(x):\n    return 2 * x\n\nThis doubles x.",
        "    return 2 * x",
        "    return 2 * x\n\nThe function doubles x.",
        "    y = x\n    return x + y\n\n\ndef main():\n    print(double(input()))",
        "import functools\n@functools.cache\ndef double(x):\n    return 2 * x\n\nprint(double(int(input())))",
        "def double(x):\n    return 2 * x\n\nassert double(2) == 5\nDone",
        "table = {}\nfor n in range(99):\n    table[n] = 2 * n\ndef double(x):\n    return table[x]",
        "double = lambda x: 2 * x",
        "```python\ndef double(x):\n    return 2 * x\n```\nExample:\n```python\nprint(double(int(input())))\n```",
        "```python\nreturn 2 * x\n```",
        "```python\ndef double(x):\n    return 2 * x",
        "Sure.\nNote\ndef double(x):\n    return 2 * x\nOK",
    ],
)
def test_a_wanted_function(answer):
    program = extract_program(answer, "stop", WANTED).code
    below = "" if "def double" in program or "double =" in program else HEAD + "    "
    names: dict = {}
    exec(compile(below + program, "program", "exec"), names)
    assert names["double"](21) == 42


@pytest.mark.parametrize("answer", ["", "I cannot.", "x = 3", "def other(x):\n    return 2 * x", "Sure\n\nx"])
def test_no_wanted_function(answer):
    assert extract_program(answer, "stop", WANTED) == Extracted(None, "no_code")
    assert extract_program(answer, "length", WANTED) == Extracted(None, "truncated")


def random_answer(rng: random.Random) -> str:
    pieces = (
        "```",
        "~~~",
        "`",
        "python",
        "\n",
        "\n",
        " ",
        "> ",
        "1. ",
        "- ",
        "x = 1",
        "'''",
        '"',
        "text",
        "(",
        "```python\n",
    )
    return "".join(rng.choice(pieces) for _ in range(rng.randrange(60)))


def test_any_text_ends_and_blocks_are_its_text():
    """Whatever lines come: no error, and no block holds what the text does not."""
    rng = random.Random(0)
    for _ in range(3000):
        text = random_answer(rng)
        blocks, _ = fenced_blocks(text)
        for _, body in blocks:
            for line in body.split("\n"):
                assert line.strip() in text
        extract_program(text, "stop", WANTED)


@pytest.mark.parametrize(
    "body",
    ["(" * 50000, "-" * 100000 + "1", "1+" * 50000 + "1", "a." * 50000 + "a", "not " * 50000 + "1", "[" * 99 + "]" * 99,
     "lambda: " * 50000 + "1", "f'" * 20000, "x\0", "\ud800", "if 1:\n" * 2000, "```\n" * 5000, "> " * 50000,
     "`` ` " * 30000, "word " * 100000, "prose\n" * 5000, "def f(:\n" * 3000],
    ids=range(17),
)  # fmt: skip
def test_hostile_text_ends_soon(body, monkeypatch):
    """However long the text: the parser is called a few times a line; the rest is linear, and far from its guard."""
    calls = []
    parse = ast.parse
    monkeypatch.setattr(ast, "parse", lambda text: calls.append(len(text)) or parse(text))
    started = time.process_time()
    for wanted in (READER, Wanted("f")):
        extract_program(f"```python\n{body}\n```", "stop", wanted)
    extract_program(body, "stop", WANTED)
    assert 0 < len(calls) <= 10 * (body.count("\n") + 2)
    assert time.process_time() - started < ENDLESS_SECONDS


DOUBLE = "def double(x):\n    return 2 * x"
BESIDE = (  # what stands beside a right function, and would end it, or change nothing
    "a, b = map(int, input().split())\nprint(double(a))",
    "assert double(2) == 5",
    "n = int(input())\nprint(n)",
    "for line in sys.stdin:\n    print(double(int(line)))",
    "def main():\n    print(double(int(input())))\nmain()",
    "result = double(int(input()))\nprint(f'{result}')",
    "if __name__ == '__main__':\n    import doctest\n    doctest.testmod()",
    "class TestDouble(unittest.TestCase):\n    pass\nunittest.main()",
    "def show(n=missing):\n    pass",
    "while True:\n    print(double(int(input())))",
    "sys.exit(double(3))",
    "'''Twice.'''\nOK",
)
NEEDED = (  # programs that need every line
    "table = {}\nfor n in range(99):\n    table[n] = 2 * n\ndef double(x):\n    return table[x]",
    "table = []\ndef fill():\n    for n in range(SIZE):\n        table.append(2 * n)\nSIZE = 99\nfill()\n"
    "def double(x):\n    return table[x]",
    "table = []\ntable.extend(range(0, 99, 2))\ndef double(x):\n    return table[x]",
    "class Doubler:\n    factor = 2\n    def __call__(self, x):\n        return self.factor * x\ndouble = Doubler()",
    "def times(n):\n    return lambda f: lambda x: n * f(x)\n@times(2)\ndef double(x):\n    return x",
    "try:\n    from nowhere import two\nexcept ImportError:\n    two = 2\ndef double(x):\n    return two * x",
    "total = 0\ndef add(x):\n    global total\n    total += 2 * x\ndef double(x):\n    add(x)\n    return total",
    "from decimal import Decimal, getcontext\ngetcontext().prec = 50\ndef double(x):\n    return int(Decimal(x) * 2)",
    "double = lambda x: two() * x\ndef two():\n    return TWO\nTWO = 2",
    "if True:\n    def twice(x):\n        return 2 * x\ndef double(x):\n    return twice(x)",
    "from math import *\nimport sys\nsys_two = [2]\nsys_two[0] += 0\ndef double(x):\n    return sys_two[0] * x",
)


@pytest.mark.parametrize("fenced", [True, False])
@pytest.mark.parametrize("program", [f"{DOUBLE}\n{beside}" for beside in BESIDE] + [f"{b}\n{DOUBLE}" for b in BESIDE])
def test_examples_beside_the_wanted_function_are_not_run(program, fenced):
    answer = f"```python\n{program}\n```" if fenced else program
    assert extract_program(answer, "stop", WANTED).code == DOUBLE + "\n"


@pytest.mark.parametrize("fenced", [True, False])
@pytest.mark.parametrize("program", NEEDED)
def test_all_that_the_wanted_function_needs_is_kept(program, fenced):
    example = "\nn = int(input())\nprint(double(n), table)"
    for beside in ("", example):
        answer = f"```python\n{program}{beside}\n```" if fenced else program + beside
        found = extract_program(answer, "stop", WANTED).code
        assert found == program + "\n" or ast.dump(ast.parse(found)) == ast.dump(ast.parse(program))
        names: dict = {}
        exec(compile(found, "program", "exec"), names)
        assert names["double"](21) == 42


@pytest.mark.parametrize("deep", ["not " * 900 + "x", "-" * 3000 + "x", "x" + " + x" * 3000, "[" * 90 + "]" * 90])
def test_what_is_too_deep_to_be_taken_apart_stays(deep):
    program = f"def double(x):\n    return {deep}"
    assert extract_program(f"```python\n{program}\ndouble(3)\n```", "stop", WANTED).code.startswith(program)
