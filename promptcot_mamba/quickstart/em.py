"""PromptCoT 2.0's rounds at quickstart scale: what do rationales add that two models chose for each other?

A few real problems have their workings (the cold start), many more have none. A writer learns (problem, concepts) ->
working and a generator concepts -> (working, problem) from the few; then, round by round, the writer works out all the
known problems several times, the generator's likelihood chooses among the tries and then among the problems, and both
go on learning from what was chosen. After each round the generator writes problems for the same new concept sets and
the family's exact solver judges them; a teacher solves the sound ones by majority, and students learn phase 2 from the
few real problems with and without them. A control has the cold start alone for as long as all rounds cost together.
A seed is all that follows phase 1 and the teacher: its problems, samples and orders of training.
"""

import json
import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from promptcot_mamba.chat_format import extract_question
from promptcot_mamba.cli import flag, read_recipe
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from promptcot_mamba.quickstart.ablations import share_cores, work_through
from promptcot_mamba.quickstart.hops import (
    MOST_TOKENS,
    Scale,
    Stages,
    asked_by,
    draw_phase2_rows,
    solving_stages,
    synthesis_stage,
    writing_stages,
)
from promptcot_mamba.quickstart.road import Stage, data_stage, evaluate, run_stage, sample_stage, slug, train_stage
from promptcot_mamba.quickstart.splits import draw_training_rows
from promptcot_mamba.synthesis.rounds import LOG_FILE
from promptcot_mamba.synthesis.spending import read_usage

GENERATOR, WRITER = "generator", "writer"
FORWARD_AND_BACKWARD = 3  # a trained token in forward passes
WORKINGS_TO_EXERCISES = 4  # rows of a writer: its workings come as often as it takes
WITHOUT, LONGER = "the cold start's problems alone", "cold start, as long as all rounds"


@dataclass(kw_only=True)
class Arguments(Scale):
    """Flags of scripts.quickstart.em; the recipe holds the numbers."""

    known: int = flag("real problems without a working", least=1)
    cold: int = flag("real problems with theirs: the cold start, and all real ones that students see", least=1)
    teacher_problems: int = flag("real problems that the teacher learns from", default=4000, least=1)
    rounds: int = flag("of choosing and training", default=3, least=2)
    rationales: int = flag("the writer's tries at a known problem, in each round", default=4, least=1)
    keep: float = flag("share of the known problems that a round learns, by likelihood", default=0.6, above=0, most=1)
    single: int = flag(
        "exercises of phase 1 that writers see again: a fifth of the cold start's rows", default=1000, least=1
    )
    writer_steps: int = flag("of the cold start's writer", default=600, least=1)
    generator_steps: int = flag("of the cold start's generator", default=800, least=1)
    round_writer_steps: int = flag("of the writer in each round", default=300, least=1)
    round_generator_steps: int = flag("of the generator in each round", default=400, least=1)
    threshold: float = flag("least share of them that must agree", default=0.85, least=0, most=1)
    seeds: list[int] = flag("one run of everything each", factory=lambda: list(range(20, 24)), least=0)
    rows_per_step: int = flag("packed rows in a batch, as in the quickstart's two ranks", default=8, least=1)
    output_dir: str = flag("where everything goes", default="outputs/em_study", writes="folder")
    jobs: int = flag("seeds at once, each with its share of the cores", default=2, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.seeds) < 2 or len(set(self.seeds)) < len(self.seeds):
            raise InputError("--seeds: at least two, all different, or nothing can be said of another seed")


class Base:
    """What all seeds share: the test, phase 1's weights, the teacher."""

    def __init__(self, args: Arguments):
        self.args, self.folder, self.recipes = args, Path(args.output_dir), Path(args.recipes)
        self.data, self.phase1, self.teacher = (self.folder / name for name in ("data", "phase1", "teacher"))
        self.problems = self.data / "problems.jsonl"
        self.format = self.recipes / "em_format.yaml"

    def make(self, words: Path) -> None:
        """`words`: rows whose words the tokenizer learns beside phase 1's."""
        args, seed = self.args, self.args.seeds[0]
        flags = {"test": args.test, "tokenizer_rows": words, "phase2": "{}", "control": "{}"}
        flags |= {"vocab_size": args.vocab_size, "phase1": json.dumps({"quickstart_single": args.phase1_rows})}
        self.run(data_stage(self.recipes, self.data, flags, [words]))
        base, exercises = self.data / "base", self.data / "phase1.jsonl"
        self.run(self.training("phase1.yaml", base, [exercises], self.phase1, args.phase1_steps, seed))
        real = draw_training_rows({"quickstart_composed": args.teacher_problems}, "phase2", seed)
        rows = self.folder / "teacher.jsonl"
        write_jsonl(rows, draw_phase2_rows(real, args.composed_rows, args.single_rows, seed))
        self.run(self.training("phase2.yaml", self.phase1, [rows], self.teacher, args.phase2_steps, seed))

    def run(self, stage: Stage) -> None:
        run_stage(stage, self.folder, to_log=True)

    def training(self, recipe: str, start: Path, rows: list[Path], output: Path, steps: int, seed: int) -> Stage:
        """One process without a launcher, so that seeds share the machine well."""
        flags = {"max_steps": steps, "seed": seed, "save_strategy": "no"}
        flags |= {"per_device_train_batch_size": self.args.rows_per_step}
        name = f"{output.parent.name}/{output.name}"
        return train_stage(name, self.recipes / recipe, start, rows, output, None, flags)


