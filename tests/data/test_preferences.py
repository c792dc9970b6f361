"""Preference rows as people publish them, and those that are none."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from promptcot_mamba.data.preferences import iter_preferences
from promptcot_mamba.errors import InputError

QUESTION = "What is 2 + 2?"
USER = {"role": "user", "content": QUESTION}
RIGHT, WRONG = "<think>\n2 + 2 = 4\n</think>\n\nIt is 4.", "It is 5."


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


SHAPES = {
    "texts": {"prompt": QUESTION, "chosen": RIGHT, "rejected": WRONG},
    "TRL, explicit prompt": {"prompt": [USER], "chosen": [said(RIGHT)], "rejected": [said(WRONG)]},
    "TRL, implicit prompt": {"chosen": [USER, said(RIGHT)], "rejected": [USER, said(WRONG)]},
    # UltraFeedback binarized: the prompt once more as text, and scores
    "prompt and conversations": {
        "prompt": QUESTION, "prompt_id": "x", "chosen": [USER, said(RIGHT)], "rejected": [USER, said(WRONG)],
        "score_chosen": 8.5, "score_rejected": 3.0,
    },
    "why one is preferred": {
        "prompt": QUESTION, "chosen": RIGHT, "rejected": WRONG, "reasoning": "The chosen answer is more helpful.",
    },
    "labelled": {"prompt": QUESTION, "chosen": RIGHT, "rejected": WRONG, "label": False},
    "Orca pairs": {"system": "Be brief.", "question": QUESTION, "chosen": RIGHT, "rejected": WRONG},
    "LLaMA-Factory, Alpaca": {"instruction": "Add.", "input": QUESTION, "chosen": RIGHT, "rejected": WRONG},
    "question and input": {"question": "Add.", "input": QUESTION, "chosen": RIGHT, "rejected": WRONG},
    "question and context": {"question": "Answer.", "context": QUESTION, "chosen": RIGHT, "rejected": WRONG},
    # argilla/distilabel-capybara-dpo: `conversation` with the original answer, beside whole conversations
    "Capybara": {
        "conversation": [{"input": QUESTION, "output": "Four."}], "chosen": [USER, said(RIGHT)],
        "rejected": [USER, said(WRONG)],
    },
    # mlabonne/orpo-dpo-mix-40k: the question twice beside whole conversations
    "prompt and question": {
        "prompt": f" {QUESTION}\n", "question": QUESTION, "chosen": [USER, said(RIGHT)],
        "rejected": [USER, said(WRONG)],
    },
    "a rendered prompt beside conversations": {
        "prompt": f"<|user|>\n{QUESTION}</s>\n<|assistant|>\n", "chosen": [USER, said(RIGHT)],
        "rejected": [USER, said(WRONG)],
    },
    "LLaMA-Factory, ShareGPT": {
        "conversations": [{"from": "human", "value": QUESTION}], "chosen": {"from": "gpt", "value": RIGHT},
        "rejected": {"from": "gpt", "value": WRONG},
    },
    "rendered": {
        "prompt": f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n<think>\n",
        "chosen": RIGHT.removeprefix("<think>\n"), "rejected": WRONG,
    },
}  # fmt: skip


def read(tmp_path: Path, *rows: object):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(iter_preferences([path]))


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_the_same_pair(tmp_path, name: str):
    chosen, rejected = read(tmp_path, SHAPES[name])
    assert (chosen.id, rejected.id) == ("pairs.jsonl:1/chosen", "pairs.jsonl:1/rejected")
    assert chosen.prompt == rejected.prompt
    assert QUESTION in chosen.prompt
    assert "2 + 2 = 4" in chosen.completion
    assert chosen.completion.endswith("It is 4.")
    assert rejected.completion.endswith("It is 5.")


def test_earlier_turns_belong_to_the_prompt(tmp_path):
    history = [USER, said("4"), {"role": "user", "content": "And 3 + 3?"}]
    chosen, rejected = read(tmp_path, {"chosen": [*history, said("6")], "rejected": [*history, said("7")]})
    assert QUESTION in chosen.prompt
    assert "And 3 + 3?" in chosen.prompt
    assert chosen.completion.endswith("6")
    assert rejected.completion.endswith("7")


BRIEF = {"role": "system", "content": "Be brief."}
HISTORY = [USER, said("4"), {"role": "user", "content": "And 3 + 3?"}]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [BRIEF, *HISTORY], "chosen": [said("6")], "rejected": [said("7")]},
        {"prompt": [BRIEF, *HISTORY], "chosen": [HISTORY[-1], said("6")], "rejected": [HISTORY[-1], said("7")]},
        {"prompt": [BRIEF, *HISTORY], "chosen": [*HISTORY, said("6")], "rejected": [*HISTORY, said("7")]},
        {"prompt": HISTORY, "chosen": [BRIEF, *HISTORY, said("6")], "rejected": [BRIEF, *HISTORY, said("7")]},
        {"system": "Be brief.", "prompt": HISTORY, "chosen": [HISTORY[-1], said("6")],
         "rejected": [HISTORY[-1], said("7")]},
        {"prompt": "And 3 + 3?", "chosen": [BRIEF, *HISTORY, said("6")], "rejected": [BRIEF, *HISTORY, said("7")]},
        {"messages": [BRIEF, *HISTORY, said("6")], "chosen": [HISTORY[-1], said("6")],
         "rejected": [HISTORY[-1], said("7")]},
    ],
)  # fmt: skip
def test_a_prompt_column_brings_what_conversations_lack(tmp_path, row: dict):
    whole = {"chosen": [BRIEF, *HISTORY, said("6")], "rejected": [BRIEF, *HISTORY, said("7")]}
    expected, got = read(tmp_path, whole), read(tmp_path, row)
    assert [(side.parts, side.completion) for side in got] == [(side.parts, side.completion) for side in expected]


def test_what_a_question_is_about_goes_with_it(tmp_path):
    row = {"question": "Translate to French.", "input": "Good morning", "chosen": "Bonjour", "rejected": "Bonsoir"}
    chosen, rejected = read(tmp_path, row)
    assert chosen.prompt == rejected.prompt
    assert "Translate to French.\n\nGood morning" in chosen.prompt
    (again, _) = read(tmp_path, {**row, "question": "Translate to French: Good morning"})
    assert again.prompt.count("Good morning") == 1


def test_all_rows_that_are_no_preferences_are_told_at_once(tmp_path):
    empty = {**SHAPES["texts"], "rejected": ""}
    rows = [SHAPES["texts"], empty, SHAPES["texts"], {**SHAPES["texts"], "chosen": RIGHT, "rejected": RIGHT}]
    with pytest.raises(InputError) as caught:
        read(tmp_path, *rows, *[empty] * 12)
    assert re.search(
        r"pairs\.jsonl:2: 'rejected' must be a non-empty text; of 16 rows 13 more are no preferences "
        r"\(rows 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, \.\.\.\)$", str(caught.value),
    )  # fmt: skip


def test_ids_and_sources_are_the_rows_own(tmp_path):
    chosen, rejected = read(tmp_path, {**SHAPES["texts"], "id": "a7", "source": "selfplay"})
    assert (chosen.id, rejected.id, chosen.source) == ("a7/chosen", "a7/rejected", "selfplay")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**SHAPES["texts"], "rejected": RIGHT}, "'chosen' and 'rejected' are the same answer"),
        ({"prompt": QUESTION, "completion": RIGHT}, "missing key 'chosen'; found prompt, completion; expected"),
        ({"chosen": RIGHT, "rejected": WRONG}, "no 'prompt', and 'chosen' is no whole conversation"),
        (
            {"chosen": [USER, said(RIGHT)], "rejected": [{"role": "user", "content": "2 + 3?"}, said(WRONG)]},
            "'chosen' and 'rejected' answer different prompts",
        ),
        (
            {"prompt": "2 + 3?", "chosen": [USER, said(RIGHT)], "rejected": [USER, said(WRONG)]},
            "'prompt' asks something else than the conversation in 'chosen'",
        ),
        (
            {"prompt": [{"role": "system", "content": "Be long."}, USER],
             "chosen": [BRIEF, USER, said(RIGHT)], "rejected": [BRIEF, USER, said(WRONG)]},
            "'prompt' asks something else than the conversation in 'chosen'",
        ),
        (
            {"messages": [{"role": "user", "content": "2 + 3?"}, said("5")], "chosen": [USER, said(RIGHT)],
             "rejected": [USER, said(WRONG)]},
            "'messages' asks something else than the conversation in 'chosen'",
        ),
        ({"question": QUESTION, "input": 7, "chosen": RIGHT, "rejected": WRONG}, "column 'input' must be text, found"),
        ({**SHAPES["texts"], "chosen": ""}, "'chosen' must be a non-empty text"),
        ({**SHAPES["texts"], "chosen": None}, "'chosen' must be a non-empty text"),
        ({**SHAPES["texts"], "rejected": 7}, "must be a text or a list of messages"),
        ({**SHAPES["texts"], "prompt": ""}, "'prompt' must be a non-empty text"),
        ({"chosen": [USER], "rejected": [USER]}, "no turn is the assistant's"),
        ({**SHAPES["texts"], "prompt": "2 + \udcff?"}, "lone surrogates"),
        ({**SHAPES["texts"], "rejected": "It is \ud83d."}, "lone surrogates"),
    ],
)  # fmt: skip
def test_what_is_no_preference_names_its_line(tmp_path, row: dict, words: str):
    with pytest.raises(InputError, match=r"pairs\.jsonl:2: .*") as caught:
        read(tmp_path, SHAPES["texts"], row)
    assert words in str(caught.value)


def test_an_empty_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"pairs\.jsonl: the file is empty"):
        read(tmp_path)
