"""Devices as `nvidia-smi` really lists them: plain ones, MIG, unified memory, hidden ones, and drivers that fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from promptcot_mamba.gpus import DATA_SHEETS, data_sheet, list_gpus, read_gpus, visible_gpus

H100 = "0, GPU-11111111-aaaa, NVIDIA H100 80GB HBM3, 81559, 9.0, 580.82.07, Disabled\n"
TWO = H100 + "1, GPU-22222222-bbbb, NVIDIA H100 80GB HBM3, 81559, 9.0, 580.82.07, Disabled\n"
UNIFIED = "0, GPU-3333, NVIDIA GB10, [N/A], 12.1, 580.95.05, [N/A]\n"
MIG = "0, GPU-11111111-aaaa, NVIDIA H100 80GB HBM3, 81559, 9.0, 580.82.07, Enabled\n"
MIG_LISTING = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-11111111-aaaa)
  MIG 3g.40gb     Device  0: (UUID: MIG-5cf3-01)
  MIG 1g.10gb     Device  1: (UUID: MIG-5cf3-02)
  MIG 1g.10gb+me  Device  2: (UUID: MIG-5cf3-03)
"""


def test_a_plain_node():
    gpus = read_gpus(TWO)
    assert [gpu.index for gpu in gpus] == [0, 1]
    assert gpus[0].memory == 81559 << 20
    assert gpus[0].capability == (9, 0)
    assert gpus[0].driver == "580.82.07"


def test_a_device_on_the_host_s_memory_is_a_device():
    (gpu,) = read_gpus(UNIFIED)
    assert gpu.memory is None
    assert not gpu.mig_mode


def test_mig_instances_stand_for_their_device_with_their_own_memory():
    gpus = read_gpus(MIG, MIG_LISTING)
    assert [gpu.memory >> 30 for gpu in gpus] == [40, 10, 10]
    assert [gpu.uuid for gpu in visible_gpus(gpus, "MIG-5cf3-02")] == ["MIG-5cf3-02"]
    assert [gpu.memory >> 30 for gpu in visible_gpus(gpus, None)] == [40]  # a process sees one


@pytest.mark.parametrize(
    ("wanted", "indices"),
    [(None, [0, 1]), ("1", [1]), ("1,0", [1, 0]), ("", []), ("GPU-2222", [1]), ("0,7,1", [0]), ("-1", [])],
)
def test_visible_devices_as_cuda_reads_them(wanted: str | None, indices: list[int]):
    assert [gpu.index for gpu in visible_gpus(read_gpus(TWO), wanted)] == indices


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H200", 989.4), ("NVIDIA H200 NVL", 835.5), ("NVIDIA H100 PCIe", 756), ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H20", 148), ("NVIDIA B300 SXM6 AC", 2250), ("NVIDIA GeForce RTX 5090", 209.5), ("NVIDIA L40", 181),
        ("NVIDIA L40S", 362), ("NVIDIA L4", 121), ("NVIDIA A10G", 70), ("NVIDIA A10", 125),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 480),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 503.8),
        ("NVIDIA A100-SXM4-80GB", 311.9), ("NVIDIA GeForce RTX 3090", 71), ("NVIDIA GH200 480GB", 989.4),
    ],
)  # fmt: skip
def test_a_device_gets_its_own_sheet(name: str, tflops: float):
    assert data_sheet(name).bf16_tflops == tflops


def test_a_mig_instance_gets_its_share():
    """A peak of the whole device would make its MFU a seventh of what it is."""
    whole = data_sheet("NVIDIA H100 80GB HBM3")
    part = data_sheet("NVIDIA H100 80GB HBM3 MIG 1g.10gb")
    assert part.bf16_tflops == pytest.approx(whole.bf16_tflops / 7)
    assert part.memory_gib == 10
    assert part.bandwidth_tbs == pytest.approx(whole.bandwidth_tbs * 10 / whole.memory_gib)
    assert data_sheet("NVIDIA A30 MIG 2g.12gb").bf16_tflops == pytest.approx(165 / 2)
    assert data_sheet("NVIDIA H100 80GB HBM3 MIG 7g.80gb").bf16_tflops == whole.bf16_tflops
    assert data_sheet("NVIDIA RTX PRO 6000 Blackwell Server Edition MIG 4g.96gb").bf16_tflops == 480
    assert data_sheet("NVIDIA A100-SXM4-40GB").memory_gib == 40


@pytest.mark.parametrize(
    ("name", "sevenths"),
    [
        ("NVIDIA H100 80GB HBM3 MIG 1c.3g.40gb", 1), ("NVIDIA H100 80GB HBM3 MIG 2c.3g.40gb", 2),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", 3), ("NVIDIA H100 80GB HBM3 MIG 1c.4g.48gb", 1),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb+me", 1),
    ],
)  # fmt: skip
def test_a_compute_instance_gets_its_slices_of_an_instance_s_memory(name: str, sevenths: int):
    sheet = data_sheet(name)
    assert sheet.bf16_tflops == pytest.approx(989.4 * sevenths / 7)
    assert f".{sheet.memory_gib:g}gb" in name
    assert sheet.link_gbs == 32


def test_compute_instances_are_listed_by_their_own_names():
    listing = MIG_LISTING.replace("MIG 3g.40gb   ", "MIG 1c.3g.40gb")
    assert read_gpus(MIG, listing)[0].name == "NVIDIA H100 80GB HBM3 MIG 1c.3g.40gb"


def test_forms_of_one_name_have_their_own_links_and_memory():
    assert data_sheet("NVIDIA A100 80GB PCIe").link_gbs < data_sheet("NVIDIA A100-SXM4-80GB").link_gbs
    assert data_sheet("NVIDIA H20-3e").memory_gib > data_sheet("NVIDIA H20").memory_gib


def test_an_unknown_device_gets_none():
    assert data_sheet("NVIDIA Tesla V100-SXM2-32GB") is None
    assert data_sheet("NVIDIA H2000") is None
    assert data_sheet("NVIDIA GeForce RTX 4090 Laptop GPU") is None
    assert data_sheet("NVIDIA GeForce RTX 3090 Ti") is None
    assert len(DATA_SHEETS) > 20


def test_nvidia_smi_is_asked_and_its_failure_is_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nprintf '{H100}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [gpu.name for gpu in list_gpus()] == ["NVIDIA H100 80GB HBM3"]
    tool.write_text(
        "#!/bin/sh\necho 'NVIDIA-SMI has failed because it could not communicate with the driver'\nexit 9\n"
    )
    assert list_gpus() == []


@pytest.mark.parametrize(("given", "order"), [(None, "PCI_BUS_ID"), ("FASTEST_FIRST", "FASTEST_FIRST")])
def test_cuda_numbers_devices_as_nvidia_smi_does(given: str | None, order: str):
    """CUDA's own default is the fastest first: device 0 would be another one here and there."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_DEVICE_ORDER"}
    environment |= {} if given is None else {"CUDA_DEVICE_ORDER": given}
    code = "import os, promptcot_mamba.gpus; print(os.environ['CUDA_DEVICE_ORDER'])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=environment).strip() == order
