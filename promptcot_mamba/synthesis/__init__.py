"""PromptCoT: concepts -> rationales -> problems -> judgements -> chains of thought, JSONL to JSONL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Stage:
    """Where a stage's settings and its `run(settings, context)` live; loaded when the stage is chosen."""

    module: str
    settings: str = "Settings"
    function: str = "run"

    def load(self) -> tuple[type, Callable]:
        """The settings class and the function."""
        module = import_module(f"promptcot_mamba.synthesis.{self.module}")
        return getattr(module, self.settings), getattr(module, self.function)


STAGES = {
    "concepts": Stage("concepts"),
    "rationales": Stage("rationale"),
    "choose_rationales": Stage("rationale", "ChoiceSettings", "run_choice"),
    "generator_data": Stage("problem", "DataSettings", "run_data"),
    "concept_sampling": Stage("concept_sets"),
    "problems": Stage("problem"),
    "judge": Stage("judge"),
    "filter": Stage("filter"),
    "teacher_problems": Stage("distill", "ProblemSettings", "run_problems"),
    "chains": Stage("distill", "ChainSettings", "run_chains"),
    "distill": Stage("distill"),
}
