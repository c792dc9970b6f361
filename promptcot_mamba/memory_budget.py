"""Parameters, arithmetic and bytes of a model, from the shapes in its config alone; `roofline` makes seconds of them.

Units: bytes and FLOPs (a multiply-add is two) unless a name says otherwise; GB is 1e9 bytes. Formulas count what the
algorithm must do; what a library adds (fragmentation, CUDA context) is not in them.
"""

from dataclasses import dataclass
from typing import Any

from promptcot_mamba.errors import InputError

BF16, FP32 = 2, 4
SSD_CHUNK = 256  # tokens per chunk of the state-space product, where the config names none
RESERVE = 0.2  # of the memory for activations, left to a pass's temporaries and to fragmentation


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
    def parameters(self) -> int:
        small = self.conv_channels * (self.conv + 1) + 3 * self.heads + self.inner + self.hidden
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        return self.layers * (self.layer_matrix_parameters + small) + embeddings + self.hidden

    @property
    def mixing_flops(self) -> float:
        """The SSD of one layer, forward, per token: half a chunk looks back, then states are made and read."""
        within = self.chunk * (self.n_groups * self.state + self.inner)  # C B^T, then times x; causal: half of 2x
        return within + 4 * self.state * self.inner

    def saved_for_backward(self, element: int = BF16) -> int:
        """Activation bytes per token of one layer that is kept: conv, SSD and norm are recomputed from what they read.

        The fp32 residual stream, its norm, the input projection's result and the output projection's input, whose
        numbers take `element` bytes.
        """
        return FP32 * self.hidden + element * (self.hidden + self.in_proj_width + self.inner)

    @property
    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """A layer's matrices by name: inputs, outputs."""
        return {"in_proj": (self.hidden, self.in_proj_width), "out_proj": (self.inner, self.hidden)}


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
    def parameters(self) -> int:
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        biases = self.head_dim * (self.heads + 2 * self.kv_heads) if self.qkv_bias else 0
        return self.layers * (self.layer_matrix_parameters + 2 * self.hidden + biases) + embeddings + self.hidden

    @property
    def mixing_flops(self) -> float:
        """Scores and values of one layer, forward, per token, over half the context on average."""
        return 2.0 * self.context * self.heads * self.head_dim

    def saved_for_backward(self, element: int = BF16) -> int:
        """Activation bytes per token of one layer: what its matrix products, norms and attention read."""
        attention = self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return element * (4 * self.hidden + attention + 3 * self.feed_forward)

    @property
    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """A layer's matrices by name: inputs, outputs."""
        queries, keys = self.head_dim * self.heads, self.head_dim * self.kv_heads
        return {
            "q_proj": (self.hidden, queries), "k_proj": (self.hidden, keys), "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden), "gate_proj": (self.hidden, self.feed_forward),
            "up_proj": (self.hidden, self.feed_forward), "down_proj": (self.feed_forward, self.hidden),
        }  # fmt: skip


Shapes = Mamba2Shapes | AttentionShapes
# What tells a decoder with a dense one's keys from it: how many experts (0 and 1 are dense), or layers with a state.
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
STATES = (
    "hybrid_override_pattern", "layers_block_type", "attn_layer_indices", "attn_layer_period", "attn_type_list",
    "linear_attn_config", "ssm_state_size", "mamba_d_state", "ssm_cfg",
)  # fmt: skip
ATTENTIONS = {"full_attention", "sliding_attention", "chunked_attention", "attention"}


def shapes_from_config(config: dict[str, Any]) -> Shapes:
    """Sizes from a `config.json`: Mamba-2 in transformers' or mamba_ssm's layout, or a Llama-style decoder.

    Raises InputError, naming the key that is missing or that says so, for other models.
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
        _refuse_sparse(config)
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


def _refuse_sparse(config: dict[str, Any]) -> None:
    """Raise InputError for experts, and for layers that keep a state: their config has all that a dense one's has."""
    name = config.get("model_type", "unknown")
    for key in EXPERTS:
        if (config.get(key) or 0) > 1:
            raise InputError(f"config of model type {name!r}: {key} {config[key]}: experts' shapes are not known here")
    other = [key for key in STATES if config.get(key)]
    kinds = [kind for kind in config.get("layer_types") or () if kind not in ATTENTIONS]
    if other or kinds:
        what = other[0] if other else f"layer_types {kinds[0]}"
        raise InputError(f"config of model type {name!r}: {what}: hybrids' shapes are not known here")


def _from_mamba_ssm(config: dict[str, Any]) -> Mamba2Shapes:
    """Raises InputError for what is not made of Mamba-2 layers alone."""
    inside = config["ssm_cfg"] or {}  # defaults are those of mamba_ssm's Mamba2 module, but for its layer's, Mamba1
    if (layer := inside.get("layer", "Mamba1")) != "Mamba2":
        raise InputError(f"config in mamba_ssm's layout: ssm_cfg.layer is {layer}, expected Mamba2")
    for key in ("attn_layer_idx", "d_intermediate"):
        if config.get(key):
            raise InputError(f"config in mamba_ssm's layout: {key} {config[key]}: layers beside Mamba-2's")
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


