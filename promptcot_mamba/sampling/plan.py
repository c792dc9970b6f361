"""A run before it runs: which model, which engine, how many chains at once."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from promptcot_mamba.chat_format import closing_mark, marks_hold
from promptcot_mamba.checkpoint import Checkpoint, load_tokenizer, read_checkpoint, require_in_vllm, require_served
from promptcot_mamba.errors import InputError
from promptcot_mamba.log import log_once, logger
from promptcot_mamba.records import Problem
from promptcot_mamba.sampling.arguments import PROMPT_ROOM, SamplingArguments
from promptcot_mamba.sampling.backend import SamplingSettings
from promptcot_mamba.sampling.cache_cost import attention_heads, has_latents, state_heads
from promptcot_mamba.sampling.capacity import Capacity, Device, find_device, plan_capacity
from promptcot_mamba.sampling.chain import Cuts
from promptcot_mamba.sampling.decode import completion_text, special_tokens
from promptcot_mamba.sampling.layers import ATTENTION, BOTH, WINDOW, attention_layers, has_states, language_config
from promptcot_mamba.sampling.prompts import PromptBook, turns_before
from promptcot_mamba.sampling.recipes import read_problems
from promptcot_mamba.sampling.rope import model_context, rope_overrides
from promptcot_mamba.sampling.run_settings import read_started

SAMPLE_FLAGS = (
    *("n", "temperature", "top_p", "repetition_penalty", "max_len", "max_retries", "seed", "state_dtype"),
    *("prompt_from", "use_chat_template", "stop_on_loop", "top_k", "min_p", "system_prompt"),
    *("chat_template", "chat_template_kwargs", "thinking", "thinking_budget", "segment_len"),
    *("quantization", "rope_scaling", "api", "extra_body"),
)
DEFAULTS = {each.name: each.default for each in fields(SamplingArguments) if each.name in SAMPLE_FLAGS}
SAYS_NOTHING: dict[str, Any] = {"system": None, "template_args": {}, "top_k": 0, "min_p": 0.0}  # of a row's `sent`


@dataclass
class Plan:
    """Everything decided before an engine is loaded. `checkpoint` is None where only servers hold the model."""

    args: SamplingArguments
    problems: list[Problem]
    prompts: PromptBook
    checkpoint: Checkpoint | None
    tokenizer: Any
    device: Device | None = None
    capacity: Capacity | None = None

    @property
    def dtype(self) -> str:
        return self.checkpoint.dtype(self.args.dtype) if self.checkpoint else self.args.dtype

    @cached_property
    def sample_settings(self) -> dict[str, Any]:
        """Everything the samples depend on: what a rerun is compared by."""
        return {
            **{name: getattr(self.args, name) for name in SAMPLE_FLAGS},
            "extra_body": self.args.drawn_by,
            "dtype": self.dtype,
            "model": self.checkpoint.fingerprint()
            if self.checkpoint
            else self.args.served_model_name or self.args.model_path,
        }

    @property
    def context(self) -> int:
        """Tokens of prompt and completion together: what --max_len needs, or what the model has if that is less."""
        own = model_context(self.checkpoint, self.args.rope) if self.checkpoint is not None else None
        return min(self.args.context, own or self.args.context)

    @property
    def has_states(self) -> bool:
        return self.checkpoint is not None and has_states(self.checkpoint.config)

    def prompt_text(self, index: int) -> str:
        """What is sent for a problem, as its rows have it: the prompt, or the user's turn where the server renders."""
        return self.prompts.spoken(index) if self.args.api == "chat" else self.prompts.text(index)

    def most_tokens(self, index: int) -> int:
        """How long a chain of a problem may become: --max_len, or the room that its prompt leaves in the context."""
        ids = None if self.args.api == "chat" else self.prompts.get(index)[1]
        return self.args.max_len if ids is None else min(self.args.max_len, self.context - len(ids))

    def sent(self) -> dict[str, Any]:
        """What is sent beside the prompt: a row's `sent`, where `max_tokens` is what its chain may take.

        What it does not name was not sent, or changes nothing.
        """
        settings = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        sent = {name: getattr(self.args, name) for name in settings} | {"max_tokens": self.args.max_len}
        sent = {name: value for name, value in sent.items() if name not in self.args.extra_fields}  # null takes one out
        server = {"template": "server"} if self.args.api == "chat" else {}
        extra = {"extra_body": self.args.extra_fields} if self.args.extra_body else {}
        said = {**self.prompts.describe(), **server, **sent, **extra}
        return {name: value for name, value in said.items() if value != SAYS_NOTHING.get(name, ...)}

    def cuts(self) -> Cuts:
        sampling = self.sampling()
        special = special_tokens(self.tokenizer) if self.tokenizer else ()

        def closing(prompt: str, said: str) -> Sequence[int]:
            mark = closing_mark(prompt, said, self.args.thinking)
            if mark in special:  # which Mistral's own tokenizers do not read in a text
                return [self.tokenizer.convert_tokens_to_ids(mark)]
            return self.tokenizer(mark, add_special_tokens=False)["input_ids"]

        def text_of(prompt_ids: Sequence[int], ids: Sequence[int], reason: str) -> str:
            return completion_text(self.tokenizer, sampling, prompt_ids, ids, reason)

        return Cuts(self.args.segment_len, self.args.thinking_budget, closing, text_of, sampling.stop_token_ids)

    def sampling(self) -> SamplingSettings:
        # Thoughts that special tokens mark must be seen to begin and end; s1's are ChatML's own, and a model whose
        # tokenizer is not here may have any.
        skips = self.args.thinking == "none"
        if self.tokenizer is not None:
            skips = self.args.thinking != "s1" and not any(map(marks_hold, special_tokens(self.tokenizer)))
        endless = bool(self.args.extra_fields.get("ignore_eos"))  # of a stress test: its end would be another stop
        return SamplingSettings(
            temperature=self.args.temperature,
            top_p=self.args.top_p,
            repetition_penalty=self.args.repetition_penalty,
            stop_token_ids=(self.tokenizer.eos_token_id,) if self.tokenizer and not endless else (),
            skip_special_tokens=skips,
            stop_on_loop=self.args.stop_on_loop,
            ignore_eos=endless,
            top_k=self.args.top_k,
            min_p=self.args.min_p,
        )


