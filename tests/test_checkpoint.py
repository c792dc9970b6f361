"""What a model folder holds is told from its files, and told the same as by runs that are on disk already."""

from __future__ import annotations

import hashlib
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from promptcot_mamba.checkpoint import (
    CODESTRAL,
    FORMER_HYBRIDS,
    MAMBA_SSM,
    TRANSFORMERS,
    load_tokenizer,
    read_checkpoint,
    require_causal_lm,
    require_in_vllm,
    require_served,
)
from promptcot_mamba.errors import InputError
from tests.tiny import make_checkpoint

# Of `write_folder`'s files, by the code of commit 582b9c4: what sampling and what training recorded of a model then.
SAMPLING_RECORD, TRAINING_RECORD = "8384b10b1f93aac5382b23e80d8b3965", "f2c214d3e8b1aa70b2b5766ad22ab5b4"


def write_folder(folder: Path, config: dict, *names_and_sizes: tuple[str, int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name, size in names_and_sizes:
        block = hashlib.blake2b(name.encode()).digest()
        (folder / name).write_bytes((block * (size // 64 + 1))[:size])
    return folder


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    files = (("model.safetensors", 3 << 20), ("optimizer.pt", 5000), ("training_args.bin", 70))
    return write_folder(tmp_path / "a", {"model_type": "mamba2", "n_groups": 2, "vocab_size": 5}, *files)


def test_runs_on_disk_recognise_their_model(recorded: Path):
    checkpoint = read_checkpoint(recorded)
    assert checkpoint.fingerprint() == SAMPLING_RECORD
    assert checkpoint.is_recorded_as(SAMPLING_RECORD)
    assert checkpoint.is_recorded_as(TRAINING_RECORD)
    assert not checkpoint.is_recorded_as("0" * 32)
    assert not checkpoint.is_recorded_as(None)


def test_fingerprint_follows_contents_and_not_the_place(recorded: Path, tmp_path: Path):
    before = read_checkpoint(recorded).fingerprint()
    assert read_checkpoint(shutil.copytree(recorded, tmp_path / "moved")).fingerprint() == before
    weights = recorded / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    assert read_checkpoint(recorded).fingerprint() != before
    assert not read_checkpoint(recorded).is_recorded_as(before)


@pytest.mark.parametrize(
    ("names", "counted"),
    [
        (("model.safetensors", "optimizer.pt", "scheduler.pt", "training_args.bin"), 1),
        (("model-1.safetensors", "model-2.safetensors", "consolidated.safetensors"), 2),
        (("pytorch_model.bin", "training_args.bin", "optimizer.bin"), 1),
        (("consolidated.safetensors",), 1),
    ],
)
def test_bytes_are_those_of_the_weights_alone(tmp_path: Path, names, counted):
    """An optimizer's state, or a second copy in another layout, takes no memory while sampling."""
    sizes = {name: 100 + index for index, name in enumerate(names)}
    folder = write_folder(tmp_path, {"model_type": "mamba2"}, *sizes.items())
    assert read_checkpoint(folder).weight_bytes == sum(sizes[name] for name in names[:counted])


def test_layouts_are_told_by_their_files(tmp_path: Path):
    hf = write_folder(tmp_path / "hf", {"model_type": "mamba2"}, ("model.safetensors", 9))
    both = write_folder(
        tmp_path / "both", {"model_type": "mamba2"}, ("model.safetensors", 9), ("consolidated.safetensors", 9)
    )
    (both / "params.json").write_text("{}")
    mistral = write_folder(tmp_path / "mistral", {}, ("consolidated.safetensors", 9))
    (mistral / "config.json").rename(mistral / "params.json")
    ssm = write_folder(tmp_path / "ssm", {"d_model": 8, "n_layer": 1, "ssm_cfg": {}}, ("pytorch_model.bin", 9))
    qwen = write_folder(
        tmp_path / "qwen", {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, ("model.safetensors", 9)
    )
    layouts = {folder: read_checkpoint(folder).layout for folder in (hf, both, mistral, ssm, qwen)}
    assert layouts == {hf: TRANSFORMERS, both: TRANSFORMERS, mistral: CODESTRAL, ssm: MAMBA_SSM, qwen: None}
    for folder in layouts:
        require_causal_lm(read_checkpoint(folder))
        assert read_checkpoint(folder).is_mamba2 == (folder != qwen)
    for folder in (mistral, ssm):
        with pytest.raises(InputError, match=r"convert it with python -m scripts\.convert_checkpoint"):
            require_served(read_checkpoint(folder))


def test_mistral_releases_are_no_mamba2_and_silent_configs_have_their_weights_dtype(tmp_path: Path):
    """Mistral-Small 3.x lies beside `params.json` and `consolidated.safetensors` as Codestral Mamba does; gpt-oss's
    config names no dtype, and most of its bytes are blocks of four-bit numbers."""
    import torch
    from safetensors.torch import save_file

    params = {"dim": 5120, "n_layers": 40, "head_dim": 128, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 131072}
    alone, both = tmp_path / "alone", tmp_path / "both"
    for folder in (alone, both):
        folder.mkdir()
        (folder / "params.json").write_text(json.dumps(params))
        blocks = {"blocks": torch.zeros(999, dtype=torch.uint8), "norm": torch.zeros(3)}
        save_file(blocks | {"head": torch.zeros(9, dtype=torch.bfloat16)}, folder / "consolidated.safetensors")
    config = {"model_type": "mistral3", "text_config": {"model_type": "mistral", "dtype": "float16"}}
    write_folder(both, config, ("model-00001-of-00010.safetensors", 9))
    for folder, dtype in ((alone, "bfloat16"), (both, "float16")):
        found = read_checkpoint(folder)
        require_served(found)
        assert (found.layout, found.is_mamba2, found.dtype("auto"), found.dtype("float32")) == (
            *(None, False, dtype, "float32"),
        )
    (both / "config.json").write_text(json.dumps({"model_type": "mistral3"}))
    assert read_checkpoint(both).dtype("auto") == "float32"  # its file is none


def test_a_hybrid_that_calls_itself_a_llama_is_refused_before_it_is_loaded(tmp_path: Path):
    """togethercomputer/M1-3B: vLLM's weight loader would be the first to notice."""
    folder = write_folder(tmp_path, {"model_type": "llama"}, ("model.safetensors", 9))
    require_in_vllm(read_checkpoint(folder))
    (folder / "mamba_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"mamba_config\.json: a hybrid .* in M1's layout.*--base_url"):
        require_in_vllm(read_checkpoint(folder))
    require_served(read_checkpoint(folder))  # by another server it is


@pytest.mark.parametrize("name", FORMER_HYBRIDS)
def test_a_hybrid_that_vllm_no_longer_has_is_refused(tmp_path: Path, name: str):
    """Its registry tells until when it did; it would try transformers' class of some of them first."""
    folder = write_folder(tmp_path, {"model_type": "x", "architectures": [name]}, ("model.safetensors", 9))
    with pytest.raises(InputError, match=rf"{name}, which vLLM had until 0\.23\.0; .*--base_url"):
        require_in_vllm(read_checkpoint(folder))
    spec = find_spec("vllm")
    if spec is not None and spec.origin is not None:
        registry = Path(spec.origin).parent / "model_executor/models/registry.py"
        assert f'"{name}": "0.23.0",' in registry.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("limit", "served"), [(None, True), ([0.0, float("inf")], True), ([0.001, 0.1], False), ([0, 5], False)]
)
def test_clamped_time_steps_are_not_served(tmp_path: Path, limit, served: bool):
    config = {"model_type": "mamba2"} | ({} if limit is None else {"time_step_limit": limit})
    checkpoint = read_checkpoint(write_folder(tmp_path, config, ("model.safetensors", 9)))
    if served:
        require_served(checkpoint)
        return
    with pytest.raises(InputError, match="time_step_limit"):
        require_served(checkpoint)


def test_what_is_missing_is_named_with_the_flag(tmp_path: Path):
    for folder, message in (
        (tmp_path / "nowhere", "no such folder"),
        (write_folder(tmp_path / "bare", {"model_type": "qwen2"}), "no weights"),
        (write_folder(tmp_path / "mamba", {"model_type": "mamba2"}), "a Mamba-2 config without weights"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            read_checkpoint(folder, "--flag")
        assert str(caught.value).startswith(f"--flag {folder}: ")


def test_tokenizer_must_be_there_and_end_texts(tmp_path: Path):
    with pytest.raises(InputError, match=r"--tokenizer_path .*nowhere: no such folder, so no tokenizer here"):
        load_tokenizer(tmp_path / "nowhere", "--tokenizer_path")
    with pytest.raises(InputError, match="no tokenizer here"):
        load_tokenizer(write_folder(tmp_path / "bare", {"model_type": "mamba2"}))
    folder = make_checkpoint(tmp_path / "tiny")
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eos_token == "</s>"
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(InputError, match="the tokenizer has no eos_token"):
        load_tokenizer(folder)
