"""Each filter refuses what it is for and nothing else."""

from __future__ import annotations

import random

import pytest

from promptcot_mamba.data.canonical import CanonicalRow
from promptcot_mamba.data.filters import (
    REASONS,
    FilterRules,
    explain_fault,
    find_fault,
    has_few_phrases,
    has_loop,
    is_foreign,
)

GOOD = {
    "math": "<think>\nTwo and two.\n</think>\n\nThe answer is $\\boxed{4}$.",
    "code": "<think>\nPrint it.\n</think>\n\n```python\nprint(4)\n```",
    "other": "<think>\nSea water is salty.\n</think>\n\nBecause of salt.",
}


def fault(completion: str, domain: str = "math", prompt: str = "What is 2 + 2?", finish=None, **rules) -> str | None:
    return find_fault(CanonicalRow(prompt, completion, domain, finish_reason=finish), FilterRules(**rules))


@pytest.mark.parametrize("domain", GOOD)
def test_good_rows_pass(domain):
    assert fault(GOOD[domain], domain) is None
    assert fault(GOOD[domain], domain, finish="stop") is None


@pytest.mark.parametrize(
    ("completion", "reason", "told"),
    [
        ("no thought \\boxed{4}", "think_pair", "require_thought: false"),
        ("a\n</think>\n\\boxed{4}", "think_pair", "thought_opened: true"),
        ("<think>\nnever closed \\boxed{4}", "think_pair", ""),
        ("a\n</think>\nb</think>\n\\boxed{4}", "think_pair", ""),
        ("<think>\n<|im_end|>\n</think>\\boxed{4}", "chat_markers", "--control_text keep"),
    ],
)
def test_what_would_keep_a_row_is_said(completion, reason, told):
    row = CanonicalRow("What is 2 + 2?", completion, "math")
    assert find_fault(row, FilterRules()) == reason
    assert told in explain_fault(row, reason)
    assert bool(told) == bool(explain_fault(row, reason))


@pytest.mark.parametrize(
    ("completion", "domain", "reason"),
    [
        ("no thought \\boxed{4}", "math", "think_pair"),
        ("<think>\nnever closed \\boxed{4}", "math", "think_pair"),
        ("<think>\na\n</think>\nb</think>\\boxed{4}", "math", "think_pair"),
        ("<think>\n<think>a\n</think>\\boxed{4}", "math", "think_pair"),
        ("</think>a<think>\\boxed{4}", "math", "think_pair"),
        ("<think> \n</think>\\boxed{4}", "math", "empty_thought"),
        ("<think>\na\n</think>\n ", "math", "empty_answer"),
        ("<think>\n\\boxed{4}\n</think>\nIt is four.", "math", "no_boxed_answer"),
        ("<think>\na\n</think>\nIt is \\boxed{}.", "math", "no_boxed_answer"),
        ("<think>\na\n</think>\nIt is \\boxed{\\frac{1}{2", "math", "unfinished"),
        ("<think>\n```python\nx\n```\n</think>\nSee above.", "code", "no_program"),
        ("<think>\na\n</think>\n```python\n\n```", "code", "no_program"),
        ("<think>\na\n</think>\n```python\nprint(4)", "code", "unfinished"),
        ("<think>\na\ufffd\n</think>\\boxed{4}", "math", "encoding"),
        ("<think>\na\x00\n</think>\\boxed{4}", "math", "encoding"),
        ("<think>\nsoit cafÃ© rÃ©el dÃ©jÃ \u00a0\n</think>\\boxed{4}", "math", "encoding"),
        ("<think>\n<|im_end|>\n</think>\\boxed{4}", "math", "chat_markers"),
        ("<think>\n" + "\u8ba9\u6211\u4eec" * 40 + "\n</think>\\boxed{4}", "math", "language"),
    ],
)
def test_faults_are_named(completion, domain, reason):
    assert fault(completion, domain) == reason
    assert reason in REASONS


def test_an_answer_form_is_asked_only_where_the_recipe_asks():
    plain = "<think>\na\n</think>\nIt is four."
    assert fault(plain, require_answer=False) is None
    assert fault(plain, "other") is None


def test_a_cut_row_is_told_by_its_finish_reason():
    assert fault(GOOD["math"], finish="length") == "unfinished"
    assert fault("<think>\nand so on", finish="length") == "unfinished"


