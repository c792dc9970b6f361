"""launch_multinode.sh between two hosts over ssh: what is wrong is said before anything is trained, and a host
that vanishes in a step ends the run by name; the same command then goes on to the losses of one that stayed whole."""

from __future__ import annotations

import re
import subprocess
import time
from importlib.metadata import distribution, version
from pathlib import Path

import pytest

from tests.cluster.hosts import HOSTS, Hosts, missing_pieces
from tests.cluster.slurm import wait_until
from tests.cluster.sshd import PROGRAMS, Sshd
from tests.programs.train_helpers import ROOT, ZERO2, child_environment, flags_for, losses, write_examples

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
STEPS = 120
PATIENCE = 30  # seconds in which a silent host is given up, instead of two minutes


@pytest.fixture(scope="module")
def sshd(hosts: Hosts):
    if reason := missing_pieces(PROGRAMS):
        pytest.skip(reason)
    made = Sshd(hosts)
    yield made
    made.close()


@pytest.fixture
def hostfile(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    path.write_text("# two of one process each\nnode-a slots=1\n\nnode-b slots=1\n")
    return path


def start(sshd: Sshd, hostfile: Path, work: Path, output: str, **changes: object) -> subprocess.Popen[str]:
    settings = {"deepspeed": ZERO2, "gradient_accumulation_steps": 1, "max_steps": STEPS, "save_steps": 4, **changes}
    flags = [f"--{name}={value}" for name, value in flags_for(work, output, **settings).items()]
    environment = child_environment()
    environment["PATH"] = f"{sshd.path}:{environment['PATH']}"
    environment["PDSH_SSH_ARGS_APPEND"] = "-o ServerAliveInterval=5"  # ssh lets a silent host go in four of these
    command = sshd.hosts.command(HOSTS[0], "bash", "scripts/cluster/launch_multinode.sh", hostfile, *flags)
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=900)
    return process.returncode, said


def errors(said: str) -> list[str]:
    """The lines of an error, without the name that pdsh puts before them."""
    return [line.partition("error: ")[2] for line in said.splitlines() if "error: " in line]


@pytest.fixture(scope="module")
def whole(sshd: Sshd, work: Path, tmp_path_factory) -> Path:
    write_examples(work / "sums.jsonl", 4000, sources=("add", "sum"))
    hosts_file = tmp_path_factory.mktemp("whole") / "hosts"
    hosts_file.write_text("node-a slots=1\nnode-b slots=1\n")
    status, said = finish(start(sshd, hosts_file, work, "on-hosts"))
    assert status == 0, said[-3000:]
    return work / "on-hosts"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("node-a slots=1\nnode-b slot=1\n", ':2: expected "name slots=8", found "node-b slot=1"'),
        ("node-a slots=1\nnode-a slots=1\n", ":2: node-a is there twice"),
        ("node-a slots=1\nnode-c slots=1\n", "node-c: "),
    ],
)
def test_wrong_hostfiles(sshd: Sshd, work: Path, hostfile: Path, text: str, error: str):
    hostfile.write_text(text)
    status, said = finish(start(sshd, hostfile, work, "never"))
    assert status == 2
    assert len(errors(said)) == 1
    assert error in errors(said)[0]


def test_an_unreachable_host(sshd: Sshd, work: Path, hostfile: Path):
    sshd.hosts.unplug("node-b")
    try:
        status, said = finish(start(sshd, hostfile, work, "never"))
    finally:
        sshd.hosts.plug("node-b")
    assert status == 2
    assert len(errors(said)) == 1
    assert errors(said)[0].startswith("node-b: ssh: connect to host node-b port 22: ")


@pytest.fixture
def impatient(sshd: Sshd, tmp_path: Path):
    """Both hosts give each other up sooner."""
    watch = ROOT / "promptcot_mamba" / "training" / "watch.py"
    text = watch.read_text()
    constant = "LOST_AFTER_SECONDS = 120.0"
    assert constant in text
    (tmp_path / "watch.py").write_text(text.replace(constant, f"LOST_AFTER_SECONDS = {PATIENCE}.0"))
    for host in HOSTS:
        sshd.start(host, f"mount --bind {tmp_path}/watch.py {watch}")
    yield
    for host in HOSTS:
        sshd.start(host)


@pytest.mark.usefixtures("impatient")
def test_a_vanished_host_is_named_and_the_same_command_goes_on(sshd: Sshd, work: Path, hostfile: Path, whole: Path):
    """First its processes are killed, which connections tell; then its cable is pulled, which nothing tells."""
    output, reached, silences = work / "vanished", 5, []
    for vanish in (lambda: sshd.hosts.kill("node-b", "train.py"), lambda: sshd.hosts.unplug("node-b")):
        process = start(sshd, hostfile, work, "vanished")
        wait_until(lambda: last_step(output) > reached, "a step beyond a checkpoint")  # noqa: B023
        vanish()
        began = time.monotonic()
        status, said = finish(process)
        took, reached = time.monotonic() - began, last_step(output)
        sshd.hosts.plug("node-b")
        sshd.hosts.kill("node-b", "train.py")
        print(f"{took:.0f} s", *errors(said), sep="\n")
        assert status != 0
        told = re.search(r"error: rank 1 on node-b has not answered for (\d+) s; the same command goes on", said)
        assert told, said[-3000:]
        silences.append(int(told[1]))
    assert silences[1] >= PATIENCE
    status, said = finish(start(sshd, hostfile, work, "vanished"))
    assert status == 0, said[-3000:]
    assert losses(work / "vanished") == losses(whole)


def last_step(output: Path) -> int:
    return losses(output)[-1][0] if (output / "train_log.jsonl").exists() and losses(output) else 0


def test_nodes_that_differ_are_named(sshd: Sshd, work: Path, hostfile: Path, tmp_path: Path):
    """node-b has a folder of the same name on a disk of its own; another version of a package; another program."""
    (tmp_path / "own").mkdir()
    metadata = Path(distribution("transformers").locate_file("")) / f"transformers-{version('transformers')}.dist-info"
    (tmp_path / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 5.0.9\n")
    (tmp_path / "errors.py").write_text((ROOT / "promptcot_mamba" / "errors.py").read_text() + "# changed\n")
    differences = {
        f"mount -t tmpfs none {tmp_path}/own": "--output_dir ",
        f"mount --bind {tmp_path}/METADATA {metadata}/METADATA": "node-b: transformers is 5.0.9, on node-a it is ",
        f"mount --bind {tmp_path}/errors.py {ROOT}/promptcot_mamba/errors.py": "node-b: this repository is ",
    }
    for difference, error in differences.items():
        sshd.start("node-b", difference)
        status, said = finish(start(sshd, hostfile, work, "never", output_dir=tmp_path / "own" / "run"))
        sshd.start("node-b")
        print(*errors(said), sep="\n")
        assert status != 0
        assert [line.startswith(error) for line in errors(said)] == [True], said[-3000:]
        assert not (tmp_path / "own" / "run").exists()
        assert not [*tmp_path.glob("*/.shared-*")]
