"""Run every wave of a comparison through its engines, keeping what is measured as it goes."""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from promptcot_mamba.efficiency.engine import EngineProcess, take_turns
from promptcot_mamba.efficiency.setup import Job, Setup, Stage
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import write_json
from promptcot_mamba.log import logger

Measured = dict[str, dict[str, list[dict[str, float]]]]  # by a stage's name and an engine's: its waves


def measure_all(setup: Setup, folder: Path, *, at_once: bool) -> Measured:
    """The waves of every stage in every engine; what an interrupted run has measured is kept.

    `at_once`: the engines stand side by side and every stage comes in its rounds. Otherwise one engine after the other
    goes through all stages once. Raises InputError where `folder` holds measurements under other settings.
    """
    path = folder / "measurements.json"
    settings = {"budgets_gib": list(setup.budgets_gib), "lengths": list(setup.lengths)}
    settings |= {"prompt": setup.prompt, "max_num_seqs": setup.max_num_seqs}
    new = {"settings": settings, "waves": {}}
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else new
    if kept["settings"] != settings:
        raise InputError(f"{path}: was measured with other settings ({kept['settings']}); choose another --output_dir")
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
