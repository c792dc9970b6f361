"""Preparing data and grading on two Ray nodes: the bytes and verdicts of one process, whatever becomes of a node."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from promptcot_mamba.errors import EXIT_LOST
from tests.cluster.hosts import HOSTS, WAIT_SECONDS
from tests.cluster.ray import held
from tests.cluster.ray.nodes import ADDRESS, RayNodes
from tests.cluster.slurm import wait_until
from tests.grading.lcb_files import RIGHT, completion, make_folder, read, write
from tests.programs.test_prepare_sft_data import command, hashes, make_place
from tests.programs.train_helpers import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
RAY = ("--ray_address", ADDRESS)
# Besides the right and wrong ones: each ends another way.
PROGRAMS = (
    *(f"a, b = map(int, input().split())\nprint(a + b + {error})" for error in (0, 1, 2)),
    "while True:\n    pass", "raise SystemExit(input())", "print(1 / 0)", "import os\nos.fork()", "print(input())",
    RIGHT + "\nimport sys\nsys.stdout.flush()",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return make_place(tmp_path_factory.mktemp("ray"))


@pytest.fixture(scope="module")
def here(place: Path) -> Path:
    """The shards that one process makes."""
    done = subprocess.run(command(place, place / "here", "--workers", "1"), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return place / "here"


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Path:
    """A folder of predictions and tests."""
    folder = make_folder(tmp_path_factory.mktemp("samples"))
    rows = read(folder / "p.jsonl")
    rows += [{**rows[0], "run": 2 + number, "completion": completion(code)} for number, code in enumerate(PROGRAMS)]
    write(folder, [*rows, {**rows[0], "run": 99, "completion": "I cannot."}])
    return folder


def grade_flags(samples: Path, folder: Path, *flags: str) -> list[str]:
    """Flags of calc_acc_lcb.py for a copy of the predictions in another folder."""
    folder.mkdir()
    shutil.copyfile(samples / "p.jsonl", folder / "p.jsonl")
    return ["--input_path", f"{folder}/p.jsonl", "--tests_dir", f"{samples}/tests", "--time_limit", "2", *flags]


def verdicts(folder: Path) -> dict[tuple[str, int], tuple]:
    """What was decided of each sample, without the seconds it took."""
    kept = ("correct", "extracted", "reason", "tests", "total_tests", "failed", "sandbox", "key")
    return {(row["problem_id"], row["run"]): tuple(str(row.get(name)) for name in kept)
            for row in read(folder / "p.grades.jsonl")}  # fmt: skip


@pytest.fixture(scope="module")
def graded_here(samples: Path) -> Path:
    flags = grade_flags(samples, samples / "one", "--workers", "1")
    done = subprocess.run([sys.executable, "calc_acc_lcb.py", *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return samples / "one"


def test_two_processes_and_two_nodes_make_the_same_shards(ray_nodes: RayNodes, place: Path, here: Path):
    for name, flags in {"two": ("--workers", "2"), "nodes": ("--workers", "0", *RAY)}.items():
        done = ray_nodes.run(*command(place, place / name, *flags))
        assert done.returncode == 0, done.stderr
        assert hashes(place / name) == hashes(here), name
    assert "2 nodes, 4 CPUs" in done.stderr


def start_held(ray_nodes: RayNodes, words: list[str], sign: Path, host: str = HOSTS[0]) -> subprocess.Popen[str]:
    """A program whose jobs are held on the second node, of which `sign` tells."""
    return subprocess.Popen(
        ray_nodes.command(*words, host=host), cwd=ROOT, env={**ray_nodes.environment, held.SIGN: str(sign)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def await_end(program: subprocess.Popen[str], sign: Path, lose: Callable[[], None]) -> str:
    """Take something away once a job is held, and await what the program says until its end."""
    try:
        wait_until(lambda: sign.exists() or program.poll() is not None, "a held job")
        lose()
        said, _ = program.communicate(timeout=WAIT_SECONDS)
    finally:
        program.kill()
        program.wait()
    return said


def lose_a_node(ray_nodes: RayNodes, words: list[str], sign: Path) -> str:
    """Run a program whose jobs are held on the second node, take that away, and await the program's good end."""
    program = start_held(ray_nodes, words, sign)
    said = await_end(program, sign, ray_nodes.lose_second)
    assert program.returncode == 0, said
    assert sign.exists(), said
    return said


def test_two_processes_and_two_nodes_give_the_same_verdicts(ray_nodes: RayNodes, samples: Path, graded_here: Path):
    assert len({reason for _, _, reason, *_ in verdicts(graded_here).values()}) >= 4
    for name, own in {"two": ("--workers", "2"), "nodes": RAY}.items():
        flags = grade_flags(samples, samples / name, *own)
        done = ray_nodes.run(sys.executable, "calc_acc_lcb.py", *flags)
        assert done.returncode == 0, done.stderr
        assert verdicts(samples / name) == verdicts(graded_here), name


