"""One SFT phase from flags to finished model: check, encode, claim the folder, load, train, export."""

from __future__ import annotations

import logging
import warnings
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from transformers.utils.logging import disable_progress_bar

from promptcot_mamba.chat_format import CHAT_TEMPLATE
from promptcot_mamba.data.collate import collate_packed, collate_padded
from promptcot_mamba.data.dataset import TokenRows, UnpackedRows, describe_rows, make_rows
from promptcot_mamba.data.encode import check_tokenizer, hash_tokenizer
from promptcot_mamba.data.rows import find_row_files, hash_files
from promptcot_mamba.data.shards import INDEX_FILE, ShardRows, is_shard_folder
from promptcot_mamba.data.tokens import STORE_VERSION, TokenStore, build_store, open_store
from promptcot_mamba.errors import InputError
from promptcot_mamba.log import ROOT, get_logger
from promptcot_mamba.memory_budget import shapes_from_config, training_flops_per_token, training_memory
from promptcot_mamba.model import Mamba2ForCausalLM, load_causal_lm
from promptcot_mamba.model.debug_numerics import watch_numerics
from promptcot_mamba.model.weights import identify_causal_lm
from promptcot_mamba.ops.backends import choose_ops
from promptcot_mamba.training import run_folder
from promptcot_mamba.training.arguments import DataArguments, SftArguments
from promptcot_mamba.training.callbacks import (
    ConsoleCallback,
    LogFileCallback,
    StopCallback,
    StopSignal,
    make_tensorboard_callback,
)
from promptcot_mamba.training.identity import describe_identity, hash_model, read_config, zero_stage
from promptcot_mamba.training.ranks import first_does, local_rank, rank, together
from promptcot_mamba.training.trainer import SftTrainer

logger = get_logger(__name__)
# Flags of TrainingArguments that the trainer here would silently not follow.
REPLACED_FLAGS = {
    "label_smoothing_factor": "the loss never makes whole logits",
    "average_tokens_across_devices": "see --loss_average",
    "auto_find_batch_size": "see --plan for what fits",
    "train_sampling_strategy": "row order is a function of the seed",
    "dataloader_drop_last": "every row is trained on exactly once an epoch",
    "ignore_data_skip": "a resumed run continues with the exact next row",
}
Rows = TokenRows | ShardRows | UnpackedRows
held: list[IO[str]] = []  # locks that live as long as the process


def quiet_libraries() -> None:
    """One process speaks, in lines: no progress bars of the libraries, no deprecation notes for their authors."""
    disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    if rank() != 0:
        get_logger(ROOT).setLevel(logging.ERROR)


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer as it is: no token is added. Raises InputError if the folder holds none."""
    try:
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"--tokenizer_path {path}: no tokenizer here ({reason})") from None


def check_flags(args: SftArguments, data_args: DataArguments) -> None:
    """Raise InputError for flags that are missing or cannot mean anything."""
    for name in ("model_name_or_path", "data_path"):
        if not getattr(data_args, name):
            raise InputError(f"--{name} is required")
    defaults = {one.name: one.default for one in fields(args)}
    for name, instead in REPLACED_FLAGS.items():
        if getattr(args, name) != defaults[name]:
            raise InputError(f"--{name} has no effect in this program: {instead}")
    if data_args.max_length < 2:
        raise InputError(f"--max_length {data_args.max_length}: expected at least 2")
    choose_ops(data_args.ops, "cpu" if args.use_cpu else "cuda")
    # Both checked again once the data is known; here, before an hour of encoding.
    run_folder.check_writable(Path(args.output_dir))
    find_row_files([path for path in data_args.data_path if not is_shard_folder(path)])
    find_row_files(data_args.eval_data_path)


def decide_packing(wanted: bool | None, is_mamba2: bool, model_path: str) -> bool:
    """Packed rows where the model keeps documents apart. Raises InputError where they would leak but were asked for."""
    if wanted and not is_mamba2:
        raise InputError(
            f"--packing True: documents of one row would see one another in the model of {model_path}; "
            "only this project's Mamba-2 keeps them apart; leave the flag out"
        )
    return is_mamba2 if wanted is None else wanted


def encode_data(data_path: list[str], tokenizer: Any, cache: Path) -> tuple[str, TokenStore]:
    """The contents' hash and the encoded documents of a data path; the first process encodes, the others wait."""
    files = together(lambda: find_row_files(data_path))
    contents = first_does(lambda: hash_files(files))
    folder = cache / f"{contents}-{hash_tokenizer(tokenizer)}-v{STORE_VERSION}"
    first_does(lambda: build_store(folder, files, tokenizer))
    # Where the cache is a node's own disk, the first process of every other node encodes for its neighbours.
    together(lambda: build_store(folder, files, tokenizer), only_if=local_rank() == 0)
    return contents, open_store(folder)


