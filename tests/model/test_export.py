"""An exported checkpoint means one thing: its own code file, with no import of this project, gives our logits.

That vLLM goes on choosing its own class, with `auto_map` in the config, is what `test_parity.py` sees.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import Mamba2ForCausalLM as TransformersMamba2

from promptcot_mamba.checkpoint import read_checkpoint, require_served
from promptcot_mamba.model import load_causal_lm
from promptcot_mamba.model.card import write_card
from tests.tiny import make_checkpoint

ROOT = Path(__file__).resolve().parents[2]
IDS = list(range(3, 60))
# What a user has who holds the folder and transformers, and nothing of this project.
OUTSIDE = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True, dtype=torch.float32)
ids = torch.tensor([[int(word) for word in sys.argv[3:]]])
with torch.no_grad():
    logits = model(ids).logits
    loss = model(ids, labels=ids).loss
    for keyword in ("cu_seqlens", "past_key_values", "seq_idx"):
        try:
            model(ids, **{keyword: torch.tensor([0, ids.shape[1]])})
        except TypeError as error:
            assert keyword in str(error)
        else:
            raise AssertionError(f"{keyword} was swallowed")
tokens = model.generate(ids, max_new_tokens=12, do_sample=False)
assert not [name for name in sys.modules if name.startswith("promptcot")]
torch.save((logits, tokens, loss), sys.argv[2])
"""


@pytest.fixture(params=[1, 8], ids=["g1", "g8"])
def exported(request, tmp_path: Path) -> Path:
    load_causal_lm(make_checkpoint(tmp_path / "start", n_groups=request.param)).save_pretrained(tmp_path / "exported")
    for file in (tmp_path / "start").glob("tokenizer*"):
        (tmp_path / "exported" / file.name).write_bytes(file.read_bytes())
    return tmp_path / "exported"


def test_own_code_gives_our_logits_outside_the_project(exported: Path, tmp_path: Path):
    command = [sys.executable, "-c", OUTSIDE, str(exported), str(tmp_path / "out.pt"), *map(str, IDS)]
    done = subprocess.run(command, cwd=tmp_path, env=outside(tmp_path), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    logits, tokens, loss = torch.load(tmp_path / "out.pt")
    ours = load_causal_lm(exported, dtype=torch.float32).eval()
    ids = torch.tensor([IDS])
    with torch.no_grad():
        torch.testing.assert_close(logits, ours(ids).logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(loss, ours(ids, labels=ids).loss, rtol=1e-5, atol=1e-5)
        assert torch.equal(tokens, ours.generate(ids, max_new_tokens=12, do_sample=False))
        plain = TransformersMamba2.from_pretrained(exported, dtype=torch.float32)(ids).logits
    groups = read_checkpoint(exported).n_groups
    assert (float((plain - logits).abs().max()) < 1e-3) == (groups == 1)  # what the card warns of is so
    card = (exported / "README.md").read_text()
    assert ("computes something else" in card) == (groups > 1)


def outside(home: Path) -> dict[str, str]:
    """An environment in which this project cannot be imported, and the code's cache is a folder of the test's."""
    import os

    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def test_config_names_the_code_and_stays_servable(exported: Path):
    config = json.loads((exported / "config.json").read_text())
    module, name = config["auto_map"]["AutoModelForCausalLM"].split(".")
    assert (exported / f"{module}.py").exists()
    assert config["architectures"] == [name] == ["Mamba2ForCausalLM"]  # vLLM chooses its own class by this name
    require_served(read_checkpoint(exported))
    code = (exported / f"{module}.py").read_text()
    assert "promptcot_mamba" not in code


def test_every_line_of_the_card_names_what_there_is(exported: Path):
    from dataclasses import fields

    from promptcot_mamba.sampling.arguments import SamplingArguments

    card = (exported / "README.md").read_text()
    flags = {word.removeprefix("--") for word in card.split() if word.startswith("--") and len(word) > 3}
    assert flags == {"model_path", "data_path", "output_path"}
    assert flags <= {one.name for one in fields(SamplingArguments)}
    assert (ROOT / "infer_longcot.py").exists()
    for block in card.split("```python\n")[1:]:
        compile(block.split("```")[0], "card", "exec")


def test_other_models_have_a_card_without_our_code(tmp_path: Path):
    from transformers import Qwen2Config

    write_card(tmp_path, Qwen2Config())
    card = (tmp_path / "README.md").read_text()
    assert "qwen2" in card
    assert "trust_remote_code" not in card
    assert "mamba_ssm" not in card
