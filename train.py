#!/usr/bin/env python
"""Supervised fine-tuning, one phase per launch: flags -> model and packed rows -> checkpoints that vLLM serves.

    deepspeed --num_gpus=8 train.py --config configs/sft_phase1.yaml --model_name_or_path /models/Mamba-Codestral-7B \
        --data_path /data/phase1 --output_dir outputs/phase1

Rows are `prompt`, `completion`; the loss lies on the completion and its end of text. The same command continues a
killed run from its last whole checkpoint. `python train.py --plan` prints parameters, memory by part, a bound on
tokens/s and days for both phases, from shapes alone.
"""

from __future__ import annotations

import os
import sys

from promptcot_mamba.cli import parse_args, run_program
from promptcot_mamba.training.arguments import DataArguments, SftArguments
from promptcot_mamba.training.plan import PlanArguments, render_plan
from promptcot_mamba.training.ranks import part
from promptcot_mamba.training.session import train_phase
from promptcot_mamba.training.trainer import TrainingDivergedError

EXIT_DIVERGED = 1
EXIT_STOPPED = 75  # EX_TEMPFAIL: asked to stop, checkpointed; run the same command again


def main() -> int | None:
    args, data_args, plan_args = parse_args([SftArguments, DataArguments, PlanArguments], description=__doc__)
    if args.plan:
        print(render_plan(args, data_args, plan_args))
        return None
    try:
        stopped_at = train_phase(args, data_args)
    except TrainingDivergedError as error:
        if int(os.environ.get("RANK", "0")) == 0:
            print(f"stopped: {error}", file=sys.stderr)
        return EXIT_DIVERGED
    part()
    return EXIT_STOPPED if stopped_at is not None else None


if __name__ == "__main__":
    run_program(main)
