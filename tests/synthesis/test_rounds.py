"""What a round trains is trained once, by the command and on the data it was said to; what cannot run is refused."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptcot_mamba.errors import InputError, ProgramFailedError
from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from promptcot_mamba.synthesis.rounds import (
    Rounds,
    check_command,
    fill_command,
    link_inputs,
    plan_rounds,
    train_model,
)
from promptcot_mamba.synthesis.stage import Context
from tests.synthesis.scripted import ScriptedModel, answer, likelihood
from tests.synthesis.test_costs import load, run

ROOT = Path(__file__).resolve().parents[2]
TRAIN = "python train.py --data_path {data} --output_dir {output}"
VALUES = {"data": Path("d.jsonl"), "output": Path("out dir"), "round": 2, "model": "base"}
MODELS = {"generator": {"model_path": "g"}, "writer": {"model_path": "w"}}
STAGES = {
    "concepts": {"seeds": "s", "model": "writer"},
    "rationales": {"model": "writer"},
    "choose_rationales": {"model": "generator"},
    "generator_data": {},
}


# -- commands -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "filled"),
    [
        (TRAIN, ["python", "train.py", "--data_path", "d.jsonl", "--output_dir", "out dir"]),
        ("""t {data} {output} --lr_scheduler_kwargs '{"min_lr": 1e-6}'""",
         ["t", "d.jsonl", "out dir", "--lr_scheduler_kwargs", '{"min_lr": 1e-6}']),
        ("t --fsdp_config={} {data}{output}", ["t", "--fsdp_config={}", "d.jsonlout dir"]),
        ("sh -c 'cp ${HOME}/{data} {output}/{round}'", ["sh", "-c", "cp ${HOME}/d.jsonl out dir/2"]),
        ("""t {data} {output} --chat_template '{% for m in messages %}{{m}}{% endfor %}'""",
         ["t", "d.jsonl", "out dir", "--chat_template", "{% for m in messages %}{{m}}{% endfor %}"]),
        ("awk '{ print $1 }' {data} {output} {model}", ["awk", "{ print $1 }", "d.jsonl", "out dir", "base"]),
    ],
)  # fmt: skip
def test_only_known_names_are_filled_in(command, filled):
    check_command("train_generator", command)
    assert fill_command(command, **VALUES) == filled


@given(st.text(alphabet='{}"$: ab\\n', max_size=12).filter(lambda text: not re.search(r"\{\w", text)))
def test_whatever_else_stands_in_braces_stays(text):
    command = shlex.join(["t", text, "{data}", "{output}"])
    check_command("train_generator", command)
    assert fill_command(command, **VALUES) == ["t", text, "d.jsonl", "out dir"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train.py --data_path {data} --output_dir {ouput}", r"generator: \{ouput\}: .*known: \{data\}, \{output"),
        ("train.py --data_path rows.jsonl --output_dir {output}", r"--train_generator: \{data\} is missing"),
        ("train.py --data_path {data} --output_dir out", r"--train_generator: \{output\} is missing"),
        ("sh -c 'train {data} ${output}'", r"--train_generator: \{output\} is missing"),
        ("", r"--train_generator: \{data\} is missing"),
        ("sh -c 'train {data} {output}", "--train_generator: No closing quotation"),
    ],
)  # fmt: skip
def test_a_command_that_cannot_be_filled_in_is_refused(command, message):
    with pytest.raises(InputError, match=message):
        check_command("train_generator", command)
    with pytest.raises(InputError, match=message):
        Rounds(2, "generator", command).check(MODELS, STAGES)
    with pytest.raises(InputError, match=message.replace("generator", "rationale")):
        Rounds(2, "generator", TRAIN, command).check(MODELS, STAGES)


@pytest.mark.parametrize(
    ("generator", "stages", "judged", "said"),
    [
        ("generator", {"choose_rationales": {"model": "gen_server"}}, False,
         "stages: choose_rationales: model: gen_server is not what the rounds train; write generator there, or name"),
        ("generator", {"problems": {"model": "gen_server"}}, True,
         "stages: problems: model: gen_server is not what the rounds train"),
        ("writer", {}, False, "stages: choose_rationales: model: generator is not what the rounds train; write writer"),
        ("generator", {"problems": {"model": "gen_server"}}, False, None),
        ("generator", {"problems": {"model": "generator"}}, True, None),
    ],
)  # fmt: skip
def test_rounds_ask_the_model_that_they_train(generator, stages, judged, said):
    models = MODELS | {"gen_server": {"base_url": "host:8000", "served_model_name": "g"}}
    stages = STAGES | ({"concept_sampling": {}, "problems": {}, "judge": {}} if judged else {}) | stages
    rounds = Rounds(2, generator, TRAIN, judged=judged)
    if said is None:
        rounds.check(models, stages)
    else:
        with pytest.raises(InputError, match=f"--rounds: {said}"):
            rounds.check(models, stages)


# -- formats --------------------------------------------------------------------------------------------------------


def test_a_model_is_trained_in_the_format_it_is_asked_in(tmp_path):
    released = {"format": "promptcot_release"}
    models = MODELS | {"generator": {"model_path": "g", **released}}
    both = Rounds(2, "generator", TRAIN, TRAIN)
    with pytest.raises(InputError, match=(
        "stages: generator_data: trains models: generator on prompts of format ours, but it is asked in "
        r"promptcot_release; .*generator_data: \{format: promptcot_release\}"
    )):  # fmt: skip
        both.check(models, STAGES)
    both.check(models, STAGES | {"generator_data": released})

    mine = tmp_path / "mine.yaml"
    mine.write_text('reply: "R {{rationale}} P {{problem}}"\n')
    models = MODELS | {"writer": {"model_path": "w", "format": str(mine)}}
    with pytest.raises(InputError, match=r"rationale_data: trains models: writer .* ours, but .*mine\.yaml"):
        both.check(models, STAGES)
    both.check(models, STAGES | {"rationale_data": {"format": str(mine)}})
    Rounds(2, "generator", TRAIN).check(models, STAGES)  # it is not trained
    copy = shutil.copy(mine, tmp_path / "copy.yaml")
    both.check(models, STAGES | {"rationale_data": {"format": str(copy)}})  # the same format by another path


# -- training, once -------------------------------------------------------------------------------------------------


TRAINER = """
import os, pathlib, sys
folder = pathlib.Path(sys.argv[2])
folder.mkdir(exist_ok=True)
(folder / "runs").open("a").write("x")
(folder / "config.json").write_text("{}")
if "killed" in os.environ: os.kill(os.getpid(), 9)
if "stopped" in os.environ: sys.exit(75)
(folder / "model.safetensors").write_text("weights")
"""


class Half:
    """Half a round, trained by a program that counts its runs; called, it goes on, with flags that are changed."""

    def __init__(self, folder: Path):
        self.program, self.data = folder / "train.py", folder / "rows.jsonl"
        self.output, self.stamp = folder / "generator", folder / "generator.trained.json"
        self.program.write_text(TRAINER)
        write_jsonl(self.data, [{"prompt": "p", "completion": "c"}])

    def __call__(self, *flags: str) -> str:
        command = shlex.join([sys.executable, str(self.program), "{data}", "{output}", *flags])
        train_model("train_generator", command, self.data, self.output, 2, "base")
        return (self.output / "runs").read_text()


@pytest.fixture
def half(tmp_path: Path) -> Half:
    return Half(tmp_path)


def test_a_model_is_trained_once(half):
    assert half() == "x"
    assert half() == "x"
    shutil.rmtree(half.output)
    assert half() == "x", "the stamp alone is no model"


@pytest.mark.parametrize(("how", "code"), [("killed", -9), ("stopped", 75)])
def test_a_training_that_did_not_end_well_runs_again(half, monkeypatch, how, code):
    monkeypatch.setenv(how, "1")
    with pytest.raises(ProgramFailedError, match=f"train_generator: .* ended with exit code {code}"):
        half()
    assert (half.output / "config.json").exists()
    assert not half.stamp.exists()
    monkeypatch.delenv(how)
    assert half() == "xx"
    assert (half.output / "model.safetensors").exists()


def test_a_program_killed_while_it_trains_trains_on(half, tmp_path):
    """The parent is killed too, after config.json and before the weights."""
    program = tmp_path / "slow.py"
    program.write_text(
        "import os, pathlib, signal, sys\n"
        "folder = pathlib.Path(sys.argv[2])\n"
        "folder.mkdir()\n"
        "(folder / 'config.json').write_text('{}')\n"
        "os.kill(os.getppid(), signal.SIGKILL)\n"
    )
    command = shlex.join([sys.executable, str(program), "{data}", "{output}"])
    call = f"train_model('train_generator', {command!r}, Path({str(half.data)!r}), Path({str(half.output)!r}), 2, 'm')"
    code = f"from pathlib import Path\nfrom promptcot_mamba.synthesis.rounds import train_model\n{call}"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -signal.SIGKILL
    assert not half.stamp.exists()
    assert half() == "x"
    assert half() == "x"


def test_a_stale_stamp_does_not_vouch_for_a_later_half_model(half, monkeypatch):
    half()
    shutil.rmtree(half.output)
    monkeypatch.setenv("killed", "1")
    with pytest.raises(ProgramFailedError):
        half()
    monkeypatch.delenv("killed")
    assert half() == "xx"


def test_another_command_or_other_data_do_not_keep_the_old_model(half):
    half("--lr", "1e-4")
    with pytest.raises(InputError, match=(
        r"generator\.trained\.json: round 2's model was trained by another command than --train_generator; move it "
        r"and .*generator away"
    )):  # fmt: skip
        half("--lr", "1e-5")
    write_jsonl(half.data, [{"prompt": "p", "completion": "other"}])
    with pytest.raises(
        InputError, match=r"generator\.trained\.json: round 2's model was trained on another rows\.jsonl"
    ):
        half("--lr", "1e-4")
    half.output.rename(half.output.with_name("old"))
    half.stamp.rename(half.stamp.with_name("old.trained.json"))
    assert half("--lr", "1e-5") == "x"
    assert json.loads(half.stamp.read_text())["command"][-2:] == ["--lr", "1e-5"]


def test_a_model_of_before_there_were_stamps_is_trained_on_and_stamped(half):
    half()
    half.stamp.unlink()
    assert half() == "xx"
    assert half() == "xx"


def test_a_command_that_leaves_no_model_is_no_training(tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("{}\n")
    with pytest.raises(ProgramFailedError, match=r"train_generator: .* left no config\.json in .*generator"):
        train_model("train_generator", "true {data} {output}", data, tmp_path / "generator", 1, "m")
    assert not (tmp_path / "generator.trained.json").exists()


# -- what rounds share ----------------------------------------------------------------------------------------------


def write_shared(work: Path, text: str = "rows") -> Path:
    work.mkdir(parents=True)
    for name in ("concepts.jsonl", "concepts.run.json"):
        (work / name).write_text(text)
    return work / "round_1"


def test_links_hold_where_the_folder_is_moved_or_copied(tmp_path):
    folder = write_shared(tmp_path / "work")
    link_inputs(tmp_path / "work", folder)
    link_inputs(tmp_path / "work", folder)
    assert (folder / "concepts.jsonl").readlink() == Path("../concepts.jsonl")
    assert not (folder / "concept_sets.jsonl").is_symlink()
    moved = (tmp_path / "work").rename(tmp_path / "moved")
    assert (moved / "round_1/concepts.run.json").read_text() == "rows"


def test_links_of_a_place_that_is_gone_are_mended(tmp_path):
    folder = write_shared(tmp_path / "work")
    folder.mkdir()
    (folder / "concepts.jsonl").symlink_to(tmp_path / "gone" / "concepts.jsonl")
    other = write_shared(tmp_path / "original", "of the original")
    (folder / "concepts.run.json").symlink_to(other.parent / "concepts.run.json")  # a copy still reads the original
    link_inputs(tmp_path / "work", folder)
    assert (folder / "concepts.jsonl").read_text() == (folder / "concepts.run.json").read_text() == "rows"


def test_a_round_on_another_disk_finds_what_rounds_share(tmp_path):
    folder = write_shared(tmp_path / "work")
    (tmp_path / "scratch" / "deep").mkdir(parents=True)
    folder.symlink_to(tmp_path / "scratch" / "deep")
    link_inputs(tmp_path / "work", folder)
    assert (folder / "concepts.jsonl").read_text() == "rows"


# -- the plan -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("judged", [False, True])
def test_the_plan_counts_what_every_round_asks(tmp_path, seeds, judged):
    names = ("concepts", "rationales", "choose_rationales", "generator_data", "concept_sampling", "problems", "judge")
    stages = {name: load(name, seeds)[0] for name in names}
    model = ScriptedModel(answer, likelihood)
    rounds, context = Rounds(3, "generator", TRAIN, judged=judged), Context(tmp_path / "work", 0, lambda name: model)
    planned = {(each.output, each.model): each.tasks for each in plan_rounds(rounds, stages, context)}
    assert not (tmp_path / "work").exists(), "a dry run writes nothing"
    each_round = {("rationales", "m"): 30, ("chosen_rationales", "m"): 30}
    if judged:
        each_round |= {("problems", "m"): 16, ("judgements_a", "a"): 16, ("judgements_b", "b"): 16}
    wanted = {(f"round_{i}/{name}", who): tasks for i in (1, 2, 3) for (name, who), tasks in each_round.items()}
    assert planned == {("concepts", "m"): 10} | wanted


def test_the_plan_of_rounds_counts_what_is_there(tmp_path, seeds):
    """What is finished in the work folder is shared if all rounds read it; what a round has finished is its own."""
    stages = {name: load(name, seeds)[0] for name in ("concepts", "rationales", "choose_rationales", "generator_data")}
    few = tmp_path / "few.jsonl"
    write_jsonl(few, read_jsonl(seeds)[:8])

    def reply(prompt: str, seed: int) -> str:
        return "short" if prompt.startswith("An experienced author") and seed % 2 else answer(prompt, seed)

    work = tmp_path / "work"
    context = run(work, few, reply=reply, stages=("concepts", "rationales"))  # these rationales are no round's

    def planned(name: str) -> list[int]:
        tasks = {each.output: each.tasks for each in plan_rounds(Rounds(3, "m", TRAIN), stages, context)}
        return [tasks[f"round_{number}/{name}"] for number in (1, 2, 3)]

    assert planned("rationales") == planned("chosen_rationales") == [24, 24, 24]
    link_inputs(work, work / "round_1")
    run(work / "round_1", few, reply=reply, stages=("rationales",))
    written = len(read_jsonl(work / "round_1/rationales.jsonl"))
    assert 0 < written < 24
    assert planned("chosen_rationales") == [written, 24, 24]
