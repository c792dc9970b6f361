"""Hops of synthesis at quickstart scale that the closed loop and the rounds share."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptcot_mamba.cli import flag
from promptcot_mamba.jsonl import Row
from promptcot_mamba.quickstart.road import Stage, python, slug
from promptcot_mamba.quickstart.splits import draw_training_rows, read_counts
from promptcot_mamba.records import derive_seed
from promptcot_mamba.run_info import side_path

MOST_TOKENS = 320  # of a problem with its rationale, or of a chain: twice the longest
CONTEXT = 512  # of the generator: its prompt too
SEQUENCES = 128  # at once in the engine
Stages = dict[str, Any]  # stage of scripts.synthesize -> its settings


@dataclass(kw_only=True)
class Scale:
    """Flags of both: how much is written, solved and learned."""

    test: str = flag("in a recipe a mapping: source -> problems of the test")
    composed_rows: int = flag("rows of composed problems in phase 2, by passes over those there are", least=1)
    single_rows: int = flag("fresh single-concept problems among them", least=1)
    phase1_rows: int = flag("exercises of phase 1", default=12000, least=1)
    phase1_steps: int = flag("of phase 1", default=300, least=1)
    phase2_steps: int = flag("of every student and the teacher", default=220, least=1)
    sets: int = flag("concept sets of each size, two and three", default=150, least=1)
    candidates: int = flag("problems asked for each set", default=8, least=1)
    chains: int = flag("the teacher's chains a problem", default=8, least=1)
    vocab_size: int = flag("tokens", default=704, least=300)
    recipes: str = flag("folder of the quickstart's recipes", default="configs/quickstart", reads="folder")
    record: str | None = flag("also write the record here (docs/records/X.json)", default=None, writes="file")

    def __post_init__(self) -> None:
        read_counts("test", self.test)


def asked_by(model: Path, temperature: float = 1.0) -> Row:
    """How scripts.synthesize asks a model of this size."""
    return {
        "model_path": str(model),
        "temperature": temperature,
        "top_p": 1.0,
        "chat_template": False,
        "context": CONTEXT,
        "dtype": "float32",
        "max_num_seqs": SEQUENCES,
    }


def synthesis_stage(
    title: str,
    work: Path,
    models: dict[str, Row],
    stages: Stages,
    seed: int,
    inputs: Sequence[Path],
    outputs: Sequence[str],
    **flags: object,
) -> Stage:
    """Stages of scripts.synthesize in one process; `outputs` are all files they leave, less X.run.json beside."""
    flags = {"models": json.dumps(models), "stages": json.dumps(stages), "seed": seed, "work_dir": work, **flags}
    files = [work / f"{output}.jsonl" for output in outputs]
    infos = [side_path(file, "run.json") for file in files if "." not in file.stem]
    command = python("-m", "scripts.synthesize", flags=flags)
    return Stage(slug(title), title, command, tuple(inputs), (*files, *infos))


def writing_stages(scale: Scale, model: str, known: Path | None = None) -> Stages:
    """New concept sets of two and of three, a model's problems for them, the exact judge, to whom those of the file
    `known` are not new either."""
    return {
        "quickstart_concept_sets": {"count": scale.sets},
        "problems": {"model": model, "candidates": scale.candidates, "max_tokens": MOST_TOKENS},
        "quickstart_judge": {} if known is None else {"known": str(known)},
    }


def solving_stages(teacher: Path, chains: int, temperature: float, threshold: float) -> Stages:
    """The teacher's chains, and the answers that enough of them agree on."""
    flags = {"top_p": 1.0, "repetition_penalty": 1.0, "use_mamba2": True, "dtype": "float32"}
    sampling = {"model_path": str(teacher), "n": chains, "max_len": MOST_TOKENS, "temperature": temperature}
    return {
        "chains": {**sampling, "flags": {**flags, "max_num_seqs": SEQUENCES}},
        "distill": {"threshold": threshold},
    }


def draw_phase2_rows(pool: Sequence[Row], composed: int, single: int, seed: int) -> list[Row]:
    """Composed rows, by whole passes over the pool, and fresh single ones among them, shuffled."""
    rng = random.Random(derive_seed(seed, "phase 2"))
    drawn: list[Row] = []
    while len(drawn) < composed:
        drawn += rng.sample(pool, len(pool))
    rows = drawn[:composed] + draw_training_rows({"quickstart_single": single}, "phase2", seed)
    rng.shuffle(rows)
    return [{name: row[name] for name in ("prompt", "completion", "source")} for row in rows]
