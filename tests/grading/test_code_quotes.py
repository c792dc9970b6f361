"""Programs that answers quote behind themselves, to explain them: the quotation is not the answer."""

from __future__ import annotations

import pytest

from promptcot_mamba.grading.code.extract import READER, Extracted, Wanted, extract_program

HEAD = 'def double(x: int) -> int:\n    """Twice."""'
WHOLE = f"from typing import List\n\n\n{HEAD}\n    for _ in x:\n        x += 1\n    return x"
METHOD = "class Solution:\n    def double(self, x):\n        return x + x"
LINES = "import sys\nfor line in sys.stdin:\n    print(int(line) * 2)"
QUOTES = [  # as models take their programs apart behind them: "1. **Function Signature**: ..."
    (WHOLE, "def double(x: int) -> int:"),
    (WHOLE, "   def double(x: int) -> int:"),
    (WHOLE, "def double(...):\n    ..."),
    (WHOLE, "def double(x: int) -> int: ..."),
    (WHOLE, HEAD),
    (WHOLE, f"{HEAD}\n    for _ in x:"),
    (WHOLE, "from typing import List\n\ndef double(x: int) -> int:\n    pass"),
    (WHOLE, "def double(x):\n    raise NotImplementedError('later')"),
    (METHOD, "class Solution:\n    def double(self, ...):"),
    (METHOD, "class Solution:"),
    (METHOD, "class Solution:\n    def double(self, x):\n        pass"),
    (LINES, "for line in sys.stdin:"),
]


@pytest.mark.parametrize(("program", "quote"), QUOTES)
def test_a_program_that_is_quoted_behind_it_is_still_the_answer(program, quote):
    answer = f"```python\n{program}\n```\n1. **Signature**:\n```python\n{quote}\n```\nDone."
    wanted = READER if program == LINES else Wanted("double", None if program == METHOD else HEAD)
    assert last_line(extract_program(answer, wanted=wanted)) == program.split("\n")[-1]


@pytest.mark.parametrize(
    "last", ["def double(x):\n    return x + x +", "def double(x):\n    return 3 * x", "def double(x): pass"]
)
def test_what_stands_alone_or_does_something_is_no_quotation(last):
    draft = "```python\ndef double(x):\n    return 2 * x\n```\nBetter:\n" if "pass" not in last else ""
    extracted = extract_program(f"{draft}```python\n{last}\n```", wanted=Wanted("double"))
    assert last_line(extracted) == last.split("\n")[-1]


def last_line(extracted: Extracted) -> str:
    assert extracted.code is not None
    return extracted.code.rstrip("\n").split("\n")[-1]
