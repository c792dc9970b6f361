"""What sampling must know of a checkpoint before any engine loads it: read from its config files alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptcot_mamba.errors import InputError

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt")
_PROBES = 64  # blocks of a weight file that go into its fingerprint
_PROBE_BYTES = 1 << 16
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")


@dataclass(frozen=True)
class Checkpoint:
    """A model folder: its config and the sizes that decide how many chains fit into memory."""

    path: Path
    config: dict[str, Any]
    weight_bytes: int

    @property
    def is_mamba2(self) -> bool:
        return self.config.get("model_type") == "mamba2"

    @property
    def context(self) -> int | None:
        """The longest sequence the model was made for; None for state-space models, which have no such bound."""
        if self.is_mamba2:
            return None
        return next((self.config[key] for key in CONTEXT_KEYS if isinstance(self.config.get(key), int)), None)

    @property
    def n_groups(self) -> int:
        return self.config.get("n_groups", 1)

    def dtype(self, requested: str) -> str:
        """The dtype weights are computed in: as asked, or the checkpoint's own for `auto`."""
        if requested != "auto":
            return requested
        own = self.config.get("dtype") or self.config.get("torch_dtype") or "float32"
        return own if own in DTYPE_BYTES else "bfloat16"

    def sequence_bytes(self, dtype: str, state_dtype: str, context: int) -> int:
        """Bytes one running chain holds: constant for Mamba-2, keys and values of `context` tokens otherwise."""
        config = self.config
        layers = config.get("num_hidden_layers", config.get("n_layer", 1))
        if self.is_mamba2:
            inner = config.get("num_heads", 1) * config.get("head_dim", 64)
            state = inner * config.get("state_size", 128) * DTYPE_BYTES[state_dtype]
            channels = inner + 2 * self.n_groups * config.get("state_size", 128)
            conv = channels * (config.get("conv_kernel", 4) - 1) * DTYPE_BYTES[dtype]
            return layers * (state + conv)
        heads = config.get("num_attention_heads", 1)
        head_dim = config.get("head_dim") or config.get("hidden_size", 1) // heads
        return layers * 2 * config.get("num_key_value_heads", heads) * head_dim * DTYPE_BYTES[dtype] * context

    def fingerprint(self) -> str:
        """A hash of config and weights, so that retraining into the same folder is noticed and moving it is not.

        Weight files count by size, first blocks (where safetensors keeps names and shapes) and evenly spread probes.
        """
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps(self.config, sort_keys=True).encode())
        for file in weight_files(self.path):
            size = file.stat().st_size
            digest.update(f"{file.name} {size}".encode())
            with file.open("rb") as data:
                for probe in range(_PROBES):
                    data.seek(probe * max(0, size - _PROBE_BYTES) // (_PROBES - 1))
                    digest.update(data.read(_PROBE_BYTES))
        return digest.hexdigest()


def weight_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in WEIGHT_SUFFIXES)


def read_checkpoint(model_path: str | Path) -> Checkpoint:
    """Read a local model folder; raises InputError saying what is missing."""
    folder = Path(model_path)
    if not folder.is_dir():
        raise InputError(f"--model_path {model_path}: no such folder")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"--model_path {model_path}: no config.json; expected a Hugging Face checkpoint") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--model_path {model_path}: config.json is malformed ({error})") from None
    files = weight_files(folder)
    if not files:
        raise InputError(f"--model_path {model_path}: no weights (*.safetensors) beside config.json")
    return Checkpoint(folder, config, sum(file.stat().st_size for file in files))


def load_tokenizer(model_path: str | Path) -> Any:
    """The checkpoint's tokenizer; raises InputError if there is none or it knows no end of text."""
    if not Path(model_path).is_dir():  # or the hub would be asked for a model of that name
        raise InputError(f"--model_path {model_path}: no such folder")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(model_path), local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(f"--model_path {model_path}: no usable tokenizer ({str(error).splitlines()[0]})") from None
    if tokenizer.eos_token_id is None:
        raise InputError(f"--model_path {model_path}: the tokenizer has no eos_token; chains could never end")
    return tokenizer