class SeedRun:
    """The stages of one seed."""

    def __init__(self, base: Base, seed: int):
        self.base, self.args, self.seed = base, base.args, seed
        self.folder = base.folder / f"seed_{seed}"
        self.cold, self.work, self.longer = (self.folder / name for name in ("cold", "em", "longer"))
        self.cold_data = {  # real rows that each model sees in every round
            GENERATOR: self.cold / "generator_sft.jsonl",
            WRITER: self.cold / "writer_rows.jsonl",
        }
        self.bare, self.known = self.folder / "cold.jsonl", self.folder / "known.jsonl"  # problems alone

    @property
    def arms(self) -> dict[str, Path]:
        """The folder of each generator's problems."""
        rounds = {f"round {number}": self.work / f"round_{number}" for number in range(1, self.args.rounds + 1)}
        return {"round 0": self.work, **rounds, LONGER: self.longer}

    def run(self, stage: Stage) -> None:
        run_stage(replace(stage, title=f"seed {self.seed}: {stage.title}"), self.folder, to_log=True)

    def train(self, recipe: str, rows: Path, output: Path, steps: int) -> None:
        self.run(self.base.training(recipe, self.base.phase1, [rows], output, steps, self.seed))

    def synthesis(
        self, title: str, work: Path, stages: Stages, inputs: list[Path], outputs: list[str], **flags: object
    ) -> Stage:
        """Stages that ask the models of the cold start, or those of the control."""
        models = {GENERATOR: asked_by((self.longer if work == self.longer else self.cold) / GENERATOR)}
        models[WRITER] = asked_by(self.cold / WRITER) | {"format": str(self.base.format)}
        return synthesis_stage(title, work, models, stages, self.seed, [self.base.format, *inputs], outputs, **flags)

    def draw(self) -> None:
        """Real problems, all different: the first with their workings, the others bare."""
        wanted = self.args.cold + self.args.known
        drawn = draw_training_rows({"quickstart_composed": 2 * wanted}, "em", self.seed)
        rows = list({row["prompt"]: row for row in drawn}.values())[:wanted]
        if len(rows) < wanted:
            raise InputError(f"--known {self.args.known}: there are not so many different problems")
        seeds = [{"problem": extract_question(row["prompt"])} for row in rows]
        write_jsonl(self.folder / "part.jsonl", rows[: self.args.cold])
        write_jsonl(self.bare, seeds[: self.args.cold])
        write_jsonl(self.known, seeds[self.args.cold :])

    def read_cold(self) -> Path:
        """The cold start's rows, the generator's and the writer's; all of them in one file, for their words."""
        self.draw()
        stages = {"quickstart_seeds": {"seeds": str(self.bare)}, "generator_data": {}}
        stages["rationale_data"] = {"format": str(self.base.format)}
        outputs = ["concepts", "chosen_rationales", "generator_sft", "rationale_sft"]
        self.run(self.synthesis("cold start", self.cold, stages, [self.bare], outputs))
        words = self.cold / "words.jsonl"
        write_jsonl(words, [row for name in outputs[2:] for row in read_jsonl(self.cold / f"{name}.jsonl")])
        return words

    def write(self, title: str, work: Path, generator: Path) -> None:
        """The generator's problems for new sets of the known problems' concepts, and the exact solver's verdicts."""
        stages = {"quickstart_seeds": {"seeds": str(self.known)}}
        stages |= writing_stages(self.args, GENERATOR, self.bare)
        outputs = ["concepts", "chosen_rationales", "concept_sets", "problems", "problems.rejected", "judgements"]
        self.run(self.synthesis(title, work, stages, [self.bare, self.known, generator], outputs))

    def start(self) -> None:
        """Round 0: both models from the cold start alone."""
        self.read_cold()
        exercises = read_jsonl(self.base.data / "phase1.jsonl")[: self.args.single]
        again = [{name: row[name] for name in ("prompt", "completion", "source")} for row in exercises]
        workings = read_jsonl(self.cold / "rationale_sft.jsonl")
        copies = max(1, round(WORKINGS_TO_EXERCISES * len(again) / len(workings)))
        write_jsonl(self.cold_data[WRITER], [*workings * copies, *again])
        for model, steps in ((GENERATOR, self.args.generator_steps), (WRITER, self.args.writer_steps)):
            self.train("generator.yaml", self.cold_data[model], self.cold / model, steps)
        self.write("problems of round 0", self.work, self.cold / GENERATOR)

    def improve(self) -> None:
        """All rounds, one command of scripts.synthesize; both models learn the cold start's rows too."""
        rationales = {"model": WRITER, "candidates": self.args.rationales, "max_tokens": MOST_TOKENS, "min_words": 1}
        chosen = {"model": GENERATOR, "keep": self.args.keep}
        stages = {"rationales": rationales, "choose_rationales": chosen, "generator_data": {}}
        stages |= {"rationale_data": {"format": str(self.base.format)}}
        stages |= writing_stages(self.args, GENERATOR, self.bare)
        inputs = [self.work / "concepts.jsonl", self.cold / GENERATOR, self.cold / WRITER]
        commands = {
            "train_generator": self.round_command(GENERATOR, self.args.round_generator_steps),
            "train_rationale": self.round_command(WRITER, self.args.round_writer_steps),
        }
        flags = {"rounds": self.args.rounds, "judge_rounds": True, **commands}
        stage = self.synthesis("rounds", self.work, stages, inputs, [], **flags)
        folders = [folder for arm, folder in self.arms.items() if arm not in ("round 0", LONGER)]
        self.run(replace(stage, outputs=(self.work / LOG_FILE, *folders)))

    def round_command(self, model: str, steps: int) -> str:
        """Go on from the model that the round asked, with what was chosen and what the cold start had."""
        rows = [Path("{data}"), self.cold_data[model]]
        return shlex.join(
            self.base.training("generator.yaml", Path("{model}"), rows, Path("{output}"), steps, self.seed).command
        )

    def count_longer(self) -> int:
        """Steps of a generator that has the cold start alone and costs what all rounds did, in passes over tokens.

        The last round's writer is not counted: it writes nothing more.
        """
        asked = sum(
            used.tokens
            for output, models in read_usage(self.work).items()
            if output.endswith(("/rationales", "/chosen_rationales"))
            for used in models.values()
        )
        tokens = self.args.rows_per_step * read_recipe(self.base.recipes / "generator.yaml")["max_length"]
        trained = self.args.generator_steps + self.args.rounds * self.args.round_generator_steps
        trained += self.args.writer_steps + (self.args.rounds - 1) * self.args.round_writer_steps
        return trained + round(asked / (FORWARD_AND_BACKWARD * tokens))

    def control(self) -> None:
        """A generator of equal compute without rounds."""
        model = self.longer / GENERATOR
        self.train("generator.yaml", self.cold_data[GENERATOR], model, self.count_longer())
        self.write("problems of the control", self.longer, model)

    def solve(self, arm: str) -> None:
        """What is left of a generator's sound problems, and what the teacher's majority says of them."""
        work, teacher = self.arms[arm], self.base.teacher
        stages = {"filter": {"benchmarks": [str(self.base.problems)]}, "teacher_problems": {}}
        stages |= solving_stages(teacher, self.args.chains, 1.0, self.args.threshold)
        outputs = ["kept_problems", "teacher_problems", "chains", "chains.attempts", "distilled"]
        inputs = [work / "judgements.jsonl", self.base.problems, teacher]
        self.run(self.synthesis(f"solve {arm}", work, stages, inputs, outputs))

    def score(self, arm: str) -> dict[str, bool]:
        """Phase 2 of one arm's student, and its test: {problem id: right} of the composed ones."""
        name = slug(arm)
        files = [self.folder / "part.jsonl", *([] if arm == WITHOUT else [self.arms[arm] / "distilled.jsonl"])]
        pool = [row for file in files for row in read_jsonl(file)]
        rows, output = self.folder / "rows" / f"{name}.jsonl", self.folder / "students" / name
        write_jsonl(rows, draw_phase2_rows(pool, self.args.composed_rows, self.args.single_rows, self.seed))
        self.train("phase2.yaml", rows, output, self.args.phase2_steps)
        predictions = self.folder / "samples" / f"{name}.jsonl"
        stage = sample_stage(name, self.base.recipes / "sampling.yaml", output, self.base.problems, predictions)
        return evaluate(self.run, stage, self.base.data, ["maths"])["maths"]

    def run_all(self) -> dict[str, dict[str, bool]]:
        """Everything of this seed: {arm: {problem: right}}."""
        self.start()
        self.improve()
        self.control()
        for arm in self.arms:
            self.solve(arm)
        return {arm: self.score(arm) for arm in (WITHOUT, *self.arms)}


def run_study(args: Arguments) -> tuple[list[SeedRun], dict[str, dict[int, dict[str, bool]]]]:
    """Run every stage, `args.jobs` seeds at a time; verdicts on students, [arm][seed][problem]."""
    base = Base(args)
    share_cores(args.jobs)
    seed_runs = [SeedRun(base, seed) for seed in args.seeds]
    base.make(seed_runs[0].read_cold())
    with ThreadPoolExecutor(args.jobs) as pool:
        scored = work_through(pool, SeedRun.run_all, [(seed_run,) for seed_run in seed_runs])
    return seed_runs, {
        arm: {seed_run.seed: own[arm] for seed_run, own in zip(seed_runs, scored, strict=True)}
        for arm in (WITHOUT, *seed_runs[0].arms)
    }
