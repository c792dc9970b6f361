"""The quickstart's report: its figures are the verdicts', and nothing a model wrote becomes markup."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from scipy.stats import beta

from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.metrics import share_interval
from promptcot_mamba.quickstart.report import (
    CHAIN_RULES,
    CLAIMS,
    MATHS_COMPOSED,
    choose_chains,
    loss_curves,
    read_results,
    write_report,
)
from promptcot_mamba.report.tables import Table, format_share, render_markdown
from tests.report.conftest import CODE_RIGHT, PROBLEMS, RIGHT


class Page(HTMLParser):
    """Which tags a page holds, whether they close, and its text."""

    VOID = ("meta", "path", "use", "rect", "br")

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.open, self.text, self.links = set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_figures_are_the_verdicts(results_folder: Path):
    results = read_results(results_folder)
    right = RIGHT["phase2"]
    composed = results.share("phase2", MATHS_COMPOSED)
    assert (composed.mean, composed.problems) == (
        (right["quickstart_composed"] + right["quickstart_unseen"]) / (2 * PROBLEMS),
        2 * PROBLEMS,
    )
    differences = {(claim.group.label, claim.first): results.difference(claim).mean for claim in CLAIMS}
    assert differences == {
        ("maths, composed", "phase1"): pytest.approx(14 / 20),
        ("maths, composed", "control"): pytest.approx(12 / 20),
        ("code, composed", "phase1"): pytest.approx(1.0),
    }
    assert CODE_RIGHT["phase2"]["quickstart_code_composed"] == PROBLEMS


def test_the_report_is_one_page_whose_model_text_is_inert(results_folder: Path):
    write_report(results_folder)
    text = (results_folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert "script" not in page.tags
    assert "b" in page.tags  # the tiles' own; the model's `<b>7</b>` is text:
    assert "\\boxed{<b>7</b>}" in "".join(page.text)
    assert all(link.startswith("#") for link in page.links)  # nothing is fetched; plots refer within themselves
    for figure in ("+70.0", "+60.0", "+100.0", "15/20"):
        assert figure in text


def test_markdown_keeps_a_models_fences_inside_its_own(results_folder: Path):
    write_report(results_folder)
    text = (results_folder / "report.md").read_text(encoding="utf-8")
    assert "````text\n<script>" in text
    for plot in ("solved.svg", "loss.svg"):
        assert f"({plot})" in text
        assert (results_folder / plot).read_text(encoding="utf-8").startswith("<?xml")


def test_writing_twice_gives_the_same_plots(results_folder: Path):
    write_report(results_folder)
    first = [(results_folder / name).read_bytes() for name in ("solved.svg", "loss.svg")]
    write_report(results_folder)
    assert first == [(results_folder / name).read_bytes() for name in ("solved.svg", "loss.svg")]


def test_chains_are_chosen_by_rule(results_folder: Path):
    chosen = dict(choose_chains(read_results(results_folder)))
    assert list(chosen) == list(CHAIN_RULES)
    first, alone, program, wrong = chosen.values()
    assert first["phase2"]["grade"]["problem_id"] == "quickstart_unseen/0"
    # the control solves the first one too, phase 2 the first six
    assert alone["phase2"]["grade"]["problem_id"] == "quickstart_unseen/1"
    assert program["phase2"]["grade"]["problem_id"] == "quickstart_code_unseen/0"
    assert wrong["phase2"]["grade"]["problem_id"] == "quickstart_single/9"


def test_second_phases_continue_the_first_ones_steps(results_folder: Path):
    curves = {curve.name: curve for curve in loss_curves(read_results(results_folder))}
    assert (curves["phase 1"].x[-1], curves["phase 2"].x[0], curves["control"].x[-1]) == (40, 41, 80)


def test_a_prediction_without_grade_is_named(results_folder: Path):
    grades = results_folder / "samples" / "phase2_maths.grades.jsonl"
    lines = grades.read_text(encoding="utf-8").splitlines(keepends=True)
    grades.write_text("".join(lines[1:]), encoding="utf-8")
    with pytest.raises(InputError, match="no grade for problem quickstart_single/0"):
        read_results(results_folder)


@pytest.mark.parametrize(("right", "problems"), [(0, 50), (50, 50), (25, 50), (1, 3)])
def test_share_interval_leaves_a_fortieth_on_either_side(right: int, problems: int):
    interval = share_interval(right, problems)
    for bound, share in ((interval.low, 0.025), (interval.high, 0.975)):
        if 0 < bound < 1:  # Jeffreys' interval
            assert beta(right + 0.5, problems - right + 0.5).cdf(bound) == pytest.approx(share, abs=1e-9)
        assert bound not in (0, 1) or right in (0, problems)


def test_tables_refuse_ragged_rows_and_escape_pipes():
    with pytest.raises(AssertionError, match="1 cells under 2 titles"):
        Table(["a", "b"], [["1"]])
    assert render_markdown(Table(["a", "b"], [["x|y", "2"]])) == "| a | b |\n|:--|--:|\n| x\\|y | 2 |"


def test_a_share_shows_interval_and_counts():
    assert format_share(share_interval(168, 200)) == "84.0 % [78.4, 88.6] 168/200"
