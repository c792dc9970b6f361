"""A 7B training step taken apart for scripts.bench.step_7b: models, optimizers, and one micro-batch at a time."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import Mamba2Config
from transformers import Mamba2ForCausalLM as TransformersMamba2

from promptcot_mamba.errors import InputError
from promptcot_mamba.memory_budget import Mamba2Shapes, count_kept_layers, offloaded_bytes, shapes_from_config
from promptcot_mamba.model import Mamba2ForCausalLM
from promptcot_mamba.ops.packing import cu_seqlens_from_lengths
from promptcot_mamba.sampling.capacity import free_memory
from promptcot_mamba.training.arguments import LONE_PROCESS
from promptcot_mamba.training.split_adamw import SplitAdamW
from scripts.bench.train import AnyMamba2, draw_lengths

# The paper's training set-up.
ADAMW: dict[str, Any] = {"lr": 5e-6, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.01}
CLIP = 1.0
OFFLOAD_CONFIG = Path("configs/deepspeed_zero2_offload.json")
DEEPSPEED_BUCKETS = 3_000_000_000  # bytes on the device that the first backward pass takes: 3 of 500 M bf16 numbers
HOST_MARGIN = 6e9  # bytes of host memory left to the interpreter, libraries and DeepSpeed's temporaries


class Engine(Protocol):
    """What is timed."""

    def micro_batch(self) -> torch.Tensor:
        """Forward and backward of one row; returns the loss."""

    def update(self) -> None:
        """The optimizer's step, gradients clipped, and their removal."""


def make_config(layers: int, rehearsal: bool) -> Mamba2Config:
    """Mamba-Codestral-7B's shapes at this depth, or tiny ones."""
    sizes: dict[str, Any] = (
        {"vocab_size": 64, "hidden_size": 32, "num_heads": 4, "head_dim": 16, "n_groups": 2, "state_size": 16}
        if rehearsal
        else {"vocab_size": 32_768, "hidden_size": 4096, "num_heads": 128, "head_dim": 64, "n_groups": 8,
              "state_size": 128}
    )  # fmt: skip
    return Mamba2Config(num_hidden_layers=layers, use_cache=False, **sizes)


def make_model(theirs: bool, config: Mamba2Config, device: str) -> AnyMamba2:
    """Random bf16 weights, drawn on the device; `theirs` is transformers' class, as the published recipe trains it."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = TransformersMamba2(config) if theirs else Mamba2ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return torch.nn.Module.to(model, torch.bfloat16).train()


def make_batch(theirs: bool, config: Mamba2Config, length: int, device: str) -> dict[str, torch.Tensor | bool]:
    """One row of random tokens, all of them labelled: for ours packed of documents, for transformers (which would
    let packed documents see one another) one document."""
    ids = torch.randint(0, config.vocab_size, (1, length), device=device)
    batch: dict[str, torch.Tensor | bool] = {"input_ids": ids, "labels": ids, "use_cache": False}
    if not theirs:
        drawn = [int(one) for one in draw_lengths(256, min(length, 20_480))]
        documents: list[int] = []
        while sum(documents) < length:
            documents.append(min(drawn[len(documents) % len(drawn)], length - sum(documents)))
        batch["cu_seqlens"] = cu_seqlens_from_lengths(documents, device=torch.device(device))
    return batch


def count_upstream_calls() -> list[int]:
    """A list that grows whenever mamba-ssm's fused mixer runs: transformers falls back to slow torch in silence.

    Raises ImportError where mamba-ssm or causal-conv1d is missing.
    """
    import causal_conv1d  # noqa: F401 (without it mamba-ssm's fused mixer fails only when called)
    from mamba_ssm.ops.triton import ssd_combined

    function, calls = ssd_combined.MambaSplitConv1dScanCombinedFn, []
    original = function.forward

    def counted(*args, **kwargs):
        calls.append(1)
        return original(*args, **kwargs)

    function.forward = staticmethod(counted)
    return calls


class Passes:
    """Forward and backward only; gradients add up in place."""

    def __init__(self, model: torch.nn.Module, batch: dict[str, torch.Tensor | bool]):
        self.model, self.batch = model, batch

    def micro_batch(self) -> torch.Tensor:
        loss = self.model(**self.batch).loss
        loss.backward()
        return loss.detach()

    def update(self) -> None:
        """Nothing: there is no optimizer here."""


class OnDevice(Passes):
    """Everything on the device: bf16 weights and gradients, split fp32 masters, fp32 moments."""

    def __init__(self, model: torch.nn.Module, batch: dict[str, torch.Tensor | bool]):
        super().__init__(model, batch)
        self.optimizer = SplitAdamW(model.parameters(), **ADAMW)

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class Offloaded:
    """DeepSpeed ZeRO-2 with the optimizer on the host, from the shipped config."""

    def __init__(self, model: torch.nn.Module, batch: dict[str, torch.Tensor | bool], device: str, pinned: bool):
        os.environ.update({name: os.environ.get(name, value) for name, value in LONE_PROCESS.items()})
        import deepspeed

        deepspeed.init_distributed(
            dist_backend="nccl" if device == "cuda" else "gloo", auto_mpi_discovery=False, verbose=False
        )
        config = make_deepspeed_config(device, pinned)
        self.engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
        self.batch = batch

    def micro_batch(self) -> torch.Tensor:
        loss = self.engine(**self.batch).loss
        self.engine.backward(loss)
        return loss.detach()

    def update(self) -> None:
        self.engine.step()


def make_deepspeed_config(device: str, pinned: bool) -> dict[str, Any]:
    """The shipped offload config with its "auto" values filled in: one device, one row a step."""
    config = json.loads(OFFLOAD_CONFIG.read_text(encoding="utf-8"))
    adamw = {"torch_adam": device == "cpu", **ADAMW, "betas": list(ADAMW["betas"])}  # no compiling in a rehearsal
    config |= {
        "train_batch_size": 1, "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1,
        "gradient_clipping": CLIP, "bf16": {"enabled": True}, "fp16": {"enabled": False},
        "optimizer": {"type": "AdamW", "params": adamw},
    }  # fmt: skip
    config["zero_optimization"]["offload_optimizer"]["pin_memory"] = pinned
    if device == "cpu":
        config |= {"zero_force_ds_cpu_optimizer": False, "zero_allow_untested_optimizer": True}
    return config


def shapes_at(layers: int) -> Mamba2Shapes:
    """The 7B model's shapes at another depth."""
    return Mamba2Shapes(hidden=4096, layers=layers, heads=128, head_dim=64, n_groups=8, state=128, conv=4, vocab=32_768)


