"""Build a C++ source beside an op with the machine's own compiler, once, and load it with ctypes.

The library holds plain C functions over pointers, so that it compiles in seconds and depends on no header of torch.
It lands in `~/.cache/promptcot_mamba` (or `$PROMPTCOT_CACHE`) under a name made of the source, the flags, the
compiler and the processor, so that neither an edit nor another machine of a cluster meets a stale build. Without a
compiler the ops fall back to plain torch; `PROMPTCOT_NATIVE=0` asks for that.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

import psutil
import torch

from promptcot_mamba.log import logger

HERE = Path(__file__).parent
MIXER_SOURCE = HERE / "fused_mixer" / "cpu_kernels.cpp"
TYPES = {torch.float32: "float", torch.bfloat16: "bf16"}  # and how their functions' names end
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-std=c++17", "-shared", "-fPIC")


def _processor() -> str:
    """What `-march=native` depends on."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return platform.processor() + platform.machine()


def _compile(source: Path) -> Path | None:
    compiler = shutil.which(os.environ.get("CXX") or "c++") or shutil.which("g++")
    if compiler is None:
        logger.info("no C++ compiler found: %s runs in plain torch, several times slower", source.parent.name)
        return None
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    texts = [path.read_text() for path in (source, *sorted(HERE.rglob("*.h")))]
    identity = "\0".join([*texts, *FLAGS, compiler, version, _processor()])
    folder = Path(os.environ.get("PROMPTCOT_CACHE") or Path.home() / ".cache" / "promptcot_mamba")
    library = folder / f"{source.parent.name}_{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    building = library.with_suffix(f".{os.getpid()}.so")  # ranks may build at once: each its own file, then a rename
    command = [compiler, *FLAGS, str(source), "-o", str(building)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        building.unlink(missing_ok=True)
        logger.warning("%s does not compile here, plain torch instead: %s", source.name, done.stderr.strip()[-500:])
        return None
    building.replace(library)
    return library


@cache
def load_library(source: Path) -> ctypes.CDLL | None:
    """The compiled `source`, or None where it cannot be built; torch's OpenMP threads serve it too."""
    if os.environ.get("PROMPTCOT_NATIVE") == "0":
        return None
    try:
        library = _compile(source)
        return None if library is None else ctypes.CDLL(str(library))
    except OSError as error:  # a read-only home, a mount without exec
        logger.warning("%s cannot be built or loaded, plain torch instead: %s", source.name, error)
        return None


def runs_native(tensor: torch.Tensor) -> bool:
    """Whether compiled passes can serve this tensor: on CPU, in a type they know, where they could be built."""
    return tensor.device.type == "cpu" and tensor.dtype in TYPES and load_library(MIXER_SOURCE) is not None


def free_memory() -> int:
    """Bytes this process may still take."""
    return psutil.virtual_memory().available


def pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
