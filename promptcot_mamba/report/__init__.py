"""Reports: verdicts and logs -> tables, plots, Markdown, one self-contained HTML page. Needs no torch."""
