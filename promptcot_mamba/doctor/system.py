"""Disk, shared memory, open files, bytecode, memory, and what Slurm gave this job."""

import os
import resource
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from promptcot_mamba.doctor.finding import FAULT, NOTE, OK, WARNING, Finding
from promptcot_mamba.node_facts import nearest_folder

GB = 10**9
# A 7B checkpoint with its optimizer: 14.6 GB of weights and 87.4 GB of fp32 masters and moments.
CUDA_DISK, CPU_DISK = 120 * GB, 2 * GB
SHM_LEAST = 1 * GB  # NCCL, torch's workers and vLLM share buffers there; containers give 64 MB unless told
FILES_LEAST = 4096
# Where compiled kernels and downloads are kept: the variable that moves it, and where it is without: below the folder
# that another variable names, or below that variable's default.
CACHES = {
    "TRITON_CACHE_DIR": ("TRITON_HOME", "~", ".triton/cache"),
    "TORCH_EXTENSIONS_DIR": ("XDG_CACHE_HOME", "~/.cache", "torch_extensions"),
    "VLLM_CACHE_ROOT": ("XDG_CACHE_HOME", "~/.cache", "vllm"),
    "PROMPTCOT_CACHE": ("", "~/.cache", "promptcot_mamba"),
    "HF_HOME": ("XDG_CACHE_HOME", "~/.cache", "huggingface"),
}
COMPILED = ("TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR")  # renamed and locked by many processes at once
SHARED_TYPES = (
    "nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "afs", "panfs", "fuse.sshfs", "wekafs", "ceph", "fuse.juicefs",
    "fuse.ceph", "virtiofs", "9p",
)  # fmt: skip


def check_disk(folder: Path, cuda: bool) -> Finding:
    """Free space where outputs go: on the disk of the nearest folder that exists."""
    folder = nearest_folder(folder)
    free, wanted = shutil.disk_usage(folder)[2], CUDA_DISK if cuda else CPU_DISK
    found = f"{free / GB:,.0f} GB free in {folder}"
    if free < wanted:
        what = "one checkpoint of a 7B with its optimizer" if cuda else "the quickstart"
        mend = f"{what} takes {wanted / GB:,.0f} GB: set --output_dir to a larger disk"
        return Finding("disk", WARNING, found, mend)
    return Finding("disk", OK, found)


def file_system(folder: Path, mounts: str) -> str:
    """The type of the file system that holds a folder, by the text of /proc/self/mounts."""
    best, kind = "", ""
    for line in mounts.splitlines():
        point, name = line.split()[1:3]
        point = point.replace("\\040", " ")
        if folder.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, name
    return kind


def check_caches(variables: Mapping[str, str], cuda: bool, mounts: str | None = None) -> Finding:
    """Whether kernels can be kept once compiled: homes are read-only in many containers, and shared on clusters."""
    places = {  # Path.expanduser raises RuntimeError where there is no home
        name: Path(os.path.expanduser(variables.get(name) or Path(variables.get(above) or default, below)))  # noqa: PTH111
        for name, (above, default, below) in CACHES.items()
    }
    closed = [
        name
        for name, place in places.items()
        # A user with neither HOME nor an entry in the system's list has no home: "~" stays as it is.
        if str(place).startswith("~") or not os.access(nearest_folder(place), os.W_OK)
    ]
    if closed:
        found = f"{places[closed[0]]} cannot be written" + (f", nor {len(closed) - 1} more" if closed[1:] else "")
        mend = "export " + " ".join(f"{name}=/tmp/$USER/{name.lower()}" for name in closed)
        return Finding("caches", FAULT if cuda else WARNING, found, mend)
    if mounts is None:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
    for name in COMPILED:
        if (kind := file_system(nearest_folder(places[name]).resolve(), mounts)) in SHARED_TYPES:
            mend = f"export {name}=/tmp/$USER/{name.lower()}: nodes that compile into one folder meet stale files"
            return Finding("caches", WARNING, f"{places[name]} is on {kind}", mend)
    return Finding("caches", OK, f"can be written ({places[COMPILED[0]]}, ...)")


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Finding:
    """The size of /dev/shm."""
    if not folder.is_dir():
        return Finding("/dev/shm", FAULT, "missing", "mount a tmpfs there: processes share buffers in it")
    total, free = shutil.disk_usage(folder)[::2]
    found = f"{free / GB:,.1f} of {total / GB:,.1f} GB free"
    if free < SHM_LEAST:
        return Finding("/dev/shm", WARNING, found, "start the container with --shm-size=16g or --ipc=host")
    return Finding("/dev/shm", OK, found)


