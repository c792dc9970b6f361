#!/usr/bin/env python
r"""Supervised fine-tuning, one phase per launch: flags -> model and packed rows -> checkpoints that vLLM serves.

    deepspeed --num_gpus=8 train.py --config configs/sft_phase1.yaml --model_name_or_path /models/Mamba-Codestral-7B \
        --data_path /data/phase1 --output_dir outputs/phase1

Rows are `prompt`, `completion`; the loss lies on the completion and its end of text. The same command continues a
killed run from its last whole checkpoint. `python train.py --plan` prints parameters, memory by part, a bound on
tokens/s and days for both phases, from shapes alone.

Every process runs this file. `together` runs a hop in all of them, `first_does` in the first one alone; either way an
error of one is raised in all, so that they end with one message.
"""

import signal
import sys
from contextlib import nullcontext
from dataclasses import asdict
from functools import cache, partial
from typing import IO, Any

from promptcot_mamba.training.first_look import refuse_at_once

if __name__ == "__main__":
    refuse_at_once(sys.argv[1:])  # a wrong flag need not wait for torch

import torch
from transformers import PreTrainedModel, PrinterCallback

from promptcot_mamba.checkpoint import Checkpoint, load_tokenizer, read_checkpoint, require_causal_lm
from promptcot_mamba.cli import parse_args, run_program
from promptcot_mamba.data.collate import collate_packed, collate_padded
from promptcot_mamba.data.dataset import describe_rows
from promptcot_mamba.data.encode import check_tokenizer, hash_tokenizer
from promptcot_mamba.data.template import choose_template
from promptcot_mamba.errors import InputError
from promptcot_mamba.log import log_once, logger
from promptcot_mamba.memory_budget import shapes_from_config, training_flops_per_token
from promptcot_mamba.model import Mamba2ForCausalLM, load_causal_lm
from promptcot_mamba.model.debug_numerics import watch_numerics
from promptcot_mamba.ops.sequence_parallel import make_slice_groups
from promptcot_mamba.stop_signal import StopSignal
from promptcot_mamba.training import run_folder
from promptcot_mamba.training.accumulation import settle_accumulation, widen_gradients
from promptcot_mamba.training.arguments import DataArguments, SftArguments
from promptcot_mamba.training.callbacks import ConsoleCallback, LogFileCallback, StopCallback, make_tensorboard_callback
from promptcot_mamba.training.capacity import KeepLayersCallback, count_trained
from promptcot_mamba.training.checks import check_flags, check_metric, check_objective, check_residual, check_slices
from promptcot_mamba.training.elastic import dealt_anew
from promptcot_mamba.training.extension_lock import wait_for_builds
from promptcot_mamba.training.flags import FOLLOWED
from promptcot_mamba.training.identity import as_finished, describe_identity
from promptcot_mamba.training.lora import add_adapters
from promptcot_mamba.training.nodes import check_nodes
from promptcot_mamba.training.plan import PlanArguments, render_plan
from promptcot_mamba.training.preference import PreferenceTrainer
from promptcot_mamba.training.ranks import fail_as_one, first_does, local_rank, part, rank, speak_once, together
from promptcot_mamba.training.rows import Rows, decide_packing, make_eval_rows, make_training_rows
from promptcot_mamba.training.run_folder import Identity
from promptcot_mamba.training.trainer import SftTrainer, TrainingDivergedError
from promptcot_mamba.training.watch import Watch

EXIT_DIVERGED = 1
STOPPING = "saving after this step, then stopping (Ctrl-C again: at once, without saving)"
EXIT_STOPPED = 75  # EX_TEMPFAIL: asked to stop, checkpointed; run the same command again


def main() -> int | None:
    args, data_args, plan_args = parse_args(
        [SftArguments, DataArguments, PlanArguments], description=__doc__, groups=FOLLOWED
    )
    if args.plan:
        print(render_plan(args, data_args, plan_args))
        return None
    plan_args.refuse_idle()
    try:
        with Watch():
            stopped_at = train(args, data_args)
    except TrainingDivergedError as error:
        if rank() == 0:
            print(f"stopped: {error}", file=sys.stderr)
        return EXIT_DIVERGED
    part()
    if stopped_at is None:
        return None
    if rank() == 0:
        checkpoint = args.output_path / f"checkpoint-{stopped_at}"
        go_on = "holds no optimizer, so the run cannot go on" if args.save_only_model else "the same command goes on"
        print(f"stopped after step {stopped_at}: {checkpoint}; {go_on}", file=sys.stderr)
    return EXIT_STOPPED


