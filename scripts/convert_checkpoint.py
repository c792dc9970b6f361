"""Convert Mamba-2 weights between the layouts they are released in.

    python -m scripts.convert_checkpoint --input_path Mamba-Codestral-7B-v0.1 --output_path codestral-hf
    python -m scripts.convert_checkpoint --input_path outputs/phase2 --output_path for_mamba_ssm --layout mamba_ssm

The input's layout is recognised; every number is kept bit by bit. Other files (tokenizer, generation config) travel
along. transformers' layout is what training writes and vLLM reads.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.errors import InputError
from promptcot_mamba.new_folder import new_folder

LEFT_BEHIND = (
    *("*.safetensors", "*.bin", "*.index.json", "params.json", "config.json", "*.pt", "*.pth", "optimizer*"),
    *(".lock", "*.lock", "run.json", "*.log", "*_log.jsonl", "trainer_state.json", "training_args.bin"),
    *("README.md", "modeling_*.py"),
)


@dataclass
class Arguments:
    input_path: str = flag("checkpoint folder in any of the three layouts", reads="folder")
    output_path: str = flag("folder to write; must not exist or be empty", writes="folder")
    layout: Literal["transformers", "codestral", "mamba_ssm"] = flag("layout to write", default="transformers")


def copy_side_files(source: Path, target: Path) -> None:
    """Tokenizer and other small files, not weights and not configs of another layout."""
    for entry in source.iterdir():
        left = any(entry.match(pattern) for pattern in LEFT_BEHIND) or (target / entry.name).exists()
        if entry.is_file() and not left:
            shutil.copy2(entry, target / entry.name)


def main() -> None:
    args = parse_args(Arguments, description=__doc__)
    # Seconds of imports, after all that can be refused without them.
    from promptcot_mamba.checkpoint import TRANSFORMERS, read_checkpoint, writing_weights
    from promptcot_mamba.model.causal_lm import Mamba2ForCausalLM
    from promptcot_mamba.model.layouts import write_mamba_ssm_names
    from promptcot_mamba.model.weights import load_causal_lm

    source, target = Path(args.input_path), Path(args.output_path)
    if target.exists() and any(target.iterdir()):
        raise InputError(f"--output_path {target}: is not empty; name a new folder")
    if read_checkpoint(source, "--input_path").layout is None:
        raise InputError(f"--input_path {source}: holds no Mamba-2 weights in a layout known here")
    model = load_causal_lm(source)
    assert isinstance(model, Mamba2ForCausalLM)
    with new_folder(target) as writing, writing_weights(writing):
        if args.layout == TRANSFORMERS:
            model.save_pretrained(writing)
        else:
            write_mamba_ssm_names(writing, args.layout, model.config, model.state_dict())
        copy_side_files(source, writing)
    print(f"{source} -> {target} ({args.layout} layout)")


if __name__ == "__main__":
    run_program(main)
