"""Rounds of expectation maximisation over two models: PromptCoT 2.0, arXiv 2509.19894.

E: the rationale model writes candidates for known problems, the problem model's likelihood chooses among them, and the
rationale model is trained on the chosen. M: the problem model is trained on the chosen. Round r asks the models that
round r - 1 trained; the first asks the recipe's own. Each half of a round is resumed where it was killed, and
`rounds.jsonl` says what each came to: likelihoods and, where problems are written and judged, how many are sound.

A model is trained once its command has ended well: `X.trained.json` beside the folder X then says by which command and
on which data. A folder without it, config and weights or not, is what the command goes on with.
"""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from promptcot_mamba.errors import InputError, ProgramFailedError
from promptcot_mamba.jsonl import Row, read_jsonl, write_json, write_jsonl
from promptcot_mamba.log import logger
from promptcot_mamba.run_info import side_path
from promptcot_mamba.synthesis.dry_run import Asked, Folder, measure, plan_stages
from promptcot_mamba.synthesis.ratings import PERFECT
from promptcot_mamba.synthesis.stage import Context, file_fingerprint, read_run_info
from promptcot_mamba.synthesis.templates import OURS, load_format

CHOICE = ("rationales", "choose_rationales")
RATIONALE_DATA, GENERATOR_DATA = "rationale_data", "generator_data"
SETS = ("concept_sampling", "quickstart_concept_sets")  # drawn once, for all rounds
JUDGED = ("problems", "judge", "quickstart_judge")
LINKED = ("concepts", "concept_sets")  # outputs that all rounds read
FILLED, NEEDED = ("data", "output", "round", "model"), ("data", "output")
NAME = re.compile(r"(?<![${])\{(\w+)\}(?!\})")  # of a command; ${HOME} is the shell's, {{x}} a template's
LOG_FILE = "rounds.jsonl"
Settings = dict[str, dict[str, Any]]
RunStages = Callable[[Settings, list[str], Path], None]  # models, stages, folder


@dataclass(frozen=True)
class Rounds:
    """How many, the names of the two models under `models`, and the commands that train them.

    Without `train_rationale` the rationale model stays as it is. `judged`: after each round its generator writes the
    recipe's problems and they are judged.
    """

    number: int
    generator: str
    train_generator: str | None
    train_rationale: str | None = None
    judged: bool = False

    def rationale_model(self, stages: Mapping[str, Row]) -> str | None:
        """The model that is trained on chosen rationales, None if none is."""
        return None if self.train_rationale is None else str(stages["rationales"].get("model"))

    def shared(self, stages: Mapping[str, Any]) -> list[str]:
        """Stages that run once, before all rounds."""
        return [name for name in ("concepts", *(SETS if self.judged else ())) if name in stages]

    def judging(self, stages: Mapping[str, Any]) -> list[str]:
        """Stages at the end of every round."""
        return [name for name in JUDGED if self.judged and name in stages]

    def check(self, models: Settings, stages: Mapping[str, Row]) -> None:
        """Raises InputError for a recipe or commands with which these rounds cannot run."""
        needed = (*CHOICE, GENERATOR_DATA)
        if self.train_generator is None or any(name not in stages for name in needed):
            raise InputError(f"--rounds needs train_generator and the stages {', '.join(needed)} in the recipe")
        self._check_own(models, self.generator, "--generator names another entry")
        if (writer := self.rationale_model(stages)) is not None:
            self._check_own(models, writer, "stages: rationales: model names another entry")
            if writer == self.generator:
                raise InputError(
                    f"--train_rationale: models: {writer} writes rationales and problems; give stages: rationales an "
                    "entry of its own, or leave --train_rationale out"
                )
            self._check_format(models, writer, stages, RATIONALE_DATA)
        for name in ("choose_rationales", *(("problems",) if self.judged else ())):
            if (asked := stages.get(name, {}).get("model")) not in (None, self.generator):
                raise InputError(
                    f"--rounds: stages: {name}: model: {asked} is not what the rounds train; write {self.generator} "
                    "there, or name it with --generator"
                )
        self._check_format(models, self.generator, stages, GENERATOR_DATA)
        if self.judged and not (set(SETS) & set(stages) and {"problems"} < set(JUDGED) & set(stages)):
            raise InputError(
                "--judge_rounds: the recipe lists no concept_sampling, problems and judge to say what is sound"
            )
        check_command("train_generator", self.train_generator)
        if self.train_rationale is not None:
            check_command("train_rationale", self.train_rationale)

    @staticmethod
    def _check_format(models: Settings, name: str, stages: Mapping[str, Row], stage: str) -> None:
        asked, taught = (each.get("format", OURS) for each in (models[name], stages.get(stage, {})))
        if load_format(asked).fingerprint != load_format(taught).fingerprint:
            raise InputError(
                f"stages: {stage}: trains models: {name} on prompts of format {taught}, but it is asked in {asked}; "
                f"write {stage}: {{format: {asked}}}"
            )

    @staticmethod
    def _check_own(models: Settings, name: str, other: str) -> None:
        if "model_path" not in models.get(name, {}) or "base_url" in models[name]:
            raise InputError(
                f"--rounds: models: {name}: expected an entry with model_path and no base_url; what a round trains is "
                f"loaded in this process for the next one ({other})"
            )


