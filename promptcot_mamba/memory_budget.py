"""Parameters, arithmetic and bytes of a model, from the shapes in its config alone.

Units: bytes and FLOPs (a multiply-add is two) unless a name says otherwise; GB is 1e9 bytes. Formulas count what the
algorithm must do; what a library adds (fragmentation, CUDA context) is not in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from promptcot_mamba.errors import InputError

BF16, FP32 = 2, 4
SSD_CHUNK = 256  # tokens per chunk of the state-space product, where the config names none


@dataclass(frozen=True)
class Mamba2Shapes:
    """A Mamba-2 language model's sizes (letters as in the ops: h heads, p head_dim, g n_groups, n state)."""

    hidden: int
    layers: int
    heads: int
    head_dim: int
    n_groups: int
    state: int
    conv: int
    vocab: int
    tied: bool = False
    chunk: int = SSD_CHUNK

    @property
    def inner(self) -> int:
        return self.heads * self.head_dim

    @property
    def conv_channels(self) -> int:
        return self.inner + 2 * self.n_groups * self.state

    @property
    def in_proj_width(self) -> int:
        """z, x, B, C and dt side by side."""
        return self.inner + self.conv_channels + self.heads

    @property
    def layer_matrix_parameters(self) -> int:
        return self.hidden * self.in_proj_width + self.inner * self.hidden

    @property
    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """A layer's matrices by name: inputs, outputs."""
        return {"in_proj": (self.hidden, self.in_proj_width), "out_proj": (self.inner, self.hidden)}

    @property
    def parameters(self) -> int:
        small = self.conv_channels * (self.conv + 1) + 3 * self.heads + self.inner + self.hidden
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        return self.layers * (self.layer_matrix_parameters + small) + embeddings + self.hidden

    @property
    def mixing_flops(self) -> float:
        """The SSD of one layer, forward, per token: half a chunk looks back, then states are made and read."""
        within = self.chunk * (self.n_groups * self.state + self.inner)  # C B^T, then times x; causal: half of 2x
        return within + 4 * self.state * self.inner

    @property
    def mixing_bytes(self) -> float:
        """What conv, SSD and gated norm of one layer move, forward, per token, in bf16 with fp32 states."""
        conv = 2 * self.conv_channels
        ssd = 3 * self.inner + 4 * self.n_groups * self.state + self.heads  # x twice, B and C twice, y
        norm = 3 * self.inner
        states = 4 * FP32 * self.inner * self.state / self.chunk  # made, passed on (read, written), read
        return BF16 * (conv + ssd + norm) + states

    @property
    def saved_for_backward(self) -> int:
        """Activation bytes per token of one layer when conv, SSD and norm are recomputed from what they read.

        The fp32 residual stream, its norm, the input projection's result and the output projection's input.
        """
        return FP32 * self.hidden + BF16 * (self.hidden + self.in_proj_width + self.inner)

    @property
    def saved_whole(self) -> float:
        """The same where nothing is recomputed: conv, SSD and norm outputs and the chunks' states too."""
        outputs = BF16 * (self.conv_channels + self.inner)
        return self.saved_for_backward + outputs + FP32 * self.inner * self.state / self.chunk

    @property
    def state_bytes(self) -> int:
        """A sequence's whole memory while sampling: fp32 SSM states and bf16 convolution windows, all layers."""
        return self.layers * (FP32 * self.inner * self.state + BF16 * self.conv_channels * (self.conv - 1))

    def cache_bytes(self, tokens: int) -> int:
        """Memory of one sequence after `tokens` tokens: constant."""
        return self.state_bytes


@dataclass(frozen=True)
class AttentionShapes:
    """A Llama/Qwen-style language model's sizes: grouped-query attention and a gated feed-forward."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocab: int
    tied: bool = False
    qkv_bias: bool = False  # as in Qwen2
    context: int = 20_480  # tokens that a token looks back over, for the arithmetic of attention

    @property
    def layer_matrix_parameters(self) -> int:
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.hidden * self.feed_forward

    @property
    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """A layer's matrices by name: inputs, outputs."""
        queries, keys = self.head_dim * self.heads, self.head_dim * self.kv_heads
        return {
            "q_proj": (self.hidden, queries), "k_proj": (self.hidden, keys), "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden), "gate_proj": (self.hidden, self.feed_forward),
            "up_proj": (self.hidden, self.feed_forward), "down_proj": (self.feed_forward, self.hidden),
        }  # fmt: skip

    @property
    def parameters(self) -> int:
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        biases = self.head_dim * (self.heads + 2 * self.kv_heads) if self.qkv_bias else 0
        return self.layers * (self.layer_matrix_parameters + 2 * self.hidden + biases) + embeddings + self.hidden

    @property
    def mixing_flops(self) -> float:
        """Scores and values of one layer, forward, per token, over half the context on average."""
        return 2.0 * self.context * self.heads * self.head_dim

    @property
    def mixing_bytes(self) -> float:
        """Queries, keys, values and outputs of one layer, forward, per token (fused attention)."""
        return BF16 * self.head_dim * (2 * self.heads + 2 * self.kv_heads)

    @property
    def saved_for_backward(self) -> int:
        """Activation bytes per token of one layer: what its matrix products, norms and attention read."""
        attention = self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return BF16 * (4 * self.hidden + attention + 3 * self.feed_forward)

    @property
    def saved_whole(self) -> int:
        """The same where nothing is recomputed: fused attention keeps nothing more."""
        return self.saved_for_backward

    def cache_bytes(self, tokens: int) -> int:
        """Memory of one sequence after `tokens` tokens: bf16 keys and values, all layers."""
        return tokens * self.layers * BF16 * 2 * self.kv_heads * self.head_dim


