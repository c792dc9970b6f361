"""Run PromptCoT's stages: concepts -> rationales -> problems -> judgements -> chains, JSONL to JSONL.

    python -m scripts.synthesize --config configs/synthesis.yaml                  # every stage it lists, in order
    python -m scripts.synthesize --config configs/synthesis.yaml --stage judge    # one of them
    python -m scripts.synthesize --config configs/synthesis.yaml --rounds 2       # choose rationales, train on them
    python -m scripts.synthesize --config configs/synthesis.yaml --dry_run True   # what it will ask, and the cost

A stage that is complete is skipped, one that was killed continues; changed settings are refused by name.
"""

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.errors import InputError
from promptcot_mamba.log import logger
from promptcot_mamba.sampling.backend import BackendFailedError
from promptcot_mamba.synthesis import STAGES
from promptcot_mamba.synthesis.dry_run import describe_plan, plan_run
from promptcot_mamba.synthesis.models import ModelBook
from promptcot_mamba.synthesis.rounds import Rounds, plan_rounds, run_rounds
from promptcot_mamba.synthesis.spending import TEACHER, BudgetSpentError, Price, Spending, read_prices
from promptcot_mamba.synthesis.stage import Context, settings_from

EXIT_FAILED = 1


@dataclass
class Arguments:
    """Flags of scripts.synthesize; a recipe holds most of them."""

    work_dir: str = flag("folder of every stage's JSONL", writes="folder")
    models: str = flag("in a recipe a mapping: name -> model_path, temperature, ...")
    stages: str = flag("in a recipe a mapping: stage -> its settings, in the order they run")
    seed: int = flag("base of every draw's and every reply's own seed", default=0)
    stage: str | None = flag("run only this stage", default=None)
    rounds: int = flag(
        "2 or more: instead of every stage, rounds of choosing rationales and training on them; 1: every stage, once",
        default=1, least=1,
    )  # fmt: skip
    train_generator: str | None = flag(
        "in rounds: command that trains the generator; {data} and {output}, both needed, {round} and {model}, "
        "which the round asked, are filled in",
        default=None,
    )
    train_rationale: str | None = flag(
        "in rounds: command that trains the model of the stage rationales; without it that model stays", default=None
    )
    judge_rounds: bool = flag("in rounds: write and judge the recipe's problems after each", default=False)
    dry_run: bool = flag("print requests, tokens and money by stage; ask nothing", default=False)
    budget_tokens: int | None = flag(
        "tokens that all models together may take, earlier runs in work_dir included", default=None, least=1
    )
    prices: str = flag(
        "in a recipe a mapping: model (or teacher) -> {prompt, completion}, money a million tokens", default="{}"
    )
    generator: str = flag("the model that later rounds replace by their own", default="generator")


@dataclass(frozen=True)
class Pipeline:
    """A checked recipe: settings by model and by stage."""

    models: dict[str, dict[str, Any]]
    stages: dict[str, dict[str, Any]]
    seed: int
    prices: dict[str, Price] = field(default_factory=dict)


def read_pipeline(args: Arguments) -> Pipeline:
    """Raises InputError naming what is malformed or unknown, before any stage runs."""
    models = parse_mapping("models", args.models)
    prices = parse_mapping("prices", args.prices)
    if unknown := sorted(set(prices) - {*models, TEACHER}):
        raise InputError(f"prices: {unknown[0]}: no such model; known: {', '.join([*models, TEACHER])}")
    pipeline = Pipeline(models, parse_mapping("stages", args.stages), args.seed, read_prices(prices))
    for name, settings in pipeline.stages.items():
        load_stage(name, settings)
    if args.stage is not None and args.stage not in pipeline.stages:
        raise InputError(f"--stage {args.stage}: not in the recipe; it lists {', '.join(pipeline.stages)}")
    return pipeline


