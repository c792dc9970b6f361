r"""Chat format: `<think>` once, thoughts cut where they close, the template equal to the renderer."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptcot_mamba.chat_format import (
    _END_SIGNS,
    _OTHER_MARKS,
    CHAT_TEMPLATE,
    MATH_INSTRUCTION,
    THINKING,
    closing_mark,
    extract_question,
    has_turns,
    is_format_valid,
    join,
    marks_hold,
    read_completion,
    read_turns,
    render_prompt,
    split,
    user_question,
    with_open_thought,
)
from promptcot_mamba.chat_markup import FAMILIES, Turn


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
        # Its system prompt asks for two sections, "Thought" and "Solution".
        (PLAIN, f"### Thought\n\n{SKY[:25]}", "begin_of_thought", None, f"<think>\n### Thought\n\n{SKY[:25]}", "think"),
        (PLAIN, "I use <|begin_of_thought|>, hm", "begin_of_thought", None, "I use <|begin_of_thought|>, hm", "none"),
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


HARMONY = "<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>final{}<|message|>B"


@pytest.mark.parametrize(
    ("prompt", "text", "thought", "answer"),  # None: no thought, or no answer
    [
        ("<|start|>assistant", HARMONY.format(""), "A", "B"),  # gpt-oss
        ("<|start|>assistant", HARMONY.format("") + "<|return|>", "A", "B"),
        ("<|start|>assistant", HARMONY.format(" <|constrain|>json"), "A", "B"),
        ("<|start|>assistant", HARMONY.partition("<|end|>")[0], "A", None),
        ("<|start|>assistant", "<|channel|>final<|message|>B", None, "B"),
        ("<|start|>assistant", "analysisWe add. So 4.assistantfinalB", "We add. So 4.", "B"),  # without its marks
        ("<|start|>assistant", "analysis of it follows", None, "analysis of it follows"),
        ("[/INST]", "[THINK]A[/THINK]B", "A", "B"),  # Magistral
        ("<|turn>model\n", "<|channel>thought\nA<channel|>B<turn|>", "A", "B"),  # Gemma 4
        ("<seed:bos>assistant\n", "<seed:think>A</seed:think>B", "A", "B"),
        ("", "<|START_THINKING|>A<|END_THINKING|><|START_RESPONSE|>B<|END_RESPONSE|>", "A", "B"),  # Command A Reasoning
        ("<|START_THINKING|>", "A<|END_THINKING|><|START_RESPONSE|>B<|END_RESPONSE|>", "A", "B"),
        ("", "<mm:think>A</mm:think>B", "A", "B"),  # MiniMax-M3
        ("", "\u25c1think\u25b7A\u25c1/think\u25b7B", "A", "B"),  # Kimi-VL
        ("[|assistant|]<thought>\n", "A\n</thought>\n\nB", "A", "B"),  # EXAONE Deep, whose template opens the thought
        ("[|assistant|]<thought>\n", "A", "A", None),
        ("", "Here is my thought process:\nA\n\nHere is my response:\nB", "A", "B"),  # Granite 3.2
        ("", "Here is my thought process: I add. It is 3.", None, "Here is my thought process: I add. It is 3."),
        ("", "Here's my thought process:\nA\n\nHere is my response:\nB", "A", "B"),  # vLLM's parser pairs them freely
        ("Here are my reasoning steps:\n", "A\n[BEGIN FINAL RESPONSE]\nB\n[END FINAL RESPONSE]", "A", "B"),  # Apriel
        ("Here are my reasoning steps:\n", "A", "A", None),
        ("<think>", "A</think>B", "A", "B"),  # Kimi K2 Thinking
        ("", "<|open|>think<|sep|>A<|close|>think<|sep|><|open|>response<|sep|>B<|close|>response<|sep|>", "A", "B"),
        ("<|open|>assistant<|sep|><|open|>think<|sep|>", "A", "A", None),  # Kimi K3
        ("<|open|>think<|sep|>", "A<|close|>think<|sep|>", "A", ""),
        ("<ifm|think>", "A</ifm|think>B", "A", "B"),  # K2 Horizon
        ("", "<ifm|think_fast>A", "A", None),
        ("", "<ifm|think_faster>\nA\n</ifm|think_faster>\nB", "A", "B"),
        ("<\uff5chy_Assistant\uff5c><think:opensource>", "A</think:opensource>B", "A", "B"),  # Hunyuan 3 and 4
        ("", "<think:6124c78e>A", "A", None),
        ("", "A</think:opensource>B", "A", "B"),
        ("", "<|plamo:begin_think:plamo|>A<|plamo:end_think:plamo|>B", "A", "B"),  # PLaMo 3
        ("", "<|plamo:begin_think:plamo|>A", "A", None),
        ("<|message_model|>", "<|content_thinking|>A<|end_message|><|message_model|><|content_text|>B<|end_message|>",
         "A", "B"),  # Inkling
        ("<|message_model|>", "<|content_thinking|>A<|end_message|>", "A<|end_message|>", None),
        ("<|message_model|>", "<|content_text|>B<|end_message|>", None, "B"),
        ("<|start|>assistant", " to=self<|message|>A<|eom|><|start|>assistant to=user<|message|>B<|eot|>",
         "A", "B"),  # Muse Glimmer, which may also begin its answer at once
        ("<|start|>assistant", " to=self<|message|>A", "A", None),
        ("<|start|>assistant", " to=user<|message|>B<|eot|>", None, "B"),
        ("", "<|begin_of_thought|>A\n\n<|begin_of_solution|>B<|end_of_solution|>", "A", "B"),  # its end was skipped
        ("", "A\n<|end_of_thought|>\n\n<|begin_of_solution|>B<|end_of_solution|>", "A", "B"),  # its beginning
        ("", "A[/THINK]B", "A", "B"),  # opened by a server's template
        ("", "A[/THINK] is the mark.</think>B", "A[/THINK] is the mark.", "B"),
        ("<think>\n", "What does [/THINK] end?", "What does [/THINK] end?", None),
        ("<\uff5cAssistant\uff5c></think>", "B", None, "B"),  # DeepSeek V3.1, told not to think
        ("<longcat_assistant><longcat_think>\n", "A", "A", None),  # LongCat-Flash-Thinking, whose template opens it
        ("<longcat_assistant><longcat_think>\n", "A\n</longcat_think>\nB", "A", "B"),
        ("", "[unused16]A", "A", None),  # openPangu-Embedded
        ("", "[unused16]A[unused17]B[unused10]", "A", "B"),
        ("", "A[unused17]B", "A", "B"),
        ("<|assistant_start|>", "<|inner_prefix|>A", "A", None),  # Apertus
        ("<|assistant_start|>", "<|inner_prefix|>A<|inner_suffix|>B<|assistant_end|>", "A", "B"),
        (PLAIN, "Sure.\n<think>\nA", "Sure.\n<think>\nA", None),  # begun after other words
        (PLAIN, "B\n```c\nx\n```\n\n <think> \r\nA", "B\n```c\nx\n```\n\n <think> \r\nA", None),
        (PLAIN + "<think>\n\n</think>\n\n", "No.\n<think>", "No.\n<think>", None),  # told not to, thinks all the same
        # Within a line, or in code, the tag is spoken of.
        (PLAIN, "B: a <think> opens", None, "B: a <think> opens"),
        (PLAIN, "B:\n`<think>`\nopens", None, "B:\n`<think>`\nopens"),
        (PLAIN, "B:\n    <think>\nopens", None, "B:\n    <think>\nopens"),
        (PLAIN, "B:\n- <think>\nopens", None, "B:\n- <think>\nopens"),
        (PLAIN, 'B\n```python\nT = """\n<think>\n"""\n```\nIt is 3.', None,
         'B\n```python\nT = """\n<think>\n"""\n```\nIt is 3.'),
        (PLAIN, "B\n~~~\n```\n<think>\n```\n<think>\n~~~\nIt is 3.", None,
         "B\n~~~\n```\n<think>\n```\n<think>\n~~~\nIt is 3."),
        (PLAIN, "B\n````\n```\n<think>\n```", None, "B\n````\n```\n<think>\n```"),  # cut in its code
    ],
)  # fmt: skip
def test_thoughts_in_each_models_own_marks(prompt: str, text: str, thought: str | None, answer: str | None):
    completion, read = read_completion(prompt, text)
    parts = split(completion)
    assert read == ("none" if thought is None else "think")
    assert (parts.thought.strip() if parts.closed is not None else None) == thought
    assert (parts.answer.strip() if parts.closed is not False else None) == answer


def test_what_a_server_says_twice_or_in_the_wrong_place():
    whole = "<think>\nA\n</think>\n\nB"
    assert read_completion(PLAIN, whole, "auto", "A") == (whole, "think")
    assert read_completion(PLAIN, "<think>\nA", "auto", "A") == ("<think>\nA", "think")
    assert read_completion(PLAIN, "", "none", "B") == ("B", "none")  # vLLM's parser, of a model told not to think
    assert read_completion(PLAIN, "analysisA", "harmony") == ("<think>\nA", "think")


@pytest.mark.parametrize("thinking", THINKING)
def test_what_closes_a_thought_is_read_as_its_end(thinking: str):
    """--thinking_budget writes it for the model."""
    begins = [marks.begin for marks in _OTHER_MARKS.get(thinking, ())] or ["<think>"]
    for begin in ["<think:opensource>"] if thinking == "hunyuan" else begins:
        for prompt, text in (("", f"{begin}\nA"), (begin, "A")):
            for told in (thinking, "auto"):
                if told == "auto" and begin in WORDED and text != "A":
                    continue  # words alone open nothing
                closed = text + closing_mark(prompt, text, told) + "B"
                parts = split(read_completion(prompt, closed, told)[0])
                assert (parts.thought.strip(), parts.answer.strip()) == ("A", "B"), begin


def test_every_end_has_one_of_the_signs_that_long_texts_are_searched_for():
    ends = [end for forms in _OTHER_MARKS.values() for marks in forms if not marks.worded for end in marks.ends]
    assert [end for end in ends if not any(sign in end for sign in _END_SIGNS)] == []


WORDED = {marks.begin for forms in _OTHER_MARKS.values() for marks in forms if marks.worded}
# vLLM's reasoning parsers by name, and how `--thinking` calls what they read; of "hf" the checkpoint itself tells.
PARSERS = {
    "think": (
        *("deepseek_r1", "deepseek_v3", "deepseek_v4", "deepseek_v41", "poolside_v1", "ernie45", "glm45", "glm47"),
        *("ling3", "granite_thinking_parser", "holo2", "hunyuan_a13b", "kimi_k2", "mimo", "minicpmv", "minimax_m2"),
        *("minimax_m2_append_think", "nemotron_v3", "olmo3", "qwen3", "step3", "step3p5"),
    ),
    "cohere": ("cohere_command3", "cohere_command4"), "gemma": ("gemma4",), "harmony": ("openai_gptoss",),
    "granite": ("granite",), "hunyuan": ("hy_v3", "hy_v4"), "kimi_k3": ("kimi_k3",), "k2_horizon": ("k2_horizon",),
    "minimax": ("minimax_m3",), "mistral": ("mistral",), "plamo": ("plamo3",), "muse": ("muse_glimmer",),
    "seed": ("seed_oss",), "inkling": ("inkling",),
}  # fmt: skip


def test_every_reasoning_parser_of_vllm_is_known_with_its_marks():
    spec = find_spec("vllm")
    if spec is None or spec.origin is None:
        pytest.skip("vLLM is not here")
    folder = Path(spec.origin).parent
    tree = ast.parse((folder / "reasoning/__init__.py").read_text(encoding="utf-8"))
    [table] = [
        node.value for node in ast.walk(tree) if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
    ]
    known = {parser for parsers in PARSERS.values() for parser in parsers}
    assert set(map(ast.literal_eval, table.keys)) - {"hf"} == known
    sources = [
        path.read_text(encoding="utf-8") for part in ("reasoning", "parser") for path in folder.glob(f"{part}/*.py")
    ]
    for name in set(PARSERS) - {"think"}:
        for marks in _OTHER_MARKS[name]:
            if not marks.worded and name != "gemma":  # whose "thought" is a channel's name
                assert any(marks.begin in source for source in sources), marks


def test_tokens_that_mark_thoughts_are_told_from_other_special_ones():
    marks = (
        "<think>",
        "</think>",
        "<|channel|>",
        "[THINK]",
        "<|channel>",
        "<seed:think>",
        "<|START_THINKING|>",
        "<|open|>",
        "<|sep|>",
        "<ifm|think_fast>",
        "<think:opensource>",
        "</think:6124c78e>",
        "<|plamo:begin_",
        "<|content_thinking|>",
        "<longcat_think>",
        "[unused16]",
        "<|inner_prefix|>",
    )
    assert all(map(marks_hold, marks))
    others = ("<|im_start|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<s>", "[INST]", "<|return|>", "<end_of_turn>")
    assert not any(map(marks_hold, others))


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


TURNS = (Turn("user", "What is 1+1?"), Turn("assistant", "2"), Turn("user", "What is 2+2?"))
SYSTEM = Turn("system", "Be brief.")


def rendered(family: str, turns: tuple[Turn, ...]) -> str:
    from jinja2 import Template

    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    return Template(FAMILIES[family].template).render(messages=messages, add_generation_prompt=True)


@pytest.mark.parametrize("ending", ["", "<think>\n", "<think>\n\n</think>\n\n", "</think>"])
@pytest.mark.parametrize("turns", [TURNS, TURNS[2:]])
@pytest.mark.parametrize("family", FAMILIES)
def test_turns_of_every_format_are_read_and_the_last_is_the_question(family: str, turns: tuple[Turn, ...], ending: str):
    """Also where the prompt opens a thought, or closes it as for a model that is told not to think."""
    assert read_turns(rendered(family, turns) + ending) == turns
    assert user_question(rendered(family, turns) + ending) == "What is 2+2?"
    told = (SYSTEM, *turns)
    if FAMILIES[family].system is not None:
        assert read_turns(rendered(family, told) + ending) == told


def test_turns_are_read_before_the_answer_is_opened():
    chatml = "<|im_start|>user\nWhat is 1+1?<|im_end|>"
    assert read_turns(chatml) == read_turns(chatml + "\n") == (Turn("user", "What is 1+1?"),)
    assert read_turns("<\uff5cUser\uff5c>What is 1+1?") == (Turn("user", "What is 1+1?"),)
    assert read_turns("What is 1+1?") == read_turns("") == ()
    assert not has_turns("What does </think> end?</think>")


def test_a_question_about_markup_stays_whole():
    question = "What do <|im_start|>user\nand <|im_end|> mean?"
    assert user_question(render_prompt(question)) == question
    assert extract_question(render_prompt("What is 1+1?")) == "What is 1+1?"


def test_what_cannot_be_taken_apart_still_has_a_last_question():
    begun = rendered("chatml", TURNS) + "It is"
    assert has_turns(begun)
    assert read_turns(begun) == ()
    assert user_question(begun) == "What is 2+2?"
