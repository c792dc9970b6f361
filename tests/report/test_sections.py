"""The paper's tables with runs beside them: what does not compare, what is missing, what a record adds."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from promptcot_mamba.chat_format import render_prompt
from promptcot_mamba.cli import parse_args
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.metrics import share_interval
from promptcot_mamba.grading.summary import summarize
from promptcot_mamba.jsonl import write_json, write_jsonl
from promptcot_mamba.records import Grade
from promptcot_mamba.report.cost import STUDENT, cost_section, planned_hours
from promptcot_mamba.report.evaluations import OWN_SETTINGS, Evaluation, load_evaluation, note_settings
from promptcot_mamba.report.evaluations import SETTINGS as COMPARED
from promptcot_mamba.report.figures import draw_record
from promptcot_mamba.report.page import render_report
from promptcot_mamba.report.paper import ABLATION, GENERAL_PERFORMANCE, MATH_SPECIALISATION, TABLES
from promptcot_mamba.report.published import render_further, render_published
from promptcot_mamba.report.results import throughput_section
from promptcot_mamba.sampling.arguments import SamplingArguments
from promptcot_mamba.training.arguments import DataArguments, SftArguments
from promptcot_mamba.training.plan import PlanArguments, render_plan

ROOT = Path(__file__).resolve().parents[2]
SETTINGS_OF_ROWS = COMPARED | OWN_SETTINGS
SETTINGS = {"temperature": 0.8, "top_p": 0.95, "repetition_penalty": 1.1, "max_len": 65536, "max_retries": 1}


def make_evaluation(model: str, *names: str, grader: str = "strict", **settings: Any) -> Evaluation:
    """Three problems, two runs, half right."""
    evaluation = Evaluation(model)
    for name in names:
        grades = [Grade(f"{name}/{i}", run, name, grader, run == 0, "1", "right") for i in range(3) for run in range(2)]
        evaluation.figures[name] = summarize(grades, name, expected_problems=500)
        evaluation.settings[name] = SETTINGS | settings
    return evaluation


def test_mixed_graders_and_settings_are_footnotes():
    pair = [
        make_evaluation("PromptCoT-Mamba-7B", "math500", "aime24"),
        make_evaluation("PromptCoT-Mamba-Math-7B", "math500", grader="paper", max_len=1024),
    ]
    notes = " ".join(render_published(MATH_SPECIALISATION, pair).notes)
    assert "math500: graded by paper and strict; the rows do not compare" in notes
    assert "math500: sampled with max_len 1024 and 65536" in notes
    assert "aime24:" not in notes
    assert "temperature" not in notes


def test_missing_runs_and_problems_are_said_to_be_missing():
    table = render_published(GENERAL_PERFORMANCE, [make_evaluation("PromptCoT-Mamba-7B", "math500")]).table
    _, ours, difference = table.rows[:3]
    assert ours[:2] == ["PromptCoT-Mamba-7B (here)", "50.0\n[16.7, 83.3]\nn=2 strict\n3 of 500 problems"]
    assert ours[2:] == ["not measured"] * 6
    assert difference == ["here − paper", *["–"] * 7]  # three problems compare with nothing published


def test_code_graded_by_samples_alone_is_not_the_benchmark():
    section = render_published(GENERAL_PERFORMANCE, [make_evaluation("PromptCoT-Mamba-7B", "livecodebench-samples")])
    assert section.table.rows[1][-1] == "not measured"
    assert any("LiveCodeBench of PromptCoT-Mamba-7B is graded by its statements' samples" in n for n in section.notes)


def test_a_row_says_which_checkpoint_stands_in_it(tmp_path: Path):
    for name in ("math500", "gsm8k"):
        grades = [Grade("math/1", 0, name, "strict", True, "1", "right")]
        write_json(tmp_path / f"{name}.metrics.json", {"summaries": [summarize(grades, name)]})
        write_jsonl(tmp_path / f"{name}.grades.jsonl", [grade.to_row() for grade in grades])
    run = {"config": {"model_path": "outputs/tiny"}, "samples": {"max_len": 128, "n": 1}}
    write_json(tmp_path / "math500.run.json", run)
    evaluation = load_evaluation("PromptCoT-Mamba-7B", tmp_path)
    assert evaluation.settings == {"math500": {"max_len": 128}, "gsm8k": {}}
    notes = render_published(GENERAL_PERFORMANCE, [evaluation]).notes
    assert "PromptCoT-Mamba-7B: sampled with max_len 128, not 65536 (math500)" in notes
    assert "PromptCoT-Mamba-7B (here) is the checkpoint outputs/tiny." in notes
    write_json(tmp_path / "gsm8k.run.json", run | {"config": {"model_path": "other"}})
    notes = render_published(GENERAL_PERFORMANCE, [load_evaluation("PromptCoT-Mamba-7B", tmp_path)]).notes
    assert "PromptCoT-Mamba-7B (here) is the checkpoint other and the checkpoint outputs/tiny." in notes


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("m.metrics.json", "{", "not a metrics file"),
        ("m.metrics.json", "[]", "not a metrics file"),
        ("m.metrics.json", "{}", "not a metrics file"),
        ("m.grades.jsonl", '{"benchmark": "math500"\n', "malformed JSON"),
        ("m.grades.jsonl", "", "the file is empty"),
        ("m.grades.jsonl", '{"problem_id": "math/1", "benchmark": "gsm8k"}\n', "is not of the grades beside it"),
        ("m.run.json", "{", "not what infer_longcot.py wrote"),
        ("m.run.json", "3", "not what infer_longcot.py wrote"),
    ],
)
def test_corrupt_files_are_named(tmp_path: Path, file: str, text: str, complaint: str):
    grades = [Grade("math/1", 0, "math500", "strict", True, "1", "right")]
    write_json(tmp_path / "m.metrics.json", {"summaries": [summarize(grades, "MATH-500")]})
    write_jsonl(tmp_path / "m.grades.jsonl", [grade.to_row() for grade in grades])
    assert load_evaluation("mine", tmp_path).figures["math500"]["samples"] == 1
    (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=complaint) as caught:
        load_evaluation("mine", tmp_path)
    assert "m." in str(caught.value)


def test_a_record_of_throughput_stands_beside_the_paper():
    rows = [
        {"length": length, "ratio": ratio}
        | {f"{name}_{key}": 100.0 for name in ("mamba2", "attention") for key in ("tokens_per_second", "predicted")}
        for length, ratio in ((1024, 0.5), (65536, 3.21))
    ]
    record = {"results": {"pair": "small", "comparisons": [{"budget_gib": 24.0, "rows": rows}]}}
    table = throughput_section([{"results": [1]}, record]).table
    assert table.rows[0] == ["24 GB", "3.66x", "not measured", "3.21x at 65,536 tokens"]
    assert table.rows[1][2:] == ["not measured", "not measured"]
    [figure] = draw_record(record["results"])
    assert "by arithmetic" in figure.svg
    assert "24 GiB" in figure.svg


def test_arms_are_drawn_and_other_records_are_not():
    shares = {arm: {"maths": asdict(share_interval(3, 9))} for arm in ("full curriculum", "reversed phases")}
    [figure] = draw_record({"shares": shares})
    assert "reversed phases" in figure.svg
    for results in ([1, 2], {}, {"seconds": 3}, "text", None):
        assert draw_record(results) == []


@pytest.mark.parametrize("word", ["on", "\u4e8e\u662f"])
def test_a_thousand_long_samples_stay_below_five_megabytes(tmp_path: Path, word: str):
    formula = rf"so $\sum_{{k=1}}^{{n}} k^2 = \frac{{n(n+1)(2n+1)}}{{6}}$ and <b>{word}</b>. " + 9 * word
    rows = [
        {"idx": i, "source": "math", "run": run, "prompt": render_prompt(formula * 4), "completion_tokens": 9000}
        | {"completion": f"<think>\n{formula * 200}\n</think>\n{formula * 3}"}
        for i in range(500)
        for run in range(3)
    ]
    grades = [Grade(f"math/{row['idx']}", row["run"], "math500", "strict", True, "1", "right") for row in rows]
    write_jsonl(tmp_path / "m.jsonl", rows)
    write_jsonl(tmp_path / "m.grades.jsonl", [grade.to_row() for grade in grades])
    write_json(tmp_path / "m.metrics.json", {"summaries": [summarize(grades, "MATH-500")]})
    page = render_report([load_evaluation("mine", tmp_path)], [], {})
    assert page.count('"thought":') == 1000
    assert '"left_out":500' in page
    assert 3_000_000 < len(page.encode()) < 5_000_000
    assert "<b>" not in page


def test_nothing_to_show_is_a_page_of_published_numbers():
    page = render_report([], [], {})
    assert "35.2" in page
    assert "not measured" in page
    assert "<script" not in page


def test_any_row_of_a_table_can_be_ours_and_its_name_in_any_case():
    section = render_published(GENERAL_PERFORMANCE, [make_evaluation("s1.1-7b", "math500")])
    names = [row[0] for row in section.table.rows]
    at = names.index("S1.1-7B (paper)")
    assert names[at + 1 : at + 3] == ["S1.1-7B (here)", "here − paper"]
    assert at + 1 in section.table.own_rows
    assert section.table.rows[at + 1][1].startswith("50.0")
    assert names.count("Sky-T1-7B (paper)") == 1
    assert "Sky-T1-7B (here)" not in names
    assert names[:2] == ["PromptCoT-Mamba-7B (paper)", "PromptCoT-Mamba-7B (here)"]  # ours stand there unmeasured


def test_every_row_of_the_models_tables_has_a_recipe():
    """`reproduce_tables.sh --model` takes the name of a file: that of a row, in small letters."""
    recipes = {path.stem for path in (ROOT / "configs/models").glob("*.yaml")}
    rows = {row.casefold() for table in TABLES if table is not ABLATION for row in table.rows}
    assert rows <= recipes, rows - recipes
    assert recipes - rows == {"qwen3-8b"}


def test_samples_without_a_thought_are_a_footnote():
    evaluation = make_evaluation("S1.1-7B", "math500", "aime24")
    rows = [{"thinking": "none"}, {"thinking": "think"}, {"thinking": "think"}, {}]
    evaluation.grades = {"math500": rows, "gsm8k": [{"thinking": "none"}]}
    notes = render_published(GENERAL_PERFORMANCE, [evaluation]).notes
    assert "S1.1-7B: 33.3 % of the samples have no thought and are graded on the whole answer" in notes


def test_what_a_row_was_sampled_with_beside_its_recipe_is_a_footnote():
    as_published = make_evaluation("PromptCoT-Mamba-7B", "math500", "aime24", thinking_budget=None, stop_on_loop=False)
    other = make_evaluation("PromptCoT-Mamba-7B", "math500", "aime24", thinking_budget=2000, quantization="fp8")
    greedy = {"temperature": 0.0, "top_p": 1.0, "repetition_penalty": 1.0, "max_len": 32768, "use_chat_template": True}
    s1 = make_evaluation("S1.1-7B", "math500", **greedy, system_prompt="Be brief.", thinking="s1")
    notes = {}
    for name, evaluation in (("as", as_published), ("other", other), ("s1", s1)):
        section = render_published(GENERAL_PERFORMANCE, [evaluation])
        notes[name] = [note for note in section.notes if ": sampled with " in note]
    assert notes["as"] == []
    assert notes["other"] == [
        "PromptCoT-Mamba-7B: sampled with thinking_budget 2000, not None (math500, aime24)",
        "PromptCoT-Mamba-7B: sampled with quantization 'fp8', not None (math500, aime24)",
    ]
    assert len(notes["s1"]) == 1
    assert notes["s1"][0].startswith("S1.1-7B: sampled with system_prompt 'Be brief.', not 'You are Qwen")


def test_every_recipe_is_what_its_row_is_compared_with():
    """A run by a recipe alone differs from it in nothing."""
    for path in (ROOT / "configs/models").glob("*.yaml"):
        flags = [f"--config={path}", "--model_path=x", "--output_path=x.jsonl", "--benchmark=math500"]
        args = parse_args(SamplingArguments, flags)
        settings = {name: getattr(args, name) for name in SETTINGS_OF_ROWS}
        evaluation = Evaluation(path.stem, settings={"math500": settings})
        assert note_settings(evaluation, ["math500"]) == [], path


def test_the_ablation_s_whole_is_the_general_model():
    section = render_published(ABLATION, [make_evaluation("promptcot-mamba-7b", "aime24")])
    rows = {row[0]: row[1] for row in section.table.rows}
    assert rows["full curriculum (here)"].startswith("50.0")


def test_the_ablation_has_the_papers_levels_as_rows():
    rows = {row[0]: row[1:] for row in render_published(ABLATION, []).table.rows}
    assert rows["full curriculum (paper)"] == ["35.2", "29.9"]
    assert rows["without PromptCoT's problems (paper)"] == ["11.7", "–"]
    assert rows["without OpenThoughts2 (paper)"] == ["11.4", "–"]
    assert rows["without OpenCodeReasoning (paper)"] == ["–", "13.6"]
    assert rows["without OpenThoughts2 (here)"] == ["not measured"] * 2


def test_the_cost_claim_stands_beside_our_plan(tmp_path: Path):
    section = cost_section()
    assert [row[:2] for row in section.table.rows] == [
        ["PromptCoT-DS-1.5B", "240"], ["DeepScaleR-1.5B", "3,800"], ["ratio", "over 15"]
    ]  # fmt: skip
    write_json(tmp_path / "config.json", STUDENT)
    args = SftArguments(output_dir=str(tmp_path))
    plan = render_plan(
        args,
        DataArguments(model_name_or_path=str(tmp_path), max_length=16384),
        PlanArguments(plan_machines=["8xA100"]),
    )
    said = re.search(r"no checkpointing: [\d,]+ tokens/s per GPU \(MFU \d+%; at most ([\d,]+)\)", plan)
    bound = float(said[1].replace(",", ""))
    fastest = 4.06e5 * 2 * 6000 / bound / 3600  # it fits without checkpointing, which spares a forward pass of four
    assert fastest < planned_hours() < 4 / 3 * fastest
    assert section.table.rows[0][2] == f"at least {planned_hours():.0f}"


def test_further_benchmarks_have_a_table_of_their_own():
    assert render_further([make_evaluation("PromptCoT-Mamba-7B", "math500")]) is None
    two = [make_evaluation("A", "hmmt25", "math500"), make_evaluation("B", "aime26", "math500")]
    section = render_further(two)
    assert section.table.header == ["model", "HMMT February 2025", "AIME 2026"]
    assert [row[0] for row in section.table.rows] == ["A", "B"]
    assert section.table.rows[0][2] == section.table.rows[1][1] == "not measured"
