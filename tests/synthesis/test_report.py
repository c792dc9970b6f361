"""The report of a whole scripted run: every figure counted again from the rows, and text that stays text."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from promptcot_mamba.records import derive_seed
from promptcot_mamba.run_info import write_run_info
from promptcot_mamba.synthesis import STAGES
from promptcot_mamba.synthesis.agreement import cohen_kappa, fleiss_kappa
from promptcot_mamba.synthesis.diversity import measure_diversity
from promptcot_mamba.synthesis.stage import Context
from tests.synthesis.scripted import SETTINGS, ScriptedModel, answer, likelihood


def make_run(folder: Path, seeds: int = 24) -> Context:
    """A work folder with the output of every stage; chains by the script as well, four a problem."""
    write_jsonl(folder / "seeds.jsonl", [{"problem": f"Compute number {i}.", "level": "easy"} for i in range(seeds)])
    model = ScriptedModel(answer, likelihood)
    context = Context(folder / "work", 0, lambda name: model)
    changed = {"concepts": {"seeds": str(folder / "seeds.jsonl")}, "concept_sampling": {"count": 20}}
    for stage, values in SETTINGS.items():
        settings_class, function = STAGES[stage].load()
        function(settings_class(**{**values, **changed.get(stage, {})}), context)
    chains = []
    for problem in context.read("teacher_problems"):
        for run in range(4):
            completion = f"<think>\n{answer(problem['prompt'], derive_seed(0, problem['id'], run))}"
            sample = {"run": run, "completion": completion, "finish_reason": "stop", "completion_tokens": 9}
            chains.append({**problem, **sample, "format_valid": True})
    write_jsonl(context.path("chains"), chains)
    write_run_info(context.path("chains"), {"seed": 0}, complete=True)
    settings_class, distill = STAGES["distill"].load()
    distill(settings_class(threshold=0.75), context)
    return context


def render(context: Context) -> str:
    settings_class, function = STAGES["report"].load()
    function(settings_class(samples=2), context)
    return (context.work_dir / "report.md").read_text()


@pytest.fixture(scope="module")
def context(tmp_path_factory) -> Context:
    return make_run(tmp_path_factory.mktemp("run"))


def test_figures_are_those_of_the_rows(context):
    text = render(context)
    problems, judged = (read_jsonl(context.path(name)) for name in ("problems", "judgements"))
    rejected = read_jsonl(context.work_dir / "problems.rejected.jsonl")
    share = 100 * len(problems) / (len(problems) + len(rejected))
    tasks = len(problems) + len(rejected)
    assert f"| new problems | {tasks} | {len(problems)} | {share:.1f} | not one rationale" in text
    kept = read_jsonl(context.path("kept_problems"))
    assert f"| approved, unique, clean problems | {len(judged)} | {len(kept)} |" in text
    perfect = sum(row["verdicts"]["a"] == "perfect" for row in judged)
    assert f"| a | {100 * perfect / len(judged):.1f} |" in text
    kappa = cohen_kappa(*([row["verdicts"][name] for row in judged] for name in ("a", "b")))
    assert f"| {kappa:.2f} |" in text
    settled = {row["key"].partition("/")[0]: row["agreement"] for row in read_jsonl(context.path("distilled"))}
    lost = read_jsonl(context.work_dir / "distilled.rejected.jsonl")
    settled |= {row["id"]: row["agreement"] for row in lost}
    hard = [settled[row["id"]] for row in context.read("teacher_problems") if row["level"] == "hard"]
    assert f"| hard | {len(hard)} | {100 * sum(hard) / len(hard):.1f} |" in text


def test_pictures_are_whole_and_the_page_stands_alone(context):
    text = render(context)
    for name in ("yield", "concepts", "judges", "difficulty"):
        assert f"(report_{name}.svg)" in text
        assert ElementTree.parse(context.work_dir / f"report_{name}.svg").getroot().tag.endswith("svg")
    page = (context.work_dir / "report.html").read_text()
    assert page.count("<svg") == 4
    assert not re.search(r'(?:src|href)="(?!#)', page)


def test_rendering_again_gives_the_same_bytes(context):
    assert render(context) == render(context)


def test_what_models_wrote_is_not_markup(tmp_path):
    row = {"key": "k", "concepts": ["a|b"], "level": "<b>", "problem": "<script>", "rationale": "# no\n\nheading"}
    write_jsonl(tmp_path / "problems.jsonl", [row])
    text = render(Context(tmp_path, 0, lambda name: None))
    blocks = re.findall(r"^```text\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert any("<script>" in block and "\n\nRationale: # no" in block for block in blocks)
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="holds no stage's output yet"):
        render(Context(tmp_path, 0, lambda name: None))


def test_kappas():
    # 20 items, 15 agreed, marginals 12/8 and 11/9: Cohen's kappa by hand
    first = ["y"] * 9 + ["y"] * 3 + ["n"] * 2 + ["n"] * 6
    second = ["y"] * 9 + ["n"] * 3 + ["y"] * 2 + ["n"] * 6
    expected = (12 * 11 + 8 * 9) / 400
    assert cohen_kappa(first, second) == pytest.approx((15 / 20 - expected) / (1 - expected))
    assert cohen_kappa(["y", "n"], ["n", "y"]) == -1
    assert fleiss_kappa([["y", "y", "y"], ["n", "n", "n"]]) == 1
    # Fleiss by hand: P = (1 + 1/3) / 2, shares 4/6 and 2/6
    assert fleiss_kappa([["y", "y", "y"], ["y", "n", "n"]]) == pytest.approx((2 / 3 - 5 / 9) / (4 / 9))
    assert math.isnan(cohen_kappa(["y"], ["y"]))
    assert math.isnan(cohen_kappa([], []))
    assert math.isnan(fleiss_kappa([["y"]]))


def test_diversity():
    rows = [{"concepts": ["a", "b"]}, {"concepts": ["b", "a", "a"]}, {"concepts": ["c", "d"]}]
    measured = measure_diversity(rows, ["a", "b", "c", "z"])
    assert (measured.concepts, measured.pairs, measured.coverage) == (4, 2, 0.75)
    assert measured.effective == pytest.approx(math.exp(-2 / 3 * math.log(1 / 3) - 1 / 3 * math.log(1 / 6)))
    even = measure_diversity([{"concepts": list("abcd")}], list("abcd"))
    assert even.effective == pytest.approx(4)
