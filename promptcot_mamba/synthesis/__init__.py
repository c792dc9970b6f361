"""PromptCoT: concepts -> rationales -> problems -> judgements -> chains of thought, JSONL to JSONL."""

from __future__ import annotations

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
        module = import_module(f"promptcot_mamba.synthesis.{self.module}")
        return getattr(module, self.settings), getattr(module, self.function)


STAGES = {
    "concepts": Stage("concepts", "concepts"),
    "rationales": Stage("rationale", "rationales"),
    "choose_rationales": Stage("rationale", "chosen_rationales", "ChoiceSettings", "run_choice"),
    "generator_data": Stage("problem", "generator_sft", "DataSettings", "run_data"),
    "concept_sampling": Stage("concept_sets", "concept_sets"),
    "problems": Stage("problem", "problems"),
    "judge": Stage("judge", "judgements"),
    "filter": Stage("filter", "kept_problems"),
    "code_inputs": Stage("code_inputs", "code_inputs"),
    "teacher_problems": Stage("teacher", "teacher_problems", "ProblemSettings", "run_problems"),
    "chains": Stage("teacher", "chains", "ChainSettings", "run_chains"),
    "distill": Stage("distill", "distilled"),
    "report": Stage("report", ""),
    # the quickstart's family, whose exact solver stands in for the writer and the judges
    "quickstart_seeds": Stage("quickstart", "chosen_rationales", "SeedSettings", "run_seeds"),
    "quickstart_concept_sets": Stage("quickstart", "concept_sets", "SetSettings", "run_sets"),
    "quickstart_judge": Stage("quickstart", "judgements", "JudgeSettings", "run_judge"),
}
