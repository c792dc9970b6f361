"""The flags of infer_longcot.py, and what is wrong with them."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from promptcot_mamba.chat_format import THINKING
from promptcot_mamba.cli import flag
from promptcot_mamba.errors import InputError
from promptcot_mamba.log import logger
from promptcot_mamba.sampling.endpoint_protocol import OF_ONE_PIECE
from promptcot_mamba.sampling.prompts import PROMPT_SOURCES
from promptcot_mamba.sampling.recipes import expand_benchmark

PROMPT_ROOM = 4096  # the context is max_len + 4,096, as published
DTYPES = ("auto", "float32", "bfloat16", "float16")
APIS = ("completions", "chat")
FORMATS = ("rows", "grouped")
LOADING_FLAGS = ("dtype", "state_dtype", "quantization", "tensor_parallel_size", "max_num_seqs")  # of what we load
SERVER_FLAGS = {"served_model_name": "", "ca_file": "", "concurrency": "; --max_num_seqs says how many chains run here"}
DRAWING_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")  # of a request's body, each a flag
OUR_FIELDS = {"model", "prompt", "messages", "seed", "n", "stream", "return_token_ids"}  # of a request's body


@dataclass
class SamplingArguments:
    """Flags of infer_longcot.py; the sampling defaults are the paper's evaluation settings (section on evaluation)."""

    data_path: str = flag("problems, one JSON object a line, with `prompt` or `question`", elsewhere=True)
    output_path: str = flag(
        "predictions, one row a sample; X.run.json and X.attempts.jsonl stand beside X.jsonl", writes="file"
    )
    model_path: str = flag(
        "a Hugging Face checkpoint folder, or its name on the hub; with --base_url a served model's name will do",
        elsewhere=True,
    )

    benchmark: list[str] = flag("names: their problem files and recipes; one engine for several", factory=list)
    data_dir: str = flag("folder of the benchmarks' problem files", default="data", elsewhere=True)
    output_dir: str | None = flag("folder of a benchmark's predictions: <name>.jsonl", default=None, writes="folder")
    limit: int | None = flag("only the first problems of each source, to have a look", default=None, least=1)

    n: int = flag("samples a problem; raising it extends an earlier run", default=1, least=1)
    temperature: float = flag("0 is greedy", default=0.8, least=0, most=10)
    top_p: float = flag("nucleus of the probability mass that is sampled from", default=0.95, above=0, most=1)
    top_k: int = flag("most likely tokens that are sampled from; 0 is all", default=0, least=0)
    min_p: float = flag(
        "tokens less likely than this share of the likeliest are left out; 0 is none", default=0.0, least=0, most=1
    )
    repetition_penalty: float = flag("1 is none", default=1.1, above=0)
    max_len: int = flag(
        "most tokens of a completion; the context is 4,096 more, or the model's own if shorter", default=65536, least=1
    )
    max_retries: int = flag("attempts in all at a completion of valid format; 1 means no retry", default=1, least=1)
    seed: int = flag("base of every sample's own seed", default=0)
    use_mamba2: bool | None = flag("assert that the checkpoint is (True) or is not (False) Mamba-2", default=None)
    prompt_from: str = flag(
        "auto, prompt or question: which key of a row the prompt is made from", default="auto", choices=PROMPT_SOURCES
    )
    use_chat_template: bool = flag("write the text as a user turn of the tokenizer's chat template", default=False)
    system_prompt: str | None = flag(
        "a system turn for all, in place of the prompts' own, or '' for none; needs the chat template or --api chat",
        default=None,
    )
    chat_template: str | None = flag(
        "a chat template in place of the tokenizer's own: a file, or the template itself; '' is the tokenizer's",
        default=None,
    )
    chat_template_kwargs: str | None = flag(
        'JSON given to the template, such as {"enable_thinking": false}', default=None
    )
    thinking: str = flag("how a completion is read", default="auto", choices=THINKING)
    thinking_budget: int | None = flag(
        "tokens after which an open thought is closed and the answer begins", default=None, least=1
    )
    segment_len: int | None = flag(
        "sample in segments of so many tokens, 8192 if none are named: an interrupted run gives the very letters of an "
        "uninterrupted one",
        default=None,
        least=1,
        nargs="?",
        const=8192,
    )
    save_partial: bool = flag(
        "save chains as they grow, so that a rerun continues them (X.partial.jsonl); segments are saved always",
        default=True,
    )
    stop_on_loop: bool = flag("end chains that have fallen into exact repetition", default=False)
    stop_when_decided: bool = flag(
        "maths: make no more samples of a problem whose majority no outcome can change; for maj@n, never avg@n",
        default=False,
    )
    save_logprobs: bool = flag(
        "save each drawn token's log-probability and entropy, compressed (X.logprobs.jsonl)", default=False
    )
    dtype: str = flag("of the weights; auto is the checkpoint's", default="auto", choices=DTYPES)
    state_dtype: str = flag(
        "dtype of Mamba-2's state, hybrids' too; float32 keeps long chains exact", default="float32", choices=DTYPES[1:]
    )
    quantization: str | None = flag("of the weights, by vLLM's name, such as fp8 or awq", default=None)
    rope_scaling: str | None = flag(
        'JSON: {"rope_type": "yarn", "factor": 4, ...}, for contexts beyond the own', default=None
    )

    n_gpus: int = flag("devices in all; replicas = n_gpus / tensor_parallel_size", default=1, least=1)
    tensor_parallel_size: int = flag("devices one replica is spread over", default=1, least=1)
    max_num_seqs: int | None = flag(
        "chains at once in one replica; default: what fits into memory", default=None, least=1
    )
    base_url: list[str] = flag("OpenAI-compatible servers to ask instead of loading the model", factory=list)
    served_model_name: str | None = flag("the model's name on those servers", default=None)
    api: str = flag(
        "completions, or chat where servers render prompts by their own template", default="completions", choices=APIS
    )
    extra_body: str | None = flag(
        'JSON put into every request, such as {"reasoning_effort": "high"}; null takes a field out', default=None
    )
    ca_file: str | None = flag(
        "certificate (PEM) to trust besides the system's, for https with one's own", default=None
    )
    concurrency: int = flag("requests at once on one server", default=256, least=1)
    request_timeout: float = flag("seconds one request may take on a server", default=7200.0, above=0)
    patience: float = flag("seconds all servers may be away before the run stops", default=600.0, above=0)

    source: str | None = flag("where a recipe's settings come from, for X.run.json; changes nothing", default=None)
    format: str = flag("rows: one a sample; grouped: one a problem, with lists", default="rows", choices=FORMATS)
    overwrite: bool = flag("rename an earlier run's files instead of continuing it", default=False)
    dry_run: bool = flag("print the plan and its cost, load nothing", default=False)

    expand_flags = staticmethod(expand_benchmark)

    def __post_init__(self) -> None:
        """Raise InputError for values no run can use; warn about what a person will hardly want."""
        self.chat_template = _read_template(self.chat_template) if self.chat_template else None
        _json_object("chat_template_kwargs", self.chat_template_kwargs)
        _json_object("rope_scaling", self.rope_scaling)
        if _json_object("extra_body", self.extra_body) and not self.base_url:
            raise InputError("--extra_body: is sent to servers; give --base_url")
        self._check_extra_fields()
        if not self.output_path.endswith(".jsonl"):
            raise InputError(f"--output_path {self.output_path}: must end in .jsonl")
        if self.n_gpus % self.tensor_parallel_size:
            raise InputError(
                f"--n_gpus {self.n_gpus}: is not a multiple of --tensor_parallel_size {self.tensor_parallel_size}"
            )
        defaults = {each.name: each.default for each in fields(self)}
        given = [f"--{name}" for name in LOADING_FLAGS if getattr(self, name) != defaults[name]]
        if self.base_url and given:  # recipes may hold them, and be right for either
            logger.warning("%s: with --base_url the servers decide that; changes nothing here", ", ".join(given))
        for name, instead in SERVER_FLAGS.items():
            if not self.base_url and getattr(self, name) != defaults[name]:
                logger.warning("--%s: is for servers (--base_url), and changes nothing here%s", name, instead)
        if self.base_url and self.rope_scaling:
            logger.warning(
                "--rope_scaling: with --base_url the servers scale as they were started (vllm serve --hf-overrides); "
                "here it only says how long a chain they may be asked for"
            )
        if self.temperature == 0 and self.n > 1:
            logger.warning("--temperature 0 with --n %d: all samples of a problem will be identical", self.n)
        if self.temperature == 0 and self.max_retries > 1:
            logger.warning("--temperature 0 with --max_retries %d: every attempt will be identical", self.max_retries)

    def _check_extra_fields(self) -> None:
        given = {name for name, value in self.extra_fields.items() if value}
        # Some servers stream alone, some gateways cut what is silent for long, and some servers refuse a seed.
        left = {name for name, value in {"stream": True, "seed": None}.items() if self.extra_fields.get(name) is value}
        if taken := sorted((OUR_FIELDS & set(self.extra_fields)) - left):
            raise InputError(f"--extra_body: {taken[0]!r} is this program's to say")
        if flags := [name for name in DRAWING_FIELDS if self.extra_fields.get(name) is not None]:
            raise InputError(f"--extra_body: {flags[0]!r} is a flag; say --{flags[0]}")
        if "max_tokens" in given or ("max_completion_tokens" in given and self.api != "chat"):
            raise InputError("--extra_body: the most tokens of a completion are this program's to say; give --max_len")
        if self.cuts_by and (whole := sorted(given & set(OF_ONE_PIECE))):
            name = f"--extra_body: {whole[0]!r} holds for a chain in one piece"
            raise InputError(f"{name}; drop it, or {self.cuts_by[0]}, which cuts chains")

    @property
    def cuts_by(self) -> list[str]:
        """The flags by which chains are cut and go on."""
        return [f"--{name}" for name in ("segment_len", "thinking_budget") if getattr(self, name) is not None]

    @property
    def context(self) -> int:
        """What `max_len` needs; a plan cuts it to what the model has."""
        return self.max_len + PROMPT_ROOM

    @property
    def template_kwargs(self) -> dict[str, Any]:
        return _json_object("chat_template_kwargs", self.chat_template_kwargs)

    @property
    def extra_fields(self) -> dict[str, Any]:
        return _json_object("extra_body", self.extra_body)

    @property
    def drawn_by(self) -> str | None:
        """`extra_body` as far as samples depend on it: a rerun may stream what the first run did not."""
        rest = {name: value for name, value in self.extra_fields.items() if name not in ("stream", "stream_options")}
        return self.extra_body if rest == self.extra_fields else json.dumps(rest) if rest else None

    @property
    def rope(self) -> dict[str, Any]:
        return _json_object("rope_scaling", self.rope_scaling)

    @property
    def replicas(self) -> int:
        return self.n_gpus // self.tensor_parallel_size


def _read_template(told: str) -> str:
    """The template itself, or the text of a file, as vLLM's --chat-template is told; out of its JSON where it is the
    `chat_template.json` of an older multimodal repository. Raises InputError for a file or JSON that holds none."""
    text, shown = told, told[:80]
    if not set("{}\n") & set(told):
        try:
            text, shown = Path(told).read_text(encoding="utf-8"), told
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"--chat_template {told}: neither a file that can be read nor a template ({error})"
            ) from None
    try:
        found = json.loads(text)
    except ValueError:  # as it is meant to be
        return text
    template = found.get("chat_template") if isinstance(found, dict) else None
    if not isinstance(template, str):
        raise InputError(f'--chat_template {shown}: JSON without a text "chat_template"; give the template itself')
    return template


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
