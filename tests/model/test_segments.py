"""Segments of layers that keep only their input: the same loss and gradients, fewer bytes kept, layers run again."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from promptcot_mamba.model import load_causal_lm
from promptcot_mamba.model.mixer import Mamba2Mixer
from tests.tiny import make_checkpoint

LAYERS = 5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    folder: Path = make_checkpoint(tmp_path_factory.mktemp("segments"), n_layers=LAYERS)
    model = load_causal_lm(str(folder), dtype=torch.float32).train()
    model.gradient_checkpointing_enable()
    return model


def step(model, segment: int) -> tuple[torch.Tensor, dict[str, torch.Tensor], int, int]:
    """Loss, gradients, tensors of the residual stream's size that are kept between the passes, mixer runs."""
    model.backbone.segment_layers = segment
    model.zero_grad()
    runs, kept = [], []
    hooks = [
        module.register_forward_pre_hook(lambda *_: runs.append(1))
        for module in model.modules()
        if isinstance(module, Mamba2Mixer)
    ]
    ids = torch.arange(48)[None] % 300

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() == 3 and tensor.shape[1:] == (48, model.config.hidden_size):
            kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(ids, labels=ids, cu_seqlens=torch.tensor([0, 20, 48], dtype=torch.int32)).loss
    loss.backward()
    for hook in hooks:
        hook.remove()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    return loss.detach(), gradients, len(set(kept)), len(runs)


@pytest.mark.parametrize("segment", [2, 3, LAYERS])
def test_segments_change_memory_and_time_but_no_number(model, segment: int):
    loss, gradients, kept, runs = step(model, 1)
    again, others, fewer, more = step(model, segment)
    assert torch.equal(loss, again)
    assert all(torch.equal(gradients[name], others[name]) for name in gradients)
    assert runs == 2 * LAYERS
    # Of a segment's last layer the second run needs only the input.
    assert more == 3 * LAYERS - math.ceil(LAYERS / segment)
    assert fewer < kept


def test_evaluation_is_left_alone(model):
    model.eval()
    model.backbone.segment_layers = 2
    assert list(model.backbone._segments()) == list(model.backbone.layers)
    model.train()


@pytest.mark.parametrize("segment", [1, 2])
def test_checkpoints_in_host_memory_change_no_bit(model, monkeypatch, segment: int):
    """The inputs of layers or segments, and nothing else, go through the host and come back as they were."""
    loss, gradients, _, _ = step(model, segment)
    moved = []

    class Host(torch.autograd.graph.saved_tensors_hooks):
        """As `save_on_cpu` from a device: what is handed back is a copy that went elsewhere meanwhile."""

        def __init__(self, pin_memory: bool):
            assert not pin_memory  # there is no device to pin for

            def pack(tensor: torch.Tensor):
                if tensor.numel():
                    moved.append(tuple(tensor.shape))
                return tensor.numpy(force=True).tobytes(), tensor.dtype, tensor.shape

            def unpack(packed):
                data, dtype, shape = packed
                return torch.frombuffer(bytearray(data), dtype=dtype).view(shape) if data else torch.empty(shape)

            super().__init__(pack, unpack)

    monkeypatch.setattr(torch.autograd.graph, "save_on_cpu", Host)
    model.backbone.offload_checkpoints = True
    again, others, _, _ = step(model, segment)
    model.backbone.offload_checkpoints = False
    assert torch.equal(loss, again)
    assert all(torch.equal(gradients[name], others[name]) for name in gradients)
    assert moved == [(1, 48, model.config.hidden_size)] * math.ceil(LAYERS / segment)


def test_a_bf16_residual_stream_moves_the_loss_by_its_rounding(tmp_path: Path):
    """bf16 keeps 8 bits: after 2 L sums the loss is within 0.5 %, gradients of all weights together within 6 %."""
    folder = make_checkpoint(tmp_path, n_layers=LAYERS)
    found = {}
    for wide in (True, False):
        model = load_causal_lm(str(folder), dtype=torch.bfloat16).train()
        model.gradient_checkpointing_enable()
        model.keep_residual_in_fp32(wide)
        kept = []
        model.backbone.norm_f.register_forward_pre_hook(lambda _, inputs, kept=kept: kept.append(inputs[0].dtype))
        loss, gradients, _, _ = step(model, 1)
        assert kept == [torch.float32 if wide else torch.bfloat16]
        assert model.config.residual_in_fp32 is wide
        found[wide] = loss.double(), torch.cat([value.double().flatten() for value in gradients.values()])
    assert abs(found[False][0] / found[True][0] - 1) < 5e-3
    assert (found[False][1] - found[True][1]).norm() < 0.06 * found[True][1].norm()
