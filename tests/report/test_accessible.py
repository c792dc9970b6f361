"""axe-core over the quickstart's page at three widths, by day and by night; and that it would say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptcot_mamba.quickstart.report import write_report
from tests.report.devtools import Page, find_axe, find_chromium

AXE = find_axe()
pytestmark = [
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine"),
    pytest.mark.skipif(AXE is None, reason="no axe-core here (npm install --no-save axe-core, or AXE_CORE=axe.min.js)"),
]


def faults(file: Path, profile: Path, widths: tuple[int, ...] = (360, 768, 1280)) -> list[str]:
    assert AXE is not None
    page, found = Page(file, profile), []
    try:
        for width in widths:
            for scheme in ("light", "dark"):
                page.show(width, scheme)
                found += [f"{width} {scheme} {fault}" for fault in page.find_faults(AXE)]
    finally:
        page.close()
    return found


def test_the_quickstarts_page_has_no_serious_fault(results_folder: Path, tmp_path: Path):
    write_report(results_folder)
    assert faults(results_folder / "report.html", tmp_path / "profile") == []


def test_a_fault_would_be_found(tmp_path: Path):
    page = tmp_path / "page.html"
    page.write_text(
        "<!doctype html><title>x</title><main><h1>x</h1><p style='color: #ddd; background: #fff'>pale</p></main>"
    )
    found = faults(page, tmp_path / "profile", (360,))
    assert any("color-contrast" in fault for fault in found)
    assert any("html-has-lang" in fault for fault in found)