def parse_mapping(name: str, text: str) -> dict[str, dict[str, Any]]:
    """A flag whose value is JSON: an object of objects (null for an empty one)."""
    try:
        mapping = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"--{name}: malformed JSON ({error.msg}); write it as a mapping in the recipe") from None
    if not isinstance(mapping, dict) or not all(value is None or isinstance(value, dict) for value in mapping.values()):
        raise InputError(f"--{name}: expected a mapping of names to settings")
    return {key: value or {} for key, value in mapping.items()}


def load_stage(name: str, values: dict[str, Any]) -> tuple[Any, Any]:
    """A stage's settings and function; raises InputError for an unknown stage or setting."""
    if name not in STAGES:
        raise InputError(f"unknown stage {name!r}; known: {', '.join(STAGES)}")
    settings_class, function = STAGES[name].load()
    return settings_from(settings_class, values, f"stages: {name}"), function


def run_stages(pipeline: Pipeline, names: list[str], work_dir: Path, spending: Spending) -> None:
    """Run these stages in order; engines are started when a stage first asks its model."""
    models = ModelBook(pipeline.models)
    recipe = {STAGES[name].writes: load_stage(name, values)[0] for name, values in pipeline.stages.items()}
    context = Context(work_dir, pipeline.seed, models, recipe, spending, pipeline.prices)
    try:
        for name in names:
            logger.info("stage %s", name)
            settings, function = load_stage(name, pipeline.stages.get(name, {}))
            function(settings, context)
    finally:
        models.close()


def read_rounds(args: Arguments, pipeline: Pipeline) -> Rounds | None:
    """The rounds that are wanted, checked against the recipe; None for its stages, once."""
    if args.rounds == 1:
        if args.judge_rounds and args.stage is None:
            raise InputError(
                "--judge_rounds: needs --rounds 2 or more; --rounds 1 runs every stage of the recipe, once"
            )
        return None
    if args.stage is not None:
        raise InputError(f"--stage {args.stage}: --rounds {args.rounds} runs its own; give --rounds 1, or no --stage")
    rounds = Rounds(args.rounds, args.generator, args.train_generator, args.train_rationale, args.judge_rounds)
    rounds.check(pipeline.models, pipeline.stages)
    return rounds


def show_plan(pipeline: Pipeline, names: list[str], rounds: Rounds | None, args: Arguments) -> None:
    """Print what these stages, or these rounds, would ask."""
    context = Context(Path(args.work_dir), pipeline.seed, ModelBook(pipeline.models), prices=pipeline.prices)
    stages = {name: load_stage(name, pipeline.stages[name])[0] for name in names}
    asked = plan_run(stages, context) if rounds is None else plan_rounds(rounds, stages, context)
    print(describe_plan(asked, context, args.budget_tokens))


def run_em(rounds: Rounds, pipeline: Pipeline, work_dir: Path, spending: Spending) -> None:
    """Rounds of choosing rationales and training on them; see `synthesis/rounds.py`."""

    def run(models: dict[str, dict[str, Any]], names: list[str], folder: Path) -> None:
        run_stages(replace(pipeline, models=models), names, folder, spending)

    run_rounds(rounds, pipeline.models, pipeline.stages, work_dir, run)


def main() -> int:
    args = parse_args(Arguments, description=__doc__)
    pipeline = read_pipeline(args)
    rounds = read_rounds(args, pipeline)
    names = [args.stage] if args.stage else list(pipeline.stages)
    if args.dry_run:
        show_plan(pipeline, names, rounds, args)
        return 0
    work_dir = Path(args.work_dir)
    spending = Spending(work_dir, args.budget_tokens)
    try:
        if rounds is not None:
            run_em(rounds, pipeline, work_dir, spending)
        else:
            run_stages(pipeline, names, work_dir, spending)
    except (BackendFailedError, BudgetSpentError) as error:
        print(f"{error}\nwhat was answered is safe; run the same command again to continue", file=sys.stderr)
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    run_program(main)
