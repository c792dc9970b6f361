"""Files of earlier versions, whose samples lack the fields that came later, are read and continued."""

from __future__ import annotations

from pathlib import Path

import pytest

import infer_longcot
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl, write_json, write_jsonl
from promptcot_mamba.records import Problem, Sample, grouped_row
from promptcot_mamba.run_info import side_path
from promptcot_mamba.sampling.arguments import SamplingArguments
from promptcot_mamba.sampling.ledger import checksum
from promptcot_mamba.sampling.plan import make_plan
from tests.sampling.conftest import write_problems
from tests.sampling.scripted import ScriptedBackend

OLD_FIELDS = (
    *("run", "attempt", "seed", "completion", "finish_reason", "prompt_tokens", "completion_tokens", "seconds"),
    "format_valid",
)


def old_sample(problem: int, run: int) -> dict[str, object]:
    values = (run, 0, 7, f"<think>\nold {problem}\n</think>\n\\boxed{{1}}", "stop", 5, 9, 1.5, True)
    return dict(zip(OLD_FIELDS, values, strict=True))


@pytest.mark.parametrize("kept", ["jsonl", "attempts.jsonl", "attempts.jsonl, one twice", "both"])
def test_an_old_run_goes_on(kept: str, checkpoint: Path, tmp_path: Path):
    """Only one of the two files is left, as the first version wrote it; or both, as those before 2026-11-29 did."""
    problems = write_problems(tmp_path / "p.jsonl", 3)
    output = tmp_path / "x.jsonl"
    flags = {"data_path": problems, "output_path": output, "model_path": checkpoint, "n": 2}
    flags = {name: str(value) if isinstance(value, Path) else value for name, value in flags.items()}
    write_json(side_path(output, "run.json"), {"samples": make_plan(SamplingArguments(**flags)).sample_settings})
    rows = read_jsonl(problems)
    old = [(place, run) for place in range(3) for run in range(2)][:4]
    if kept == "both":
        told = [{key: value for key, value in old_sample(*each).items() if key != "completion"} for each in old]
        sums = [{"thinking": "think", "completion_crc": checksum(str(old_sample(*each)["completion"]))} for each in old]
        named = [{"problem_id": f"made/{place}"} for place, _ in old]
        write_jsonl(side_path(output, "attempts.jsonl"), (a | b | c for a, b, c in zip(named, told, sums, strict=True)))
    if not kept.startswith("attempts.jsonl"):
        write_jsonl(output, ({**rows[place], **old_sample(place, run)} for place, run in old))
    else:
        lines = [{"problem_id": f"made/{place}", **old_sample(place, run)} for place, run in old]
        write_jsonl(side_path(output, "attempts.jsonl"), [*lines, *(lines[:1] if "twice" in kept else ())])
    backend = ScriptedBackend(4)
    command = [f"--{name}={value}" for name, value in flags.items()]
    assert infer_longcot.main(command, lambda _: backend) == 0
    assert backend.submitted == 2
    done = {(row["idx"], row["run"]): row for row in read_jsonl(output)}
    assert len(done) == 6
    for place, run in old:
        assert done[place, run] == {**rows[place], **old_sample(place, run)}


def test_rows_go_round():
    problem = Problem("s/1", "p", {"idx": 1, "source": "s", "prompt": "p"})
    old = Sample("s/1", *old_sample(1, 0).values())
    assert list(old.to_row(problem)) == ["idx", "source", "prompt", *OLD_FIELDS]
    new = Sample("s/1", *old_sample(1, 1).values(), prompt="sent", thinking="none", sent={"template": "own"})
    assert new.to_row(problem)["prompt"] == "sent"
    for sample in (old, new):
        assert Sample.from_row(sample.to_row(problem)) == sample
    assert new.to_row(problem)["question"] == "p"  # what the sent prompt took the place of
    same = Sample("s/1", *old_sample(1, 1).values(), prompt="p", thinking="think", sent={"template": "file"})
    assert "question" not in same.to_row(problem)
    row = grouped_row(problem, [new, new])
    assert (row["prompt"], row["sent"], row["thinkings"]) == ("sent", {"template": "own"}, ["none", "none"])
    assert row["seconds"] == [1.5, 1.5]
    assert list(grouped_row(problem, [old])) == [
        "idx", "source", "prompt", *(name if name == "seconds" else f"{name}s" for name in OLD_FIELDS)
    ]  # fmt: skip
    with pytest.raises(InputError, match="no 'seed'; not written by this program"):
        Sample.from_row({name: value for name, value in old.to_row(problem).items() if name != "seed"})
