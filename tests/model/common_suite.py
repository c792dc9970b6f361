"""transformers' own common model tests, of the installed version's source release, on our classes.

    python -m tests.model.common_suite [FOLDER [CHECKOUT]]   # downloads the release where FOLDER does not hold it

The release holds `tests/test_modeling_common.py` and not the two mixins that it imports (exporters, generation), which
are in transformers' repository: CHECKOUT, of the installed version, adds those it has. Without it they are empty, and
`test_generation.py` asks for every way to generate.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Tests that may fail, and why; the same ones must still fail, or the line is out of date.
EXCEPTIONS = {"test_generation_tester_mixin_inheritance": "the release does not hold the generation tests it asks for"}
OURS = """
import unittest
from transformers import Mamba2Config
from transformers.testing_utils import require_torch
from promptcot_mamba.model.causal_lm import Mamba2ForCausalLM, Mamba2Model
from .test_modeling_common import ModelTesterMixin, ids_tensor
from .generation.test_utils import GenerationTesterMixin


class Tester:
    batch_size, seq_length, is_training, hidden_size, num_hidden_layers = 3, 7, True, 32, 2
    def __init__(self, parent):
        self.parent = parent
    def get_config(self):
        return Mamba2Config(
            vocab_size=99, hidden_size=32, num_hidden_layers=2, num_heads=8, head_dim=8, n_groups=2, state_size=16,
            chunk_size=8, pad_token_id=98, bos_token_id=97, eos_token_id=96, tie_word_embeddings=False,
        )
    def prepare_config_and_inputs_for_common(self):
        ids = ids_tensor([self.batch_size, self.seq_length], 95)
        return self.get_config(), {"input_ids": ids}


@require_torch
class OurMamba2Test(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (Mamba2Model, Mamba2ForCausalLM)
    has_attentions = False
    test_head_masking = test_pruning = False
    def setUp(self):
        self.model_tester = Tester(self)
"""


def prepare(folder: Path, checkout: Path | None = None) -> Path:
    """The release's tests with ours beside them, in `folder`. Raises CalledProcessError if it cannot be downloaded."""
    version = metadata.version("transformers")
    archive = folder / f"transformers-{version}.tar.gz"
    if not archive.exists():
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-binary", ":all:", "--no-deps"]
        command = [*pip, "--no-build-isolation", f"transformers=={version}", "-d", str(folder)]
        subprocess.run(command, check=True, capture_output=True, timeout=600)
    suite = folder / "suite"
    with tarfile.open(archive) as release:
        for member in release:
            if match := re.fullmatch(r"[^/]+/tests/(test_\w+_(?:common|mixin)\.py)", member.name):
                target = suite / "tests" / match[1]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(release.extractfile(member).read())
    generates = False
    for module, names in {
        "exporters/test_export": ["ExportTesterMixin"], "generation/test_utils": ["GenerationTesterMixin"],
    }.items():  # fmt: skip
        path = suite / "tests" / f"{module}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        own = (checkout / "tests" / f"{module}.py") if checkout else None
        if own is not None and own.exists():
            path.write_bytes(own.read_bytes())
            generates = generates or module.startswith("generation")
        else:
            path.write_text("".join(f"class {name}:\n    pass\n" for name in names))
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        str(suite),
        "parameterized==0.9.0",
    ]
    subprocess.run(install, check=True, capture_output=True, timeout=600)  # which only these tests import
    (suite / "tests" / "__init__.py").touch()
    bases = "ModelTesterMixin, GenerationTesterMixin" if generates else "ModelTesterMixin"
    (suite / "tests" / "test_ours.py").write_text(OURS.replace("(ModelTesterMixin", f"({bases}"))
    return suite


def run(suite: Path) -> dict[str, bool]:
    """Test -> whether it passed, with all its subtests; skipped ones are left out."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", "-q", "-n", "0", "tests/test_ours.py"]
    done = subprocess.run(
        [*command, "-o", "addopts=", "--tb=line"], cwd=suite, capture_output=True, text=True, timeout=1800, check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{suite}"},
    )  # fmt: skip
    outcomes = re.findall(r"^(PASSED|(?:SUB)?FAILED(?:\[\w+\])?|ERROR) \S+::(\w+)", done.stdout, re.MULTILINE)
    assert outcomes, done.stdout[-3000:] + done.stderr[-3000:]
    passed = {name for outcome, name in outcomes if outcome == "PASSED"}
    failed = {name for outcome, name in outcomes if outcome != "PASSED"}
    return {name: name not in failed for name in passed | failed}


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder, *checkout = map(Path, sys.argv[1:] or [temporary])
        outcomes = run(prepare(folder, *checkout))
    failed = sorted(name for name, passed in outcomes.items() if not passed)
    print(f"{len(outcomes) - len(failed)} passed, {len(failed)} failed: {', '.join(failed) or 'none'}")


if __name__ == "__main__":
    main()
