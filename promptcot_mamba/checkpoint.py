"""What a model folder holds: kind, layout, config, weight files and their bytes, tokenizer, and whether it changed.

Read from small files and the sizes of large ones; no weight is loaded and no engine started. Mamba-2 is released in
three layouts:

    transformers   config.json (model_type mamba2), model*.safetensors, `backbone.embeddings.weight`
    codestral      params.json, consolidated.safetensors, `backbone.embedding.weight`, at times all under `model.`
    mamba_ssm      config.json (d_model, n_layer, ssm_cfg), pytorch_model.bin, `backbone.embedding.weight`

A Codestral release holds the first two side by side. `promptcot_mamba.model` turns the others into the first.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptcot_mamba import hub
from promptcot_mamba.errors import InputError

TRANSFORMERS, CODESTRAL, MAMBA_SSM = "transformers", "codestral", "mamba_ssm"
RELEASE_WEIGHTS = {CODESTRAL: "consolidated.safetensors", MAMBA_SSM: "pytorch_model.bin"}
RELEASE_CONFIGS = {CODESTRAL: "params.json", MAMBA_SSM: "config.json"}
CONFIG_FILES = ("config.json", "params.json")  # transformers' and mamba_ssm's, Mistral's
TENSOR_SUFFIXES = (".safetensors", ".bin", ".pt")
# Which of a folder's tensor files are the weights: the first form it has, as transformers and vLLM choose.
WEIGHT_FORMS = ("model*.safetensors", "*.safetensors", "pytorch_model*.bin", "*.bin", "*.pt")
TRAINING_STATE = ("training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt")
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
STORED_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}  # as safetensors names them
TOKENIZER_FORMS = ("tokenizer*", "*.model", "vocab.*", "tekken.json", "*.tiktoken")
TRANSFORMERS_TOKENIZERS = ("tokenizer*", "*.model", "vocab.*")  # of them, those beside which tekken.json is not needed
SMALL_FORMS = ("*.json", "*.jinja", "*.txt", "LICENSE*")  # beside weights and tokenizer: configs, templates, merges
# What bounds a sequence, by whoever names it; the smallest counts, as for vLLM (but see sampling/rope.py).
CONTEXT_KEYS = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length"),
    *("max_sequence_length", "max_seq_length", "seq_len"),
)
MISTRAL_KEYS = {  # of Mistral's params.json -> of a config.json
    "dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads", "hidden_dim": "intermediate_size",
}  # fmt: skip
# Hybrids that vLLM had, and no longer has: it would try transformers' class, whose states it does not keep.
FORMER_HYBRIDS = (
    *("BambaForCausalLM", "MiniMaxForCausalLM", "MiniMaxText01ForCausalLM", "MiniMaxM1ForCausalLM"),
    "MiniMaxVL01ForConditionalGeneration",
)
PROBES, PROBE_BYTES = 64, 1 << 16  # blocks of a tensor file that go into a fingerprint
MIB = 1 << 20


@dataclass(frozen=True)
class Checkpoint:
    """A model folder's facts; `layout` is None for models other than Mamba-2."""

    path: Path
    config: dict[str, Any]  # as its own layout has it
    weight_bytes: int
    layout: str | None = None

    @property
    def is_mamba2(self) -> bool:
        return self.layout is not None or self.config.get("model_type") == "mamba2"

    @property
    def n_groups(self) -> int:
        return self.config.get("n_groups", 1)

    def dtype(self, requested: str) -> str:
        """The dtype weights are computed in: as asked, or the checkpoint's own for `auto`.

        Where the config is silent (gpt-oss, Mistral's params.json) it is that of most of the stored numbers.
        """
        if requested != "auto":
            return requested
        inside = self.config.get("text_config") or {}
        said = (each.get(key) for each in (self.config, inside) for key in ("dtype", "torch_dtype"))
        own = next(filter(None, said), None) or stored_dtype(self.path)
        return own if own in DTYPE_BYTES else "bfloat16"

    def fingerprint(self) -> str:
        """A hash of config and tensors, so that retraining into the same folder is noticed and moving it is not.

        Every tensor file counts, also a training checkpoint's optimizer, by size, first blocks (where safetensors keeps
        names and shapes) and evenly spread probes: reading 15 GB whole to notice an edit in the middle of a tensor
        would cost more than it tells.
        """
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps(self.config, sort_keys=True).encode())
        for file in sorted(file for file in self.path.iterdir() if file.suffix in TENSOR_SUFFIXES):
            size = file.stat().st_size
            digest.update(f"{file.name} {size}".encode())
            with file.open("rb") as data:
                for probe in range(PROBES):
                    data.seek(probe * max(0, size - PROBE_BYTES) // (PROBES - 1))
                    digest.update(data.read(PROBE_BYTES))
        return digest.hexdigest()

    def is_recorded_as(self, recorded: Any) -> bool:
        """Whether a run's record of its model means this one, in the present form or that of runs before 2026-11-28."""
        return recorded in (self.fingerprint(), self._first_fingerprint())

    def _first_fingerprint(self) -> str:
        """What training recorded at first: config files, sizes, first and last MiB."""
        digest = hashlib.blake2b(digest_size=16)
        for file in sorted(self.path.iterdir()):
            if file.name in CONFIG_FILES:
                digest.update(file.read_bytes())
            elif file.suffix in (*TENSOR_SUFFIXES, ".pth") and file.name != "training_args.bin":
                size = file.stat().st_size
                digest.update(f"{file.name} {size}".encode())
                with file.open("rb") as data:
                    digest.update(data.read(MIB))
                    data.seek(max(size - MIB, 0))
                    digest.update(data.read(MIB))
        return digest.hexdigest()


def read_checkpoint(path: str | Path, flag: str = "--model_path") -> Checkpoint:
    """Read a model folder in any layout, or a model of the hub by its name, which is fetched.

    Raises InputError, naming `flag` (or the folder alone, where it is empty) and what the folder lacks.
    """
    folder = find_folder(path, flag)
    where = f"{flag} {path}".strip()
    config, layout, files = read_config(folder, flag), find_layout(folder), weight_files(folder)
    if not files:
        kind = "a Mamba-2 config without weights" if config.get("model_type") == "mamba2" else "no weights"
        raise InputError(f"{where}: {kind} (model*.safetensors) beside its config")
    return Checkpoint(folder, config, sum(file.stat().st_size for file in files), layout)


def find_folder(path: str | Path, flag: str = "--model_path", *, weights: bool = True) -> Path:
    """The folder of a model: the path itself, or where `owner/name` of the hub lies once its files are fetched.

    Fetched are configs, tokenizer and, with `weights`, one form of the weights. Raises InputError, saying how to go on
    from a folder, for a path that is neither.
    """
    where = f"{flag} {path}".strip()
    if Path(path).is_dir():
        return Path(path)
    if not hub.is_hub_name(path):
        expected = "so no tokenizer here" if "tokenizer" in flag else "expected a checkpoint (config.json and weights)"
        raise InputError(f"{where}: no such folder, {expected}")

    def choose(names: list[str]) -> list[str]:
        top = [name for name in names if "/" not in name and name not in TRAINING_STATE]
        small = {name for form in (*TOKENIZER_FORMS, *SMALL_FORMS) for name in hub.match(top, form)}
        return sorted({*small, *(hub.match_first(top, WEIGHT_FORMS) if weights else ())})

    try:
        files = hub.fetch(str(path), hub.MODEL, choose)
    except InputError as error:
        mend = f"{hub.hint(str(path), hub.MODEL, 'FOLDER')} and pass {flag or '--model_path'} FOLDER"
        raise InputError(f"{where}: no such folder; as a name of the hub: {error}; {mend}") from None
    if not files:
        raise InputError(f"{where}: this repository of the hub holds no model")
    return files[0].parent


def read_config(folder: str | Path, flag: str = "") -> dict[str, Any]:
    """A model folder's config, as its layout has it. Raises InputError, saying what is there, where it has none."""
    for name in CONFIG_FILES:
        if (Path(folder) / name).is_file():
            return read_json(Path(folder) / name)
    where = f"{flag} {folder}".strip()
    if not Path(folder).is_dir():
        raise InputError(f"{where}: no such folder, expected a checkpoint (config.json and weights)")
    found = ", ".join(sorted(entry.name for entry in Path(folder).iterdir())[:5]) or "nothing"
    raise InputError(f"{where}: no config.json, expected a checkpoint folder; it holds {found}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises InputError naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path}: malformed JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def find_layout(folder: Path) -> str | None:
    """Which of the three layouts a folder holds Mamba-2 weights in; None if it does not."""
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if config.get("model_type") == "mamba2" and (
        any(folder.glob("model*.safetensors")) or any(folder.glob("pytorch_model*.bin"))
    ):
        return TRANSFORMERS
    params = folder / RELEASE_CONFIGS[CODESTRAL]
    if (folder / RELEASE_WEIGHTS[CODESTRAL]).is_file() and params.is_file() and "n_heads" not in read_json(params):
        return CODESTRAL  # Mistral's other models, which attend, are released in files of the same names
    if "d_model" in config and "n_layer" in config and (folder / RELEASE_WEIGHTS[MAMBA_SSM]).is_file():
        return MAMBA_SSM
    return None


def weight_files(folder: Path) -> list[Path]:
    """The files that an engine reads weights from."""
    for form in WEIGHT_FORMS:
        if files := sorted(file for file in folder.glob(form) if file.name not in TRAINING_STATE):
            return files
    return []


def stored_dtype(folder: Path) -> str:
    """The dtype of most of a folder's stored numbers, those in quantized forms aside; float32 if none can be read."""
    sizes: dict[str, int] = {}
    for file in weight_files(folder)[:1]:
        with file.open("rb") as data:
            length = int.from_bytes(data.read(8), "little")
            header = data.read(length) if file.suffix == ".safetensors" and length < file.stat().st_size else b"{}"
        try:
            tensors = [tensor for name, tensor in json.loads(header).items() if name != "__metadata__"]
        except ValueError:  # not one after all, which whoever loads it will say
            continue
        for tensor in tensors:
            start, end = tensor["data_offsets"]
            sizes[tensor["dtype"]] = sizes.get(tensor["dtype"], 0) + end - start
    known = {name: sizes[name] for name in STORED_DTYPES if name in sizes}
    if not known:
        return "bfloat16" if sizes else "float32"
    return STORED_DTYPES[max(known, key=lambda name: known[name])]


def require_causal_lm(checkpoint: Checkpoint, flag: str = "") -> None:
    """Raise InputError, saying what the folder holds, unless transformers or this project has a class for it."""
    if checkpoint.layout is not None:
        return
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    where = f"{flag} {checkpoint.path}".strip()
    kind, architectures = checkpoint.config.get("model_type"), checkpoint.config.get("architectures") or []
    what = ", ".join(architectures) or f"a model of type {kind!r}"
    causal = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures)
    if not causal or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise InputError(f"{where}: holds {what}, which is not a causal language model transformers knows")


def require_served(checkpoint: Checkpoint) -> None:
    """Raise InputError unless vLLM computes this model as training does."""
    where, config = f"--model_path {checkpoint.path}", checkpoint.config
    if checkpoint.layout in (CODESTRAL, MAMBA_SSM):
        raise InputError(
            f"{where}: Mamba-2 in {checkpoint.layout}'s layout, which vLLM does not read; convert it with "
            f"python -m scripts.convert_checkpoint --input_path {checkpoint.path} --output_path FOLDER"
        )
    # JSON has no infinity: transformers writes {"__float__": "Infinity"}, earlier versions Infinity.
    limit = [bound["__float__"] if isinstance(bound, dict) else bound for bound in config.get("time_step_limit") or []]
    if checkpoint.is_mamba2 and limit and (float(limit[0]) > 0 or float(limit[1]) < float("inf")):
        raise InputError(
            f"{where}: time_step_limit {limit} clamps the time steps, which vLLM's Mamba-2 does not do: it would "
            "sample other text; evaluate with transformers, or retrain with time_step_limit [0.0, Infinity]"
        )
    if checkpoint.is_mamba2 and (activation := config.get("hidden_act", "silu")) not in ("silu", "swish"):
        raise InputError(f"{where}: hidden_act {activation}: a Mamba-2's is silu, in every engine")


def require_in_vllm(checkpoint: Checkpoint) -> None:
    """Raise InputError for a hybrid that the installed vLLM does not have; a server may be another."""
    where, config = f"--model_path {checkpoint.path}", checkpoint.config
    if (checkpoint.path / "mamba_config.json").exists():  # beside a config.json that says Llama
        raise InputError(
            f"{where}: mamba_config.json: a hybrid of Mamba and attention in M1's layout, which vLLM does not read; "
            "serve it by its own code and give --base_url"
        )
    if former := [name for name in config.get("architectures") or [] if name in FORMER_HYBRIDS]:
        raise InputError(
            f"{where}: {former[0]}, which vLLM had until 0.23.0; serve it by that version or its own code and give "
            "--base_url"
        )


def load_tokenizer(path: str | Path, flag: str = "--model_path") -> Any:
    """The tokenizer of a folder, or of a name on the hub, as it is: no token is added.

    Raises InputError if there is none or it has no end of text.
    """
    where, path = f"{flag} {path}", find_folder(path, flag, weights=False)
    if not any(any(path.glob(form)) for form in TOKENIZER_FORMS):  # transformers would make an empty one up
        raise InputError(f"{where}: no tokenizer here (tokenizer.json or the like)")
    tokenizer: Any
    tekken = (path / "tekken.json").is_file() and not any(any(path.glob(form)) for form in TRANSFORMERS_TOKENIZERS)
    try:
        if tekken:  # Mistral-Small 3.2 has no other
            from transformers.tokenization_mistral_common import MistralCommonBackend

            tokenizer = MistralCommonBackend.from_pretrained(str(path), local_files_only=True)
        else:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{where}: no tokenizer here ({reason})") from None
    if tokenizer.eos_token_id is None:
        raise InputError(f"{where}: the tokenizer has no eos_token, so no text could end; set one and save it")
    return tokenizer


@contextmanager
def writing_weights(folder: Path) -> Iterator[None]:
    """Around what saves a model into `folder`: files get the user's umask, a full disk is an OSError like any other.

    safetensors writes weights that nobody else may read (0600).
    """
    with refused_writes(folder):
        yield
    share_files(folder)


@contextmanager
def refused_writes(folder: Path) -> Iterator[None]:
    """What the system refuses to what writes tensors, as the OSError that it was.

    safetensors has its own kind of error for it; torch.save says only that a write failed.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None and not re.search(r"file write failed|unexpected pos", str(error)):
            raise
        number = int(found[1]) if found else errno.ENOSPC
        raise OSError(number, os.strerror(number), str(folder)) from None


def share_files(folder: Path) -> None:
    """Give the files of a folder the mode that the user's umask says, where they have less."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")  # os.umask would set it, for all threads
    umask = next(int(line.split()[1], 8) for line in status.splitlines() if line.startswith("Umask:"))
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o666 & ~umask))
