"""What a mixer is told beside its tensors: one set of names for every form that keeps it for its backward pass."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MixerSettings:
    """See `promptcot_mamba.ops.fused_mixer.fused_mixer`."""

    n_groups: int
    head_dim: int
    state_size: int
    chunk_size: int | None
    eps: float
    dt_limit: tuple[float, float]
