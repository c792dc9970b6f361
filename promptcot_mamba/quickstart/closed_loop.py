"""Synthesis closed into a loop at quickstart scale: what do problems add that a model wrote and another solved?

A generator learns concepts -> rationale -> problem from real composed problems; it writes new ones for new concept
sets, the family's exact solver judges them, and a teacher trained on the real ones solves them by majority. Students
learn phase 2 from a small part of the real ones, with and without the synthesized ones, in equally many steps, from
several seeds.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from promptcot_mamba.chat_format import extract_question
from promptcot_mamba.cli import flag
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from promptcot_mamba.quickstart.hops import (
    Scale,
    asked_by,
    draw_phase2_rows,
    solving_stages,
    synthesis_stage,
    writing_stages,
)
from promptcot_mamba.quickstart.road import (
    Stage,
    count_processes,
    data_stage,
    evaluate,
    run_stage,
    sample_stage,
    train_stage,
)
from promptcot_mamba.quickstart.splits import draw_training_rows

WITHOUT, WITH, TEACHER = "without", "with", "teacher"
ARMS = {WITHOUT: "a part of the real", WITH: "the part and synthesized", TEACHER: "all the real (teacher)"}


@dataclass(kw_only=True)
class Arguments(Scale):
    """Flags of scripts.quickstart.closed_loop; the recipe holds the numbers."""

    real_problems: int = flag("real composed problems: the generator's and the teacher's", least=1)
    part: int = flag("how many of them the students see", least=1)
    generator_steps: int = flag("of the generator", default=300, least=1)
    generator_temperature: float = flag("0 is greedy", default=1.0, least=0)
    teacher_temperature: float = flag("0 is greedy", default=0.8, least=0)
    threshold: float = flag("least share of them that must agree", default=0.75, least=0, most=1)
    seed: int = flag("of the data, the generator and the teacher", default=20)
    student_seeds: list[int] = flag("one run of every arm each", factory=lambda: [20, 21, 22], least=0)
    output_dir: str = flag("where everything goes", default="outputs/closed_loop", writes="folder")
    processes: int | None = flag("training processes; default: 2, or 1 where there is one GPU", default=None, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.student_seeds:
            raise InputError("--student_seeds: at least one is needed")
        if self.part > self.real_problems:
            raise InputError(f"--part {self.part}: must be a part of the {self.real_problems} --real_problems")


class Loop:
    """The loop's stages, in the order in which they can run."""

    def __init__(self, args: Arguments):
        self.args = args
        self.folder, self.recipes = Path(args.output_dir), Path(args.recipes)
        self.data, self.work = self.folder / "data", self.folder / "synthesis"
        self.problems = self.data / "problems.jsonl"
        self.times: dict[str, float] = {}

    def run(self, stage: Stage) -> None:
        self.times[stage.title] = run_stage(stage, self.folder)

    def draw_real(self) -> None:
        """The real problems with their solutions, all and a part; all also bare, for the synthesis."""
        for name, count in (("part", self.args.part), ("real", self.args.real_problems)):
            rows = draw_training_rows({"quickstart_composed": count}, "phase2", self.args.seed)
            rows = list({row["prompt"]: row for row in rows}.values())
            write_jsonl(self.folder / f"{name}.jsonl", rows)
        write_jsonl(self.folder / "seeds.jsonl", ({"problem": extract_question(row["prompt"])} for row in rows))

    def synthesize(self, name: str, title: str, stages: dict[str, Any], inputs: list[Path], outputs: list[str]) -> None:
        """Stages of scripts.synthesize in one process; `outputs` as in synthesis_stage."""
        models = {"generator": asked_by(self.folder / "generator", self.args.generator_temperature)}
        stage = synthesis_stage(title, self.work, models, stages, self.args.seed, inputs, outputs)
        self.run(replace(stage, name=name))

    def read_seeds(self) -> None:
        seeds = self.folder / "seeds.jsonl"
        stages = {"quickstart_seeds": {"seeds": str(seeds)}, "generator_data": {}}
        outputs = ["concepts", "chosen_rationales", "generator_sft"]
        self.synthesize("seeds", "concepts and rationales of the real problems", stages, [seeds], outputs)

    def make_data(self) -> None:
        """Phase 1's exercises, the test, and untrained weights whose tokenizer knows the generator's words too."""
        rows = self.work / "generator_sft.jsonl"
        flags = {"seed": self.args.seed, "test": self.args.test, "tokenizer_rows": rows, "phase2": "{}"}
        flags |= {"vocab_size": self.args.vocab_size, "control": "{}"}
        flags["phase1"] = json.dumps({"quickstart_single": self.args.phase1_rows})
        self.run(data_stage(self.recipes, self.data, flags, [rows]))

    def train(self, name: str, recipe: str, start: Path, rows: Path, steps: int, seed: int) -> Path:
        flags = {"max_steps": steps, "seed": seed, "save_strategy": "no"}
        output = self.folder / name
        processes = count_processes(self.args.processes)
        self.run(train_stage(name, self.recipes / recipe, start, [rows], output, processes, flags))
        return output

    def train_phase2(self, arm: str, seed: int) -> Path:
        """Phase 2 of one arm: all see as many rows of composed problems, as many single ones, as many steps."""
        name = f"{arm}_{seed}"
        files = {
            WITHOUT: ["part.jsonl"],
            WITH: ["part.jsonl", "synthesis/distilled.jsonl"],
            TEACHER: ["real.jsonl"],
        }[arm]
        pool = [row for file in files for row in read_jsonl(self.folder / file)]
        rows = self.folder / "rows" / f"{name}.jsonl"
        write_jsonl(rows, draw_phase2_rows(pool, self.args.composed_rows, self.args.single_rows, seed))
        return self.train(name, "phase2.yaml", self.folder / "phase1", rows, self.args.phase2_steps, seed)

    def write_problems(self) -> None:
        """New concept sets, the generator's problems for them, the exact judge, duplicates, the benchmark."""
        stages = writing_stages(self.args, "generator")
        stages |= {"filter": {"benchmarks": [str(self.problems)]}, "teacher_problems": {}}
        outputs = ["concept_sets", "problems", "problems.rejected", "judgements", "kept_problems", "teacher_problems"]
        inputs = [self.folder / "generator", self.work / "concepts.jsonl", self.problems]
        self.synthesize("problems", "write, judge and filter problems", stages, inputs, outputs)

    def distill(self, teacher: Path) -> None:
        """The teacher's chains, the majority's answers, and the report of the whole synthesis."""
        args = self.args
        stages = solving_stages(teacher, args.chains, args.teacher_temperature, args.threshold) | {"report": {}}
        inputs = [teacher, self.work / "teacher_problems.jsonl"]
        self.synthesize("distill", "solve them by majority", stages, inputs, ["chains", "chains.attempts", "distilled"])

    def evaluate(self, name: str, checkpoint: Path) -> dict[str, bool]:
        """{problem id: right} on the composed problems of the test, one greedy chain each."""
        predictions = self.folder / "samples" / f"{name}.jsonl"
        sample = sample_stage(name, self.recipes / "sampling.yaml", checkpoint, self.problems, predictions)
        return evaluate(self.run, sample, self.data, ["maths"])["maths"]


def close(args: Arguments) -> tuple[Loop, dict[str, dict[int, dict[str, bool]]]]:
    """Run every stage; return the verdicts, [arm][seed][problem]. The teacher has the first seed alone."""
    loop = Loop(args)
    loop.draw_real()
    loop.read_seeds()
    loop.make_data()
    loop.train("phase1", "phase1.yaml", loop.data / "base", loop.data / "phase1.jsonl", args.phase1_steps, args.seed)
    rows = loop.work / "generator_sft.jsonl"
    loop.train("generator", "generator.yaml", loop.folder / "phase1", rows, args.generator_steps, args.seed)
    loop.write_problems()
    loop.distill(loop.train_phase2(TEACHER, args.student_seeds[0]))
    verdicts: dict[str, dict[int, dict[str, bool]]] = {}
    for arm in ARMS:
        seeds = args.student_seeds[:1] if arm == TEACHER else args.student_seeds
        models = {seed: loop.train_phase2(arm, seed) for seed in seeds}
        verdicts[arm] = {seed: loop.evaluate(f"{arm}_{seed}", model) for seed, model in models.items()}
    return loop, verdicts
