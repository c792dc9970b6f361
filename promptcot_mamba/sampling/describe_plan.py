"""A plan in words, for --dry_run: what is asked, what fits, and what it may cost."""

from dataclasses import fields
from statistics import fmean
from typing import cast

from promptcot_mamba.sampling.arguments import SamplingArguments
from promptcot_mamba.sampling.capacity import GIB, MIB
from promptcot_mamba.sampling.plan import Plan
from promptcot_mamba.sampling.progress import clock
from promptcot_mamba.sampling.sessions import count_devices

MOST_PROMPTS = 5000  # that are tokenised
# Named where they are set; the first line of the sampling has the others.
NAMED_IF_SET = (
    *("top_k", "min_p", "seed", "dtype", "state_dtype", "quantization", "rope_scaling", "prompt_from", "api"),
    *("use_chat_template", "chat_template", "system_prompt", "chat_template_kwargs", "extra_body", "thinking"),
    *("thinking_budget", "segment_len", "stop_on_loop", "stop_when_decided", "save_logprobs"),
)
_UNSET = {each.name: each.default for each in fields(SamplingArguments)}


def describe(plan: Plan, settled: int, mean_tokens: float | None, measured_rate: float | None = None) -> str:
    """`mean_tokens` and `measured_rate` (tokens a second) are what earlier runs into the same file showed, if any."""
    args, units = plan.args, plan.args.n * len(plan.problems)
    missing = units - settled
    prompts = _prompt_lengths(plan)
    most = fmean(max(0, min(args.max_len, plan.context - length)) for length in prompts or [0])
    lines = [
        f"samples     {len(plan.problems):,} problems x {args.n} = {units:,}, {settled:,} done, {missing:,} to make",
        f"prompts     {_describe_prompts(plan, prompts)}",
        f"sampling    temperature {args.temperature}, top_p {args.top_p}, "
        f"repetition_penalty {args.repetition_penalty}, at most {most:,.0f} tokens, {args.max_retries} attempt(s)",
        *_describe_settings(args),
    ]
    if plan.capacity is None:
        lines.append(f"engine      {len(args.base_url)} server(s), {args.concurrency} requests at once on each")
        lines.append(f"cost        at most {missing * most:,.0f} tokens")
        return "\n".join(lines)
    engine, rate = _describe_engine(plan, missing)
    lines += engine
    if measured_rate:
        rate = measured_rate
        lines.append(f"            {rate:,.0f} tokens/s in the runs so far, which the cost goes by")
    whole = "reaches --max_len" if most == args.max_len else "fills the context"
    lengths: list[tuple[str, float]] = [(f"every chain {whole}", most)]
    if mean_tokens:
        lengths.insert(0, ("chains stay as long as those done", mean_tokens))
    for case, length in lengths:
        tokens = missing * length
        hours = tokens / rate / 3600
        lines.append(
            f"cost        {tokens:,.0f} tokens, {'about' if measured_rate else 'at least'} {clock(hours * 3600)} "
            f"and {hours * (count_devices(args, plan.device) or 0):,.2f} device-hours if {case}"
        )
    return "\n".join(lines)


def _describe_engine(plan: Plan, missing: int) -> tuple[list[str], float]:
    """What runs where and how fast at most, and that speed in tokens a second."""
    args, capacity, device = plan.args, plan.capacity, plan.device
    assert capacity is not None  # `place` decides both
    assert device is not None
    chains = capacity.max_num_seqs
    where = "in this process" if args.replicas == 1 else f"{args.replicas} replicas behind vllm serve"
    lines = [
        f"engine      vLLM {where}, {args.tensor_parallel_size} {device.kind} device(s) each, {plan.dtype}",
        f"memory      weights {capacity.weight_bytes / GIB:.2f} GiB + {chains} chains x "
        f"{capacity.typical_bytes / MIB:.2f} MiB = {chains * capacity.typical_bytes / GIB:.2f} GiB a device, "
        f"of {device.memory / GIB:.1f} GiB {'free' if device.kind == 'cpu' else 'in all'}",
    ]
    if capacity.sequence_bytes > capacity.typical_bytes:
        lines.append(
            f"            that is at {plan.context // 8:,} tokens each; one that fills the context holds "
            f"{capacity.sequence_bytes / MIB:,.2f} MiB, and others wait for it"
        )
    bandwidth = device.bandwidth()
    together = min(chains, max(1, -(-missing // args.replicas)))
    step = (capacity.weight_bytes + together * (capacity.typical_bytes + capacity.state_bytes)) / bandwidth
    rate = together / step * args.replicas
    lines.append(
        f"speed       at most {rate:,.0f} tokens/s: a step reads the weights and what each chain holds, and writes "
        f"states, at {bandwidth / 1e9:,.0f} GB/s"
    )
    return lines, rate


def _describe_settings(args: SamplingArguments) -> list[str]:
    said = [f"{name} {getattr(args, name)!r:.60}" for name in NAMED_IF_SET if getattr(args, name) != _UNSET[name]]
    return [f"            {', '.join(said)}"] if said else []


def _prompt_lengths(plan: Plan) -> list[int]:
    """Tokens of the first prompts; of none without a tokenizer, or where a server writes them."""
    if plan.tokenizer is None or plan.args.api == "chat":
        return []
    # A tokenizer is here, so that every prompt has its ids.
    looked_at = range(min(len(plan.problems), MOST_PROMPTS))
    return [len(cast("list[int]", plan.prompts.get(index)[1])) for index in looked_at]


def _describe_prompts(plan: Plan, lengths: list[int]) -> str:
    if not lengths:
        return "not counted: the server writes them" if plan.args.api == "chat" else "not counted: no tokenizer here"
    too_long = sum(length >= plan.context for length in lengths)
    said = f"{fmean(lengths):,.0f} tokens on average, {max(lengths):,} at most"
    if len(lengths) < len(plan.problems):
        said += f" (the first {len(lengths):,})"
    return f"{said}; {too_long:,} exceed the context and will be reported, not sampled" if too_long else said
