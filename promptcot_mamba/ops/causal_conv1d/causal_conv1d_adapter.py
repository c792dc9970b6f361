"""causal-conv1d's kernels behind `causal_conv1d`'s signature: the peer that ours are timed against.

Read against causal-conv1d 1.6: documents are marked by `seq_idx`, which it accepts neither with initial states nor
when final states are asked for; those combinations are refused here.
"""

from causal_conv1d import causal_conv1d_fn

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.packing import seq_idx_from_cu_seqlens


def causal_conv1d_upstream(
    x, weight, bias=None, *, activation="silu", initial_states=None, cu_seqlens=None, return_final_states=False
):
    """See `promptcot_mamba.ops.causal_conv1d.causal_conv1d`.

    Raises:
        InputError: with `cu_seqlens`, for `initial_states` and `return_final_states`.
    """
    seq_idx = None
    if cu_seqlens is not None:
        if initial_states is not None or return_final_states:
            name = "return_final_states" if initial_states is None else "initial_states"
            raise InputError(
                f"causal_conv1d: the causal_conv1d backend takes no {name} with cu_seqlens; use backend='triton'"
            )
        seq_idx = seq_idx_from_cu_seqlens(cu_seqlens)
    if initial_states is not None:
        initial_states = initial_states.transpose(1, 2).contiguous().transpose(1, 2)  # channels last, as it asks for
    found = causal_conv1d_fn(
        x.transpose(1, 2), weight, bias, seq_idx=seq_idx, initial_states=initial_states,
        return_final_states=return_final_states, activation=activation,
    )  # fmt: skip
    if return_final_states:
        return found[0].transpose(1, 2), found[1]
    return found.transpose(1, 2)
