"""Mamba-2 with a language head: transformers' names and config, so that its checkpoints load in transformers and vLLM.

Differences from transformers' own class: the gated norm is grouped (as in mamba-ssm and vLLM), `cu_seqlens` packs
documents that never see one another, padded batches are computed without their padding, and a loss never makes all
logits.
"""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, GenerationMixin, Mamba2Config, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.models.mamba2.modeling_mamba2 import Mamba2CausalLMOutput, Mamba2Output
from transformers.utils.generic import can_return_tuple

from promptcot_mamba.errors import InputError
from promptcot_mamba.model.block import Mamba2Block
from promptcot_mamba.model.card import AUTO_MAP, write_card, write_code
from promptcot_mamba.model.mixer import Mamba2Mixer, RMSNorm
from promptcot_mamba.ops.linear_cross_entropy import IGNORE_INDEX, linear_cross_entropy
from promptcot_mamba.ops.packing import check_cu_seqlens, cu_seqlens_from_lengths
from promptcot_mamba.ops.products import linear
from promptcot_mamba.ops.sequence_parallel import RowSlice


class Mamba2PreTrainedModel(PreTrainedModel):
    """What loading, saving and initialising need to know."""

    config: Mamba2Config
    config_class = Mamba2Config
    base_model_prefix = "backbone"
    _no_split_modules = ["Mamba2Block"]  # noqa: RUF012 (transformers' own convention)
    supports_gradient_checkpointing = True
    _is_stateful = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Fresh weights, as transformers draws them: A = 1..h, dt log-uniform in [time_step_min, time_step_max]."""
        super()._init_weights(module)
        if not isinstance(module, Mamba2Mixer):
            return
        config = self.config
        heads = torch.arange(1, config.num_heads + 1, dtype=torch.float32, device=module.A_log.device)
        init.copy_(module.A_log, heads.log())
        init.ones_(module.D)
        low, high = math.log(config.time_step_min), math.log(config.time_step_max)
        dt = torch.exp(low + (high - low) * torch.rand_like(heads)).clamp(min=config.time_step_floor)
        init.copy_(module.dt_bias, dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus
        init.kaiming_uniform_(module.conv1d.weight, a=math.sqrt(5))
        if module.conv1d.bias is not None:
            init.zeros_(module.conv1d.bias)
        init.kaiming_uniform_(module.out_proj.weight, a=math.sqrt(5))
        if config.rescale_prenorm_residual:
            module.out_proj.weight /= math.sqrt(config.num_hidden_layers)


class Mamba2Model(Mamba2PreTrainedModel):
    """Embedding, layers, final norm."""

    def __init__(self, config: Mamba2Config):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Mamba2Block(config, index) for index in range(config.num_hidden_layers))
        self.norm_f = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.gradient_checkpointing = False
        self.segment_layers = 1  # layers whose input alone is kept (--checkpoint_every)
        self.offload_checkpoints = False  # keep those inputs in the host's memory
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings = cast(nn.Embedding, value)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        cu_seqlens: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        cache_params: Cache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        place: RowSlice | None = None,
    ) -> Mamba2Output:
        """See `Mamba2ForCausalLM.forward`; returns hidden states (b, l, d_model), zero where padded."""
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("forward: give either input_ids or inputs_embeds")
        hidden = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if use_cache and not (self.gradient_checkpointing and self.training):
            cache_params = DynamicCache(config=self.config) if cache_params is None else cache_params
        else:
            cache_params = None
        shape, tokens = hidden.shape[:2], None
        if cu_seqlens is not None:
            if shape[0] != 1:
                raise InputError(f"forward: cu_seqlens needs one packed row, found {shape[0]}")
            if attention_mask is not None and not bool(attention_mask.all()):
                raise InputError("forward: a packed row has no padding; leave attention_mask out")
            check_cu_seqlens(cu_seqlens, shape[1])
        elif attention_mask is not None:
            tokens, cu_seqlens = find_tokens(attention_mask, shape[1])
            hidden = hidden if tokens is None else hidden.flatten(0, 1)[tokens][None]
        seen = [hidden]
        with self._keeping(hidden.device):
            for layers in self._segments():
                hidden = layers(hidden, cu_seqlens=cu_seqlens, cache=cache_params, place=place)
                if output_hidden_states:
                    seen.append(hidden)
        seen[-1] = hidden = self.norm_f(hidden)
        if tokens is not None:
            seen = [restore_padding(state, tokens, shape) for state in (seen if output_hidden_states else seen[-1:])]
            hidden = seen[-1]
        return Mamba2Output(
            last_hidden_state=cast("torch.FloatTensor", hidden),  # as transformers annotates any floating dtype
            cache_params=cache_params,
            hidden_states=cast("tuple[torch.FloatTensor]", tuple(seen)) if output_hidden_states else None,
        )

    def _keeping(self, device: torch.device) -> AbstractContextManager:
        """Where what layers or segments keep for the backward pass lies: on the device, or with the host."""
        if not (self.offload_checkpoints and self.training and torch.is_grad_enabled()):
            return nullcontext()
        return torch.autograd.graph.save_on_cpu(pin_memory=device.type == "cuda")

    def _segments(self) -> Iterable[Callable[..., torch.Tensor]]:
        """What the residual stream passes through, one after the other: layers, or segments of them that keep only
        their input and run again, layer by layer, in the backward pass."""
        if self.segment_layers == 1 or not (self.training and torch.is_grad_enabled()):
            return self.layers
        starts = range(0, len(self.layers), self.segment_layers)
        return [partial(self._run_segment, self.layers[start : start + self.segment_layers]) for start in starts]

    def _run_segment(self, layers: nn.ModuleList, hidden: torch.Tensor, **kwargs) -> torch.Tensor:
        def run(hidden: torch.Tensor) -> torch.Tensor:
            for layer in layers:
                hidden = layer(hidden, **kwargs)
            return hidden

        return checkpoint(run, hidden, use_reentrant=False)


def find_tokens(attention_mask: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor] | tuple[None, None]:
    """Where a padded batch's tokens stand in the flattened batch, and their `cu_seqlens`; None where none is padded.

    Left or right padding, or holes: what is masked is left out, so states and losses see tokens only.
    """
    mask = attention_mask[:, -length:].bool()  # while generating, the mask also covers what the cache holds
    if bool(mask.all()):
        return None, None
    lengths = mask.sum(1)
    if int(lengths.min()) == 0:
        raise InputError(f"attention_mask: row {int(lengths.argmin())} masks every token; drop the row")
    return mask.flatten().nonzero()[:, 0], cu_seqlens_from_lengths(lengths)


def restore_padding(packed: torch.Tensor, tokens: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """(1, total, d) -> (b, l, d), zeros where there was padding."""
    rows = packed.new_zeros(shape[0] * shape[1], packed.shape[-1])
    return rows.index_copy(0, tokens, packed[0]).unflatten(0, shape)


def next_token_labels(labels: torch.Tensor, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
    """(b, l) -> (b, l): what each position should predict; nothing at the end of a row or document."""
    targets = torch.cat([labels[:, 1:], labels.new_full((len(labels), 1), IGNORE_INDEX)], dim=1)
    if cu_seqlens is not None:
        targets[0, cu_seqlens[1:].long() - 1] = IGNORE_INDEX
    return targets


class LanguageHead(nn.Linear):
    """Logits, or the summed loss where targets are given: either way inside one module call.

    ZeRO-3 gathers a module's weights around its `forward`, so the loss must be made there too.
    """

    def forward(
        self, hidden: torch.Tensor, targets: torch.Tensor | None = None, reduction: str = "sum"
    ) -> torch.Tensor:
        """hidden (..., d) -> logits (..., v); with targets (...) the fp32 losses: their sum, or ("none") each (...)."""
        hidden = hidden.to(self.weight.dtype)
        if targets is None:
            return linear(hidden, self.weight)
        losses = linear_cross_entropy(hidden.flatten(0, -2), self.weight, targets.flatten(), reduction=reduction)
        return losses.view(targets.shape) if reduction == "none" else losses


class Mamba2ForCausalLM(Mamba2PreTrainedModel, GenerationMixin):
    """The language model. The class has transformers' name because checkpoints carry it."""

    _tied_weights_keys = {"lm_head.weight": "backbone.embeddings.weight"}  # noqa: RUF012 (transformers' own convention)
    accepts_loss_kwargs = True  # the Trainer hands num_items_in_batch over

    def __init__(self, config: Mamba2Config):
        super().__init__(config)
        self.backbone = Mamba2Model(config)
        self.lm_head = LanguageHead(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def keep_layers(self, count: int) -> None:
        """Let the first `count` layers keep their activations for the backward pass and the others recompute them."""
        self.gradient_checkpointing_enable()
        for index, layer in enumerate(self.backbone.layers):
            cast(Mamba2Block, layer).gradient_checkpointing = index >= count

    def keep_residual_in_fp32(self, wide: bool) -> None:
        """Widen the residual stream to fp32, or leave it as narrow as the weights; the config says so from now on."""
        self.config.residual_in_fp32 = wide
        for layer in self.backbone.layers:
            cast(Mamba2Block, layer).residual_in_fp32 = wide

    def get_input_embeddings(self) -> nn.Embedding:
        return self.backbone.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.backbone.embeddings = cast(nn.Embedding, value)

    def save_pretrained(
        self, save_directory: str | PathLike[str], is_main_process: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        """As transformers', with a model card and the code that gives plain transformers this model's maths."""
        self.config.auto_map = AUTO_MAP
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        if is_main_process:
            write_card(Path(save_directory), self.config)
            write_code(Path(save_directory))

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Resizing makes a plain linear layer, which must go on computing losses."""
        if type(value) is nn.Linear:
            value.__class__ = LanguageHead  # which holds nothing more
        self.lm_head = value

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        cu_seqlens: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        loss_weights: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        inputs_embeds: torch.Tensor | None = None,
        cache_params: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        shift_labels: torch.Tensor | None = None,
        token_losses: bool = False,
        place: RowSlice | None = None,
    ) -> Mamba2CausalLMOutput:
        """Run the model over padded rows or one packed row; a keyword that is not listed here raises TypeError.

        Args:
            input_ids: (b, l); or inputs_embeds (b, l, d_model).
            attention_mask: (b, l), 0 on padding, wherever it stands.
            cu_seqlens: (docs+1), needs b == 1: documents of a packed row.
            labels: (b, l), shifted here; -100 where no loss is wanted. The loss replaces the logits.
            loss_weights: (b, l), beside `labels`: what each label's loss is multiplied by; 1 where None.
            num_items_in_batch: what the summed loss is divided by; the labelled tokens here where None.
            cache_params: states to continue from, one per row.
            logits_to_keep: only the last so many positions' logits (0: all).
            output_hidden_states: also the residual stream before each layer and the final norm's result.
            output_attentions: what wrappers pass along; there are none to return.
            shift_labels: (b, l), before `labels`: already what each position should predict.
            token_losses: the loss is that of each position, (b, l), undivided; 0 where nothing is predicted.
            place: the tokens are a slice of a packed row that several ranks hold (`ops.sequence_parallel`).
            return_dict: False for a tuple of what is not None.

        Raises:
            InputError: for a `cu_seqlens` or mask that does not fit.
        """
        if output_attentions:
            raise InputError("forward: output_attentions: a Mamba-2 model has no attentions")
        use_cache = False if labels is not None or shift_labels is not None else use_cache
        outputs = self.backbone(
            input_ids, attention_mask=attention_mask, cu_seqlens=cu_seqlens, inputs_embeds=inputs_embeds,
            cache_params=cache_params, use_cache=use_cache, output_hidden_states=output_hidden_states,
            place=place, return_dict=True,
        )  # fmt: skip
        hidden = outputs.last_hidden_state
        loss = logits = None
        if labels is not None or shift_labels is not None:
            targets = (
                next_token_labels(cast(torch.Tensor, labels), cu_seqlens) if shift_labels is None else shift_labels
            )
            if attention_mask is not None:  # neither is padding predicted, nor does it predict the first token
                padding = attention_mask == 0
                targets = targets.masked_fill(padding | padding.roll(-1, 1), IGNORE_INDEX)
            items = (targets != IGNORE_INDEX).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
            if loss_weights is not None and shift_labels is None:
                loss_weights = loss_weights.roll(-1, dims=1)  # as the labels; a row's last position has no target
            loss = self.lm_head(hidden, targets, "sum" if loss_weights is None and not token_losses else "none")
            if not token_losses:
                loss = (loss if loss_weights is None else (loss * loss_weights).sum()) / items
        else:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(hidden[:, kept]).float()
        return Mamba2CausalLMOutput(
            loss=loss, logits=logits, cache_params=outputs.cache_params, hidden_states=outputs.hidden_states
        )

    def prepare_inputs_for_generation(  # type: ignore[override]  # generate passes names, and asks for these
        self, input_ids, inputs_embeds=None, cache_params=None, attention_mask=None, use_cache=None,
        is_first_iteration=False, **kwargs,
    ):  # fmt: skip
        """The first step reads the prompt with its mask; later ones read one token, never padding."""
        inputs = super().prepare_inputs_for_generation(  # type: ignore[misc]  # transformers' self is a wider protocol
            input_ids, inputs_embeds=inputs_embeds, cache_params=cache_params, attention_mask=attention_mask,
            use_cache=use_cache, is_first_iteration=is_first_iteration, **kwargs,
        )  # fmt: skip
        if use_cache and not is_first_iteration:
            inputs["attention_mask"] = None
        return inputs
