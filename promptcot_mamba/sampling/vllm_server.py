"""`vllm serve` as our own child: started with as many replicas as there are devices, watched, and stopped.

vLLM does the distribution (`--data-parallel-size`, `--tensor-parallel-size`); we only speak HTTP to it.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from promptcot_mamba.log import logger
from promptcot_mamba.run_info import ROOT
from promptcot_mamba.sampling.backend import BackendFailedError
from promptcot_mamba.sampling.vllm_cpu import patch_vllm
from promptcot_mamba.sampling.vllm_engine import share_cores

START_SECONDS = 1800.0  # 8 replicas reading 7B weights from a network disk
STOP_SECONDS = 20.0
MAX_RESTARTS = 3
_PR_SET_PDEATHSIG = 1


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve_flags(arguments: dict[str, Any]) -> list[str]:
    """Engine arguments as the flags of `vllm serve`; the model comes first, without a name."""
    flags = [str(arguments["model"])]
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if name == "model" or value is None:
            continue
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, dict):
            flags += [f"--{flag}", json.dumps(value)]
        else:
            flags += [f"--{flag}", str(value)]
    return flags


def write_plugin(folder: Path) -> None:
    """Have all of the server's processes call `patch_vllm` as they start.

    vLLM is extended by entry points of installed distributions; this is the metadata of one, in a folder that goes onto
    PYTHONPATH.
    """
    info = folder / "promptcot_mamba-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: promptcot-mamba\nVersion: 0\n", encoding="utf-8")
    entry = f"promptcot_mamba = {patch_vllm.__module__}:{patch_vllm.__name__}"
    (info / "entry_points.txt").write_text(f"[vllm.general_plugins]\n{entry}\n", encoding="utf-8")


def _die_with_parent() -> None:
    """Ask Linux to end the server when this process ends, even by `kill -9`."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class VllmServer:
    """A `vllm serve` process and everything below it.

    `arguments` are vLLM's engine arguments, `replicas` its data-parallel size. Raises BackendFailedError.
    """

    def __init__(self, arguments: dict[str, Any], replicas: int, log_path: Path, *, on_cpu: bool = False):
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        self.log_path = log_path
        self.restarts = 0
        self._folder = tempfile.TemporaryDirectory(prefix="vllm-name-")
        self._environment = dict(os.environ)
        if on_cpu:
            write_plugin(Path(self._folder.name))
            path = [self._folder.name, str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
            self._environment["PYTHONPATH"] = os.pathsep.join(path)
        self._environment.setdefault("VLLM_NO_USAGE_STATS", "1")
        self._environment.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")  # as in vllm_engine.py
        if on_cpu:
            self._environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the worker lives in its engine's process
            if (parts := arguments.get("tensor_parallel_size", 1)) > 1:
                self._environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", share_cores(parts * replicas))
        self._command = [
            *(sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", *serve_flags(arguments)),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--data-parallel-size", str(replicas), "--api-server-count", "1"),
        ]
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        logger.info("starting vllm serve (log: %s)", self.log_path)
        started = time.monotonic()
        self._spawn()
        while not self._healthy():
            assert self._process is not None
            if self._process.poll() is not None:
                raise BackendFailedError(f"vllm serve ended with {self._process.returncode}; {self._last_words()}")
            if time.monotonic() - started > START_SECONDS:
                raise BackendFailedError(f"vllm serve did not answer within {START_SECONDS:.0f} s; see {self.log_path}")
            time.sleep(0.5)
        logger.info("vllm serve ready in %.1f s", time.monotonic() - started)

    def watch(self) -> None:
        """Start a server that has died anew, a few times; requests meanwhile back off by themselves."""
        if self._process is None or self._process.poll() is None:
            return
        if self.restarts >= MAX_RESTARTS:
            raise BackendFailedError(f"vllm serve died {self.restarts + 1} times; {self._last_words()}")
        self.restarts += 1
        logger.warning("vllm serve ended with %s; starting it again", self._process.returncode)
        self.signal_group(signal.SIGKILL)
        self._spawn()

    def stop(self) -> None:
        """End the server and all its processes."""
        if self._process is not None:
            self.signal_group(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
            self.signal_group(signal.SIGKILL)
            self._process.wait()
            self._process = None
        self._folder.cleanup()

    def kill(self) -> None:
        """End everything at once, as a machine that fails would."""
        self.signal_group(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def _spawn(self) -> None:
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is ours to handle, and the group can be ended as one
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    def signal_group(self, number: int) -> None:
        """Send a signal to the server and all below it."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _healthy(self) -> bool:
        try:
            # Not through the environment's proxy, which knows another 127.0.0.1.
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with direct.open(f"{self.base_url}/models", timeout=2) as answer:
                return bool(json.load(answer)["data"])
        except (OSError, ValueError, urllib.error.URLError):
            return False

    def _last_words(self) -> str:
        """The last line of the log that reads like an error."""
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line for line in lines if "Error" in line or "error" in line]
        return f"{(errors or lines or ['no output'])[-1].strip()[-300:]} (log: {self.log_path})"
