"""`report.html`: the same tables and figures as RESULTS.md, and the sample browser, in one file without any network."""

from collections.abc import Sequence
from pathlib import Path

from promptcot_mamba.report.document import Block, Document, Markup, Paragraph, Section, render_html
from promptcot_mamba.report.evaluations import Evaluation, figures_table
from promptcot_mamba.report.figures import draw_figures, draw_losses, draw_record
from promptcot_mamba.report.results import Record, describe_conditions, paper_sections, record_tables
from promptcot_mamba.report.samples import MAX_SAMPLES, render_browser

LEAD = "Ours as avg@n [95 % interval, clustered by problem], n and grader. What was not run says so."


def render_report(
    evaluations: Sequence[Evaluation],
    records: Sequence[Record],
    losses: dict[str, Path],
    most_samples: int = MAX_SAMPLES,
) -> str:
    """The whole page: the reader's own results, the paper's tables, then what the project's records hold."""
    browser = render_browser(evaluations, most_samples)
    sections = [Section("Everything graded", [figures_table(evaluations)])] if evaluations else []
    sections += [*draw_figures(evaluations), *draw_losses(losses)]
    if browser.markup:
        sections.append(Section("Samples", [Markup(browser.markup)]))
    for published in paper_sections(evaluations, records, losses):
        sections.append(
            Section(published.title, [published.table, *(Paragraph(note, "note") for note in published.notes)])
        )
    for record in records:
        blocks: list[Block] = [
            Paragraph(describe_conditions(record), "note"),
            *record_tables(record),
            *draw_record(record.get("results")),
        ]
        sections.append(Section(f"Record: {record['title']}", blocks))
    title = "PromptCoT-Mamba: results beside the paper's"
    return render_html(Document(title, sections, [Paragraph(LEAD, "lead")], script_hash=browser.script_hash))