Shapes = Mamba2Shapes | AttentionShapes


def shapes_from_config(config: dict[str, Any]) -> Shapes:
    """Sizes from a `config.json`: Mamba-2 in transformers' or mamba_ssm's layout, or a Llama-style decoder.

    Raises InputError, naming the missing key, for other models.
    """
    try:
        if "ssm_cfg" in config:
            return _from_mamba_ssm(config)
        if config.get("model_type") == "mamba2":
            return Mamba2Shapes(
                hidden=config["hidden_size"],
                layers=config["num_hidden_layers"],
                heads=config["num_heads"],
                head_dim=config["head_dim"],
                n_groups=config["n_groups"],
                state=config["state_size"],
                conv=config["conv_kernel"],
                vocab=config["vocab_size"],
                tied=bool(config.get("tie_word_embeddings", False)),
                chunk=config.get("chunk_size", SSD_CHUNK),
            )
        return AttentionShapes(
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
            head_dim=config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
            feed_forward=config["intermediate_size"],
            vocab=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=config.get("model_type") == "qwen2",
        )
    except KeyError as missing:
        name = config.get("model_type", "unknown")
        raise InputError(f"config of model type {name!r}: no key {missing} to tell its shapes by") from None


def _from_mamba_ssm(config: dict[str, Any]) -> Mamba2Shapes:
    inside = config["ssm_cfg"]  # defaults are those of mamba_ssm's Mamba2 module
    hidden, head_dim = config["d_model"], inside.get("headdim", 64)
    vocab, multiple = config["vocab_size"], config.get("pad_vocab_size_multiple", 8)
    return Mamba2Shapes(
        hidden=hidden,
        layers=config["n_layer"],
        heads=inside.get("expand", 2) * hidden // head_dim,
        head_dim=head_dim,
        n_groups=inside.get("ngroups", 1),
        state=inside.get("d_state", 128),
        conv=inside.get("d_conv", 4),
        vocab=-(-vocab // multiple) * multiple,
        tied=config.get("tie_embeddings", True),
        chunk=inside.get("chunk_size", SSD_CHUNK),
    )


def forward_flops_per_token(shapes: Shapes) -> float:
    """Matrix products and mixing of a forward pass, the language head included."""
    return 2 * matrix_parameters(shapes) + shapes.layers * shapes.mixing_flops


def matrix_parameters(shapes: Shapes) -> int:
    """Parameters that a token is multiplied by: all but the embedding table, norms and the like."""
    return shapes.layers * shapes.layer_matrix_parameters + shapes.vocab * shapes.hidden


def adapter_parameters(shapes: Shapes, rank: int, targets: list[str]) -> int:
    """Trained numbers of low-rank adapters. Raises InputError for a target that is no matrix of these shapes."""
    for target in targets:
        if target not in shapes.linear_layers:
            raise InputError(f"--lora_target {target}: the model's linear layers are {', '.join(shapes.linear_layers)}")
    return shapes.layers * rank * sum(sum(shapes.linear_layers[target]) for target in set(targets))


def training_flops_per_token(shapes: Shapes, adapters: int = 0) -> float:
    """Forward and backward (twice the forward), without recomputation: the numerator of MFU.

    `adapters`: trained numbers beside frozen weights, which have no gradient of their own to be computed.
    """
    frozen = 2 * matrix_parameters(shapes) if adapters else 0
    return 3 * (forward_flops_per_token(shapes) + 2 * adapters) - frozen


@dataclass(frozen=True)
class Device:
    """A GPU for estimates: rates that large bf16 products and streaming kernels reach, not the data sheet's."""

    name: str
    memory_gb: float
    peak_tflops: float  # dense bf16, data sheet
    product_tflops: float  # reached by large matrix products
    bandwidth_tbs: float  # reached by streaming kernels


# H200: about 790 TFLOP/s and 4.3 TB/s were measured. Elsewhere the same shares of the data sheet's numbers (80 % of
# dense bf16, 90 % of the bandwidth) are assumed.
DEVICES = {
    "H200": Device("H200", 141, 989, 790, 4.3),
    "H100": Device("H100", 80, 989, 790, 3.0),
    "A100": Device("A100", 80, 312, 250, 1.8),
    "B200": Device("B200", 180, 2250, 1800, 7.2),
    "4090": Device("RTX 4090", 24, 165, 132, 0.91),
}
# The backward of conv, SSD and norm reads values and gradients and writes gradients: 7.8 GB against the forward's
# 4.4 GB per layer at 20,480 tokens, counted tensor by tensor.
BACKWARD_BYTES_RATIO = 7.8 / 4.4


def tokens_per_second_bound(shapes: Shapes, device: Device, recompute: str = "layer", adapters: int = 0) -> float:
    """An upper bound for training on one device: products at their rate, then conv, SSD and norm at the bandwidth.

    `recompute`: "layer" repeats each layer's forward in the backward (full checkpointing), "segments" repeats it twice,
    "mixer" only conv, SSD and norm, "nothing" keeps all. Communication, the optimizer and the host are not in it.
    """
    mixing = shapes.layers * shapes.mixing_flops
    moved = shapes.layers * shapes.mixing_bytes
    layer_products = 2 * shapes.layers * shapes.layer_matrix_parameters
    flops = training_flops_per_token(shapes, adapters)
    moved_bytes = moved * (1 + BACKWARD_BYTES_RATIO)
    if recompute != "nothing":
        times = 2 if recompute == "segments" else 1
        flops += times * (mixing + (0 if recompute == "mixer" else layer_products))
        moved_bytes += times * moved
    return 1 / (flops / (device.product_tflops * 1e12) + moved_bytes / (device.bandwidth_tbs * 1e12))


def training_memory(
    shapes: Shapes,
    *,
    tokens: int,
    devices: int,
    zero_stage: int = 2,
    offload_optimizer: bool = False,
    split_masters: bool = False,
    fp32_sums: bool = False,
    adapters: int = 0,
    recompute: str = "layer",
    segment: int = 1,
    bucket_elements: int = 500_000_000,
    logits_bytes: int = 64 * 2**20,
) -> dict[str, float]:
    """Bytes on one GPU by part, at the peak of a step, for bf16 mixed precision with Adam under DeepSpeed ZeRO.

    `tokens` per micro-batch. `split_masters`: no DeepSpeed, but `training.split_adamw` on one device.
    `fp32_sums`: gradients of several micro-batches are summed in fp32 (`--grad_accum_dtype`).
    `adapters`: trained numbers in fp32 beside frozen bf16 weights (`--lora_rank`), of which every device holds all.
    `bucket_elements` and `logits_bytes` are those of the shipped DeepSpeed configs and of `linear_cross_entropy`.
    `segment`: layers a segment, where `recompute` is "segments".
    "update" is what the optimizer step needs above the activations that are gone by then.
    """
    p = shapes.parameters
    shard = {name: devices if zero_stage >= stage else 1 for name, stage in (("os", 1), ("g", 2), ("w", 3))}
    weights, gradients = BF16 * p / shard["w"], (FP32 if fp32_sums else BF16) * p / shard["g"]
    masters = BF16 if split_masters else FP32
    optimizer = 0 if offload_optimizer else (masters + 2 * FP32) * p / shard["os"]  # master weights, two moments
    if adapters:
        weights, gradients, optimizer = BF16 * p + FP32 * adapters, FP32 * adapters, 2 * FP32 * adapters
    live_layer = 2 * tokens * shapes.saved_for_backward  # one layer's forward again, and its gradients
    kept = {
        "nothing": shapes.layers * tokens * shapes.saved_whole,
        "mixer": shapes.layers * tokens * shapes.saved_for_backward,
        "layer": shapes.layers * tokens * FP32 * shapes.hidden,  # the residual stream
        # before every segment, and within the one that is being repeated
        "segments": (-(-shapes.layers // segment) + segment) * tokens * FP32 * shapes.hidden,
    }[recompute]
    head = 2 * logits_bytes + FP32 * shapes.vocab * shapes.hidden + 2 * BF16 * tokens * shapes.hidden
    buckets = 3 * BF16 * min(bucket_elements, adapters or p) if devices > 1 else 0  # two reducing, one gathering
    activations = kept + live_layer + head
    # DeepSpeed flattens the shard's gradients and widens them to fp32 before the update.
    update = 0 if offload_optimizer else (FP32 if fp32_sums else BF16 + FP32) * p / shard["os"]
    if adapters:
        update = FP32 * adapters
    if split_masters:
        update = 4 * FP32 * shapes.vocab * shapes.hidden  # fp32 copies of one parameter at a time, the largest
    return {
        "weights": weights,
        "gradients": gradients,
        "optimizer": optimizer,
        "activations": activations,
        "buckets": buckets,
        "update": max(0.0, update - activations),
    }


def offloaded_bytes(shapes: Shapes, devices: int = 1, *, accumulating: bool = False) -> float:
    """Host memory per GPU under optimizer offload, for its shard of the parameters.

    fp32 master weights, gradients and two moments, and a bf16 image of the updated weights; where several micro-batches
    make a step also their bf16 gradients (read in DeepSpeed 0.19.8's ZeRO stage 1 and 2).
    """
    return (4 * FP32 + BF16 * (2 if accumulating else 1)) * shapes.parameters / devices
