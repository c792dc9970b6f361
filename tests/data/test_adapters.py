"""Raw rows of every publisher -> question and trace."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from promptcot_mamba.chat_format import extract_question, render_prompt
from promptcot_mamba.chat_markup import whole_text
from promptcot_mamba.data.adapters import ADAPTERS, get_adapter
from promptcot_mamba.data.canonical import CanonicalRow, UnusableRowError
from promptcot_mamba.data.conversation import guess_domain, render_row

TRACE = "<think>\nso\n</think>\n\nIt is $\\boxed{4}$."
TEACHER = (
    "<\uff5cbegin\u2581of\u2581sentence\uff5c>Please reason step by step, and put your final answer within \\boxed{{}}."
)


def convert(adapter: str, **raw) -> CanonicalRow:
    return ADAPTERS[adapter].convert(raw, None)


def test_opencodereasoning():
    row = convert("opencodereasoning_0", input=" Add. ", output=TRACE, dataset="taco", split="train")
    assert (row.prompt, row.completion, row.domain) == ("Add.", TRACE, "code")
    with pytest.raises(UnusableRowError, match="no_prompt"):
        convert("opencodereasoning_0", input="-", output=TRACE, dataset="taco", split="train")


def test_openthoughts2_in_both_markings():
    old = "<|begin_of_thought|>\nso\n<|end_of_thought|>\n\n<|begin_of_solution|>It is $\\boxed{4}$.<|end_of_solution|>"
    for answer in (TRACE, old):
        turns = [{"from": "user", "value": "What is 2 + 2?"}, {"from": "assistant", "value": answer}]
        row = convert("openthoughts2", conversations=turns, source="some")
        assert (row.prompt, row.completion, row.domain) == ("What is 2 + 2?", TRACE, "math")
    with pytest.raises(UnusableRowError, match="not_one_exchange"):
        convert("openthoughts2", conversations=turns[:1])


@pytest.mark.parametrize(
    ("source", "answer", "domain"),
    [("openr1_math", "4", "math"), ("codefeedback", "4", "code"), ("x", "```\n4\n```", "code"), ("x", "4", "other")],
)
def test_domains_come_from_the_source_or_the_answer(source, answer, domain):
    assert guess_domain(source, f"<think>\n\\boxed{{4}}\n</think>\n{answer}") == domain


@pytest.mark.parametrize("prompt", [f"{TEACHER}<\uff5cUser\uff5c>Q?<\uff5cAssistant\uff5c>", render_prompt("Q?"), "Q?"])
def test_promptcot_prompts_lose_their_markers_and_keep_them_for_who_asks(prompt):
    row = convert("promptcot_ds", prompt=prompt, completion=TRACE)
    assert (row.prompt, row.completion) == ("Q?", TRACE)
    assert whole_text(row.rendered.parts) == prompt if row.rendered else prompt == "Q?"
    assert extract_question(prompt) == "Q?"
    assert whole_text(render_row(replace(row, rendered=None))[0]) == render_prompt("Q?")


def test_a_thought_that_the_prompt_opened_is_opened_in_the_completion():
    row = convert("promptcot_ds", prompt=render_prompt("Q?"), completion=TRACE.removeprefix("<think>\n"))
    assert row.completion == TRACE


def test_synthesis_output_carries_gold_and_ending():
    row = convert("synthesis", question="Q?", completion=TRACE, reference_solution="so\n#### 4", finish_reason="length")
    assert (row.prompt, row.gold, row.finish_reason, row.domain) == ("Q?", "4", "length", "math")


def test_generic_columns():
    adapter = get_adapter("generic", {"prompt": "q", "completion": "a", "gold": "g"}, "math")
    assert adapter.columns == ("q", "a", "g")
    (row,) = adapter.convert({"q": "Q?", "a": TRACE, "g": 4, "domain": "code"}, None)
    assert (row.prompt, row.completion, row.gold, row.domain) == ("Q?", TRACE, "4", "code")


def test_ids_name_content():
    row = CanonicalRow("a", "bc", "math")
    assert row.id == CanonicalRow("a", "bc", "code").id
    assert len({row.id, CanonicalRow("ab", "c", "math").id, CanonicalRow("a", "bd", "math").id}) == 3
    assert pickle.loads(pickle.dumps(row)) == row
