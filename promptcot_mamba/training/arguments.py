"""The flags of train.py: HF `TrainingArguments` with this project's defaults, and where model and data are."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from promptcot_mamba.cli import flag
from promptcot_mamba.data.dataset import OVERLONG
from promptcot_mamba.log import log_once
from promptcot_mamba.training.deepspeed_config import join_deepspeed_on_cpu, name_mismatches, settle_deepspeed
from promptcot_mamba.training.flags import refuse_unfollowed

GRAD_ACCUM_DTYPES = ("auto", "fp32", "bf16")
LOSS_AVERAGES = ("tokens", "examples")
OBJECTIVES = ("sft", "dpo")
NVIDIA_DEVICES = Path("/proc/driver/nvidia/gpus")  # one entry a device that the driver knows
CHECKPOINT_POLICIES = ("all", "auto")
# A launcher sets these; without one a lone process is its own world, on any free port.
LONE_PROCESS = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


def read_object(flag: str, text: str) -> dict[str, Any]:
    """A flag's JSON object. Raises ValueError, as argument classes do, for anything else."""
    try:
        if isinstance(found := json.loads(text), dict):
            return found
    except ValueError:
        pass
    raise ValueError(f"{flag} {text}: expected a JSON object")


def require_no_gpu(use_cpu: bool) -> None:
    """Raise ValueError where torch could be expected to use a GPU and has none: a 7B would train on the CPU unasked."""
    if use_cpu or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):  # asked for either way
        return
    if NVIDIA_DEVICES.is_dir() and any(NVIDIA_DEVICES.iterdir()):
        raise ValueError(
            "an NVIDIA device is here, but torch cannot use it: `python -m scripts.doctor` says why; to train on the "
            "CPU, --use_cpu True (or CUDA_VISIBLE_DEVICES= in front of a script that starts train.py)"
        )
    if torch.version.cuda is not None:
        raise ValueError(
            f"torch is a build for CUDA {torch.version.cuda} and finds no device (a login node, a job without "
            "--gpus-per-node?): start it where GPUs are; to train on the CPU, --use_cpu True"
        )


