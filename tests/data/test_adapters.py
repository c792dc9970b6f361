"""Raw rows of every publisher -> question and trace."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial

import pytest

from promptcot_mamba.chat_format import extract_question, render_prompt
from promptcot_mamba.chat_markup import whole_text
from promptcot_mamba.data.adapters import ADAPTERS, get_adapter
from promptcot_mamba.data.canonical import CanonicalRow, UnusableRowError
from promptcot_mamba.data.conversation import guess_domain, render_row
from promptcot_mamba.errors import InputError

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
    apart = get_adapter("generic", {"prompt": "question", "completion": "attempt", "thought": "trajectory"})
    (row,) = apart.convert({"question": "Q?", "attempt": "It is $\\boxed{4}$.", "trajectory": "so"}, None)
    assert row.completion == TRACE


def test_ids_name_content():
    row = CanonicalRow("a", "bc", "math")
    assert row.id == CanonicalRow("a", "bc", "code").id
    assert len({row.id, CanonicalRow("ab", "c", "math").id, CanonicalRow("a", "bd", "math").id}) == 3
    assert pickle.loads(pickle.dumps(row)) == row


def test_what_came_since():
    """Rows as the data sets' cards describe them."""
    cot = {"problem": " Add. ", "generated_solution": TRACE, "expected_answer": "4", "inference_mode": "cot"}
    row = convert("openmathreasoning", **cot, problem_type="has_answer_extracted", problem_source="aops_c4")
    assert (row.prompt, row.gold, row.domain, row.meta) == ("Add.", "4", "math", {"source": "aops_c4"})
    assert convert("openmathreasoning", **cot, problem_type="no_answer_extracted").gold is None
    with pytest.raises(UnusableRowError, match="other_mode"):
        convert("openmathreasoning", **cot | {"inference_mode": "tir"})

    turns = [{"from": "human", "value": "Add."}, {"from": "gpt", "value": TRACE}]
    for named, domain in (("math", "math"), ("code", "code"), ("science", "other")):
        row = convert("openthoughts3", conversations=turns, domain=named, source="x", difficulty=7)
        assert (row.prompt, row.completion, row.domain) == ("Add.", TRACE, domain)
    system = {"from": "system", "value": "Be brief."}
    assert convert("openthoughts2", conversations=[system, *turns]).history == (("system", "Be brief."),)
    told = {"from": "system", "value": "Write <|begin_of_thought|> first."}
    assert convert("openthoughts2", conversations=[told, *turns]).history == ()

    code = TRACE.replace("$\\boxed{4}$", "\n```python\nprint(4)\n```")
    assert convert("promptcot2_sft", prompt="Print 4.", completion=code).domain == "code"
    opened = render_prompt("2 + 2?", "").removesuffix("\n<think>\n")  # as its publisher's program writes prompts
    row = convert("promptcot2_sft", prompt=opened, completion=f"\n{TRACE}")
    assert (row.prompt, row.completion, row.domain) == ("2 + 2?", TRACE, "math")
    assert whole_text(row.rendered.parts) == f"{opened}\n"


def test_questions_of_opencodereasoning_2_are_joined_from_four_sets(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from promptcot_mamba.data.sources import find_repo_files

    problem = {
        "description": "Print n.", "input_format": "n", "output_format": "n", "note": None,
        "examples": [{"input": "1", "output": "1"}],
    }  # fmt: skip
    files = {
        "BAAI/TACO/ALL/{}-0.parquet": {"question": "taco"}, "codeparrot/apps/{}-0.parquet": {"question": "apps"},
        "deepmind/code_contests/data/{}-0.parquet": {"description": "contest"},
        "open-r1/codeforces/data/{}-0.parquet": problem,
    }  # fmt: skip
    for pattern, row in files.items():
        for split in ("train", "valid", "test"):
            path = tmp_path / pattern.format(split)
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist([row]), path)
    adapter = get_adapter("opencodereasoning2_python")
    adapter.open_context(partial(find_repo_files, source_dir=tmp_path), tmp_path / "context")
    questions = adapter.load_context(tmp_path / "context")
    raw = {"question": "-", "r1_generation": TRACE, "index": "0", "license": "mit", "judgement": "right"}
    found = {
        name: adapter.convert(raw | {"dataset": name, "split": split}, questions).prompt
        for name, split in (
            ("taco", "train"),
            ("apps", "test"),
            ("code_contests", "valid"),
            ("open-r1/codeforces", "test"),
        )
    }
    # as the publisher's own reader puts it together (NeMo-Skills, prepare_questions.py)
    parts = ("Print n.", "Input", "n", "Output", "n", "Examples", "Input", "1", "Output", "1")
    assert found["open-r1/codeforces"] == "\n\n".join(parts)
    assert [found[name] for name in ("taco", "apps", "code_contests")] == ["taco", "apps", "contest"]
    assert adapter.convert(raw | {"dataset": "taco", "split": "train"}, questions).meta["licence"] == "mit"


def test_questions_are_there_whole_or_not_at_all(tmp_path):
    """A writer that was killed, or whose set breaks off, leaves nothing that the next run takes for done."""
    adapter, rows = get_adapter("opencodereasoning_1"), tmp_path / "rows.jsonl"

    def find(repo, patterns):
        if repo == "codeparrot/apps" and rows.read_text().count("\n") < 2:
            raise InputError("breaks off")
        return [rows]

    rows.write_text('{"question": "first"}\n')
    with pytest.raises(InputError, match="breaks off"):
        adapter.open_context(find, tmp_path / "context")
    assert list((tmp_path / "context").iterdir()) == []
    rows.write_text('{"question": "first"}\n{"question": "second"}\n')
    adapter.open_context(find, tmp_path / "context")
    assert adapter.load_context(tmp_path / "context").find("apps", "test", "1") == "second"
    assert sorted(path.name for path in (tmp_path / "context").iterdir()) == ["questions.arrow", "questions.json"]
