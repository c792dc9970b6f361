"""Seconds of a training step by part, from shapes and a data sheet: what each part computes or moves, at a stated rate.

Nothing here is measured. Products run at `product_share` of the data sheet's dense bf16 rate, kernels that stream run
at `bandwidth_share` of the memory's bandwidth; the defaults are what such kernels commonly reach, below the best that
was seen on an H200 (`BEST`), with which the same sums are a bound.
"""

from dataclasses import dataclass, replace

from promptcot_mamba.gpus import DataSheet
from promptcot_mamba.memory_budget import BF16, FP32, AttentionShapes, Mamba2Shapes, Shapes

GPUS_PER_NODE = 8
# Tokens per chunk of the SSD's kernels, forward and backward, by the oldest architecture that runs them
# (ops/ssd/triton_configs.py): each chunk stores a state.
CHUNKS = {80: (64, 32), 90: (128, 64), 100: (64, 64), 120: (64, 32)}
CONV_RUN = 128  # tokens after which the convolution's backward stores its sums (ops/causal_conv1d/triton_kernels.py)
LOGITS_BYTES = 256 * 2**20  # of a slice of the head's logits (ops/linear_cross_entropy/triton_kernels.py)
# Bytes that a step's update moves per parameter of the shard, pass by pass: the gradient's norm 2, flattened 4, widened
# 6, clipped 8, AdamW's gradient 4, master 8 and two moments 16, the new weight cast 6.
UPDATE_BYTES = 54


@dataclass(frozen=True)
class Rates:
    """What is assumed: shares of the data sheet, and what a node's network cards carry in one direction, GB/s."""

    product_share: float = 0.70
    bandwidth_share: float = 0.60
    link_share: float = 0.80
    network_gbs: float = 400  # eight cards of 400 Gbit/s, one a GPU

    def flops(self, sheet: DataSheet) -> float:
        return self.product_share * sheet.bf16_tflops * 1e12

    def bandwidth(self, sheet: DataSheet) -> float:
        return self.bandwidth_share * sheet.bandwidth_tbs * 1e12

    def link(self, sheet: DataSheet, devices: int) -> float:
        """Bytes/s at which a ring passes through one device; across nodes the narrower of NVLink and network."""
        link = sheet.link_gbs if devices <= GPUS_PER_NODE else min(sheet.link_gbs, self.network_gbs)
        return self.link_share * link * 1e9


# Measured on an H200: about 790 TFLOP/s by the best of large products, 4.3 TB/s by streaming kernels.
BEST = Rates(product_share=0.80, bandwidth_share=0.90)


@dataclass(frozen=True)
class Step:
    """A step as one device meets it.

    `tokens` of a micro-batch; `kept_layers` keep their activations, of the others the input, or every `segment`-th
    layer's; `adapters`: trained numbers beside frozen weights (0: all are trained).
    """

    tokens: int
    micro_batches: int = 1
    devices: int = 1
    zero_stage: int = 2
    offload_optimizer: bool = False
    kept_layers: int = 0
    segment: int = 1
    adapters: int = 0


def mamba2_traffic(shapes: Mamba2Shapes, capability: int = 90) -> dict[str, float]:
    """Bytes per token of one layer that each kernel reads and writes, every tensor once a launch: bf16, fp32 steps.

    With `i = h p` inner channels, `s = g n`, `c = i + 2 s`, `q` and `r` the chunks forward and backward, `d` the
    stream's width, 2 bytes a number unless said otherwise:

        conv forward   2 c: x, y                         backward  3 c, and 5 fp32 sums a channel every 128 tokens
        walk forward   i + s + h, fp32 steps 2 h,        backward  x, B, dy, C: 2 i + 2 s + h; steps 2 h; states and
                       states i n / q                              their gradients 2 i n / r
        scan           x, y, B, C: 2 i + 2 s, steps      gradients x, dy, dx, B, C, dB, dC: 3 i + 4 s; states and their
                       2 h, states i n / q                         gradients 2 i n / r; fp32 5 h; then steps' 2 h + 4 h
        norm forward   y, z, out: 3 i                    backward  y, z, dout, dy, dz: 5 i
        stream forward norm reads fp32 d, writes d;      backward  norm: x 4 d, dy 2 d, dx 4 d bytes; the cast for the
                       the sum: 4 d, 2 d, 4 d bytes                mixer 4 d, 2 d; the sum of two gradients 12 d bytes

    Reads that miss the caches are more, by at most a half: the four programs of a chunk's gradients read what one does.
    """
    i, h, s, c = shapes.inner, shapes.heads, shapes.n_groups * shapes.state, shapes.conv_channels
    q, r = CHUNKS[max(known for known in CHUNKS if known <= capability)] if capability >= min(CHUNKS) else CHUNKS[80]
    states, d = i * shapes.state, shapes.hidden
    return {
        "conv forward": BF16 * 2 * c,
        "conv backward": BF16 * 3 * c + FP32 * 5 * c / CONV_RUN,
        "ssd forward": BF16 * (3 * i + 3 * s + h + 2 * states / q) + FP32 * 4 * h,
        "ssd backward": BF16 * (5 * i + 6 * s + 3 * h + 4 * states / r) + FP32 * 11 * h,
        "norm forward": BF16 * 3 * i,
        "norm backward": BF16 * 5 * i,
        "stream forward": 16 * d,
        "stream backward": 28 * d,
    }