def open_shards(folder: str, tokenizer: Any, data_args: DataArguments, packing: bool) -> tuple[str, Rows]:
    """The contents' hash and the rows of prepared shards, taken apart into documents where rows are not packed."""
    shards = ShardRows(folder)
    shards.check(max_length=data_args.max_length, tokenizer_hash=hash_tokenizer(tokenizer))
    return hash_files([shards.folder / INDEX_FILE]), shards if packing else UnpackedRows(shards)


def make_training_rows(
    data_args: DataArguments, tokenizer: PreTrainedTokenizerBase, packing: bool, seed: int
) -> tuple[str, Rows]:
    """The contents' hash and the rows of `--data_path`, whether rows of text or prepared shards."""
    shard_folders = [path for path in data_args.data_path if is_shard_folder(path)]
    if shard_folders and len(data_args.data_path) > 1:
        raise InputError(f"--data_path {shard_folders[0]}: prepared shards are one folder; mix sources when preparing")
    if shard_folders:
        return together(lambda: open_shards(shard_folders[0], tokenizer, data_args, packing))
    contents, store = encode_data(data_args.data_path, tokenizer, Path(data_args.token_cache))
    return contents, make_rows(store, data_args.max_length, packing=packing, overlong=data_args.overlong, seed=seed)


@dataclass(frozen=True)
class Phase:
    """Everything a phase needs that can be checked before a model is loaded."""

    tokenizer: PreTrainedTokenizerBase
    rows: Rows
    eval_rows: dict[str, TokenRows]
    identity: run_folder.Identity
    packing: bool


def check_inputs(args: SftArguments, data_args: DataArguments) -> tuple[PreTrainedTokenizerBase, bool]:
    """The tokenizer, and whether rows are packed. Raises InputError for flags, model or tokenizer that do not fit."""
    check_flags(args, data_args)
    model_path = data_args.model_name_or_path
    tokenizer_path = data_args.tokenizer_path or model_path
    is_mamba2 = identify_causal_lm(Path(model_path)) is not None
    if data_args.ops and not is_mamba2:
        raise InputError(f"--ops {data_args.ops[0]}: the model of {model_path} is not made of these ops; leave it out")
    packing = decide_packing(data_args.packing, is_mamba2, model_path)
    tokenizer = load_tokenizer(tokenizer_path)
    check_tokenizer(tokenizer, read_config(model_path).get("vocab_size"), tokenizer_path, model_path)
    return tokenizer, packing


def prepare(args: SftArguments, data_args: DataArguments) -> Phase:
    """Check everything and encode the data. Raises InputError, in every process, for whatever does not fit."""
    tokenizer, packing = together(lambda: check_inputs(args, data_args))
    seed = args.seed if args.data_seed is None else args.data_seed
    data_hash, rows = make_training_rows(data_args, tokenizer, packing, seed)
    eval_rows = {}
    if data_args.eval_data_path:
        _, eval_store = encode_data(data_args.eval_data_path, tokenizer, Path(data_args.token_cache))
        eval_rows = make_rows(eval_store, data_args.max_length, packing=False).split_by_source()
    identity = describe_identity(
        args,
        data_args,
        data=data_hash,
        tokenizer=hash_tokenizer(tokenizer),
        model=hash_model(Path(data_args.model_name_or_path)),
        packing=packing,
    )
    return Phase(tokenizer, rows, eval_rows, identity, packing)


def find_resume_point(args: SftArguments, identity: run_folder.Identity) -> tuple[int, Path | None]:
    """Where the output folder's run goes on: step and checkpoint, step 0 for a new one.

    Raises InputError if the folder is another run's, or its checkpoint cannot be read by this number of devices.
    """
    output_dir = Path(args.output_dir)
    run_folder.check_owner(output_dir, identity)
    checkpoints = run_folder.find_checkpoints(output_dir)
    step, checkpoint = checkpoints[-1] if checkpoints else (0, None)
    if checkpoint and args.deepspeed:
        run_folder.check_devices(checkpoint, args.world_size)
    return step, checkpoint