def share_cpu_cores() -> None:
    """Give each process of a machine its share of the cores, unless OMP_NUM_THREADS says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ:
        neighbours = int(os.environ.get("LOCAL_SIZE") or os.environ.get("LOCAL_WORLD_SIZE") or 1)
        threads = max(1, len(os.sched_getaffinity(0)) // neighbours)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)


@dataclass
class DataArguments:
    """Where the model and the examples are, and how examples become rows."""

    model_name_or_path: str = flag(
        "Folder or hub name of a causal language model. Mamba-2 runs on this project's own model.", default=""
    )
    data_path: list[str] = flag(
        "Rows of `prompt` and `completion`, `messages`, ShareGPT or Alpaca, as files, folders, globs or "
        "owner/name on the hub; or prepared shards.",
        factory=list,
    )
    tokenizer_path: str | None = flag("Folder or hub name. Default: the model's.", default=None)
    eval_data_path: list[str] = flag(
        "Validation examples; the loss is logged for each `source` in them, whenever a checkpoint is "
        "saved or as --eval_strategy says.",
        factory=list,
    )
    max_length: int = flag("Tokens per row; per document where rows are not packed.", default=20480)
    packing: bool | None = flag(
        "Several documents a row. Default: where boundaries are honoured (Mamba-2).", default=None
    )
    overlong: str = flag(
        "Examples beyond max_length are dropped or truncated, and counted.", default="drop", choices=OVERLONG
    )
    ops: list[str] = flag(
        "Backends of the model's ops, as `ssd=mamba_ssm causal_conv1d=reference`; see docs/ssd.md.", factory=list
    )
    prompt_format: str = flag(
        "Prompts of rows: rendered chat text, bare questions, or auto, by markup.", default="auto"
    )
    loss_on: str = flag("Of a conversation: assistant, each answer is an example, or last.", default="assistant")
    control_text: str = flag("Rows that spell control tokens: kept as text (auto, keep), or drop.", default="auto")
    token_cache: str = flag("Folder of encoded data; safe to delete.", default="cache/tokens")


@dataclass
class SftArguments(TrainingArguments):
    """TrainingArguments with this project's defaults.

    Where no GPU is found `use_cpu` is set, so that one command line runs on both kinds of machine.
    """

    output_dir: str | None = flag("Checkpoints, logs and the final model.", default=None)
    do_train: bool = flag("Refused where False.", default=True)
    logging_nan_inf_filter: bool = flag("Refused where True.", default=False)
    resume_from_checkpoint: str | None = flag(
        "Begin at this checkpoint of a run with the same settings. Default: at --output_dir's last.", default=None
    )
    eval_strategy: str = flag(
        "When to validate. Default with --eval_data_path: as saving.", default="no", choices=("no", "steps", "epoch")
    )
    save_only_model: bool = flag(
        "Checkpoints without optimizer: half the bytes or less, but none to resume.", default=False
    )
    load_best_model_at_end: bool = flag(
        "Keep, and export at the end, the checkpoint of the lowest validation loss.", default=False
    )
    # 100 warm-up steps, then constant: the paper's schedule (arXiv 2505.22425, training set-up).
    lr_scheduler_type: str = flag("Any of transformers' schedules.", default="constant_with_warmup")
    optim: str = flag(
        "adamw_torch, adamw_torch_fused, adafactor, sgd, or another of transformers' if installed.",
        default="adamw_torch_fused",
    )
    # A row holds max_length tokens: more of them at once cost memory and gain no speed.
    per_device_train_batch_size: int = flag("Rows per device and micro-batch.", default=1)
    per_device_eval_batch_size: int = flag("Documents per device while validating.", default=1)
    logging_steps: float = flag("Steps between two log lines.", default=1)
    report_to: list[str] = flag("tensorboard, wandb; `none` for neither.", factory=lambda: ["tensorboard"])
    loss_average: str = flag(
        "Mean over the step's labelled tokens, or over its examples' own means as published.",
        default="tokens",
        choices=LOSS_AVERAGES,
    )
    objective: str = flag(
        "What is learned: completions (sft), or to prefer `chosen` to `rejected` answers (dpo).",
        default="sft",
        choices=OBJECTIVES,
    )
    beta: float = flag("With --objective dpo: how closely the reference, the first model, is kept.", default=0.1)
    length_normalised: bool = flag(
        "With --objective dpo: log-probabilities a token instead of an answer.", default=False
    )
    nll_weight: float = flag(
        "With --objective dpo: weight of the chosen answer's own loss a token; 0 is plain DPO.", default=0.0
    )
    reference_path: str | None = flag(
        "With --objective dpo: reference.npz of an earlier run over the same data from the same model. "
        "Default: computed before the first step, into --output_dir.",
        default=None,
    )

    checkpoint_policy: str = flag(
        "With gradient_checkpointing: recompute all layers, or (auto, Mamba-2) only those whose "
        "activations do not fit. With --checkpoint_every or --offload_checkpoints all are.",
        default="auto",
        choices=CHECKPOINT_POLICIES,
    )
    checkpoint_every: int = flag(
        "With gradient_checkpointing: keep the residual stream before every k-th layer only and run the k "
        "layers once more: for rows whose residual stream alone is too long.",
        default=1,
    )
    offload_checkpoints: bool = flag(
        "With gradient_checkpointing: what is kept of the residual stream waits in host memory.", default=False
    )
    residual_in_fp32: bool | None = flag(
        "False keeps the residual stream as narrow as bf16 weights, at half its memory, and says so in the "
        "model's config. Default: as that config says.",
        default=None,
    )
    sequence_parallel_size: int = flag(
        "Neighbouring processes that hold one packed row in slices: rows longer than a device holds.", default=1
    )
    split_master_weights: bool = flag(
        "One device, no DeepSpeed: AdamW on bf16 weights whose fp32 masters are kept as 16 further bits, "
        "14 bytes a parameter in all.",
        default=False,
    )
    lora_rank: int = flag("Train adapters of this rank beside frozen weights; 0 trains the weights.", default=0)
    lora_alpha: float | None = flag(
        "Adapters are scaled by lora_alpha / lora_rank. Default: twice the rank.", default=None
    )
    lora_target: list[str] = flag("Linear layers that get adapters.", factory=lambda: ["in_proj", "out_proj"])
    grad_accum_dtype: str = flag(
        "bf16 gradients of several micro-batches are summed in this precision. auto: fp32 where memory "
        "allows, as --plan counts it; a run that began goes on as it began.",
        default="auto",
        choices=GRAD_ACCUM_DTYPES,
    )
    debug_numerics: bool = flag("Stop at the first module or op that produces NaN or infinity; slow.", default=False)
    plan: bool = flag("Print memory, speed by part and days from shapes; train nothing.", default=False)

    def __post_init__(self) -> None:
        refuse_unfollowed(self)
        notes = settle_deepspeed(self)
        if self.plan:
            return  # a plan starts no process group and touches no device
        if not self.output_dir:
            raise ValueError("--output_dir is required")
        if self.split_master_weights and (self.deepspeed or not self.bf16):
            raise ValueError("--split_master_weights needs --bf16 True and no --deepspeed (leave the recipe's out)")
        if self.lora_rank < 0 or (self.lora_rank and self.split_master_weights):
            raise ValueError(f"--lora_rank {self.lora_rank}: expected 0 or more, and no --split_master_weights with it")
        if not torch.cuda.is_available():
            require_no_gpu(self.use_cpu)
            self.use_cpu = True
            share_cpu_cores()
        if self.deepspeed and "RANK" not in os.environ:
            os.environ.update(LONE_PROCESS)
        if self.follows_validation and self.save_strategy != "best" and self.eval_strategy == "no":
            self.validate_with_checkpoints()
        if self.save_strategy == "best" and self.metric_for_best_model is None:
            self.metric_for_best_model = "loss"
        self.greater_is_better = False  # validation computes losses
        self.disable_tqdm = True  # callbacks.ConsoleCallback prints instead
        if isinstance(self.lr_scheduler_kwargs, str):
            self.lr_scheduler_kwargs = read_object("--lr_scheduler_kwargs", self.lr_scheduler_kwargs)
        if self.load_best_model_at_end and self.save_strategy == "no":
            raise ValueError("--load_best_model_at_end True: needs checkpoints; leave --save_strategy no out")
        super().__post_init__()
        if self.deepspeed and self.hf_deepspeed_config.mismatches:
            raise ValueError(name_mismatches(self.hf_deepspeed_config.mismatches))
        for note in notes if self.process_index == 0 else ():
            log_once(note)
        if self.n_gpu > 1:
            raise ValueError(
                f"{self.n_gpu} GPUs and one process: start `deepspeed --num_gpus={self.n_gpu} train.py ...` (or "
                "torchrun --nproc_per_node), or choose one with CUDA_VISIBLE_DEVICES=0"
            )
        if self.use_cpu and self.deepspeed:
            join_deepspeed_on_cpu(self.ddp_timeout)

    @property
    def output_path(self) -> Path:
        """`output_dir`, which all but a plan have."""
        assert self.output_dir is not None
        return Path(self.output_dir)

    @property
    def narrow_weights(self) -> bool:
        """Whether the weights are bf16: DeepSpeed and split_adamw keep fp32 masters themselves, frozen ones need none;
        elsewhere the weights must be their own masters."""
        return bool(self.bf16 and (self.deepspeed or self.lora_rank)) or self.split_master_weights

    @property
    def keeps_what_fits(self) -> bool:
        """Whether layers keep their activations as memory allows; segments, or checkpoints with the host, never do."""
        plain = self.checkpoint_every == 1 and not self.offload_checkpoints
        return self.gradient_checkpointing and self.checkpoint_policy == "auto" and plain

    @property
    def validates(self) -> bool:
        """Whether validation was asked for."""
        return self.eval_strategy != IntervalStrategy.NO

    @property
    def follows_validation(self) -> bool:
        """Whether validation losses decide what is kept, exported or learned."""
        by_loss = self.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")
        return self.load_best_model_at_end or self.save_strategy == "best" or by_loss

    def validate_with_checkpoints(self) -> None:
        """Validate whenever a checkpoint is saved; every epoch where none is."""
        by_steps = SaveStrategy(self.save_strategy) == SaveStrategy.STEPS or self.eval_steps is not None
        self.eval_strategy = IntervalStrategy.STEPS if by_steps else IntervalStrategy.EPOCH
        if by_steps and self.eval_steps is None:
            self.eval_steps = self.save_steps
