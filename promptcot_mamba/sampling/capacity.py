"""How many chains run at once, and in how much memory: decided from shapes and the machine, before any engine."""

import time
from dataclasses import dataclass
from pathlib import Path

from promptcot_mamba.checkpoint import DTYPE_BYTES, Checkpoint, stored_dtype, weight_files
from promptcot_mamba.errors import InputError
from promptcot_mamba.gpus import has_nvidia_device, list_gpus
from promptcot_mamba.log import logger
from promptcot_mamba.sampling.cache_cost import cache_cost
from promptcot_mamba.sampling.layers import language_config

MIB, GIB = 1 << 20, 1 << 30
CPU_MOST_SEQS = 256  # beyond this a CPU's step time grows as fast as its batch
CUDA_MOST_SEQS = 1024
CPU_SHARE = 0.4  # of the memory free now, for weights and states together: the machine has other work
CUDA_SHARE = 0.9  # of the device, as vLLM's own default
CUDA_RESERVE = 6 * GIB  # activations, CUDA graphs, workspaces
# Bytes of a number, scales included, by the names of what vLLM quantizes as it loads 16-bit weights.
ONLINE_BYTES = {
    **dict.fromkeys(("fp8", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel", "int8_per_channel_weight_only"), 1.0),
    **{"mxfp8": 33 / 32, "nvfp4_per_token": 9 / 16, "mxfp4": 17 / 32, "bitsandbytes": 9 / 16},
}


@dataclass(frozen=True)
class Device:
    """One device a replica runs on."""

    kind: str  # cuda | cpu
    memory: int  # bytes: the device's total on CUDA, this replica's share of what is free now on CPU

    def bandwidth(self) -> float:
        """Bytes a second memory moves, measured in a fraction of a second by copying; for estimates only."""
        import torch

        source = torch.ones((1 << 30 if self.kind == "cuda" else 1 << 27) // 4, device=self.kind)
        target = torch.empty_like(source)
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            target.copy_(source)
            float(target[-1])  # waits for the device
            seconds.append(time.perf_counter() - started)
        return 2 * source.nbytes / min(seconds)


def find_device(devices: int = 1) -> Device:
    """What this machine runs `devices` replicas' parts on; raises InputError if it has fewer GPUs than that, or CUDA
    builds of torch and vLLM and none at all.

    CUDA is asked through `nvidia-smi`, since a process that has touched CUDA cannot fork vLLM's workers.
    """
    import torch

    if torch.version.cuda is None:
        if has_nvidia_device():
            logger.warning("an NVIDIA driver runs here, but this torch is a CPU build: sampling on the CPU "
                           "(bash scripts/setup.sh --cuda)")  # fmt: skip
        return Device("cpu", free_memory() // devices)
    # Of each visible GPU, or MIG instance; one without memory of its own (GB10) shares the host's.
    totals = [free_memory() if gpu.memory is None else gpu.memory for gpu in list_gpus()]
    if not totals:
        raise InputError(
            f"torch and vLLM are builds for CUDA {torch.version.cuda}, and nvidia-smi names no device for this "
            "process: `python -m scripts.doctor` says why"
        )
    if devices > len(totals):
        raise InputError(
            f"--n_gpus {devices}: this machine has {len(totals)}; other machines are reached by --base_url"
        )
    return Device("cuda", min(totals))


def free_memory() -> int:
    """Bytes this process may still take: the kernel's estimate, bounded by the container's limit."""
    import psutil

    free = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        free = min(free, int(text) - int(used.read_text()))
    nodes = sorted(Path("/sys/devices/system/node").glob("node[0-9]*/meminfo"))
    if nodes:  # vLLM's CPU worker binds itself to one memory node
        free = min(free, max(_node_free(node) for node in nodes))
    return free


def _node_free(meminfo: Path) -> int:
    fields = {line.split()[2].rstrip(":"): int(line.split()[3]) for line in meminfo.read_text().splitlines()}
    return 1024 * (fields["MemFree"] + fields.get("FilePages", 0))


@dataclass(frozen=True)
class Capacity:
    """What one replica holds."""

    max_num_seqs: int
    cache_bytes: int | None  # set where we size vLLM's cache ourselves
    sequence_bytes: int  # of a chain that fills the context
    typical_bytes: int  # of one at an eighth of it; for a model of states alone the same
    state_bytes: int  # of it, what does not grow
    weight_bytes: int


def loaded_bytes(checkpoint: Checkpoint, dtype: str, quantization: str | None = None) -> int:
    """What all weights take once they are loaded as `dtype`, or quantized while loading.

    A checkpoint that is quantized already is loaded as it is stored. Embeddings and the output layer stay `dtype`.
    """
    stored = checkpoint.weight_bytes
    config = language_config(checkpoint.config)
    if any(config.get(key) or checkpoint.config.get(key) for key in ("quantization_config", "compression_config")):
        return stored
    readable = [file for file in weight_files(checkpoint.path) if file.suffix == ".safetensors"]
    own = stored_dtype(checkpoint.path) if readable else config.get("dtype") or config.get("torch_dtype")
    size = DTYPE_BYTES[dtype]
    loaded = stored * size // DTYPE_BYTES.get(str(own), size)
    if quantization not in ONLINE_BYTES:
        return loaded
    tables = 1 if config.get("tie_word_embeddings") else 2
    kept = min(loaded, tables * int(config.get("vocab_size") or 0) * int(config.get("hidden_size") or 0) * size)
    return kept + int((loaded - kept) * ONLINE_BYTES[quantization] / size)


def plan_capacity(
    checkpoint: Checkpoint,
    device: Device,
    *,
    dtype: str,
    state_dtype: str,
    context: int,
    samples: int,
    tensor_parallel_size: int = 1,
    max_num_seqs: int | None = None,
    quantization: str | None = None,
) -> Capacity:
    """Choose `max_num_seqs` so that weights and states fit; raises InputError if not even one chain does.

    Attention layers reserve nothing ahead (vLLM pages their cache), so for them the budget counts chains at an
    eighth of the context and vLLM preempts if all grow long.
    """
    weights = loaded_bytes(checkpoint, dtype, quantization) // tensor_parallel_size
    cost = cache_cost(checkpoint.config, dtype, state_dtype, tensor_parallel_size)
    a_sequence, typical = max(1, cost.bytes(context)), max(1, cost.bytes(context // 8))
    if device.kind == "cuda":
        room, most = int(CUDA_SHARE * device.memory) - weights, CUDA_MOST_SEQS
        budget = room - min(CUDA_RESERVE, device.memory // 8)
    else:
        room = budget = int(CPU_SHARE * device.memory) - weights
        most = CPU_MOST_SEQS
    least = cost.whole(context) if device.kind == "cpu" else a_sequence
    if budget < least:
        shorter = "a lower --max_len, " if budget > 0 and cost.grows else ""
        parts = "a higher --tensor_parallel_size, " if device.kind == "cuda" else ""
        raise InputError(
            f"{checkpoint.path}: weights of {weights / GIB:.1f} GiB and one chain of {least / GIB:.2f} GiB exceed "
            f"the {device.kind} memory budget of {(weights + budget) / GIB:.1f} GiB; {shorter}{parts}--dtype bfloat16, "
            "--quantization or another machine (--base_url) may mend it"
        )
    if max_num_seqs is not None and not cost.grows and max_num_seqs * a_sequence > room:  # vLLM ends at its start
        raise InputError(
            f"--max_num_seqs {max_num_seqs}: so many states of {a_sequence / MIB:.1f} MiB exceed the "
            f"{room / GIB:.1f} GiB that weights leave; at most {budget // a_sequence} fit"
        )
    chosen = max_num_seqs or max(1, min(most, samples, budget // typical))
    cache = None
    if device.kind == "cpu":
        # Two spare states: vLLM keeps a null block, and one more absorbs rounding to its page size.
        wanted = chosen * typical if cost.grows else (chosen + 2) * a_sequence * 5 // 4
        cache = min(max(wanted, least, 32 << 20), budget)
    return Capacity(chosen, cache, a_sequence, typical, cost.state, weights)
