"""A quickstart's output folder with known verdicts, as the stages leave it."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptcot_mamba.chat_format import render_prompt
from promptcot_mamba.jsonl import write_json, write_jsonl

# right answers out of ten problems, per model and source
RIGHT = {
    "phase1": {"quickstart_single": 8, "quickstart_composed": 1, "quickstart_unseen": 0},
    "control": {"quickstart_single": 9, "quickstart_composed": 2, "quickstart_unseen": 1},
    "phase2": {"quickstart_single": 9, "quickstart_composed": 9, "quickstart_unseen": 6},
}
CODE_RIGHT = {
    "phase1": {"quickstart_code_single": 7, "quickstart_code_composed": 0, "quickstart_code_unseen": 0},
    "control": {"quickstart_code_single": 7, "quickstart_code_composed": 0, "quickstart_code_unseen": 0},
    "phase2": {"quickstart_code_single": 8, "quickstart_code_composed": 10, "quickstart_code_unseen": 10},
}
PROBLEMS = 10
HOSTILE = "<think>\n<script>alert(1)</script> & ```\n</think>\nThe answer is \\boxed{<b>7</b>}."


@pytest.fixture
def results_folder(tmp_path: Path) -> Path:
    for model in RIGHT:
        for family, right in (("maths", RIGHT[model]), ("code", CODE_RIGHT[model])):
            rows, grades = [], []
            for source, count in right.items():
                for idx in range(PROBLEMS):
                    prompt = render_prompt(f"Question {idx} of <{source}>?")
                    rows.append({"idx": idx, "source": source, "prompt": prompt, "run": 0, "completion": HOSTILE})
                    reason = "right" if idx < count else "wrong"
                    identity = f"{source}/{idx}"
                    grades.append({"problem_id": identity, "run": 0, "correct": idx < count, "reason": reason})
            write_jsonl(tmp_path / "samples" / f"{model}_{family}.jsonl", rows)
            write_jsonl(tmp_path / "samples" / f"{model}_{family}.grades.jsonl", grades)
        losses = [{"step": step, "loss": 5.0 / step, "learning_rate": 0.01} for step in range(1, 41)]
        write_jsonl(tmp_path / model / "train_log.jsonl", [*losses, {"step": 40, "train_runtime": 3.0}])
    for index, name in enumerate(("data", "train_phase1")):
        write_json(
            tmp_path / "stages" / f"{name}.json",
            {"title": name, "command": [], "inputs": "", "started": float(index), "seconds": 10.0 * (index + 1)},
        )
    return tmp_path
