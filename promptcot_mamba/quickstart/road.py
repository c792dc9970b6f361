"""The demonstrations' road: the project's own programs as stages, each done once, kept while nothing it reads changes.

Every stage is a printed command line. A stage that is done is kept as long as its command and the files it reads stay
the same, so a rerun continues where the last one stopped.
"""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from promptcot_mamba.cli import read_recipe
from promptcot_mamba.errors import ProgramFailedError
from promptcot_mamba.jsonl import iter_jsonl, read_jsonl, write_json, write_jsonl
from promptcot_mamba.run_info import ROOT, side_path
from promptcot_mamba.sampling.vllm_server import free_port

PORT_FLAG = "--master_port="
DEVICES_FLAG = "--include=localhost:"
GRADERS = {"maths": "calc_acc_aime.py", "code": "calc_acc_lcb.py"}
COMPOSED = {
    "maths": ("quickstart_composed", "quickstart_unseen"),
    "code": ("quickstart_code_composed", "quickstart_code_unseen"),
}
Flags = Mapping[str, object]


@dataclass(frozen=True)
class Stage:
    """One program run: it reads `inputs`, leaves `outputs`."""

    name: str
    title: str
    command: list[str]
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]


def python(*arguments: str | Path, flags: Flags | None = None) -> list[str]:
    """A command line for this interpreter."""
    return [sys.executable, *map(str, arguments), *(f"--{name}={value}" for name, value in (flags or {}).items())]


def data_stage(
    recipes: Path, data: Path, flags: Flags | None = None, inputs: Sequence[Path] = (), title: str = ""
) -> Stage:
    recipe = recipes / "data.yaml"
    command = python("-m", "scripts.quickstart.make_data", "--config", recipe, "--output_dir", data, flags=flags)
    return Stage("data", title or "exercises, tokenizer, untrained model", command, (recipe, *inputs), (data,))


def count_processes(wanted: int | None) -> int:
    """Two processes show data parallelism on any machine but one with a single GPU."""
    if wanted is not None:
        return wanted
    import torch

    return 1 if torch.cuda.device_count() == 1 else 2


def choose_devices(processes: int) -> str:
    """The launcher's flag for so many devices: those of CUDA_VISIBLE_DEVICES by name, where it names any.

    Beside --num_gpus DeepSpeed's launcher passes over the variable, and takes the machine's first ones.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[:processes]
    if len(chosen) == processes and all(one.strip().isdigit() for one in chosen):
        import torch

        if torch.cuda.is_available():
            return DEVICES_FLAG + ",".join(one.strip() for one in chosen)
    return f"--num_gpus={processes}"


def train_stage(
    name: str,
    recipe: Path,
    start: Path,
    rows: Sequence[Path],
    output: Path,
    processes: int | None,
    flags: Flags | None = None,
) -> Stage:
    """One SFT run under the DeepSpeed launcher, or without it where `processes` is None."""
    command = python("train.py")
    if processes is not None:
        launcher = [str(Path(sys.executable).with_name("deepspeed")), choose_devices(processes)]
        command = [*launcher, f"{PORT_FLAG}{free_port()}", "train.py"]
    command += ["--config", str(recipe), "--model_name_or_path", str(start)]
    command += ["--data_path", *map(str, rows), "--output_dir", str(output)]
    command += [f"--{flag}={value}" for flag, value in (flags or {}).items()]
    inputs = (recipe, ROOT / read_recipe(recipe)["deepspeed"], start, *rows)
    return Stage(f"train_{slug(name)}", f"train {name.replace('/', ', ')}", command, inputs, (output,))


def sample_stage(name: str, recipe: Path, checkpoint: Path, problems: Path, predictions: Path, n: int = 1) -> Stage:
    command = python("infer_longcot.py", "--config", recipe, "--model_path", checkpoint, "--data_path", problems)
    command += ["--output_path", str(predictions)] + (["--n", str(n)] if n > 1 else [])
    outputs = (predictions, *(side_path(predictions, ending) for ending in ("attempts.jsonl", "run.json")))
    return Stage(f"sample_{slug(name)}", f"sample {name}", command, (recipe, checkpoint, problems), outputs)


def grade_stages(
    name: str, predictions: Path, tests: Path | None, families: Collection[str] = tuple(GRADERS), n: int = 1
) -> list[Stage]:
    """One a family; verdicts on programs are shared by the files of a folder."""
    stages = []
    for family in families:
        rows = family_file(predictions, family)
        command = python(GRADERS[family], "--input_path", rows, "--expected_runs", str(n))
        if family == "code":
            command += ["--tests_dir", str(tests)] if tests else []
            command += ["--cache_path", str(predictions.with_name("verdicts.jsonl"))]
        outputs = (side_path(rows, "grades.jsonl"),)
        stages.append(Stage(f"grade_{slug(name)}_{family}", f"grade {name}, {family}", command, (rows,), outputs))
    return stages


def slug(name: str) -> str:
    """A name as that of a file or folder."""
    return re.sub(r"\W+", "_", name)


def family_file(predictions: Path, family: str) -> Path:
    return predictions.with_name(f"{predictions.stem}_{family}.jsonl")


def split_families(predictions: Path) -> list[str]:
    """Copy a prediction file's maths rows and code rows (those with `tests`) into two; return which families it has."""
    families: dict[str, list] = {family: [] for family in GRADERS}
    for _, row in iter_jsonl(predictions):
        families["code" if "tests" in row else "maths"].append(row)
    present = {family: rows for family, rows in families.items() if rows}
    for family, rows in present.items():
        write_jsonl(family_file(predictions, family), rows)
    return list(present)