def check_open_files() -> Finding:
    """The limit on open files: a node's processes with their sockets and shards need thousands."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= FILES_LEAST:
        return Finding("open files", OK, f"at most {'unlimited' if soft == resource.RLIM_INFINITY else f'{soft:,}'}")
    limit = "unlimited" if hard == resource.RLIM_INFINITY else f"{hard:,}"
    mend = f"ulimit -n {FILES_LEAST}"
    if hard != resource.RLIM_INFINITY and hard < FILES_LEAST:
        mend = (
            f"ulimit -n {hard}, and ask for a hard limit of {FILES_LEAST} (limits.conf; docker run --ulimit nofile=...)"
        )
    return Finding("open files", WARNING, f"at most {soft:,} (hard limit {limit})", mend)


def check_bytecode() -> Finding:
    """Whether Python keeps what it compiles of the packages, which set-up leaves to the first import."""
    if sys.dont_write_bytecode:
        mend = "unset PYTHONDONTWRITEBYTECODE; PYTHONPYCACHEPREFIX=/a/folder keeps it away from the sources"
        return Finding("bytecode", WARNING, "not kept: each start of vLLM compiles its packages anew, 25 s", mend)
    return Finding("bytecode", OK, f"kept {f'in {sys.pycache_prefix}' if sys.pycache_prefix else 'beside the sources'}")


def check_memory() -> Finding:
    """The host's memory that is free now, and its cores."""
    import psutil

    free, cores = psutil.virtual_memory().available, len(os.sched_getaffinity(0))
    found = f"{free / GB:,.0f} GB of memory free, {cores} cores"
    if free < 4 * GB:
        return Finding("host", WARNING, found, "the quickstart wants 4 GB, a 7B's loading 32 GB")
    return Finding("host", OK, found)


def check_slurm(variables: Mapping[str, str]) -> list[Finding]:
    """What a Slurm job was given; nothing outside of one."""
    job = variables.get("SLURM_JOB_ID")
    if job is None:
        return []
    nodes, tasks = variables.get("SLURM_JOB_NUM_NODES", "1"), variables.get("SLURM_NTASKS", "1")
    findings = [Finding("slurm", OK, f"job {job}: {nodes} nodes, {tasks} tasks")]
    cpus = variables.get("SLURM_CPUS_PER_TASK")
    if cpus is None or cpus in ("0", "1"):
        mend = "give --cpus-per-task (8 a GPU), and pass it to srun too: since Slurm 22.05 it is not inherited"
        findings.append(Finding("slurm cpus", WARNING, f"{cpus or 1} CPU a task", mend))
    elif "SRUN_CPUS_PER_TASK" not in variables and "SLURM_STEP_ID" not in variables:
        mend = "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK, as scripts/cluster/slurm_sft.sbatch does"
        findings.append(Finding("slurm cpus", NOTE, f"{cpus} CPUs a task, which srun will not inherit", mend))
    if variables.get("SLURM_JOB_GPUS") is None and variables.get("SLURM_GPUS_ON_NODE") is None:
        findings.append(Finding("slurm gpus", NOTE, "the job holds no GPU", "for one: --gpus-per-node"))
    return findings