def offload_bytes_pinned(layers: int) -> int:
    """Host bytes of the offload with pinned buffers: torch rounds each up to a power of two."""
    parameters = shapes_at(layers).parameters
    pinned = [4 * parameters, 4 * parameters, 2 * parameters]  # masters, gradients, the bf16 image
    return sum(1 << (size - 1).bit_length() for size in pinned) + 8 * parameters  # and the moments, pageable


def plan_offload(layers: int, free: float | None = None) -> tuple[int, bool]:
    """(deepest multiple of 8 layers, at most `layers`, whose offloaded optimizer fits the host; whether pinned).

    Raises InputError where not even 8 layers fit.
    """
    free = (free_memory() if free is None else free) - HOST_MARGIN
    for depth in sorted({layers, *range(8, layers, 8)}, reverse=True):
        if offload_bytes_pinned(depth) <= free:
            return depth, True
        if offloaded_bytes(shapes_at(depth)) <= free:
            return depth, False
    needed = offloaded_bytes(shapes_at(min(8, layers)))
    raise InputError(f"offload: 8 layers take {needed / 1e9:.0f} GB of host memory, {free / 1e9:.0f} GB are free")


def device_free_bytes(device: str) -> int:
    """Memory this process may still take there: on CUDA also what torch's allocator holds unused."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return free_memory()


def make_engine(variant: str, layers: int, length: int, device: str, pinned: bool) -> tuple[Engine, Callable[[], int]]:
    """The engine of a variant, and a function that tells how many layers keep their activations."""
    theirs, rehearsal = variant.startswith("recipe"), device == "cpu"
    config = make_config(layers, rehearsal)
    model = make_model(theirs, config, device)
    batch = make_batch(theirs, config, length, device)
    if theirs:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    engine: Engine
    if variant == "ours":
        engine = OnDevice(model, batch)
    elif variant.endswith("offload"):
        engine = Offloaded(model, batch, device, pinned)
    else:
        engine = Passes(model, batch)
    if isinstance(model, Mamba2ForCausalLM):
        # After the optimizer's states are made: what is free now is free for gradients, buckets and activations.
        taken = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        taken += DEEPSPEED_BUCKETS if variant.endswith("offload") and not rehearsal else 0
        shapes = shapes_from_config(config.to_dict())
        model.keep_layers(count_kept_layers(shapes, length, device_free_bytes(device) - taken))

    def kept() -> int:
        layers = model.backbone.layers if isinstance(model, Mamba2ForCausalLM) else ()
        return sum(not layer.gradient_checkpointing for layer in layers)

    return engine, kept