def make_plan(args: SamplingArguments) -> Plan:
    """Read all that can be read without an engine; raises InputError for files and models that will not do."""
    problems = read_problems(args.data_path, args.benchmark, args.limit)
    checkpoint = read_checkpoint(args.model_path) if not args.base_url or Path(args.model_path).is_dir() else None
    if checkpoint is not None:
        args.model_path = str(checkpoint.path)  # where a name of the hub lies
    if checkpoint is None and args.use_mamba2 is not None:
        raise InputError(f"--use_mamba2: {args.model_path} is no folder here, so it cannot be checked; drop the flag")
    if checkpoint is not None:
        _check_model(args, checkpoint)
    tokenizer = load_tokenizer(args.model_path) if checkpoint is not None else None
    _check_together(args, tokenizer)
    if args.use_chat_template or args.api == "chat":
        for problem in problems:
            turns_before(problem, args.prompt_from)  # what it refuses would stop a run in its middle
    prompts = PromptBook(
        problems,
        tokenizer,
        source=args.prompt_from,
        use_chat_template=args.use_chat_template and args.api != "chat",
        chat_template=args.chat_template,
        system_prompt=args.system_prompt,
        template_args=args.template_kwargs,
        started=None if args.overwrite else read_started(args.output_path),
    )
    for index in prompts.of_each_kind() if prompts.template_text is not None else ():
        prompts.text(index)  # a template that cannot do it says so before an engine is loaded
    return Plan(args, problems, prompts, checkpoint, tokenizer)


def _check_model(args: SamplingArguments, checkpoint: Checkpoint) -> None:
    require_served(checkpoint)
    kind = checkpoint.config.get("model_type")
    if args.use_mamba2 is not None and args.use_mamba2 != checkpoint.is_mamba2:
        raise InputError(f"--use_mamba2 {args.use_mamba2}: {args.model_path} holds a {kind!r} model")
    if not args.base_url:
        require_in_vllm(checkpoint)
        rope_overrides(checkpoint, args.rope)
        _check_parts(args.tensor_parallel_size, checkpoint)
        _check_state_dtype(args, checkpoint)
    own = model_context(checkpoint, args.rope)
    if own is not None and own <= PROMPT_ROOM // 4:
        raise InputError(f"--model_path {args.model_path}: its context of {own} tokens leaves no room for a chain")
    if own is not None and args.context > own:
        logger.warning(
            "the model's context is %s tokens: chains end there, prompt included, not at --max_len %s",
            f"{own:,}", f"{args.max_len:,}",
        )  # fmt: skip


