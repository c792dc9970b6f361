"""What of train.py's flags can be refused before the seconds that torch and TrainingArguments take to load.

Flag names and types are read from the sources' text; what passes here is parsed in full, and checked, later.
"""

import ast
import sys
from collections.abc import Sequence
from glob import has_magic
from importlib.util import find_spec
from pathlib import Path

from promptcot_mamba.checkpoint import find_folder
from promptcot_mamba.cli import check_readable, check_writable, expand_recipes, leave, refuse_unknown
from promptcot_mamba.errors import InputError
from promptcot_mamba.hub import is_hub_name

HERE = Path(__file__).parent
# Smallest and largest value of a number; "above" where the bound itself is out.
LIMITS: dict[str, tuple[str, float, float]] = {
    "per_device_train_batch_size": ("from", 1, 1 << 20), "per_device_eval_batch_size": ("from", 1, 1 << 20),
    "gradient_accumulation_steps": ("from", 1, 1 << 30), "max_length": ("from", 2, 1 << 40),
    "learning_rate": ("above", 0, 1e3), "num_train_epochs": ("above", 0, 1e6), "weight_decay": ("from", 0, 1e3),
    "max_grad_norm": ("from", 0, 1e9), "warmup_steps": ("from", 0, 1 << 40), "adam_beta1": ("from", 0, 1),
    "adam_beta2": ("from", 0, 1), "adam_epsilon": ("above", 0, 1), "save_steps": ("above", 0, 1 << 40),
    "logging_steps": ("above", 0, 1 << 40), "eval_steps": ("above", 0, 1 << 40),
    "save_total_limit": ("from", 1, 1 << 30), "seed": ("from", 0, (1 << 32) - 1),
    "data_seed": ("from", 0, 1 << 62),
    "dataloader_num_workers": ("from", 0, 1 << 16), "neftune_noise_alpha": ("above", 0, 1e6),
    "dataloader_prefetch_factor": ("from", 1, 1 << 16), "ddp_timeout": ("from", 1, 1 << 30),
    "torch_empty_cache_steps": ("from", 1, 1 << 40), "lora_rank": ("from", 0, 1 << 20), "lora_alpha": ("above", 0, 1e6),
    "beta": ("above", 0, 1e3), "nll_weight": ("from", 0, 1e3),
    "plan_examples": ("above", 0, 1e15), "plan_tokens_per_example": ("above", 0, 1e9),
}  # fmt: skip

# What scripts of other trainers carry, and what stands for it here.
ELSEWHERE = {
    "overwrite_output_dir": "a run's own folder is continued, another's refused; leave it out",
    "model_max_length": "the longest row is --max_length", "max_seq_length": "the longest row is --max_length",
    "warmup_ratio": "give a share to --warmup_steps, which below 1 is one", "torch_dtype": "say --bf16 True or False",
    "save_safetensors": "weights always are; leave it out", "use_peft": "adapters come with --lora_rank",
    "logging_dir": "tensorboard's files lie in --output_dir; leave it out",
    "dataset_name": "give the set to --data_path",
}  # fmt: skip


def refuse_at_once(argv: Sequence[str]) -> None:
    """Say what is wrong and exit with 2, or return."""
    try:
        look(argv)
    except InputError as error:
        leave(str(error))


def look(argv: Sequence[str]) -> None:
    """Raises InputError for an unknown flag, a number outside its limits, a missing or unreadable path."""
    flags = expand_recipes(argv)
    if {"-h", "--help"} & set(flags):
        return
    types = read_types()
    values = split_flags(flags)
    for name in values:
        if name in ELSEWHERE and name not in types:
            raise InputError(f"--{name}: no such flag; {ELSEWHERE[name]}")
    spellings = {name for one in types for name in (one, f"no_{one}")}
    refuse_unknown(flags, [f"--{word}" for name in spellings for word in (name, name.replace("_", "-"))])
    for name, given in values.items():
        for text in given:
            check_number(name, text, types.get(name, ""))
    check_paths(values)


def read_types() -> dict[str, str]:
    """{flag: its annotation's text} of TrainingArguments and of this project's three groups."""
    spec = find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"{sys.executable} has no transformers: . .venv/bin/activate first (bash scripts/setup.sh makes it)"
        )
    files = [Path(spec.submodule_search_locations[0]) / "training_args.py", HERE / "arguments.py", HERE / "plan.py"]
    found = {}
    for file in files:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name.endswith("Arguments"):
                for line in node.body:
                    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                        found[line.target.id] = ast.unparse(line.annotation)
    return found


def split_flags(flags: Sequence[str]) -> dict[str, list[str]]:
    """{flag: its words}; of a flag given twice the later words."""
    values: dict[str, list[str]] = {}
    name = ""
    for word in flags:
        if word.startswith("--"):
            name, equals, text = word.removeprefix("--").partition("=")
            name = name.replace("-", "_")
            values[name] = [text] if equals else []
        elif name:
            values[name].append(word)
    return values


def check_number(name: str, text: str, annotation: str) -> None:
    kind = annotation.removesuffix(" | None").removeprefix("list[").removesuffix("]")
    if kind not in ("int", "float"):
        return
    try:
        value = int(text) if kind == "int" else float(text)
    except ValueError:
        raise InputError(f"--{name} {text}: expected {'a whole number' if kind == 'int' else 'a number'}") from None
    if name == "max_steps" and value != -1 and value < 1:
        raise InputError(f"--max_steps {text}: must be at least 1, or -1 to go by --num_train_epochs")
    if name not in LIMITS:
        return
    word, low, high = LIMITS[name]
    if not (value > low or (word == "from" and value == low)):
        raise InputError(f"--{name} {text}: must be {'above' if word == 'above' else 'at least'} {low:g}")
    if not value <= high:
        raise InputError(f"--{name} {text}: must be at most {high:g}")


def check_paths(values: dict[str, list[str]]) -> None:
    if values.get("plan", ["False"])[:1] in ([], ["True"], ["true"], ["1"]):
        return
    for name in ("model_name_or_path", "data_path", "output_dir"):
        if not any(text.strip() for text in values.get(name, [])):
            raise InputError(f"--{name} is required")
    for name, kind in {
        "data_path": "any",
        "eval_data_path": "any",
        "deepspeed": "file",
        "reference_path": "file",
    }.items():
        for text in values.get(name, []):
            if kind == "any" and is_hub_name(text):
                from promptcot_mamba.data.rows import find_on_hub  # slow to load, and seldom needed

                find_on_hub(text)
            elif text and not has_magic(text) and not text.lstrip().startswith("{"):  # --deepspeed's own object
                check_readable(f"--{name} {text}", Path(text), {"reads": kind})
    for name in ("model_name_or_path", "tokenizer_path"):
        for text in filter(None, values.get(name, [])):
            find_folder(text, f"--{name}", weights=False)
    for name in ("output_dir", "token_cache"):
        for text in values.get(name, []):
            if not text.strip():
                raise InputError(f"--{name}: empty, expected a path")
            check_writable(f"--{name} {text}", Path(text), {"writes": "folder"})
