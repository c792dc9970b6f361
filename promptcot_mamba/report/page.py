"""`report.html`: the same tables and figures as RESULTS.md, and the sample browser, in one file without any network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from promptcot_mamba.report import html
from promptcot_mamba.report.evaluations import Evaluation, figures_table
from promptcot_mamba.report.figures import render_figures, render_losses, render_record_figures
from promptcot_mamba.report.results import Record, describe_conditions, paper_sections, record_tables
from promptcot_mamba.report.samples import MAX_SAMPLES, render_browser

STYLE = """
.bar { display: flex; flex-wrap: wrap; gap: 10px 16px; align-items: center; position: sticky; top: 0; padding: 10px 0;
  background: var(--back); z-index: 1; }
.bar select, .bar input, .column select { font: inherit; font-size: 14px; padding: 4px 6px; max-width: 100%; }
.filter, .count { color: var(--soft); font-size: 14px; }
.sample, .compared:not(:empty) { background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  padding: 16px 20px; margin: 12px 0; }
.compared:not(:empty) { border-color: var(--accent); }
.sample header, .compared header { color: var(--soft); font-size: 14px; margin-bottom: 8px; display: flex;
  justify-content: space-between; }
.sample button, .compared button, .more { font: inherit; font-size: 13px; cursor: pointer; }
.sample .question, .compared .question { white-space: pre-wrap; font-weight: 500; margin: 0 0 12px; }
.sample .answer, .compared .answer { white-space: pre-wrap; margin: 10px 0; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--accent); font-size: 14px; }
.thought { color: var(--soft); max-height: 420px; overflow: auto; margin-top: 8px; }
.verdict { font-weight: 600; font-size: 14px; color: var(--bad); } .verdict.right { color: var(--good); }
.verdict code { color: var(--soft); font-weight: 400; overflow-wrap: anywhere; }
.columns { display: grid; grid-template-columns: 1fr 1fr; gap: 18px; } .column { min-width: 0; }
"""


def render_report(
    evaluations: Sequence[Evaluation],
    records: Sequence[Record],
    losses: dict[str, Path],
    most_samples: int = MAX_SAMPLES,
) -> str:
    """The whole page."""
    body = [html.render_heading("PromptCoT-Mamba: results beside the paper's", 1)]
    lead = "Ours as avg@n [95 % interval, clustered by problem], n and grader. What was not run says so."
    body.append(html.render_paragraph(lead, "lead"))
    sections, browser = paper_sections(evaluations, records), render_browser(evaluations, most_samples)
    parts = [section.title for section in sections] + ["Samples"] * bool(browser.markup)
    body.append(html.render_contents([*parts, *(record["title"] for record in records)]))
    for section in sections:
        body += [html.render_heading(section.title), html.render_table(section.table)]
        body += [html.render_paragraph(note, "note") for note in section.notes]
    if evaluations:
        body += [html.render_heading("Everything graded"), html.render_table(figures_table(evaluations))]
    body += render_losses(losses)
    body += render_figures(evaluations)
    if browser.markup:
        body += [html.render_heading("Samples"), browser.markup]
    for record in records:
        body += [html.render_heading(record["title"]), html.render_paragraph(describe_conditions(record), "note")]
        for caption, table in record_tables(record):
            body += [html.render_paragraph(caption), html.render_table(table)]
        body += render_record_figures(record.get("results"))
    page = html.render_page("PromptCoT-Mamba: results", body)
    allowed = f"'sha256-{browser.script_hash}'" if browser.script_hash else "'none'"
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}"
    head = f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n<style>{STYLE}</style>\n</head>'
    return page.replace("</head>", head, 1)
