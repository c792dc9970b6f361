"""The published cost claim beside this project's plan for the same recipe, and what runs have cost here."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from promptcot_mamba.gpus import DATA_SHEETS
from promptcot_mamba.jsonl import iter_jsonl
from promptcot_mamba.log import logger
from promptcot_mamba.memory_budget import shapes_from_config
from promptcot_mamba.report.evaluations import Evaluation
from promptcot_mamba.report.paper import A100_HOURS, PROMPTCOT
from promptcot_mamba.report.published import NOT_MEASURED, Section
from promptcot_mamba.report.tables import Table
from promptcot_mamba.roofline import BEST, Step, tokens_per_second
from promptcot_mamba.run_info import read_sampling

OURS = "PromptCoT-DS-1.5B"
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


def trained_hours(logs: Mapping[str, Path]) -> dict[str, tuple[float, str]]:
    """By run, device hours and devices of a training, from its `train_log.jsonl`; older logs do not tell them.

    A training that has not finished is none yet: its folder's run.json says so.
    """
    found = {}
    for name, path in logs.items():
        rows = [row for _, row in iter_jsonl(path) if "device_hours" in row]
        run = path.with_name("run.json")
        if run.exists() and json.loads(run.read_text(encoding="utf-8")).get("finished") is None:
            logger.warning("%s: has not finished, so that its hours are not in the table of costs", path.parent)
        elif rows:
            devices = dict.fromkeys(row["device"] for row in rows if "device" in row)
            found[name] = (max(row["device_hours"] for row in rows), " and ".join(devices))
    return found


def sampled_hours(evaluation: Evaluation) -> tuple[float, str] | None:
    """Device hours and devices of a model's sampling over all its files; None where a file does not tell them."""
    runs = [read_sampling(path) for path in dict.fromkeys(evaluation.predictions.values())]
    if not runs or any(run.get("device_hours") is None for run in runs):
        return None
    devices = dict.fromkeys(session["device"] for run in runs for session in run.get("sessions") or ())
    return sum(run["device_hours"] for run in runs), " and ".join(devices)


def cost_section(evaluations: Sequence[Evaluation] = (), logs: Mapping[str, Path] | None = None) -> Section:
    """The claim, its ratio, our plan for the recipe that this project has, and what was measured of any run."""
    ours, theirs = A100_HOURS.values()
    trained = trained_hours(logs or {})
    hours, device = next((cost for name, cost in trained.items() if name.casefold() == OURS.casefold()), (0.0, ""))
    measured = f"{hours:,.2f}" if "A100" in device else NOT_MEASURED
    rows = [
        [OURS, f"{ours:,}", f"at least {planned_hours():,.0f}", measured],
        ["DeepScaleR-1.5B", f"{theirs:,}", "–", "–"],
        ["ratio", f"over {theirs // ours}", "–", "–"],
    ]
    notes = [
        f"Published values: {PROMPTCOT}, and its repository, which does not say what is counted.",
        f"By plan: training alone, {EXAMPLES:,.0f} examples of {TOKENS_PER_EXAMPLE:,} tokens (assumed) for {EPOCHS} "
        "epochs at the bound of `train.py --plan True` on 8 A100s with checkpointing, as in "
        "configs/promptcot_ds_1_5b.yaml (docs/training.md has the command). Writing the problems and their traces is "
        "not in it.",
    ]
    costs = [(name, "training", *cost) for name, cost in trained.items()]
    costs += [(each.model, "sampling", *cost) for each in evaluations if (cost := sampled_hours(each)) is not None]
    notes += [
        f"Measured here: {name}, {what}, {spent:,.4g} device hours ({where})." for name, what, spent, where in costs
    ]
    header = ["model", "A100 hours (paper)", "A100 hours by plan (here)", "A100 hours measured (here)"]
    return Section("Cost of training", Table(header, rows), notes)