def read_verdicts(predictions: Path, family: str) -> dict[str, bool]:
    """Right or not, by problem, of the composed problems."""
    wanted = {f"{row['source']}/{row['idx']}" for row in read_jsonl(predictions) if row["source"] in COMPOSED[family]}
    grades = read_jsonl(side_path(predictions, "grades.jsonl"))
    return {row["problem_id"]: row["correct"] for row in grades if row["problem_id"] in wanted}


def evaluate(
    run: Callable[[Stage], object], sample: Stage, data: Path, families: Collection[str]
) -> dict[str, dict[str, bool]]:
    """Sample and grade a model: {family: {problem id: right}} on composed problems."""
    predictions, name = sample.outputs[0], sample.title.removeprefix("sample ")
    run(sample)
    split_families(predictions)
    for stage in grade_stages(name, predictions, data / "tests", families):
        run(stage)
    return {family: read_verdicts(family_file(predictions, family), family) for family in families}


def hash_inputs(stage: Stage) -> str:
    """A hash of the command (but its free port, and which devices) and of all it reads; of a model folder, its weights
    and config."""
    command = [word for word in stage.command if not word.startswith(PORT_FLAG)]
    command = [f"--num_gpus={word.count(',') + 1}" if word.startswith(DEVICES_FLAG) else word for word in command]
    digest = hashlib.blake2b(json.dumps(command).encode(), digest_size=16)
    for path in stage.inputs:
        files = [*sorted(path.glob("*.safetensors")), path / "config.json"] if path.is_dir() else [path]
        for file in files:
            digest.update(file.name.encode() + b"\0" + hashlib.blake2b(file.read_bytes()).digest())
    return digest.hexdigest()


def set_aside(paths: Sequence[Path], folder: Path) -> None:
    """Move what another version of a stage left, so that nothing is mixed and nothing is lost."""
    for path in paths:
        if path.exists():
            target = folder / f"{path.name}-{time.time_ns()}"
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)


def run_stage(stage: Stage, output_dir: Path, *, to_log: bool = False) -> float:
    """Run a stage unless it is done; return the seconds it took, now or then. Raises ProgramFailedError.

    What the program says goes to the terminal or, `to_log`, to `<output_dir>/logs/<stage>.log`: stages that run side
    by side would speak at once.
    """
    record_path = output_dir / "stages" / f"{stage.name}.json"
    record = json.loads(record_path.read_text(encoding="utf-8")) if record_path.exists() else {}
    inputs = hash_inputs(stage)
    if record.get("inputs") == inputs and "seconds" in record and all(path.exists() for path in stage.outputs):
        print(f"== {stage.title}: done before, in {record['seconds']:.0f} s", flush=True)
        return record["seconds"]
    if record and record["inputs"] != inputs:
        set_aside(stage.outputs, output_dir / "set_aside")
    record = {"title": stage.title, "command": stage.command, "inputs": inputs, "started": time.time()}
    write_json(record_path, record)
    started = time.monotonic()
    run_command(stage, output_dir / "logs" / f"{stage.name}.log" if to_log else None)
    seconds = time.monotonic() - started
    write_json(record_path, record | {"seconds": round(seconds, 1)})
    print(f"== {stage.title}: {seconds:.0f} s", flush=True)
    return seconds


def run_command(stage: Stage, log: Path | None) -> None:
    """Run a stage's program, its words going to the terminal or a file. Raises ProgramFailedError if it fails."""
    where = ""
    if log is None:
        print(f"== {stage.title}\n$ {shlex.join(stage.command)}", flush=True)
        status = subprocess.run(stage.command, cwd=ROOT).returncode
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        where = f" (see {log})"
        with log.open("w", encoding="utf-8") as file:
            print(f"$ {shlex.join(stage.command)}", file=file, flush=True)
            status = subprocess.run(stage.command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT).returncode
    if status:
        ended = f"{stage.title}: ended with status {status}{where}"
        raise ProgramFailedError(f"{ended}; mend the cause and run the same command")