def count_kept_layers(shapes: Shapes, tokens: int, free_bytes: float, element: int = BF16, residual: int = FP32) -> int:
    """How many layers may keep their activations when `tokens` run at once and `free_bytes` are left for activations.

    A kept layer holds its input, the norm's output, `in_proj`'s output and `out_proj`'s input (the fused mixer makes
    what lies between again); a recomputed one its input alone, and runs its forward a second time. Per token of the 7B
    model in bf16: 78 KB against 16 KB.
    """
    kept = tokens * (shapes.saved_for_backward(element) - (FP32 - residual) * shapes.hidden)
    recomputed = tokens * residual * shapes.hidden
    budget = free_bytes * (1 - RESERVE) - shapes.layers * recomputed - kept  # one layer is being recomputed
    return max(0, min(shapes.layers, int(budget // (kept - recomputed))))


def training_memory(
    shapes: Shapes,
    *,
    tokens: int,
    devices: int,
    zero_stage: int = 2,
    offload_optimizer: bool = False,
    split_masters: bool = False,
    fp32_sums: bool = False,
    kept_layers: int = 0,
    segment: int = 1,
    residual: int = FP32,
    offload_checkpoints: bool = False,
    adapters: int = 0,
    element: int = BF16,
    bucket_elements: int = 500_000_000,
    logits_bytes: int = 64 * 2**20,
) -> dict[str, float]:
    """Bytes on one GPU by part, at the peak of a step, for bf16 mixed precision with Adam under DeepSpeed ZeRO.

    `tokens` per micro-batch. `split_masters`: no DeepSpeed, but `training.split_adamw` on one device.
    `fp32_sums`: gradients of several micro-batches are summed in fp32 (`--grad_accum_dtype`).
    `kept_layers` keep their activations, the others their input; `segment`: only every `segment`-th layer's input is.
    `residual`: bytes of a number of the residual stream; `offload_checkpoints`: what is kept of it waits with the host.
    `adapters`: trained fp32 numbers beside frozen weights. `element`: bytes of a weight; fp32 ones need no masters.
    `bucket_elements` and `logits_bytes` are those of the shipped DeepSpeed configs and of `linear_cross_entropy`.
    "update" is what the optimizer step needs above the activations that are gone by then.
    """
    p = adapters or shapes.parameters
    shard = {name: devices if zero_stage >= stage else 1 for name, stage in (("os", 1), ("g", 2), ("w", 3))}
    weights = (element * shapes.parameters + FP32 * adapters) / shard["w"]
    gradients = (FP32 if fp32_sums or adapters else element) * p / shard["g"]
    own_masters = not zero_stage and (element == FP32 or adapters)
    masters = BF16 if split_masters else 0 if own_masters else FP32
    optimizer = 0 if offload_optimizer else (masters + 2 * FP32) * p / shard["os"]  # master weights, two moments
    stream = tokens * residual * shapes.hidden  # the residual stream before a layer
    saved = tokens * (shapes.saved_for_backward(element) - (FP32 - residual) * shapes.hidden)
    kept = kept_layers * saved + (shapes.layers - kept_layers) * stream
    if segment > 1 or offload_checkpoints:  # with the segment that is being repeated
        before = stream if offload_checkpoints else checkpoint_bytes(shapes, tokens, segment, residual)
        kept = before + (segment * stream if segment > 1 else 0)
    head = 2 * logits_bytes + FP32 * shapes.vocab * shapes.hidden + 2 * BF16 * tokens * shapes.hidden
    # Two reducing, one gathering; ZeRO-3: one reducing, one fetching ahead, and twice as many weights at work.
    bucket = element * min(bucket_elements, p)
    buckets: float = bucket * (4 if zero_stage == 3 else 3 if devices > 1 else 2)
    if not zero_stage:
        buckets = gradients if devices > 1 else 0  # torch's DDP reduces copies
    activations = kept + 2 * saved + head  # one layer's forward again, and its gradients
    # DeepSpeed flattens the shard's gradients and widens them to fp32 before the update.
    update: float = 0 if offload_optimizer else (FP32 if fp32_sums else BF16 + FP32) * p / shard["os"]
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


def checkpoint_bytes(shapes: Shapes, tokens: int, segment: int = 1, residual: int = FP32) -> int:
    """What is kept of the residual stream for the backward pass: before every `segment`-th layer."""
    return -(-shapes.layers // segment) * tokens * residual * shapes.hidden


def held_memory(parts: dict[str, float]) -> float:
    """Of `training_memory`'s parts what is there whatever a row's length: all but activations and the update."""
    return sum(parts[name] for name in ("weights", "gradients", "optimizer", "buckets"))


def offloaded_bytes(shapes: Shapes, devices: int = 1, *, accumulating: bool = False) -> float:
    """Host memory per GPU under optimizer offload, for its shard of the parameters.

    fp32 master weights, gradients and two moments, and a bf16 image of the updated weights; where several micro-batches
    make a step also their bf16 gradients (read in DeepSpeed 0.19.8's ZeRO stage 1 and 2).
    """
    return (4 * FP32 + BF16 * (2 if accumulating else 1)) * shapes.parameters / devices
