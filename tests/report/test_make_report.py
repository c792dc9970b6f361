"""The report program: published tables, checks on what it reads, and a page whose hostile samples stay text."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from promptcot_mamba.bench_record import RecordTable, write_record
from promptcot_mamba.chat_format import render_prompt
from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from promptcot_mamba.report.mathml import render_text
from tests.report.devtools import Page, find_axe, find_chromium

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = (
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    r"$\text{<img src=x onerror=window.hacked=1>}$ and $\href{javascript:window.hacked=1}{x}$",
    "</script><script>window.hacked = 1</script>",
    "\u2028 \ud800 \x00 end",
)


def make_predictions(folder: Path, problems: int = 12, runs: int = 4) -> Path:
    """Graded AIME samples, some right, some cut off, all with hostile text in them; graded by the real program."""
    folder.mkdir(parents=True)
    rows = []
    for run in range(runs):
        for i in range(problems):
            nasty = HOSTILE[(i + run) % len(HOSTILE)]
            thought = f"Let $x_{{{i}}}^2 = \\frac{{1}}{{2}}$. {nasty} " + "so " * (50 * (i + 1))
            end = "" if (i + run) % 5 == 0 else f"\n</think>\n{nasty} So \\boxed{{{i if (i + run) % 3 else i + 1}}}"
            rows.append(
                {
                    "idx": i,
                    "prompt": render_prompt(f"Find $\\frac{{{i}}}{{1}}$. {nasty}"),
                    "reference_solution": f"#### {i}",
                    "source": "aime2024",
                    "run": run,
                    "completion": f"<think>\n{thought}{end}",
                    "completion_tokens": 100 * (i + 1) + run,
                    "finish_reason": "stop" if end else "length",
                    "format_valid": bool(end),
                }
            )
    path = folder / "aime.jsonl"
    write_jsonl(path, rows)
    run_program("calc_acc_aime.py", "--input_path", path, "--expected_runs", runs)
    return path


def run_program(program: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess:
    command = [sys.executable, *(["-m"] if program.startswith("scripts.") else []), program, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Predictions of two models, one record, and the report of both."""
    folder = tmp_path_factory.mktemp("report")
    make_predictions(folder / "seven", problems=30)
    make_predictions(folder / "other", runs=3)
    table = RecordTable("Speed | of it", ["what", "ratio"], [["ours over theirs", "2.0x"]])
    write_record(folder / "records" / "speed.json", title="A stopwatch", config={}, tables=[table], results={})
    report(folder)
    return folder


def report(folder: Path, *more: object, check: bool = True) -> subprocess.CompletedProcess:
    return run_program(
        "scripts.make_report",
        *("--evaluation", f"PromptCoT-Mamba-7B={folder / 'seven'}", f"mine={folder / 'other'}"),
        *("--records", folder / "records", "--results", folder / "RESULTS.md", "--output", folder / "report.html"),
        *more,
        check=check,
    )


def test_numbers_are_the_metrics(made):
    metrics = json.loads((made / "seven" / "aime.metrics.json").read_text())["summaries"][0]
    estimate = metrics["avg_at_n"]
    shown = f"{100 * estimate['mean']:.1f} [{100 * estimate['low']:.1f}, {100 * estimate['high']:.1f}] n=4 strict"
    for text in ((made / "RESULTS.md").read_text(), (made / "report.html").read_text().replace("\n", " ")):
        assert shown in text
        assert f"{100 * estimate['mean'] - 35.2:+.1f}" in text
        assert "ours over theirs" in text
    row = next(line for line in (made / "RESULTS.md").read_text().splitlines() if "PromptCoT-Mamba-7B (here)" in line)
    assert row.count("not measured") == 6
    assert "of 30 problems" not in row


