"""Imports point downwards: a package uses floors below its own, and heavy wheels only where they are marked."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "promptcot_mamba"
FLOORS = {
    "ops": 1, "memory_budget": 1, "roofline": 2, "checkpoint": 1, "grading": 1,
    "model": 2, "data": 2, "benchmarks": 2,
    "training": 3, "sampling": 3, "report": 3,
    "synthesis": 4, "efficiency": 4, "doctor": 2,
    "quickstart": 5,
}  # fmt: skip
PROGRAM_FLOOR = 6
HEAVY = {"vllm", "deepspeed", "mamba_ssm", "causal_conv1d", "triton", "ray"}
TORCH_FREE = ("grading", "report")
MOST_SCRIPTS = 18  # entries at the top of scripts/, folders included: what a user meets
MOST_LINES = 60
# Longer functions, and why each is not cut.
LONG = {
    "ops/ssd/__init__.py:ssd": "half of it says what the arguments are",
    "ops/fused_mixer/__init__.py:fused_mixer": "half of it says what the arguments are",
    "ops/causal_conv1d/triton_kernels.py:conv_backward_kernel": "a Triton kernel is one function",
    "model/causal_lm.py:forward": "half of it says what the arguments are",
    "data/prepare.py:prepare_shards": "the hops of the preparation in order, a call each",
}
# Files that may name a heavy wheel, and there only inside functions unless the file is loaded on demand.
HEAVY_FILES = {
    "triton": ("ops/*/triton_*.py", "ops/triton_*.py"),
    "mamba_ssm": ("ops/*/mamba_ssm_adapter.py",),
    "causal_conv1d": ("ops/*/causal_conv1d_adapter.py",),
    "vllm": ("sampling/vllm_cpu.py", "sampling/vllm_engine.py", "efficiency/engine.py"),
    "deepspeed": ("training/deepspeed_config.py", "training/elastic.py"),
    "ray": ("ray_jobs.py",),
}


def package_files() -> list[Path]:
    return sorted((ROOT / PACKAGE).rglob("*.py"))


def folder_of(path: Path) -> str:
    """The part of the package a file belongs to: `ops`, `grading`..., or its own name on floor 0."""
    relative = path.relative_to(ROOT / PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    """Every absolute module a file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write it absolute"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", package_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path: Path):
    own = folder_of(path)
    for module in imported_modules(path):
        parts = module.split(".")
        assert parts[0] != "scripts", f"{path} imports a program: {module}"
        if parts[0] != PACKAGE or len(parts) == 1:
            continue
        other = parts[1]
        if other != own:
            message = f"{own} (floor {FLOORS.get(own, 0)}) imports {module} (floor {FLOORS.get(other, 0)})"
            assert FLOORS.get(other, 0) < FLOORS.get(own, 0) or FLOORS.get(own, 0) == 0 == FLOORS.get(other, 0), message


@pytest.mark.parametrize("path", package_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_wheels_stay_in_their_files(path: Path):
    relative = path.relative_to(ROOT / PACKAGE)
    for module in {name.split(".")[0] for name in imported_modules(path)} & HEAVY:
        allowed = HEAVY_FILES.get(module, ())
        assert any(relative.match(pattern) for pattern in allowed), f"{relative} imports {module}; allowed: {allowed}"


@pytest.mark.parametrize("folder", TORCH_FREE)
def test_grading_and_report_need_no_torch(folder: str):
    for path in (ROOT / PACKAGE / folder).rglob("*.py"):
        assert "torch" not in {name.split(".")[0] for name in imported_modules(path)}, path


def test_scripts_is_what_a_user_runs():
    entries = [path.name for path in (ROOT / "scripts").iterdir() if path.name != "__pycache__"]
    assert len(entries) <= MOST_SCRIPTS, f"{len(entries)} entries; stopwatches go to bench/, examples to quickstart/"


def test_long_functions_have_a_reason():
    found = {}
    for path in [*package_files(), *ROOT.glob("*.py"), *ROOT.glob("scripts/**/*.py")]:
        name = str(path.relative_to(ROOT)).removeprefix(f"{PACKAGE}/")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > MOST_LINES:
                    found[f"{name}:{node.name}"] = lines
    unexplained = {name: lines for name, lines in found.items() if name not in LONG}
    assert not unexplained, f"longer than {MOST_LINES} lines; cut them, or say why not in LONG"


def test_every_room_stands_on_a_floor():
    """A new folder of the package is put into the plan (docs/house.md) before anything imports it."""
    folders = {path.name for path in (ROOT / PACKAGE).iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders <= set(FLOORS), f"no floor: {sorted(folders - set(FLOORS))}"
