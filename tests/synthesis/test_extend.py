"""README's row for a new synthesis stage, done as written: one file, one line, and the program runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from promptcot_mamba.jsonl import read_jsonl, write_jsonl

ROOT = Path(__file__).resolve().parents[2]
STAGE = '''"""Drop problems whose words were seen before."""

from __future__ import annotations

from dataclasses import dataclass

from promptcot_mamba.synthesis.stage import Context


@dataclass(frozen=True)
class Settings:
    """lower: whether upper and lower case are the same."""

    lower: bool = True


def run(settings: Settings, context: Context) -> None:
    rows = {(row["problem"].lower() if settings.lower else row["problem"]): row for row in context.read("problems")}
    output = context.output("deduped", settings, problems=context.path("problems"))
    if not output.complete:
        output.finish(rows.values(), problems=len(rows))
'''


def test_a_stage_is_one_file_and_one_line(tmp_path: Path):
    for name in ("promptcot_mamba", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    room = tmp_path / "promptcot_mamba/synthesis"
    (room / "dedupe.py").write_text(STAGE)
    table = (room / "__init__.py").read_text()
    assert table.count("STAGES = {\n") == 1
    line = '    "dedupe": Stage("synthesis.dedupe", "deduped"),\n'
    (room / "__init__.py").write_text(table.replace("STAGES = {\n", f"STAGES = {{\n{line}"))
    work = tmp_path / "work"
    write_jsonl(
        work / "problems.jsonl", [{"key": str(i), "problem": f"{'Pp'[i % 2]}roblem {i // 2}"} for i in range(10)]
    )
    flags = ["--work_dir", str(work), "--stages", json.dumps({"dedupe": {"lower": True}}), "--models", "{}"]

    def run(*more: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "scripts.synthesize", *flags, *more]
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=300)

    done = run()
    assert done.returncode == 0, done.stderr
    assert [row["problem"] for row in read_jsonl(work / "deduped.jsonl")] == [f"problem {i}" for i in range(5)]
    refused = run("--stages", json.dumps({"dedup": {}}))
    assert refused.returncode == 2
    assert "dedupe" in refused.stderr, "an unknown stage is refused with the known ones"
