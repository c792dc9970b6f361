"""The published cost claim beside this project's plan for the same recipe: by arithmetic, nothing is timed."""

from __future__ import annotations

from promptcot_mamba.gpus import DATA_SHEETS
from promptcot_mamba.memory_budget import shapes_from_config
from promptcot_mamba.report.paper import A100_HOURS, PROMPTCOT
from promptcot_mamba.report.published import NOT_MEASURED, Section
from promptcot_mamba.report.tables import Table
from promptcot_mamba.roofline import BEST, Step, tokens_per_second

# The sizes in DeepSeek-R1-Distill-Qwen-1.5B's config.json.
STUDENT = {
    "model_type": "qwen2", "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12,
    "num_key_value_heads": 2, "intermediate_size": 8960, "vocab_size": 151_936,
}  # fmt: skip
EXAMPLES = 4.06e5  # PromptCoT-DS-Dataset's rows, about
EPOCHS, MAX_LENGTH, MICRO_BATCHES = 2, 16_384, 8  # configs/promptcot_ds_1_5b.yaml
TOKENS_PER_EXAMPLE = 6000  # train.py --plan's assumption; a prepared data set says its own


def planned_hours() -> float:
    """A100 hours of PromptCoT-DS-1.5B's recipe at the plan's bound on speed, so at least."""
    tokens = EXAMPLES * EPOCHS * TOKENS_PER_EXAMPLE
    step = Step(MAX_LENGTH, MICRO_BATCHES, devices=8)
    return tokens / tokens_per_second(shapes_from_config(STUDENT), DATA_SHEETS["A100"], step, BEST) / 3600


def cost_section() -> Section:
    """The claim, its ratio, and our plan for the recipe that this project has."""
    ours, theirs = A100_HOURS.values()
    rows = [
        ["PromptCoT-DS-1.5B", f"{ours:,}", f"at least {planned_hours():,.0f}", NOT_MEASURED],
        ["DeepScaleR-1.5B", f"{theirs:,}", "–", "–"],
        ["ratio", f"over {theirs // ours}", "–", "–"],
    ]
    notes = [
        f"Published values: {PROMPTCOT}, and its repository, which does not say what is counted.",
        f"By plan: training alone, {EXAMPLES:,.0f} examples of {TOKENS_PER_EXAMPLE:,} tokens (assumed) for {EPOCHS} "
        "epochs at the bound of `train.py --plan True` on 8 A100s with checkpointing, as in "
        "configs/promptcot_ds_1_5b.yaml. Writing the problems and their traces is not in it.",
    ]
    header = ["model", "A100 hours (paper)", "A100 hours by plan (here)", "A100 hours measured (here)"]
    return Section("Cost of training", Table(header, rows), notes)
