"""scripts.synthesize as its users meet it: every stage on a served model, killed and run again; rounds; bad input."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from promptcot_mamba.errors import InputError, ProgramFailedError
from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from promptcot_mamba.synthesis.models import ModelBook
from scripts import synthesize
from tests import small_disk
from tests.sampling.conftest import ROOT, ServerProcess
from tests.synthesis.conftest import seeds, start_server, tokenizer_folder  # noqa: F401 (fixtures)
from tests.synthesis.scripted import SETTINGS, ScriptedModel, answer, likelihood

FILES = {  # what each stage leaves, of those that ask a model
    "concepts": "concepts.jsonl",
    "rationales": "rationales.jsonl",
    "choose_rationales": "chosen_rationales.jsonl",
    "problems": "problems.jsonl",
    "judge": "judgements_a.jsonl",
    "chains": "chains.attempts.jsonl",
}


@pytest.fixture
def write_recipe(tmp_path: Path, seeds: Path, tokenizer_folder: Path) -> Callable[..., Path]:  # noqa: F811
    """Write a recipe of all stages whose models are behind this server."""

    def write(name: str, server: ServerProcess, **changes: dict) -> Path:
        served = {"base_url": [server.url], "served_model_name": "tiny", "context": 8192, "concurrency": 2}
        generator = {**served, "model_path": str(tokenizer_folder), "chat_template": False}
        stages = {
            **SETTINGS,
            "concepts": {"seeds": str(seeds), "model": "m", "k": 2},
            "choose_rationales": {"model": "generator"},
            "problems": {"model": "generator", "candidates": 2},
            "filter": {"rule": "perfect_without_bad", "allow_no_benchmarks": True, "near_duplicates": 0.99},
            "chains": {
                "model_path": "tiny", "n": 4, "max_len": 2000, "temperature": 0.6,
                "flags": {"base_url": [server.url], "concurrency": 2},
            },
            "distill": {"threshold": 0.5},
            "report": {"samples": 2},
            **changes,
        }  # fmt: skip
        recipe = {"work_dir": str(tmp_path / name), "seed": 3, "stages": stages}
        recipe["models"] = {"m": served, "a": served, "b": served, "generator": generator}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        return path

    return write


def start(recipe: Path, *flags: str, most_bytes: int = resource.RLIM_INFINITY) -> subprocess.Popen:
    command = [sys.executable, "-m", "scripts.synthesize", "--config", str(recipe), *flags]
    is_small = most_bytes != resource.RLIM_INFINITY
    environment = {**(small_disk.ENVIRONMENT if is_small else os.environ), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY)),
    )  # fmt: skip


def run(recipe: Path, *flags: str, status: int = 0, most_bytes: int = resource.RLIM_INFINITY) -> str:
    """Run to the end, writing no file longer than `most_bytes`; return what it said."""
    process = start(recipe, *flags, most_bytes=most_bytes)
    said = process.communicate(timeout=500)[1]
    assert process.returncode == status, said[-3000:]
    return said


def kill_within(recipe: Path, file: Path, rows: int, *flags: str) -> None:
    """Start, and kill -9 once a file has so many rows: the program and what it started."""
    process = start(recipe, *flags)
    while process.poll() is None and (not file.exists() or file.read_bytes().count(b"\n") < rows):
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()[1][-3000:]
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def contents(folder: Path) -> dict[str, list[dict]]:
    """Every row of every file, without the clock's."""
    files = sorted(path for path in folder.glob("*.jsonl") if path.stat().st_size and "attempts" not in path.name)
    return {path.name: [{k: v for k, v in row.items() if k != "seconds"} for row in read_jsonl(path)] for path in files}


def test_a_killed_stage_continues(tmp_path, write_recipe, start_server):  # noqa: F811
    server = start_server(seconds=0.1)
    whole, torn = write_recipe("whole", server), write_recipe("torn", server)
    run(whole, "--stage", "concepts")
    kill_within(torn, tmp_path / "torn" / "concepts.jsonl", 3, "--stage", "concepts")
    assert "resuming" in run(torn, "--stage", "concepts")
    assert contents(tmp_path / "torn") == contents(tmp_path / "whole")


