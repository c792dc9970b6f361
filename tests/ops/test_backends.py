"""What is chosen is what runs: by `backend=`, `prefer_backend` or `--ops`, down to a training step's SSD, both ways."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from promptcot_mamba.errors import InputError
from promptcot_mamba.model import load_causal_lm
from promptcot_mamba.ops import backends
from promptcot_mamba.ops.backends import OPS, choose_ops, chosen_ops, get_table, prefer_backend, read_entry
from promptcot_mamba.ops.packing import cu_seqlens_from_lengths
from promptcot_mamba.ops.ssd import SSD_BACKENDS, ssd
from tests.tiny import make_checkpoint

ROOT = Path(__file__).resolve().parents[2]
# A backend as a user would write one: computed by whatever they like, here by the form in plain torch.
KERNELS = """
from collections import Counter

import torch

from promptcot_mamba.ops.ssd.chunked import ssd_chunked

calls = Counter()


class _Mark(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        calls["forward"] += 1
        return y.clone()

    @staticmethod
    def backward(ctx, dy):
        calls["backward"] += 1
        return dy


def ssd_cute(x, dt, A, B, C, *, return_final_states=False, **settings):
    found = ssd_chunked(x, dt, A, B, C, return_final_states=return_final_states, **settings)
    if return_final_states:
        return _Mark.apply(found[0]), found[1]
    return _Mark.apply(found)
"""


@pytest.fixture(autouse=True)
def _nothing_chosen():
    choose_ops([])
    yield
    choose_ops([])


@pytest.fixture
def calls(tmp_path, monkeypatch) -> Counter:
    """How often the SSD backend "cute", in a module outside the repository, ran."""
    (tmp_path / "cute_kernels.py").write_text(KERNELS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cute_kernels", raising=False)
    monkeypatch.setitem(SSD_BACKENDS, "cute", "cute_kernels:ssd_cute")
    backends._load.cache_clear()
    yield importlib.import_module("cute_kernels").calls
    backends._load.cache_clear()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("tiny"))


def take_step(checkpoint: Path, checkpointing: bool = False) -> dict[str, torch.Tensor]:
    """Loss and every gradient of one packed row on a model of two layers."""
    model = load_causal_lm(checkpoint, dtype=torch.float32).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    ids = torch.arange(3, 43)[None]
    loss = model(ids, labels=ids, cu_seqlens=cu_seqlens_from_lengths([13, 27])).loss
    loss.backward()
    return {"loss": loss.detach()} | {name: value.grad for name, value in model.named_parameters()}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("how", ["--ops", "prefer_backend"])
def test_a_training_step_runs_the_chosen_backend_both_ways(calls, checkpoint, how, checkpointing):
    want = take_step(checkpoint)
    assert not calls, "nothing was chosen yet"
    if how == "--ops":
        choose_ops(["ssd=cute"])
        got = take_step(checkpoint, checkpointing)
    else:
        with prefer_backend("cute"):
            got = take_step(checkpoint, checkpointing)
    # Two layers, each forward run twice: the mixer keeps its inputs only, or the layer is recomputed as a whole.
    assert calls == {"forward": 4, "backward": 2}
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_a_backward_after_the_preference_repeats_its_forward(calls, checkpoint):
    model = load_causal_lm(checkpoint, dtype=torch.float32).train()
    ids = torch.arange(3, 43)[None]
    with prefer_backend("cute"):
        loss = model(ids, labels=ids).loss
    loss.backward()
    assert calls == {"forward": 4, "backward": 2}


@pytest.mark.parametrize("choice", ["causal_conv1d=reference", "gated_rms_norm=reference", "fused_mixer=recompute"])
def test_any_op_of_the_mixer_can_be_chosen(calls, checkpoint, choice):
    want = take_step(checkpoint)
    choose_ops([choice, "ssd=cute", "linear_cross_entropy=reference"])
    got = take_step(checkpoint)
    assert calls == {"forward": 4, "backward": 2}
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_choices_are_the_run_s_and_named_in_order():
    assert chosen_ops() is None
    choose_ops(["ssd=chunked", "causal_conv1d=reference"])
    assert chosen_ops() == "causal_conv1d=reference ssd=chunked"
    choose_ops([])
    assert chosen_ops() is None


def test_a_choice_is_logged_once(checkpoint):
    child = (
        "from pathlib import Path; import sys; from promptcot_mamba.ops.backends import choose_ops\n"
        "from tests.ops.test_backends import take_step\n"
        "choose_ops(['ssd=chunked']); take_step(Path(sys.argv[1])); take_step(Path(sys.argv[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", child, str(checkpoint)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr.count("composed of its ops on cpu, as chosen: ssd=chunked") == 1, done.stderr


BAD_CHOICES = {
    "no equals sign": (["ssd"], "expected op=backend"),
    "no backend": (["ssd="], "expected op=backend"),
    "unknown op": (["sdd=chunked"], "op 'sdd' is unknown; choose of causal_conv1d, fused_mixer, gated_rms_norm"),
    "unknown backend": (["ssd=chunkd"], "backend 'chunkd' is unknown; choose one of reference, chunked, triton"),
    "twice": (["ssd=chunked", "ssd=reference"], "name each op once"),
    "missing wheel": (["ssd=mamba_ssm"], "needs the module 'mamba_ssm', which is not installed"),
    "other device": (["fused_mixer=triton"], "runs on cuda only, and the model on cpu"),
    "without effect": (["fused_mixer=native", "ssd=chunked"], "fused_mixer=native is not made of ssd"),
}


@pytest.mark.parametrize("name", BAD_CHOICES)
def test_a_choice_that_cannot_be_is_refused_and_nothing_chosen(name):
    choices, message = BAD_CHOICES[name]
    choose_ops(["causal_conv1d=reference"])
    with pytest.raises(InputError) as caught:
        choose_ops(choices, device="cpu")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert chosen_ops() == "causal_conv1d=reference"


def test_a_misspelt_preference_is_refused():
    with (
        pytest.raises(InputError, match="'tritn' is in no op's table; choose one of reference"),
        prefer_backend("tritn"),
    ):
        pass


def test_a_backend_is_not_given_tensors_of_another_device(monkeypatch):
    monkeypatch.setitem(SSD_BACKENDS, "far", "promptcot_mamba.ops.ssd.chunked:ssd_chunked@cuda")
    x, dt, B = torch.zeros(1, 3, 2, 4), torch.zeros(1, 3, 2), torch.zeros(1, 3, 1, 4)
    with pytest.raises(InputError, match="'far' runs on cuda only, found tensors on cpu"):
        ssd(x, dt, -torch.ones(2), B, B, backend="far")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("promptcot_mamba.ops.ssd.chunked", "expected 'module:function'"),
        ("promptcot_mamba.ops.ssd.chunked:no_such", "cannot be loaded from promptcot_mamba.ops.ssd.chunked"),
        ("promptcot_mamba.ops.ssd.no_such:ssd", "needs the module 'promptcot_mamba.ops.ssd.no_such'"),
    ],
)
def test_a_line_that_leads_nowhere_is_named(monkeypatch, line, message):
    monkeypatch.setitem(SSD_BACKENDS, "lost", line)
    with pytest.raises(InputError, match=message):
        choose_ops(["ssd=lost"])


def test_sizes_without_tiles_run_in_torch_with_a_line_that_says_so(monkeypatch):
    lines = []
    monkeypatch.setattr(backends, "default_backend", lambda *_: "triton")  # as on a CUDA device
    monkeypatch.setattr(backends, "log_once", lines.append)
    x, dt, B = torch.randn(1, 9, 2, 16), torch.randn(1, 9, 2), torch.randn(1, 9, 1, 24)
    got = ssd(x, dt, -torch.ones(2), B, B, dt_softplus=True)
    torch.testing.assert_close(got, ssd(x, dt, -torch.ones(2), B, B, dt_softplus=True, backend="reference"))
    assert len(lines) == 1
    assert (
        "ssd: chunked backend on cpu, several times slower: no tiles for p (headdim) 16 and n (dstate) 24" in lines[0]
    )


@pytest.mark.parametrize(("found", "runs"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((12, 0), True)])
def test_devices_below_the_floor_run_no_kernel(monkeypatch, found, runs):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: found)
    reason = backends.kernel_floor(torch.device("cuda:0"))
    assert (reason is None) == runs
    assert runs or reason.endswith(f"cuda:0 has {found[0]}.{found[1]}")


def test_every_line_can_be_read_and_has_a_definition():
    for op in OPS:
        table = get_table(op)
        assert {read_entry(line).device for line in table.values()} <= {None, "cpu", "cuda"}
        assert read_entry(table["reference"]).device is None


def test_the_readme_s_row_in_a_copy_of_the_repository(tmp_path):
    """One file and one line: the comparison with the definition and `train.py --ops ssd=cute` both find it."""
    for name in ("promptcot_mamba", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    ops = tmp_path / "promptcot_mamba" / "ops" / "ssd"
    (ops / "cute_kernels.py").write_text(KERNELS)
    line = '    "cute": "promptcot_mamba.ops.ssd.cute_kernels:ssd_cute",\n'
    table = ops / "__init__.py"
    table.write_text(table.read_text().replace("SSD_BACKENDS = {\n", "SSD_BACKENDS = {\n" + line))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}

    compared = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/ops/test_ssd.py", "-o", "addopts=", "-k", "cute"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert compared.returncode == 0, compared.stdout + compared.stderr
    assert "8 passed" in compared.stdout

    make_checkpoint(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1 + 1", "completion": "2"}\n' * 4)
    command = [
        sys.executable, "-c",
        "import atexit, runpy\n"
        "from promptcot_mamba.ops.ssd.cute_kernels import calls\n"
        "atexit.register(lambda: print('calls', sorted(calls.items())))\n"
        "runpy.run_path('train.py', run_name='__main__')",
        "--model_name_or_path", "model", "--data_path", "rows.jsonl", "--output_dir", "out", "--max_length", "128",
        "--max_steps", "1", "--report_to", "none", "--save_strategy", "no", "--ops", "ssd=cute",
    ]  # fmt: skip
    trained = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "calls [('backward', 2), ('forward', 4)]" in trained.stdout, trained.stdout
    assert '"--ops": "ssd=cute"' in (tmp_path / "out" / "run.json").read_text()


def test_train_refuses_a_missing_wheel_in_one_line_before_anything_is_read(tmp_path):
    command = [
        sys.executable, "train.py", "--model_name_or_path", str(ROOT / "configs"), "--data_path",
        str(ROOT / "README.md"), "--output_dir", str(tmp_path / "out"), "--ops", "ssd=mamba_ssm",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "ssd: backend 'mamba_ssm' needs the module 'mamba_ssm', which is not installed" in done.stderr
    assert not list(tmp_path.iterdir())
