"""The flags of infer_longcot.py, and what is wrong with them."""

import json
from dataclasses import dataclass, field
from typing import Any

from promptcot_mamba.chat_format import THINKING
from promptcot_mamba.cli import flag
from promptcot_mamba.errors import InputError
from promptcot_mamba.log import logger
from promptcot_mamba.sampling.prompts import PROMPT_SOURCES
from promptcot_mamba.sampling.recipes import expand_benchmark

PROMPT_ROOM = 4096  # the context is max_len + 4,096, as published
DTYPES = ("auto", "float32", "bfloat16", "float16")
APIS = ("completions", "chat")
FORMATS = ("rows", "grouped")


def _flag(default: Any, text: str, **limits: Any) -> Any:
    return field(default=default, metadata={"help": text, **limits})


def _needed(text: str, **limits: Any) -> Any:
    return field(metadata={"help": text, **limits})


@dataclass
class SamplingArguments:
    """Flags of infer_longcot.py; the sampling defaults are the paper's evaluation settings (section on evaluation)."""

    data_path: str = _needed("problems, one JSON object a line, with `prompt` or `question`", elsewhere=True)
    output_path: str = _needed(
        "predictions, one row a sample; X.run.json and X.attempts.jsonl stand beside X.jsonl", writes="file"
    )
    model_path: str = _needed(
        "a Hugging Face checkpoint folder, or its name on the hub; with --base_url a served model's name will do",
        elsewhere=True,
    )

    benchmark: list[str] = flag("names: their problem files and recipes; one engine for several", factory=list)
    data_dir: str = _flag("data", "folder of the benchmarks' problem files", elsewhere=True)
    output_dir: str | None = _flag(None, "folder of a benchmark's predictions: <name>.jsonl", writes="folder")
    limit: int | None = _flag(None, "only the first problems of each source, to have a look")

    n: int = _flag(1, "samples a problem; raising it extends an earlier run")
    temperature: float = _flag(0.8, "0 is greedy")
    top_p: float = _flag(0.95, "nucleus of the probability mass that is sampled from")
    top_k: int = _flag(0, "most likely tokens that are sampled from; 0 is all")
    min_p: float = _flag(0.0, "tokens less likely than this share of the likeliest are left out; 0 is none")
    repetition_penalty: float = _flag(1.1, "1 is none")
    max_len: int = _flag(65536, "most tokens of a completion; the context is 4,096 more, or the model's own if shorter")
    max_retries: int = _flag(1, "attempts in all at a completion of valid format; 1 means no retry")
    seed: int = _flag(0, "base of every sample's own seed")
    use_mamba2: bool | None = _flag(None, "assert that the checkpoint is (True) or is not (False) Mamba-2")
    prompt_from: str = _flag("auto", "auto, prompt or question: which key of a row the prompt is made from")
    use_chat_template: bool = _flag(False, "write the text as a user turn of the tokenizer's chat template")
    system_prompt: str | None = _flag(None, "a system turn before the user's; needs the chat template or --api chat")
    chat_template_kwargs: str | None = _flag(None, 'JSON given to the template, such as {"enable_thinking": false}')
    thinking: str = _flag("auto", f"how a completion is read: {', '.join(THINKING)}")
    thinking_budget: int | None = _flag(None, "tokens after which an open thought is closed and the answer begins")
    segment_len: int | None = _flag(
        None, "sample in segments of so many tokens: an interrupted run gives the very letters of an uninterrupted one"
    )
    save_partial: bool = _flag(True, "save chains as they grow, so that a rerun continues them (X.partial.jsonl)")
    stop_on_loop: bool = _flag(False, "end chains that have fallen into exact repetition")
    stop_when_decided: bool = _flag(
        False, "maths: make no more samples of a problem whose majority no outcome can change; for maj@n, never avg@n"
    )
    save_logprobs: bool = _flag(
        False, "save each drawn token's log-probability and entropy, compressed (X.logprobs.jsonl)"
    )
    dtype: str = _flag("auto", "auto (the checkpoint's), float32, bfloat16 or float16")
    state_dtype: str = _flag("float32", "dtype of Mamba-2's state, hybrids' too; float32 keeps long chains exact")
    quantization: str | None = _flag(None, "of the weights, by vLLM's name: fp8, awq, gptq, bitsandbytes ...")
    rope_scaling: str | None = _flag(None, 'JSON: {"rope_type": "yarn", "factor": 4, ...}, for contexts beyond the own')

    n_gpus: int = _flag(1, "devices in all; replicas = n_gpus / tensor_parallel_size")
    tensor_parallel_size: int = _flag(1, "devices one replica is spread over")
    max_num_seqs: int | None = _flag(None, "chains at once in one replica; default: what fits into memory")
    base_url: list[str] = flag("OpenAI-compatible servers to ask instead of loading the model", factory=list)
    served_model_name: str | None = _flag(None, "the model's name on those servers")
    api: str = _flag("completions", "completions, or chat where servers render prompts by their own template")
    ca_file: str | None = _flag(None, "certificate (PEM) to trust besides the system's, for https with one's own")
    concurrency: int = _flag(256, "requests at once on one server")
    request_timeout: float = _flag(7200.0, "seconds one request may take on a server", above=0)
    patience: float = _flag(600.0, "seconds all servers may be away before the run stops", least=0)

    source: str | None = _flag(None, "where a recipe's settings come from, for X.run.json; changes nothing")
    format: str = _flag("rows", "rows: one a sample; grouped: one a problem, with lists")
    overwrite: bool = _flag(False, "rename an earlier run's files instead of continuing it")
    dry_run: bool = _flag(False, "print the plan and its cost, load nothing")

    expand_flags = staticmethod(expand_benchmark)

    def __post_init__(self) -> None:
        """Raise InputError for values no run can use; warn about what a person will hardly want."""
        for name in ("n", "max_len", "max_retries", "n_gpus", "tensor_parallel_size", "concurrency"):
            _require(name, getattr(self, name), getattr(self, name) >= 1, "must be at least 1")
        _require("temperature", self.temperature, 0 <= self.temperature <= 10, "must lie in 0..10")
        _require("top_p", self.top_p, 0 < self.top_p <= 1, "must lie in (0, 1]")
        _require("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0, "must be positive")
        _require("top_k", self.top_k, self.top_k >= 0, "must be at least 0 (0 is all tokens)")
        _require("min_p", self.min_p, 0 <= self.min_p <= 1, "must lie in 0..1")
        _require("thinking", self.thinking, self.thinking in THINKING, f"must be one of {', '.join(THINKING)}")
        _require("api", self.api, self.api in APIS, f"must be one of {', '.join(APIS)}")
        for name in ("segment_len", "thinking_budget", "max_num_seqs", "limit"):
            value = getattr(self, name)
            _require(name, value, value is None or value >= 1, "must be at least 1")
        for name in ("request_timeout", "patience"):
            _require(name, getattr(self, name), getattr(self, name) > 0, "must be positive")
        _json_object("chat_template_kwargs", self.chat_template_kwargs)
        _json_object("rope_scaling", self.rope_scaling)
        _require("dtype", self.dtype, self.dtype in DTYPES, f"must be one of {', '.join(DTYPES)}")
        _require("state_dtype", self.state_dtype, self.state_dtype in DTYPES[1:], f"must be one of {DTYPES[1:]}")
        _require("format", self.format, self.format in FORMATS, "must be rows or grouped")
        _require("prompt_from", self.prompt_from, self.prompt_from in PROMPT_SOURCES, f"is one of {PROMPT_SOURCES}")
        _require("output_path", self.output_path, self.output_path.endswith(".jsonl"), "must end in .jsonl")
        if self.n_gpus % self.tensor_parallel_size:
            raise InputError(
                f"--n_gpus {self.n_gpus}: is not a multiple of --tensor_parallel_size {self.tensor_parallel_size}"
            )
        if self.temperature == 0 and self.n > 1:
            logger.warning("--temperature 0 with --n %d: all samples of a problem will be identical", self.n)
        if self.temperature == 0 and self.max_retries > 1:
            logger.warning("--temperature 0 with --max_retries %d: every attempt will be identical", self.max_retries)

    @property
    def context(self) -> int:
        """What `max_len` needs; a plan cuts it to what the model has."""
        return self.max_len + PROMPT_ROOM

    @property
    def template_kwargs(self) -> dict[str, Any]:
        return _json_object("chat_template_kwargs", self.chat_template_kwargs)

    @property
    def rope(self) -> dict[str, Any]:
        return _json_object("rope_scaling", self.rope_scaling)

    @property
    def replicas(self) -> int:
        return self.n_gpus // self.tensor_parallel_size


def _require(name: str, value: Any, fine: bool, rule: str) -> None:
    if not fine:
        raise InputError(f"--{name} {value}: {rule}")


def _json_object(name: str, text: str | None) -> dict[str, Any]:
    """A flag's JSON object; empty where the flag is not given."""
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InputError(f"--{name} {text}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f'--{name} {text}: must be a JSON object, such as {{"key": value}}')
    return value