def test_a_stage_on_a_full_disk_keeps_its_replies_and_continues(tmp_path, write_recipe, start_server):  # noqa: F811
    server = start_server()
    whole, full = write_recipe("whole", server), write_recipe("full", server)
    run(whole, "--stage", "concepts")
    rows = (tmp_path / "whole" / "concepts.jsonl").read_bytes()
    said = run(full, "--stage", "concepts", status=2, most_bytes=len(rows) * 3 // 4)
    assert said.splitlines()[-1].startswith(f"error: {tmp_path / 'full'}")
    assert said.splitlines()[-1].endswith("concepts.jsonl: File too large")  # the replies' file or their usage's
    kept = (tmp_path / "full" / "concepts.jsonl").read_bytes()
    assert kept.endswith(b"\n")
    assert len(kept) < len(rows)
    assert "resuming" in run(full, "--stage", "concepts")
    assert contents(tmp_path / "full") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_a_killed_run_of_every_stage_ends_in_the_files_of_a_whole_one(tmp_path, write_recipe, start_server):  # noqa: F811
    run(write_recipe("whole", start_server()))
    whole = contents(tmp_path / "whole")
    assert len(whole["distilled.jsonl"]) > 2
    report = (tmp_path / "whole" / "report.md").read_text()
    assert "# Difficulty" in report
    slow = start_server(seconds=0.1)
    torn = write_recipe("torn", slow)
    kill_within(torn, tmp_path / "torn" / "judgements_a.jsonl", 3)
    said = run(torn)
    assert "resuming" in said
    assert contents(tmp_path / "torn") == whole


@pytest.mark.slow
def test_each_stage_alone_killed_and_resumed(tmp_path, write_recipe, start_server):  # noqa: F811
    server = start_server(seconds=0.05)
    whole, torn = write_recipe("whole", server), write_recipe("torn", server)
    for stage in yaml.safe_load(whole.read_text())["stages"]:
        run(whole, "--stage", stage)
        if stage in FILES:
            kill_within(torn, tmp_path / "torn" / FILES[stage], 2, "--stage", stage)
            unfinished = json.loads((tmp_path / "torn" / f"{FILES[stage].split('.')[0]}.run.json").read_text())
            assert not unfinished["complete"]
        run(torn, "--stage", stage)
        assert contents(tmp_path / "torn") == contents(tmp_path / "whole"), stage


def test_a_server_that_is_gone_is_one_line_and_the_work_is_safe(tmp_path, write_recipe, start_server):  # noqa: F811
    server = start_server()
    recipe = write_recipe("work", server)
    server.kill()
    said = run(recipe, status=2)
    assert "cannot be reached" in said
    assert "Traceback" not in said


# -- in this process ------------------------------------------------------------------------------------------------


def call(monkeypatch, recipe: Path, *flags: str) -> int:
    monkeypatch.setattr(sys, "argv", ["synthesize", "--config", str(recipe), *flags])
    return synthesize.main()


class NoServer:
    url = "http://127.0.0.1:9/v1"


class ScriptedBook:
    """Every model is the script; which checkpoints were asked for is noted."""

    opened: list[str] = []  # noqa: RUF012

    def __init__(self, models: dict[str, dict]):
        self.models = models

    def __call__(self, name: str) -> ScriptedModel:
        path = self.models[name].get("model_path", "")
        self.opened.append(path)
        return ScriptedModel(answer, lambda prompt, text: likelihood(prompt, text) * (-1 if "round_1" in path else 1))

    def close(self) -> None: ...


def begin_rounds(folder: Path, write_recipe: Callable[..., Path]) -> tuple[Path, Path, dict]:
    """A folder that passes for a checkpoint, a recipe of all stages, and its settings."""
    base = folder / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    recipe = write_recipe("work", NoServer())
    return base, recipe, yaml.safe_load(recipe.read_text())


def test_rounds_choose_with_the_generator_that_the_round_before_trained(tmp_path, write_recipe, monkeypatch):
    monkeypatch.setattr(synthesize, "ModelBook", ScriptedBook)
    base, recipe, settings = begin_rounds(tmp_path, write_recipe)
    settings["models"]["generator"] = {"model_path": str(base), "chat_template": False}
    recipe.write_text(yaml.safe_dump(settings, sort_keys=False))
    train = f"sh -c 'cp -r {base} {{output}} && wc -l < {{data}} && echo {{model}} >> {{output}}/began_with'"
    assert call(monkeypatch, recipe, "--rounds", "2", "--train_generator", train) == 0
    generators = [tmp_path / "work" / f"round_{i}" / "generator" for i in (1, 2)]
    began = [(model / "began_with").read_text().strip() for model in generators]
    assert began == [str(base), str(generators[0])]
    first, second = (read_jsonl(tmp_path / "work" / f"round_{i}" / "chosen_rationales.jsonl") for i in (1, 2))
    rationales = read_jsonl(tmp_path / "work" / "round_2" / "rationales.jsonl")
    for row_1, row_2 in zip(first, second, strict=True):
        rivals = [row["rationale"] for row in rationales if row["problem_key"] == row_2["problem_key"]]
        assert row_2["rationale"] == min(rivals, key=lambda text: likelihood("", text))  # round 1's taste: the reverse
        assert row_1["rationale"] == max(rivals, key=lambda text: likelihood("", text))
    assert (tmp_path / "work" / "round_2" / "generator" / "config.json").exists()
    ScriptedBook.opened.clear()
    moved = (tmp_path / "work").rename(tmp_path / "moved")
    again = ["--rounds", "2", "--train_generator", train, "--work_dir", str(moved)]
    assert call(monkeypatch, recipe, *again) == 0  # all of it is done
    [began] = (moved / "round_2" / "generator" / "began_with").read_text().splitlines()
    assert began == str(generators[0])
    with pytest.raises(
        InputError, match=r"moved/round_1/generator\.trained\.json: round 1's model was trained by another"
    ):
        call(monkeypatch, recipe, *again, "--train_generator", train.replace(">>", ">"))


@pytest.fixture
def em_recipe(tmp_path: Path, write_recipe, monkeypatch) -> tuple[Path, Path]:
    """A recipe whose writer of rationales and generator are checkpoints that a copy trains, and the copied one."""
    monkeypatch.setattr(synthesize, "ModelBook", ScriptedBook)
    base, recipe, settings = begin_rounds(tmp_path, write_recipe)
    own = {"model_path": str(base), "chat_template": False}
    settings["models"] |= {"generator": own, "writer": own}
    settings["stages"]["rationales"]["model"] = "writer"
    settings["rounds"] = 2
    settings |= dict.fromkeys(("train_generator", "train_rationale"), f"sh -c 'cp -r {base} {{output}}' {{data}}")
    recipe.write_text(yaml.safe_dump(settings, sort_keys=False))
    return recipe, base


def test_both_models_are_trained_in_turns_and_each_half_goes_on(tmp_path, em_recipe, monkeypatch):
    recipe, base = em_recipe
    work, judged, log = tmp_path / "work", ("--judge_rounds", "True"), tmp_path / "trained"
    train = f"sh -c 'echo {{round}} {{output}} >> {log} && cp -r {base} {{output}}' {{data}}"
    flags = ("--train_generator", train, "--train_rationale", train, *judged)

    ScriptedBook.opened.clear()
    with pytest.raises(ProgramFailedError, match=r"train_generator: false .* ended with exit code 1"):
        call(monkeypatch, recipe, *flags, "--train_generator", "false {data} {output}")
    [half] = read_jsonl(work / "rounds.jsonl")  # the E half is done, and stays
    assert half["candidates"] == 27
    assert "sound" not in half
    assert (work / "round_1/rationale_model/config.json").is_file()
    assert not (work / "round_1/generator").exists()

    assert call(monkeypatch, recipe, *flags) == 0
    halves = [
        f"{number} {work}/round_{number}/{name}" for number in (1, 2) for name in ("rationale_model", "generator")
    ]
    assert log.read_text().splitlines() == halves  # each once
    asked = set(ScriptedBook.opened)
    assert {
        str(work / "round_1/rationale_model"),
        str(work / "round_1/generator"),
        str(work / "round_2/generator"),
    } <= asked
    assert str(work / "round_2/rationale_model") not in asked  # no later round asks it
    for number in (1, 2):
        folder = work / f"round_{number}"
        chosen = read_jsonl(folder / "chosen_rationales.jsonl")
        taught = read_jsonl(folder / "rationale_sft.jsonl")
        assert [row["completion"] for row in taught] == [row["rationale"] for row in chosen]
        assert all(row["prompt"].startswith("An experienced author") for row in taught)
        assert all(one["problem"] in row["prompt"] for one, row in zip(chosen, taught, strict=True))
    first, second = read_jsonl(work / "rounds.jsonl")
    scores = [row["log_likelihood"] for row in read_jsonl(work / "round_1/chosen_rationales.jsonl")]
    assert first["log_likelihood"] == pytest.approx(sum(scores) / len(scores))
    assert first["log_likelihood"] > first["log_likelihood_of_candidates"]
    for number, row in ((1, first), (2, second)):
        judged = read_jsonl(work / f"round_{number}/judgements.jsonl")
        sound = sum(set(one["verdicts"].values()) == {"perfect"} for one in judged)
        assert (row["round"], row["problems"], row["sound"]) == (number, 16, sound)
        assert row["sound_share"] == sound / 16
    sets = {row["key"] for row in read_jsonl(work / "concept_sets.jsonl")}
    assert {row["key"] for row in read_jsonl(work / "round_2/concept_sets.jsonl")} == sets  # the same in every round

    before = (work / "rounds.jsonl").read_bytes()
    assert call(monkeypatch, recipe, *flags) == 0
    assert log.read_text().splitlines() == halves
    assert (work / "rounds.jsonl").read_bytes() == before


def test_rounds_that_train_two_models_need_two(em_recipe, write_recipe, monkeypatch):
    recipe, _ = em_recipe
    with pytest.raises(InputError, match="--train_rationale: models: writer writes rationales and problems"):
        call(monkeypatch, recipe, "--generator", "writer")
    settings = yaml.safe_load(recipe.read_text())
    del settings["stages"]["judge"]
    recipe.write_text(yaml.safe_dump(settings, sort_keys=False))
    with pytest.raises(InputError, match="--judge_rounds: the recipe lists no concept_sampling, problems and judge"):
        call(monkeypatch, recipe, "--judge_rounds", "True")
    settings["models"]["writer"] = settings["models"]["m"]
    recipe.write_text(yaml.safe_dump(settings, sort_keys=False))
    with pytest.raises(InputError, match="models: writer: expected an entry with model_path and no base_url"):
        call(monkeypatch, recipe)


def test_rounds_need_a_generator_of_their_own_and_a_command(write_recipe, monkeypatch):
    recipe = write_recipe("work", NoServer())
    with pytest.raises(InputError, match="--rounds needs train_generator and the stages"):
        call(monkeypatch, recipe, "--rounds", "2")
    with pytest.raises(InputError, match="models: generator: expected an entry with model_path and no base_url"):
        call(monkeypatch, recipe, "--rounds", "2", "--train_generator", "true")


def test_the_plan_of_rounds_is_of_all_of_them(tmp_path, em_recipe, monkeypatch, capsys):
    recipe, _ = em_recipe
    monkeypatch.setattr(synthesize, "ModelBook", ModelBook)  # the real one, which a plan does not ask
    assert call(monkeypatch, recipe, "--dry_run", "True", "--rounds", "3", "--judge_rounds", "True") == 0
    said = capsys.readouterr().out
    planned = [line.split("|")[1].strip() for line in said.splitlines() if line.startswith("| ")][1:-1]
    each = ("rationales", "chosen_rationales", "problems", "judgements_a", "judgements_b")
    assert planned == ["concepts", *(f"round_{number}/{name}" for number in (1, 2, 3) for name in each)]
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--dry_run", "True", "--train_generator", "true {data} {ouput}"), r"--train_generator: \{ouput\}"),
        (("--train_rationale", "true {data}"), r"--train_rationale: \{output\} is missing"),
        (("--dry_run", "True", "--generator", "m"), "models: m: expected an entry with model_path"),
        (("--generator", "nobody"), "models: nobody: expected an entry with model_path"),
        (("--stage", "judge"), "--stage judge: --rounds 2 runs its own; give --rounds 1, or no --stage"),
        (("--rounds", "1", "--judge_rounds", "True"), "--judge_rounds: needs --rounds 2 or more"),
    ],
)
def test_rounds_that_cannot_run_are_refused_before_anything_is_asked(tmp_path, em_recipe, monkeypatch, flags, message):
    with pytest.raises(InputError, match=message):
        call(monkeypatch, em_recipe[0], *flags)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("changes", "flags", "message"),
    [
        ({"conzepts": {}}, (), "unknown stage 'conzepts'; known: concepts"),
        ({"concepts": {"seeds": "x", "model": "m", "kk": 3}}, (), "stages: concepts: unknown setting 'kk'"),
        ({"concepts": {"seeds": "x"}}, (), "stages: concepts: .*'model'"),
        ({"distill": {"threshold": 2}}, (), r"stages: distill: threshold 2 must be in \(0, 1\]"),
        ({"concepts": {"seeds": "x", "model": "nobody"}}, (), r"concepts: seeds x: no such file; give JSONL rows"),
        ({}, ("--stage", "judgement"), "--stage judgement: not in the recipe; it lists concepts"),
        ({}, ("--stage", "rationales"), r"concepts\.jsonl: no such file; run the stage that writes it first"),
        ({}, ("--stage", "distill"), r"chains\.jsonl: no such file"),
        ({}, ("--stage", "report"), "holds no stage's output yet"),
        ({}, ("--models", "[]"), "--models: expected a mapping"),
        ({}, ("--models", "{"), "--models: malformed JSON"),
    ],
)
def test_bad_input_is_named(write_recipe, monkeypatch, changes, flags, message):
    with pytest.raises(InputError, match=message):
        call(monkeypatch, write_recipe("work", NoServer(), **changes), *flags)