def check_command(flag: str, command: str) -> None:
    """Raises InputError for a training command with an unknown {word}, or without its data or output."""
    try:
        named = NAME.findall(" ".join(shlex.split(command)))
    except ValueError as error:
        raise InputError(f"--{flag}: {error} in {command}") from None
    known = ", ".join(f"{{{name}}}" for name in FILLED)
    if unknown := [name for name in named if name not in FILLED]:
        raise InputError(f"--{flag}: {{{unknown[0]}}}: nothing to fill in there; known: {known}")
    if missing := [name for name in NEEDED if name not in named]:
        raise InputError(f"--{flag}: {{{missing[0]}}} is missing, which each round fills in; known: {known}")


def fill_command(command: str, **values: object) -> list[str]:
    """The words of a checked command; whatever else is in braces stays as it is."""
    return [NAME.sub(lambda match: str(values[match[1]]), word) for word in shlex.split(command)]


def plan_rounds(rounds: Rounds, stages: Mapping[str, Any], context: Context) -> list[Asked]:
    """What these rounds would ask, with every stage's settings; outputs as `read_usage` names them.

    Raises InputError as `plan_run`.
    """
    once = measure(Folder(context, {}, {}), map(context.path, LINKED))
    asked = plan_stages({name: stages[name] for name in rounds.shared(stages)}, once)
    repeated = {name: stages[name] for name in (*CHOICE, *rounds.judging(stages))}
    for number in range(1, rounds.number + 1):
        folder = context.work_dir / f"round_{number}"
        own = measure(Folder(context, dict(once.rows), dict(once.texts)), sorted(folder.glob("*.jsonl")))
        asked += [replace(one, output=f"{folder.name}/{one.output}") for one in plan_stages(repeated, own)]
    return asked


def run_rounds(rounds: Rounds, models: Settings, stages: Mapping[str, Row], work_dir: Path, run: RunStages) -> None:
    """Every round, of a checked recipe, in a folder of its own. Raises as `train_model`."""
    run(models, rounds.shared(stages), work_dir)
    writer = rounds.rationale_model(stages)
    for number in range(1, rounds.number + 1):
        folder = work_dir / f"round_{number}"
        link_inputs(work_dir, folder)
        trained = {}
        run(models, list(CHOICE), folder)
        if writer is not None:
            assert rounds.train_rationale is not None  # there is a model to train
            run(models, [RATIONALE_DATA], folder)
            data, trained[writer] = folder / "rationale_sft.jsonl", folder / "rationale_model"
            start = models[writer]["model_path"]
            train_model("train_rationale", rounds.train_rationale, data, trained[writer], number, start)
        log_rounds(work_dir, number)
        assert rounds.train_generator is not None  # checked
        run(models, [GENERATOR_DATA], folder)
        data, trained[rounds.generator] = folder / "generator_sft.jsonl", folder / "generator"
        start = models[rounds.generator]["model_path"]
        train_model("train_generator", rounds.train_generator, data, trained[rounds.generator], number, start)
        models = models | {name: {**models[name], "model_path": str(path)} for name, path in trained.items()}
        if rounds.judged:
            run(models, rounds.judging(stages), folder)
        log_rounds(work_dir, number)


