"""From a plan to the back end it calls for: one engine in this process, replicas we serve, or servers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from promptcot_mamba.log import log_once
from promptcot_mamba.run_info import side_path
from promptcot_mamba.sampling.backend import Backend
from promptcot_mamba.sampling.plan import Plan
from promptcot_mamba.sampling.rope import rope_overrides
from promptcot_mamba.sampling.vllm_engine import EngineSettings, VllmEngine, engine_arguments
from promptcot_mamba.sampling.vllm_server import VllmServer

if TYPE_CHECKING:
    from promptcot_mamba.sampling.endpoint_pool import EndpointSettings


def make_backend(plan: Plan) -> Backend:
    """Load, start or connect to whatever generates for this plan; slow, and it may raise what each of them raises."""
    from promptcot_mamba.sampling.openai_endpoint import OpenAIEndpoints  # aiohttp: a third of a second

    args = plan.args
    if args.base_url:
        return OpenAIEndpoints(
            endpoint_settings(plan, args.base_url, args.concurrency), plan.sampling(), plan.tokenizer
        )
    assert plan.checkpoint is not None  # only servers do without
    settings = engine_settings(plan)
    is_mamba2 = plan.checkpoint.is_mamba2
    if args.replicas == 1:
        return VllmEngine(settings, plan.sampling(), is_mamba2=is_mamba2, tokenizer=plan.tokenizer)
    server = VllmServer(
        engine_arguments(settings, is_mamba2=is_mamba2),
        args.replicas,
        side_path(args.output_path, "server.log"),
        on_cpu=settings.on_cpu,
    )
    with ExitStack() as unless_handed_over:
        unless_handed_over.callback(server.stop)
        server.start()
        # Every replica full, and a quarter of that waiting at the door.
        concurrency = settings.max_num_seqs * args.replicas * 5 // 4
        endpoints = endpoint_settings(plan, [server.base_url], concurrency)
        backend = OpenAIEndpoints(endpoints, plan.sampling(), plan.tokenizer, server)
        unless_handed_over.pop_all()
    return backend


def engine_settings(plan: Plan) -> EngineSettings:
    assert plan.capacity is not None  # `place` decided it
    assert plan.device is not None
    assert plan.checkpoint is not None
    return EngineSettings(
        model_path=plan.args.model_path,
        dtype=plan.dtype,
        state_dtype=plan.args.state_dtype,
        context=plan.context,
        max_num_seqs=plan.capacity.max_num_seqs,
        tensor_parallel_size=plan.args.tensor_parallel_size,
        on_cpu=plan.device.kind == "cpu",
        cache_bytes=plan.capacity.cache_bytes,
        has_states=plan.has_states,
        prefix_caching=plan.args.segment_len is None,
        quantization=plan.args.quantization,
        hf_overrides=rope_overrides(plan.checkpoint, plan.args.rope),
    )


def endpoint_settings(plan: Plan, urls: Sequence[str], concurrency: int) -> EndpointSettings:
    from promptcot_mamba.sampling.endpoint_pool import EndpointSettings
    from promptcot_mamba.sampling.endpoint_protocol import api_key

    cuts_by = ", ".join(plan.args.cuts_by)
    if plan.args.segment_len is not None and plan.args.base_url:
        log_once(
            "--segment_len: servers of a model with attention need --no-enable-prefix-caching for the very letters"
        )
    return EndpointSettings(
        base_urls=urls,
        model=plan.args.served_model_name or plan.args.model_path,
        is_named=plan.args.served_model_name is not None,
        context=plan.context,
        concurrency=concurrency,
        request_seconds=plan.args.request_timeout,
        patience_seconds=plan.args.patience,
        api_key=api_key(),
        chat=plan.args.api == "chat",
        template_kwargs=plan.args.template_kwargs,
        extra_body=plan.args.extra_fields,
        ca_file=plan.args.ca_file,
        token_ids=plan.args.save_partial or bool(cuts_by),
        cuts_by=cuts_by,
        gives_up=True,
        stream=plan.args.save_partial and plan.args.segment_len is None,
    )