def test_an_input_of_another_recipe_is_named(tmp_path, write_recipe, seeds, monkeypatch):  # noqa: F811
    monkeypatch.setattr(synthesize, "ModelBook", ScriptedBook)
    call(monkeypatch, write_recipe("work", NoServer()), "--stage", "concepts")
    other = write_recipe("work", NoServer(), concepts={"seeds": str(seeds), "model": "m", "k": 5})
    with pytest.raises(InputError, match=r"concepts\.jsonl: was made with another recipe \(k: 2 then, 5 now\)"):
        call(monkeypatch, other, "--stage", "rationales")
    with pytest.raises(InputError, match=r"concepts\.jsonl: was made with another recipe \(seed: 3 then, 4 now\)"):
        call(monkeypatch, write_recipe("work", NoServer()), "--seed", "4", "--stage", "rationales")


def test_an_input_that_changed_since_and_duplicates_are_named(tmp_path, write_recipe, monkeypatch):
    monkeypatch.setattr(synthesize, "ModelBook", ScriptedBook)
    recipe = write_recipe("work", NoServer())
    for stage in ("concepts", "rationales"):
        call(monkeypatch, recipe, "--stage", stage)
    path = tmp_path / "work" / "concepts.jsonl"
    rows = read_jsonl(path)
    write_jsonl(path, rows[:-1])
    with pytest.raises(InputError, match=r"rationales\.jsonl: was made from another concepts\.jsonl"):
        call(monkeypatch, recipe, "--stage", "choose_rationales")
    write_jsonl(path, [*rows, rows[0]])
    with pytest.raises(InputError, match=r"concepts\.jsonl: key '\w+' occurs twice; remove the duplicate row"):
        call(monkeypatch, recipe, "--stage", "rationales")


def test_a_concept_without_embedding_is_named(tmp_path, write_recipe, monkeypatch):
    monkeypatch.setattr(synthesize, "ModelBook", ScriptedBook)
    sampling = {"count": 4, "size": 2, "embedding_model": "tiny", "embedding_url": "http://127.0.0.1:9"}
    recipe = write_recipe("work", NoServer(), concept_sampling=sampling)
    call(monkeypatch, recipe, "--stage", "concepts")
    monkeypatch.setattr("promptcot_mamba.synthesis.concept_sets.embed_texts", lambda names, *_: {names[0]: [1.0]})
    with pytest.raises(InputError, match="concepts have no embedding, the first is"):
        call(monkeypatch, recipe, "--stage", "concept_sampling")