def train(args: SftArguments, data_args: DataArguments) -> int | None:
    """Run or continue one phase. Returns the step at which a signal stopped it, None if it finished.

    Raises InputError for bad input, before anything is written to the output folder.
    """
    speak_once()

    # Check what can be checked in seconds, before an hour of encoding.
    checkpoint, tokenizer, packing = together(lambda: check(args, data_args))
    check_nodes({"--output_dir": args.output_path})

    # Encode: text becomes tokens once for every process and every later run over the same data.
    rows, eval_rows, identity = encode(args, data_args, checkpoint, tokenizer, packing)
    check_metric(args, sorted(eval_rows))
    logger.info("data: %s", describe_rows(rows))

    # Claim the folder: a run is what it trains on and how; another one's folder is refused, a finished one is left.
    output_dir = args.output_path
    identity = as_finished(identity, args, run_folder.read_run(output_dir))
    known = (identity, checkpoint.is_recorded_as)
    together(lambda: run_folder.check_owner(output_dir, *known))
    if finished := run_folder.finished_step(output_dir):
        logger.info("%s: this run finished at step %d; nothing to do", output_dir, finished)
        return None
    step, resumed = together(lambda: run_folder.find_resume_point(output_dir, *known, args.resume_from_checkpoint))
    if resumed and run_folder.is_last_step(resumed):  # killed between its last checkpoint and its end
        best = run_folder.best_step(resumed) if args.load_best_model_at_end else None
        first_does(lambda: run_folder.finish(output_dir, step, best))
        return None

    # Load the weights, and only then write: a model that does not load leaves no folder behind.
    model = together(lambda: load_model(args, data_args, tokenizer))
    held: list[IO[str]] = []  # the folder's lock, in the first process, until this function is left
    first_does(lambda: held.append(run_folder.claim(output_dir, identity, {**asdict(data_args), **args.to_dict()})))

    # Train, from the last whole checkpoint where there is one.
    if resumed:
        logger.info("continuing from %s", resumed)
    if args.deepspeed:
        together(lambda: wait_for_builds(args.hf_deepspeed_config.config), only_if=local_rank() == 0)
    trainer = make_trainer(args, model, tokenizer, rows, eval_rows, packing, step, identity)
    with fail_as_one(), dealt_anew() if args.deepspeed else nullcontext():
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        if trainer.stopped_at is not None:
            return trainer.stopped_at

        # Export: the last step's model, or the best one, at the top of the folder, where vLLM and the next phase look.
        step = trainer.state.global_step
        best = trainer.state.best_global_step if args.load_best_model_at_end else None
        if args.load_best_model_at_end and best is None:
            logger.warning("--load_best_model_at_end: no saved step was validated; the last step's model is exported")
        if not (output_dir / f"checkpoint-{best or step}").is_dir():  # --save_strategy no, or epoch within one
            trainer.save_model(str(run_folder.writing_folder(output_dir, best or step)))
    first_does(lambda: run_folder.finish(output_dir, step, best))
    return None


def check(args: SftArguments, data_args: DataArguments) -> tuple[Checkpoint, Any, bool]:
    """The checkpoint's facts, the tokenizer, and whether rows are packed. Raises InputError for what does not fit."""
    check_flags(args, data_args)
    checkpoint = read_checkpoint(data_args.model_name_or_path, "--model_name_or_path")
    data_args.model_name_or_path = str(checkpoint.path)  # where a name of the hub lies
    require_causal_lm(checkpoint, "--model_name_or_path")
    if data_args.ops and not checkpoint.is_mamba2:
        raise InputError(f"--ops {data_args.ops[0]}: {checkpoint.path}'s model is not made of these ops; leave it out")
    packing = decide_packing(data_args.packing, checkpoint.is_mamba2, data_args.model_name_or_path)
    check_slices(args, data_args, packing, checkpoint.is_mamba2)
    check_objective(args, data_args, packing, checkpoint.is_mamba2)
    check_residual(args, checkpoint.is_mamba2)
    tokenizer_path = data_args.tokenizer_path or data_args.model_name_or_path
    tokenizer = load_tokenizer(tokenizer_path, "--tokenizer_path")
    check_tokenizer(tokenizer, checkpoint.config.get("vocab_size"), tokenizer_path, data_args.model_name_or_path)
    return checkpoint, tokenizer, packing