def attention_traffic(shapes: AttentionShapes) -> dict[str, float]:
    """The same of a decoder layer: queries, keys, values, outputs, two norms, two sums, the gated product."""
    heads = shapes.head_dim * (shapes.heads + shapes.kv_heads)
    forward = BF16 * (4 * heads + 10 * shapes.hidden + 3 * shapes.feed_forward)
    return {"layer forward": forward, "layer backward": 2 * forward}


def _mixing_bytes(shapes: Shapes, step: Step, capability: int) -> float:
    """Bytes per token of all layers: each forward, what is made again, and the backward."""
    traffic = mamba2_traffic(shapes, capability) if isinstance(shapes, Mamba2Shapes) else attention_traffic(shapes)
    forward = sum(size for name, size in traffic.items() if name.endswith("forward"))
    backward = sum(traffic.values()) - forward
    made_again = traffic.get("conv forward", 0) + traffic.get("ssd forward", 0)  # by a kept layer's own backward
    recomputed = (shapes.layers - step.kept_layers) * (2 if step.segment > 1 else 1)
    return shapes.layers * (forward + backward) + step.kept_layers * made_again + recomputed * forward


def step_seconds(shapes: Shapes, sheet: DataSheet, step: Step, rates: Rates | None = None) -> dict[str, float]:
    """Seconds by part of one step of one device; what a reduction can hide behind a backward pass is left out."""
    rates = rates or Rates()
    flops, bandwidth, tokens = rates.flops(sheet), rates.bandwidth(sheet), step.tokens
    trained = step.adapters or shapes.parameters
    passes = 2 if step.adapters else 3  # frozen weights have no gradients to make
    recomputed = (shapes.layers - step.kept_layers) * (2 if step.segment > 1 else 1)
    layer_flops = 2 * shapes.layer_matrix_parameters + shapes.mixing_flops
    products = (passes * shapes.layers + recomputed) * layer_flops * tokens / flops
    mixing = _mixing_bytes(shapes, step, sheet.capability) * tokens / bandwidth
    words = shapes.vocab * tokens
    slices = -(-words * BF16 // LOGITS_BYTES)
    # Logits written, read twice and overwritten, read by two products; the fp32 gradient added to once a slice.
    head_bytes = 5 * BF16 * words + slices * 3 * FP32 * shapes.vocab * shapes.hidden
    head = 3 * 2 * words * shapes.hidden / flops + head_bytes / bandwidth
    shard = trained / (step.devices if step.zero_stage >= 1 else 1)
    update = 0 if step.offload_optimizer else UPDATE_BYTES * shard / bandwidth
    work = {"matrix products": products, "mixing": mixing, "head": head}
    micro_batch = sum(work.values())
    seconds = {name: step.micro_batches * value for name, value in work.items()} | {"optimizer": update}
    seconds["communication"] = _communication(shapes, step, trained, rates.link(sheet, step.devices), micro_batch)
    return seconds


def _communication(shapes: Shapes, step: Step, trained: int, link: float, micro_batch: float) -> float:
    """Seconds of a step that the device waits for others.

    ZeRO-2 and DDP reduce gradients in each micro-batch while the backward (about two thirds of it) goes on, and gather
    the updated weights after the update; ZeRO-3 gathers them for every forward and backward, ahead of its use.
    """
    if step.devices == 1:
        return 0.0
    share = (step.devices - 1) / step.devices
    gradients, weights = BF16 * trained * share / link, BF16 * shapes.parameters * share / link
    if step.zero_stage == 3:
        return step.micro_batches * max(0.0, gradients + 2 * weights - micro_batch)
    waited = step.micro_batches * max(0.0, gradients - 2 / 3 * micro_batch)
    return waited + BF16 * trained * share / link


def tokens_per_second(shapes: Shapes, sheet: DataSheet, step: Step, rates: Rates | None = None) -> float:
    """Of one device, its update and its waiting for others included."""
    return step.tokens * step.micro_batches / sum(step_seconds(shapes, sheet, step, rates).values())


def at_best(rates: Rates) -> Rates:
    """The same network with the best products and kernels that were seen."""
    return replace(BEST, network_gbs=rates.network_gbs, link_share=1.0)