def test_gold_agreement_is_optional_and_skips_rows_without_gold():
    row = CanonicalRow("q", GOOD["math"], "math", gold="5")
    assert find_fault(row, FilterRules(check_gold=True), lambda gold, answer: gold in answer) == "gold_mismatch"
    assert find_fault(row, FilterRules(), lambda gold, answer: False) is None
    unknown = CanonicalRow("q", GOOD["math"], "math")
    assert find_fault(unknown, FilterRules(check_gold=True), lambda gold, answer: False) is None


def test_mathematics_is_no_foreign_language():
    assert not is_foreign("Let α ∈ ℝ, ∑ᵢ xᵢ ≤ π, so that ‖x‖₂ → ∞ ⇒ λ = 0. " * 5)
    assert not is_foreign("∀∃∈∉⊂⊃∪∩" * 20)
    assert is_foreign("Пусть даны два числа, найдите их сумму. " * 5)


@pytest.mark.parametrize("period", [1, 3, 17, 64, 200, 700, 1000])
def test_loops_are_found_wherever_they_stand(period):
    rng = random.Random(period)
    alphabet = "abcdefghij klmnop"
    unit = "".join(rng.choices(alphabet, k=period))
    repeats = max(8, -(-512 // period))
    before, after = ("".join(rng.choices(alphabet, k=rng.randint(0, 3000))) for _ in range(2))
    assert has_loop(before + unit * repeats + after)
    assert not has_loop(before + unit * min(6, 500 // period) + after)


def test_ordinary_repetition_is_no_loop():
    rng = random.Random(1)
    lines = [f"Step {number}: check n = {number}, remainder {rng.randrange(97)}.\n" for number in range(300)]
    assert not has_loop("".join(lines))
    assert not has_loop("| a | b |\n|---|---|\n" + "".join(f"| {n} | {n * n} |\n" for n in range(200)))


@pytest.mark.parametrize("phrases", [4, 5])
def test_a_few_phrases_in_random_order_are_a_loop(phrases):
    rng = random.Random(phrases)
    said = [" ".join(rng.choices(WORDS, k=rng.randint(3, 7))) + "." for _ in range(phrases)]
    loop = " ".join(rng.choice(said) for _ in range(150))
    assert not has_loop(loop)
    assert has_few_phrases(loop)
    assert fault(f"<think>\n{loop}\n</think>\n\\boxed{{4}}") == "repetition_loop"
    assert has_few_phrases("An honest beginning. " + " ".join(rng.choices(WORDS, k=900)) + loop)


def test_honest_lists_are_no_loops():
    rng = random.Random(0)
    trials = "".join(
        f"For n = {n}: {n}^2 = {n * n}, which is {'odd' if n % 2 else 'even'}, so no.\n" for n in range(200)
    )
    table = "".join(
        f"dp[{i}][{j}] = dp[{i - 1}][{j}] + dp[{i}][{j - 1}] = {i * j}\n" for i in range(12) for j in range(12)
    )
    bits = "".join(" ".join(rng.choice("01") for _ in range(8)) + "\n" for _ in range(300))
    for text in (trials, table, bits, " ".join(rng.choices(WORDS, k=2000))):
        assert not has_few_phrases(text)


WORDS = [a + b + c for a in "bdfglmnprst" for b in "aeiou" for c in ("n", "st", "r", "ck", "m")]


@pytest.mark.parametrize(
    "program",
    [
        'print("```")',
        'text = """\nUse ``` to fence.\n"""\nprint(text)',
        'print("""\n```\nhello\n""")',
        "# ``` not a fence ``` at all",
    ],
)
def test_a_program_that_prints_a_fence_is_whole(program):
    answer = f"<think>\na\n</think>\nHere:\n```python\n{program}\n```"
    assert fault(answer, "code") is None
    assert fault(answer[: answer.rindex("\n```")], "code") in (
        None if program.startswith('print("""') else "unfinished",
    )


@pytest.mark.parametrize("prompt", ["-", " ... ", "?", "\u2014"])
def test_a_question_without_a_letter_or_digit_is_none(prompt):
    assert fault(GOOD["math"], prompt=prompt) == "no_prompt"


def test_turn_markup_is_kept_where_asked_and_answers_without_a_thought_where_turns_have_none():
    marked = GOOD["math"].replace("Two and", "[INST] Two <|eot_id|> and")
    assert fault(marked) == "chat_markers"
    assert fault(marked, control_text="keep") is None
    spoken = CanonicalRow("Hi?", "Ho.", "other", from_turns=True)
    assert find_fault(spoken, FilterRules()) is None
    assert find_fault(spoken, FilterRules(require_thought=True)) == "think_pair"
    assert fault("Ho.", "other") == "think_pair"
    assert fault("Ho.", "other", require_thought=False) is None