def claim_output(args: SftArguments, data_args: DataArguments, identity: run_folder.Identity) -> None:
    """Make the output folder this run's own, in the first process."""
    output_dir = Path(args.output_dir)
    held.append(run_folder.hold(output_dir))
    run_folder.remove_unfinished(output_dir)
    run_folder.claim(output_dir, identity, {**asdict(data_args), **args.to_dict()})


def load_model(args: SftArguments, data_args: DataArguments, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The model to train. Raises InputError if it cannot be loaded or does not fit the tokenizer."""
    # DeepSpeed and split_adamw keep fp32 master weights themselves; without them the weights must be them.
    narrow = (args.bf16 and args.deepspeed) or args.split_master_weights
    dtype = torch.bfloat16 if narrow else torch.float32
    model = load_causal_lm(data_args.model_name_or_path, dtype=dtype)
    tokenizer_path = data_args.tokenizer_path or data_args.model_name_or_path
    check_tokenizer(tokenizer, model.config.vocab_size, tokenizer_path, data_args.model_name_or_path)
    return model


def make_trainer(args: SftArguments, model: PreTrainedModel, phase: Phase, resumed_step: int) -> SftTrainer:
    """Join the model with rows, collation, logs and signals."""
    shapes = shapes_from_config(model.config.to_dict())
    if args.debug_numerics:
        watch_numerics(model)
    if args.gradient_checkpointing and args.checkpoint_policy == "auto" and isinstance(model, Mamba2ForCausalLM):
        args.gradient_checkpointing = False  # or the Trainer would turn it on for every layer again
        tokens = args.per_device_train_batch_size * phase.rows.max_length
        parts = training_memory(shapes, tokens=tokens, devices=args.world_size, zero_stage=zero_stage(args))
        model.choose_activations_from_memory(reserved_bytes=int(parts["buckets"]))
    phase.tokenizer.chat_template = CHAT_TEMPLATE
    stop = StopCallback()
    callbacks = [ConsoleCallback(), LogFileCallback(), stop]
    if "tensorboard" in args.report_to:
        args.report_to = [name for name in args.report_to if name != "tensorboard"]
        if rank() == 0:
            callbacks.append(make_tensorboard_callback(Path(args.output_dir), resumed_step))
    pad_id = phase.tokenizer.eos_token_id if phase.tokenizer.pad_token_id is None else phase.tokenizer.pad_token_id
    trainer = SftTrainer(
        model=model,
        args=args,
        collate=partial(collate_packed if phase.packing else collate_padded, pad_id=pad_id),
        train_dataset=phase.rows,
        eval_rows=phase.eval_rows,
        processing_class=phase.tokenizer,
        callbacks=callbacks,
        flops_per_token=training_flops_per_token(shapes),
        should_stop=StopSignal(),
    )
    trainer.remove_callback(PrinterCallback)
    stop.trainer = trainer
    return trainer


def train_phase(args: SftArguments, data_args: DataArguments) -> int | None:
    """Run or continue one phase. Returns the step at which a signal stopped it, None if it finished.

    Raises InputError for bad input, before anything is written to the output folder.
    """
    quiet_libraries()
    output_dir = Path(args.output_dir or "")
    phase = prepare(args, data_args)
    if rank() == 0:
        logger.info("data: %s", describe_rows(phase.rows))
    resumed_step, checkpoint = together(lambda: find_resume_point(args, phase.identity))
    finished = (run_folder.read_run(output_dir) or {}).get("finished")
    if finished:
        if rank() == 0:
            logger.info("%s: this run finished at step %d; nothing to do", output_dir, finished)
        return None
    if checkpoint and run_folder.is_last_step(checkpoint):  # killed between its last checkpoint and its end
        first_does(lambda: run_folder.finish(output_dir, resumed_step))
        return None
    model = together(lambda: load_model(args, data_args, phase.tokenizer))
    first_does(lambda: claim_output(args, data_args, phase.identity))
    trainer = make_trainer(args, model, phase, resumed_step)
    if rank() == 0 and checkpoint:
        logger.info("continuing from %s", checkpoint)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.stopped_at is not None:
        return trainer.stopped_at
    step = trainer.state.global_step
    if not (output_dir / f"checkpoint-{step}").is_dir():  # --save_strategy no, or epoch within one
        trainer.save_model(str(output_dir))
    first_does(lambda: run_folder.finish(output_dir, step))
    return None