def encode(
    args: SftArguments, data_args: DataArguments, checkpoint: Checkpoint, tokenizer: Any, packing: bool
) -> tuple[Rows, dict[str, Any], Identity]:
    """Training rows, validation rows by source, and what the run is told by: all that changes samples or gradients."""
    recorded = (run_folder.read_run(args.output_path) or {}).get("identity")
    tokens = args.per_device_train_batch_size * data_args.max_length // args.sequence_parallel_size
    settle_accumulation(args, checkpoint.config, tokens, recorded)
    seed = args.seed if args.data_seed is None else args.data_seed
    data_hash, rows = make_training_rows(data_args, tokenizer, packing, seed, pairs=args.objective == "dpo")
    eval_hash, eval_rows = make_eval_rows(data_args, tokenizer)
    tokenizer.chat_template = choose_template(rows, tokenizer)  # what every checkpoint carries on to sampling
    hashes = {
        "data": data_hash,
        "eval_data": eval_hash,
        "tokenizer": hash_tokenizer(tokenizer),
        "model": checkpoint.fingerprint(),
    }
    identity = describe_identity(args, data_args, **hashes, packing=packing)
    return rows, eval_rows, identity


def load_model(args: SftArguments, data_args: DataArguments, tokenizer: Any) -> PreTrainedModel:
    """The model to train. Raises InputError if it cannot be loaded or does not fit the tokenizer."""
    dtype = torch.bfloat16 if args.narrow_weights else torch.float32
    model = load_causal_lm(data_args.model_name_or_path, dtype=dtype)
    tokenizer_path = data_args.tokenizer_path or data_args.model_name_or_path
    check_tokenizer(tokenizer, model.config.vocab_size, tokenizer_path, data_args.model_name_or_path)
    if args.residual_in_fp32 is not None and isinstance(model, Mamba2ForCausalLM):
        model.keep_residual_in_fp32(args.residual_in_fp32)
    if args.lora_rank:
        trained = add_adapters(
            model, args.lora_rank, args.lora_alpha or 2 * args.lora_rank, args.lora_target, args.seed
        )
        logger.info("adapters: %s trained parameters beside frozen weights", f"{trained:,}")
    if args.debug_numerics:
        watch_numerics(model)
    return model


def count_flops(args: SftArguments, model: PreTrainedModel) -> float | None:
    """FLOPs of a trained token; None, and the log has no MFU, where a family's arithmetic is not known."""
    try:
        shapes = shapes_from_config(model.config.to_dict())
    except InputError as error:
        log_once(f"mfu: is not told ({error})")
        return None
    return training_flops_per_token(shapes, count_trained(model) if args.lora_rank else 0)


def make_trainer(
    args: SftArguments, model: PreTrainedModel, tokenizer: Any, rows: Rows, eval_rows: dict[str, Any], packing: bool,
    resumed_step: int, identity: Identity,
) -> SftTrainer:  # fmt: skip
    """Join the model with rows, collation, logs and signals."""
    wide_gradients = args.split_master_weights and args.grad_accum_dtype == "fp32"
    stop = StopCallback()
    callbacks = [ConsoleCallback(), LogFileCallback(), stop]
    if isinstance(model, Mamba2ForCausalLM):
        model.backbone.segment_layers = args.checkpoint_every
        model.backbone.offload_checkpoints = args.offload_checkpoints
        if args.keeps_what_fits:
            tokens = args.per_device_train_batch_size * rows.max_length // args.sequence_parallel_size
            callbacks.append(KeepLayersCallback(model, tokens))
    if "tensorboard" in args.report_to:
        args.report_to = [name for name in args.report_to if name != "tensorboard"]
        if rank() == 0:
            callbacks.append(make_tensorboard_callback(args.output_path, resumed_step))
    pad_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    kind = partial(PreferenceTrainer, identity=identity) if args.objective == "dpo" else SftTrainer
    trainer = kind(
        model=model,
        args=args,
        collate=partial(collate_packed if packing else collate_padded, pad_id=pad_id),
        train_dataset=rows,
        eval_rows=eval_rows,
        flops_per_token=count_flops(args, model),
        processing_class=tokenizer,
        callbacks=callbacks,
        slices=make_slice_groups(args.sequence_parallel_size) if args.sequence_parallel_size > 1 else None,
        should_stop=lambda: listen()(),
    )
    if wide_gradients:  # once the weights are where they stay
        widen_gradients(model)
    trainer.remove_callback(PrinterCallback)
    stop.trainer = trainer
    return trainer


@cache
def listen() -> StopSignal:
    """Listen for signals that ask to stop, from the first step on.

    Before it a signal does what it does to any program: there is nothing to save yet, and a process that loads weights
    or waits for others in a C call ends at once instead of minutes later.
    """
    return StopSignal(
        *(signal.SIGINT, signal.SIGTERM, signal.SIGUSR1), message=STOPPING if rank() == 0 else "", kill=True
    )


if __name__ == "__main__":
    run_program(main)
