"""Rounds of expectation maximisation over two models: PromptCoT 2.0, arXiv 2509.19894.

E: the rationale model writes candidates for known problems, the problem model's likelihood chooses among them, and the
rationale model is trained on the chosen. M: the problem model is trained on the chosen. Round r asks the models that
round r - 1 trained; the first asks the recipe's own. Each half of a round is resumed where it was killed, and
`rounds.jsonl` says what each came to: likelihoods and, where problems are written and judged, how many are sound.
"""

import shlex
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptcot_mamba.errors import InputError, ProgramFailedError
from promptcot_mamba.jsonl import Row, read_jsonl, write_jsonl
from promptcot_mamba.log import logger
from promptcot_mamba.synthesis.judgement import PERFECT
from promptcot_mamba.synthesis.stage import read_run_info

CHOICE = ("rationales", "choose_rationales")
RATIONALE_DATA, GENERATOR_DATA = "rationale_data", "generator_data"
SETS = ("concept_sampling", "quickstart_concept_sets")  # drawn once, for all rounds
JUDGED = ("problems", "judge", "quickstart_judge")
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

    def check(self, models: Settings, stages: Mapping[str, Row]) -> None:
        """Raises InputError for a recipe in which these rounds cannot run."""
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
        if self.judged and not (set(SETS) & set(stages) and {"problems"} < set(JUDGED) & set(stages)):
            raise InputError(
                "--judge_rounds: the recipe lists no concept_sampling, problems and judge to say what is sound"
            )

    @staticmethod
    def _check_own(models: Settings, name: str, other: str) -> None:
        if name not in models or "base_url" in models[name]:
            raise InputError(
                f"--rounds: models: {name}: expected an entry with model_path and no base_url; what a round trains is "
                f"loaded in this process for the next one ({other})"
            )


def run_rounds(rounds: Rounds, models: Settings, stages: Mapping[str, Row], work_dir: Path, run: RunStages) -> None:
    """Every round in a folder of its own. Raises InputError as `Rounds.check`, ProgramFailedError where a training
    command fails.
    """
    rounds.check(models, stages)
    shared = ["concepts", *(SETS if rounds.judged else ())]
    run(models, [name for name in shared if name in stages], work_dir)
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
            run(models, [name for name in JUDGED if name in stages], folder)
        log_rounds(work_dir, number)


def link_inputs(work_dir: Path, folder: Path) -> None:
    """What all rounds share, in a round's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("concepts", "concept_sets"):
        for ending in ("jsonl", "run.json"):
            source, target = work_dir / f"{name}.{ending}", folder / f"{name}.{ending}"
            if source.exists() and not target.exists():
                target.symlink_to(source.resolve())


def train_model(flag: str, command: str, data: Path, output: Path, number: int, model: str) -> None:
    """Run a training command, unless its output is a finished checkpoint already; `model` is what the round asked.

    Raises ProgramFailedError.
    """
    if (output / "config.json").exists():
        logger.info("round %d: %s is trained", number, output)
        return
    words = [word.format(data=data, output=output, round=number, model=model) for word in shlex.split(command)]
    done = subprocess.run(words, check=False)
    if done.returncode:
        raise ProgramFailedError(f"{flag}: {' '.join(words)} ended with exit code {done.returncode}")


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