def link_inputs(work_dir: Path, folder: Path) -> None:
    """What all rounds share, in a round's folder: links that hold when the work folder is moved or copied."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in LINKED:
        for ending in ("jsonl", "run.json"):
            source, target = work_dir / f"{name}.{ending}", folder / f"{name}.{ending}"
            if target.is_symlink() and source.exists():
                target.unlink()  # it may lead to where the work folder was
            if source.exists() and not target.exists():
                target.symlink_to(os.path.relpath(work_dir.resolve() / source.name, folder.resolve()))


def train_model(flag: str, command: str, data: Path, output: Path, number: int, model: str) -> None:
    """Run a training command, unless its output is trained already; `model` is what the round asked.

    Raises InputError where the model was trained by another command or on other data, ProgramFailedError where the
    command fails or leaves no model.
    """
    stamp, config = side_path(output, "trained.json"), output / "config.json"
    made = {"command": shlex.split(command), "data_fingerprint": file_fingerprint(data)}
    if stamp.exists() and config.exists():
        refuse_other(stamp, made, f"round {number}'s model", flag, data, output)
        logger.info("round %d: %s is trained", number, output)
        return
    stamp.unlink(missing_ok=True)  # of a folder that was moved away
    if output.exists():
        logger.info("round %d: %s has no %s; --%s goes on there", number, output, stamp.name, flag)
    words = fill_command(command, data=data, output=output, round=number, model=model)
    said = f"{flag}: {shlex.join(words)}"
    done = subprocess.run(words, check=False)
    if done.returncode:
        raise ProgramFailedError(f"{said} ended with exit code {done.returncode}")
    if not config.exists():
        raise ProgramFailedError(f"{said} left no {config.name} in {output}")
    write_json(stamp, made)


def refuse_other(stamp: Path, made: Row, what: str, flag: str, data: Path, output: Path) -> None:
    """Raises InputError where a stamp says that its model was made in another way."""
    before = json.loads(stamp.read_text(encoding="utf-8"))
    if before != made:
        same = before["command"] == made["command"]
        how = f"on another {data.name}" if same else f"by another command than --{flag}"
        raise InputError(
            f"{stamp}: {what} was trained {how}; move it and {output} away to train anew, or it alone to let the "
            "command go on there"
        )


def log_rounds(work_dir: Path, last: int) -> None:
    """Write what the rounds until this one came to."""
    rows = [describe_round(work_dir / f"round_{number}", number) for number in range(1, last + 1)]
    write_jsonl(work_dir / LOG_FILE, rows)
    logger.info(", ".join(f"{name} {value:.6g}" for name, value in rows[-1].items()))


def describe_round(folder: Path, number: int) -> Row:
    """Likelihoods of one round's rationales (means of natural logarithms) and, once judged, its sound problems."""
    chosen = read_run_info(folder / "chosen_rationales.jsonl") or {}
    names = ("rows", "candidates", "log_likelihood", "log_likelihood_of_candidates")
    row: Row = {"round": number} | {name: chosen[name] for name in names if name in chosen}
    asked, judged = (read_run_info(folder / f"{name}.jsonl") or {} for name in ("problems", "judgements"))
    if judged.get("complete"):
        rows = read_jsonl(folder / "judgements.jsonl")
        sound = [one for one in rows if set(one["verdicts"].values()) == {PERFECT}]
        row |= {
            "problems": asked["tasks"],
            "sound": len(sound),
            "sound_share": len(sound) / asked["tasks"],
            "different": len({one["problem"] for one in sound}),
            "concept_sets": len({tuple(sorted(one["concepts"])) for one in sound}),
        }
    return row
