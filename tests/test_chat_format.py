r"""Chat format: `<think>` once, thoughts cut where they close, the template equal to the renderer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptcot_mamba.chat_format import (
    CHAT_TEMPLATE,
    MATH_INSTRUCTION,
    is_format_valid,
    join,
    read_completion,
    render_prompt,
    split,
    with_open_thought,
)


def test_the_published_prompt():
    assert render_prompt("What is 1+1?") == (
        "<|im_start|>user\nWhat is 1+1?\nPlease reason step by step, and put your final answer within "
        "\\boxed{}.<|im_end|>\n<|im_start|>assistant\n<think>\n"
    )


@given(st.text(alphabet="ab \n"), st.booleans(), st.booleans())
def test_join_writes_the_thought_once(text: str, in_prompt: bool, in_completion: bool):
    prompt = "user\n" + ("<think>\n" if in_prompt else "")
    completion = ("<think>\n" if in_completion else "") + text
    joined = "".join(join(prompt, completion))
    assert joined.count("<think>") == int(in_prompt or in_completion)
    assert joined.endswith(text)


@given(st.text())
def test_a_prediction_begins_with_the_thought_and_joins_back(text: str):
    prompt = render_prompt("q")
    prediction = with_open_thought(prompt, text)
    assert prediction.lstrip().startswith("<think>")
    if not text.lstrip().startswith("<think>"):
        assert join(prompt, prediction) == (prompt, text)


@pytest.mark.parametrize(
    ("completion", "valid"),
    [
        ("<think>\na\n</think>\nb", True),
        ("<think>\na\n</think>\n", False),  # no answer
        ("<think>\n\n</think>\nb", False),  # empty thought
        ("<think>\na", False),  # unfinished
        ("a\n</think>\nb", False),  # never opened
        ("<think>a</think>b</think>c", False),
        ("<think>a<think>b</think>c", False),
        ("b", False),
        ("", False),
    ],
)
def test_format_validity(completion: str, valid: bool):
    assert is_format_valid(completion) is valid


def test_split():
    assert split("<think>\na\n</think>\nb").answer == "\nb"
    assert split("<think>\na").closed is False
    assert split("b").closed is None
    assert split("<think>a</think>b</think>c").answer == "c"


def test_the_template_renders_the_same_text():
    from jinja2 import Template

    message = {"role": "user", "content": f"q\n{MATH_INSTRUCTION}"}
    assert Template(CHAT_TEMPLATE).render(messages=[message], add_generation_prompt=True) == render_prompt("q")


OPENED, PLAIN = "<|im_start|>assistant\n<think>\n", "<|im_start|>assistant\n"
SKY = "<|begin_of_thought|>\n\nhm\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\nIt is 3.\n\n<|end_of_solution|>"


@pytest.mark.parametrize(
    ("prompt", "text", "thinking", "reasoning", "completion", "read"),
    [
        (OPENED, "hm\n</think>\nIt is 3.", "auto", None, "<think>\nhm\n</think>\nIt is 3.", "think"),
        (OPENED, "hm, for ever", "auto", None, "<think>\nhm, for ever", "think"),
        (PLAIN, "<think>\nhm\n</think>\nIt is 3.", "auto", None, "<think>\nhm\n</think>\nIt is 3.", "think"),
        (PLAIN, "It is 3.", "auto", None, "It is 3.", "none"),
        (PLAIN + "<think>\n\n</think>\n\n", "It is 3.", "auto", None, "It is 3.", "none"),
        (PLAIN, "", "auto", None, "", "none"),
        (PLAIN, "hm\n</think>\nIt is 3.", "auto", None, "<think>\nhm\n</think>\nIt is 3.", "think"),
        (PLAIN, "hm, for ever", "think", None, "<think>\nhm, for ever", "think"),
        (OPENED, "It is 3.", "none", None, "It is 3.", "none"),
        (PLAIN, SKY, "auto", None, "<think>\nhm\n</think>\n\nIt is 3.", "think"),
        (PLAIN, SKY[:25], "begin_of_thought", None, "<think>\nhm", "think"),
        (PLAIN, "<|im_start|>think\nhm\n<|im_start|>answer\nIt is 3.", "s1", None,
         "<think>\nhm\n</think>\n\nIt is 3.", "think"),
        (PLAIN, "<|im_start|>think\nhm", "s1", None, "<think>\nhm", "think"),
        (PLAIN, "It is 3.", "s1", None, "It is 3.", "none"),
        (PLAIN, "It is 3.", "auto", "hm\n", "<think>\nhm\n</think>\n\nIt is 3.", "think"),
        (OPENED, "It is 3.", "auto", "hm", "<think>\nhm\n</think>\n\nIt is 3.", "think"),
        (PLAIN, "", "auto", "hm, for ever", "<think>\nhm, for ever", "think"),
        (PLAIN, "It is 3.", "auto", "", "It is 3.", "none"),
    ],
)  # fmt: skip
def test_completions_of_any_model_are_read(prompt, text, thinking, reasoning, completion, read):
    assert read_completion(prompt, text, thinking, reasoning) == (completion, read)


def test_a_model_without_thought_is_valid_by_its_answer():
    assert is_format_valid("It is 3.", "none")
    assert not is_format_valid(" \n", "none")
    assert not is_format_valid("It is 3.")


@given(st.text(), st.sampled_from(["", "hm"]), st.booleans())
def test_a_thought_served_apart_reads_like_one_in_the_text(answer: str, thought: str, opened: bool):
    completion, read = read_completion(OPENED if opened else PLAIN, answer, "auto", thought)
    parts = split(completion)
    if thought:
        assert read == "think"
        if answer.strip() and "</think>" not in answer:
            assert (parts.thought, parts.answer.strip()) == (thought, answer.strip())