def refused(nodes: RayNodes, words: list[str], output: Path) -> str:
    """The one line of a program that ends with status 2 before it makes anything."""
    done = nodes.run(*words)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    [line] = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert not list(output.rglob("*.tokens"))
    return line


def test_nobody_at_the_address_is_one_line(ray_nodes: RayNodes, place: Path, samples: Path, tmp_path: Path):
    line = refused(ray_nodes, command(place, tmp_path / "out", "--ray_address", "10.213.77.99:6379"), tmp_path)
    assert line.startswith("error: --ray_address 10.213.77.99:6379: cannot be reached (No route to host)")
    flags = grade_flags(samples, tmp_path / "graded", "--ray_address", "node-b:1")
    done = ray_nodes.run(sys.executable, "calc_acc_lcb.py", *flags)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "error: --ray_address node-b:1: cannot be reached (Connection refused)"
    )


def test_another_python_is_one_line(ray_nodes: RayNodes, place: Path, tmp_path: Path):
    """ray itself refuses a node that would join with another one; this program is told it has another one."""
    pretend = (
        "import runpy, ray._private.utils as utils; "
        "utils.compute_version_info = lambda: (utils.ray.__version__, '3.9.1'); "
        "runpy.run_module('scripts.prepare_sft_data', {}, '__main__', alter_sys=True)"
    )
    line = refused(ray_nodes, [sys.executable, "-c", pretend, *command(place, tmp_path, *RAY)[3:]], tmp_path)
    assert "Python: 3.9.1" in line


def test_another_version_of_the_project_is_one_line(ray_nodes: RayNodes, place: Path, tmp_path: Path):
    package = ROOT / "promptcot_mamba"
    shutil.copytree(package, tmp_path / "other", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "other" / "errors.py").open("a") as file:
        file.write("# another line\n")
    with ray_nodes.second_sees(package, tmp_path / "other"):
        line = refused(ray_nodes, command(place, tmp_path / "out", *RAY), tmp_path / "out")
    assert "node-b: this repository is " in line
    assert ", on node-a it is " in line


def test_a_node_without_the_project_is_one_line(ray_nodes: RayNodes, place: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with ray_nodes.second_sees(ROOT / "promptcot_mamba", tmp_path / "empty"):
        line = refused(ray_nodes, command(place, tmp_path / "out", *RAY), tmp_path / "out")
    assert f"needs this repository at {ROOT}" in line


@pytest.mark.parametrize("name", ["out", "raw"])
def test_a_folder_that_nodes_do_not_share_is_one_line(ray_nodes: RayNodes, place: Path, tmp_path: Path, name: str):
    (tmp_path / "empty").mkdir()
    (tmp_path / "out").mkdir()
    theirs = {"out": tmp_path / "out", "raw": place / "raw"}[name]
    with ray_nodes.second_sees(theirs, tmp_path / "empty"):
        line = refused(ray_nodes, command(place, tmp_path / "out", *RAY), tmp_path / "out")
    assert {"out": "node-b does not see in ", "raw": "node-b does not see it"}[name] in line


def test_a_node_lost_in_the_midst_of_its_chunks_changes_no_byte(ray_nodes: RayNodes, place: Path, here: Path):
    output, sign = place / "lost", place / "held"
    words = [sys.executable, "-c", held.PREPARE, *command(place, output, "--workers", "0", *RAY)[3:]]
    said = lose_a_node(ray_nodes, words, sign)
    assert "a worker was lost, its job is done again elsewhere" in said
    assert hashes(output) == hashes(here)
    assert not list(output.glob(".shard-*"))


def test_a_node_lost_while_it_grades_changes_no_verdict(ray_nodes: RayNodes, samples: Path, graded_here: Path):
    cache = samples / "lost.cache.jsonl"
    flags = grade_flags(samples, samples / "lost", *RAY, "--cache_path", str(cache))
    said = lose_a_node(ray_nodes, [sys.executable, "-c", held.GRADE, *flags], samples / "held")
    assert "a worker was lost, its job is done again elsewhere" in said
    assert verdicts(samples / "lost") == verdicts(graded_here)
    keys = [(row["question_id"], row["run"]) for row in read(cache)]
    assert len(keys) == len(set(keys))  # each once, though some were begun twice


def test_a_lost_head_is_one_line_and_the_same_command_goes_on(ray_nodes: RayNodes, place: Path, here: Path):
    """The program runs on the second node, where a worker is in the midst of a chunk; then without a cluster."""
    output, sign = place / "headless", place / "held-headless"
    words = [sys.executable, "-c", held.PREPARE_THERE, *command(place, output, "--workers", "0", *RAY)[3:]]
    program = start_held(ray_nodes, words, sign, host=HOSTS[1])
    said = await_end(program, sign, ray_nodes.lose_head)
    assert program.returncode == EXIT_LOST, said
    assert "Traceback" not in said
    [line] = [line for line in said.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: --ray_address {ADDRESS}: its head at {ADDRESS} has not answered for ")
    assert subprocess.run(command(place, output, "--workers", "1"), cwd=ROOT, check=False).returncode == 0
    assert hashes(output) == hashes(here)