def test_an_edited_grade_file_is_refused(made, tmp_path):
    (tmp_path / "records").mkdir()
    make_predictions(tmp_path / "seven", runs=1)
    make_predictions(tmp_path / "other", runs=1)
    grades = tmp_path / "seven" / "aime.grades.jsonl"
    rows = read_jsonl(grades)
    rows[1]["correct"] = not rows[1]["correct"]
    write_jsonl(grades, rows)
    done = report(tmp_path, check=False)
    assert done.returncode == 2
    assert "one of them was edited" in done.stderr
    assert not (tmp_path / "RESULTS.md").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--evaluation", "nameless"], "expected NAME=FOLDER"),
        (["--evaluation", "a=/nowhere"], "no such folder"),
        (["--evaluation", "A=tests", "a=docs"], "A was already named, as tests"),  # rows are found without their case
        (["--evaluation", "a=tests"], "no *.metrics.json"),
        (["--records", "configs"], "not a record"),
    ],
)
def test_bad_input(arguments, message, tmp_path):
    done = run_program("scripts.make_report", *arguments, "--results", tmp_path / "r.md", check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_formulas_are_safe_markup():
    markup = render_text(r"a < b, $\frac{1}{2}$, $\href{javascript:x}{y}$, $\unknown{$, <b>")
    assert "<mfrac>" in markup
    assert "javascript" not in markup
    assert "<b>" not in markup
    assert "a &lt; b" in markup


@pytest.mark.parametrize("start", ["2^{", r"\sqrt{", r"\bar{", "x_{"])
@pytest.mark.parametrize("depth", [165, 199])
def test_a_formula_that_is_nested_too_deeply_is_shown_as_its_source(start: str, depth: int):
    """It converts, and is too deep to be walked: one such answer must not stop the report."""
    formula = f"${start * depth}x{'}' * depth}$"
    markup = render_text(f"So {formula} and $y$.")
    assert markup.startswith(f"So {formula} and <math") or markup.startswith("So <math")
    assert markup.endswith("</math>.")


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine")
def test_the_page_in_a_browser(made, tmp_path):
    assert (made / "report.html").stat().st_size < 5_000_000
    page = Page(made / "report.html", tmp_path / "profile")
    try:
        samples = "document.querySelectorAll('.sample').length"
        count = "document.querySelector('.count').textContent"
        assert page.evaluate(count) == "156 of 156 samples"  # 30 problems x 4 runs, 12 x 3
        assert page.evaluate(samples) == 20
        assert page.evaluate("document.querySelectorAll('.question math').length") > 0
        choose = "(() => {{ const s = document.querySelector('select[aria-label=\"{}\"]'); s.value = '{}'; "
        choose += "s.dispatchEvent(new Event('change')); }})()"
        page.evaluate(choose.format("verdict", "truncated"))
        truncated = page.evaluate(count)
        assert 0 < int(truncated.split()[0]) < 156
        page.evaluate(choose.format("model", "mine"))
        assert int(page.evaluate(count).split()[0]) < int(truncated.split()[0])
        page.evaluate(choose.format("verdict", ""))
        page.evaluate(choose.format("model", ""))
        search = "(() => {{ const s = document.querySelector('input'); s.value = '{}'; "
        search += "s.dispatchEvent(new Event('input')); }})()"
        page.evaluate(search.format("onerror"))
        assert 0 < int(page.evaluate(count).split()[0]) < 156
        page.evaluate(search.format("nothing like this"))
        assert page.evaluate(count).startswith("0 of")
        page.evaluate(search.format(""))
        assert page.evaluate("document.querySelector('.sample details').open") is False
        page.evaluate("document.querySelector('.sample summary').click()")
        assert page.evaluate("document.querySelector('.sample details').open") is True
        page.evaluate("document.querySelector('.sample header button').click()")
        assert page.evaluate("document.querySelectorAll('.compared .column').length") == 2
        page.screenshot(made / "screenshot.png")
        assert page.evaluate("window.hacked") is None
        assert page.evaluate("document.querySelectorAll('img').length") == 0
        assert page.errors == []
    finally:
        page.close()


def test_the_reader_sees_the_own_results_first_and_the_right_answer_beside_the_given(made):
    text = (made / "report.html").read_text()
    headings = re.findall(r'<h2 id="([^"]+)">([^<]+)</h2>', text)
    names = [name for _, name in headings]
    assert names[0] == "Everything graded"
    assert names.index("Samples") < names.index("General performance")
    assert names[-1] == "Record: A stopwatch"
    linked = re.findall(r'<a href="#([^"]+)">', text)
    assert linked == [anchor for anchor, _ in headings]
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert text.count("<svg") == len(re.findall(r'<svg role="img"[^>]*><title>[^<]+</title>', text)) > 0
    data = json.loads(re.search(r'<script type="application/json" id="samples">(.*?)</script>', text, re.DOTALL)[1])
    wrong = next(sample for sample in data["samples"] if sample["verdict"] == "wrong")
    assert wrong["gold"]
    assert wrong["gold"] != wrong["extracted"]
    assert wrong["graders"].startswith("strict: wrong, paper: wrong")
    sections = text[text.index(">Ablation</h2>") :].split("</section>")
    assert "nothing of it was measured here" not in sections[0]  # its whole is the 7B that was
    assert "nothing of it was measured here" in sections[1]


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_fits_every_screen_by_day_and_by_night(made, tmp_path, width: int):
    page, axe = Page(made / "report.html", tmp_path / "profile"), find_axe()
    try:
        grounds = []
        for scheme in ("light", "dark"):
            page.show(width, scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("document.querySelector('.beside .gold') !== null")
            if axe is not None:
                assert page.find_faults(axe) == []
            grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            page.screenshot(tmp_path / f"{scheme}.png")
        assert grounds[0] != grounds[1]
        assert page.evaluate("[...document.querySelectorAll('.scroll svg')].every(svg => svg.clientWidth >= 560)")
        assert page.errors == []
    finally:
        page.close()
    if axe is None:
        pytest.skip("all but accessibility was looked at: no axe-core here (npm install --no-save axe-core)")