def _check_parts(parts: int, checkpoint: Checkpoint) -> None:
    """Raise InputError unless each of `parts` devices gets whole heads and groups of every layer, as vLLM asserts."""
    config = language_config(checkpoint.config)
    layers = attention_layers(config, ATTENTION, WINDOW, BOTH)
    said = f"--tensor_parallel_size {parts}: "
    for heads, kv_heads in {attention_heads(layer) for layer in layers}:
        if heads % parts:
            raise InputError(f"{said}must divide the model's num_heads of {heads}")
        if not has_latents(config) and kv_heads % parts and parts % kv_heads:
            raise InputError(f"{said}and the model's num_key_value_heads of {kv_heads}: one must divide the other")
    if not has_states(checkpoint.config):
        return
    heads, groups = state_heads(config)
    for name, count in (("num_heads", heads), ("n_groups", groups)):
        # Every part gets a copy of a single group; several groups are dealt out.
        if count % parts and (name, count) != ("n_groups", 1):
            raise InputError(f"{said}must divide the {name} of {count} of the model's states")


def _check_state_dtype(args: SamplingArguments, checkpoint: Checkpoint) -> None:
    """Keep states in float32 where the machine samples on its CPU: vLLM sets it back to that on most CPUs, whatever it
    is told, and the record of the samples has to be true."""
    if args.state_dtype == "float32" or not (checkpoint.is_mamba2 or has_states(checkpoint.config)):
        return
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        logger.warning("--state_dtype %s: on a CPU vLLM keeps states in float32; so does this run", args.state_dtype)
        args.state_dtype = "float32"


def _check_together(args: SamplingArguments, tokenizer: Any) -> None:
    """Raise InputError for flags that cannot do what they say beside each other."""
    by_tokens = [*(["--stop_on_loop"] if args.stop_on_loop else []), *args.cuts_by]
    if args.api == "chat":
        if not args.base_url:
            raise InputError("--api chat: is asked of servers; give --base_url, or use --use_chat_template True")
        if args.chat_template:
            raise InputError(
                "--chat_template with --api chat: the server writes prompts by its own template; start it with this "
                "one (vllm serve --chat-template) and say --chat_template ''"
            )
        if by_tokens:
            raise InputError(f"--api chat with {', '.join(by_tokens)}: the server renders prompts and tells no tokens")
        return
    if args.use_chat_template:
        by_tokens.append("--use_chat_template")
    elif args.system_prompt or args.chat_template or args.chat_template_kwargs:
        raise InputError(
            "--system_prompt, --chat_template, --chat_template_kwargs: are written by a chat template; add "
            "--use_chat_template True, or --api chat"
        )
    if tokenizer is None and by_tokens:
        raise InputError(
            f"{', '.join(by_tokens)}: the tokenizer is needed, and {args.model_path} is no folder here; give the "
            "checkpoint's folder, or --api chat"
        )


def place(plan: Plan, samples: int) -> None:
    """Decide devices and how many chains run at once, for `samples` that are missing."""
    args = plan.args
    if args.base_url:
        return
    assert plan.checkpoint is not None  # only servers do without
    plan.device = find_device(args.n_gpus)
    if (
        plan.device.kind == "cuda"
        and args.dtype == "auto"
        and plan.dtype == "float32"
        and not plan.checkpoint.is_mamba2
    ):
        log_once(f"{args.model_path} is stored in float32 and computed so, in twice the memory; --dtype bfloat16 is "
                 "what vLLM by itself makes of such a model")  # fmt: skip
    plan.capacity = plan_capacity(
        plan.checkpoint,
        plan.device,
        dtype=plan.dtype,
        state_dtype=args.state_dtype,
        context=plan.context,
        samples=-(-samples // args.replicas),
        tensor_parallel_size=args.tensor_parallel_size,
        max_num_seqs=args.max_num_seqs,
        quantization=args.quantization,
    )
