"""PromptCoT: concepts -> rationales -> problems -> judgements -> chains of thought, JSONL to JSONL."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Stage:
    """Where a stage's settings and its `run(settings, context)` live; loaded when the stage is chosen.

    `writes` names its output, `X` of `X.jsonl`; the report has none.
    """

    module: str
    writes: str
    settings: str = "Settings"
    function: str = "run"

    def load(self) -> tuple[type, Callable]:
        """The settings class and the function."""
        module = import_module(f"promptcot_mamba.{self.module}")
        return getattr(module, self.settings), getattr(module, self.function)


STAGES = {
    "concepts": Stage("synthesis.concepts", "concepts"),
    "rationales": Stage("synthesis.rationale", "rationales"),
    "choose_rationales": Stage("synthesis.rationale", "chosen_rationales", "ChoiceSettings", "run_choice"),
    "rationale_data": Stage("synthesis.rationale", "rationale_sft", "DataSettings", "run_data"),
    "generator_data": Stage("synthesis.problem", "generator_sft", "DataSettings", "run_data"),
    "concept_sampling": Stage("synthesis.concept_sets", "concept_sets"),
    "problems": Stage("synthesis.problem", "problems"),
    "calibrate": Stage("synthesis.calibrate", "calibration"),
    "judge": Stage("synthesis.judge", "judgements"),
    "filter": Stage("synthesis.filter", "kept_problems"),
    "code_inputs": Stage("synthesis.code_inputs", "code_inputs"),
    "teacher_problems": Stage("synthesis.teacher", "teacher_problems", "ProblemSettings", "run_problems"),
    "chains": Stage("synthesis.teacher", "chains", "ChainSettings", "run_chains"),
    "distill": Stage("synthesis.distill", "distilled"),
    "difficulty": Stage("synthesis.difficulty", "in_band"),
    "report": Stage("synthesis.report", ""),
    # the quickstart's family, whose exact solver stands in for the writer and the judges
    "quickstart_seeds": Stage("quickstart.synthesis", "chosen_rationales", "SeedSettings", "run_seeds"),
    "quickstart_concept_sets": Stage("quickstart.synthesis", "concept_sets", "SetSettings", "run_sets"),
    "quickstart_judge": Stage("quickstart.synthesis", "judgements", "JudgeSettings", "run_judge"),
}
