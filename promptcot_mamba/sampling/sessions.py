"""What a run has cost so far: a session for every start, each with its time, its devices and what it made."""

import time
from collections.abc import Sequence
from typing import Any

from promptcot_mamba.bench_record import processor_name
from promptcot_mamba.gpus import list_gpus
from promptcot_mamba.sampling.arguments import SamplingArguments
from promptcot_mamba.sampling.capacity import Device

NOTE_SECONDS = 60.0  # between two notes of a session's cost: a killed one is short by at most so much


class Session:
    """One start of the program; `row` is its entry in `X.run.json`.

    `devices` are those of `--n_gpus`; without GPUs it is one, the machine, whose cores all replicas share; None where
    servers were asked, who do not tell theirs.
    """

    def __init__(self, args: SamplingArguments, device: Device | None, settled: int):
        self.row: dict[str, Any] = {
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": 0.0,
            "tokens": 0,
            "samples": 0,
            "devices": count_devices(args, device),
            "device": _name(device),
        }
        self._before = settled
        self._began = self._noted = time.monotonic()

    def note(self, tokens: int, settled: int, *, now: bool = False) -> bool:
        """Take down what was made so far, if it is due; returns whether it was."""
        moment = time.monotonic()
        if not now and moment - self._noted < NOTE_SECONDS:
            return False
        self._noted = moment
        self.row |= {"seconds": round(moment - self._began, 3), "tokens": tokens, "samples": settled - self._before}
        return True


def count_devices(args: SamplingArguments, device: Device | None) -> int | None:
    """By which wall time becomes device hours."""
    if device is None:
        return None
    return args.n_gpus if device.kind == "cuda" else 1


def _name(device: Device | None) -> str:
    """The devices' model as their driver names it: a process that has touched CUDA cannot fork vLLM's workers."""
    if device is None:
        return "servers"
    return " and ".join(dict.fromkeys(gpu.name for gpu in list_gpus())) if device.kind == "cuda" else processor_name()


def device_hours(sessions: Sequence[dict[str, Any]]) -> float | None:
    """Wall time by devices over all sessions, engine starts included; None where the devices of one are unknown."""
    if any(session.get("devices") is None for session in sessions):
        return None
    return round(sum(session["seconds"] * session["devices"] for session in sessions) / 3600, 6)


def speed_per_device(sessions: Sequence[dict[str, Any]], device: Device | None) -> float | None:
    """Tokens a second of one device, from the sessions on devices of this model; None where there were none."""
    alike = [each for each in sessions if each.get("devices") and each.get("device") == _name(device)]
    seconds = sum(each["seconds"] * each["devices"] for each in alike)
    return sum(each["tokens"] for each in alike) / seconds if seconds else None
