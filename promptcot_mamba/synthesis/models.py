"""Models by name, as `configs/synthesis.yaml` lists them: vLLM in this process, or OpenAI-compatible servers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from promptcot_mamba.chat_format import marks_hold
from promptcot_mamba.checkpoint import load_tokenizer, read_checkpoint, require_in_vllm, require_served
from promptcot_mamba.errors import InputError
from promptcot_mamba.sampling.backend import SamplingSettings
from promptcot_mamba.sampling.capacity import find_device, plan_capacity
from promptcot_mamba.sampling.decode import special_tokens
from promptcot_mamba.sampling.layers import has_states
from promptcot_mamba.synthesis.asking import Model
from promptcot_mamba.synthesis.stage import settings_from
from promptcot_mamba.synthesis.templates import OURS, Format, load_format

if TYPE_CHECKING:
    from promptcot_mamba.sampling.openai_endpoint import OpenAIEndpoints
    from promptcot_mamba.sampling.vllm_engine import VllmEngine

# What changes speed or patience, never a reply.
PLACEMENT = (
    *("model_path", "max_num_seqs", "tensor_parallel_size", "base_url"),
    *("concurrency", "request_timeout", "patience"),
)


@dataclass(frozen=True)
class ModelSettings:
    """One entry under `models`.

    model_path: a checkpoint folder; chat_template: wrap prompts in its chat template (instruction models), or send
    them as they are (our problem generator); context: prompt and reply together, in tokens.

    base_url: servers to ask instead of loading the checkpoint, which serve it under `served_model_name` (default:
    model_path). With them model_path is only where the tokenizer lies; without it the server applies the chat
    template, and cannot be asked for likelihoods.

    format: its prompts and markup, by name (`prompts/`) or the path of a YAML file; repair: whether it is shown, once,
    a reply of its own that cannot be read; by default if it has a chat template, since a raw generator cannot follow.
    """

    model_path: str | None = None
    temperature: float = 0.6
    top_p: float = 0.95
    repetition_penalty: float = 1.0
    chat_template: bool = True
    context: int = 8192
    dtype: str = "auto"
    max_num_seqs: int | None = None
    tensor_parallel_size: int = 1
    base_url: list[str] = field(default_factory=list)
    served_model_name: str | None = None
    concurrency: int = 256
    request_timeout: float = 1800.0
    patience: float = 600.0
    format: str = OURS
    repair: bool | None = None

    def __post_init__(self) -> None:
        if isinstance(self.base_url, str):
            object.__setattr__(self, "base_url", [self.base_url])
        if not self.base_url and self.model_path is None:
            raise InputError("a model needs model_path, or base_url and served_model_name")
        if self.base_url and not (self.served_model_name or self.model_path):
            raise InputError(f"base_url {self.base_url[0]}: served_model_name is missing; it says which model to ask")
        load_format(self.format)

    def sampling(self, tokenizer: Any) -> SamplingSettings:
        """How replies are drawn; they end at the tokenizer's end of text, or at the server's."""
        ends = () if tokenizer is None else (tokenizer.eos_token_id,)
        marked = tokenizer is not None and any(map(marks_hold, special_tokens(tokenizer)))
        return SamplingSettings(self.temperature, self.top_p, self.repetition_penalty, ends, not marked)


class TextModel(ABC):
    """What both kinds of model share: rendering, tokens and likelihoods. `backend` starts when first asked."""

    def __init__(self, name: str, settings: ModelSettings):
        self.name, self.settings, self.context = name, settings, settings.context
        self.tokenizer = None if settings.model_path is None else load_tokenizer(settings.model_path)
        has_template = getattr(self.tokenizer, "chat_template", None) is not None
        if settings.chat_template and self.tokenizer is not None and not has_template:
            raise InputError(f"{settings.model_path}: the tokenizer has no chat template; set chat_template: false")
        self.identity = {name: value for name, value in asdict(settings).items() if name not in PLACEMENT}
        if settings.format == OURS:
            del self.identity["format"]
        else:
            self.identity["format"] = load_format(settings.format).fingerprint
        if settings.repair is None:
            del self.identity["repair"]

    @cached_property
    def backend(self) -> VllmEngine | OpenAIEndpoints:
        """The engine or the connections; slow to start."""
        return self._start()

    @abstractmethod
    def _start(self) -> VllmEngine | OpenAIEndpoints: ...

    def close(self) -> None:
        """Free the engine or the connections, if they were started."""
        if "backend" in vars(self):
            self.backend.close()
            del self.backend

    def render(self, prompt: str) -> str:
        """The prompt within the chat template; as it is where none is wanted, or the server applies its own."""
        if not self.settings.chat_template or self.tokenizer is None:
            return prompt
        messages = [{"role": "user", "content": prompt}]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def encode(self, text: str) -> list[int] | None:
        """A rendered chat template writes its own beginning-of-text token, so none is added to it."""
        if self.tokenizer is None:
            return None
        return self.tokenizer(text, add_special_tokens=not self.settings.chat_template)["input_ids"]

    def score(self, pairs: Iterable[tuple[str, str]]) -> Iterator[float | None]:
        """Continuations are tokenised apart from their prompts and end in eos, as in training.

        None for a pair longer than the context. Raises InputError for a server whose tokenizer is not at hand.
        """
        if self.tokenizer is None:
            raise InputError(f"models: {self.name}: likelihoods need its tokenizer; set model_path to a folder with it")
        fits: deque[bool] = deque()  # of the pairs read but not yet yielded: back ends read ahead

        def fitting() -> Iterator[tuple[list[int], int]]:
            for prompt, continuation in pairs:
                ids, start = self._sequence(prompt, continuation)
                fits.append(len(ids) < self.context)  # room for the one token that an engine insists on drawing
                if fits[-1]:
                    yield ids, start

        for score in self.backend.log_likelihoods(fitting()):
            while not fits.popleft():
                yield None
            yield score
        yield from (None for _ in fits)

    def _sequence(self, prompt: str, continuation: str) -> tuple[list[int], int]:
        start = self.encode(self.render(prompt))
        assert self.tokenizer is not None  # `score` looked
        assert start is not None
        rest = self.tokenizer(continuation, add_special_tokens=False)["input_ids"]
        return [*start, *rest, self.tokenizer.eos_token_id], len(start)


class VllmModel(TextModel):
    """A checkpoint served by vLLM in this process."""

    def __init__(self, name: str, settings: ModelSettings):
        assert settings.model_path is not None  # else it has servers
        self.checkpoint = read_checkpoint(settings.model_path)
        require_served(self.checkpoint)
        require_in_vllm(self.checkpoint)
        super().__init__(name, settings)
        del self.identity["served_model_name"]
        self.identity["fingerprint"] = self.checkpoint.fingerprint()

    def _start(self) -> VllmEngine:
        from promptcot_mamba.sampling.vllm_engine import EngineSettings, VllmEngine

        settings, device = self.settings, find_device()
        dtype = self.checkpoint.dtype(settings.dtype)
        capacity = plan_capacity(
            self.checkpoint,
            device,
            dtype=dtype,
            state_dtype="float32",
            context=settings.context,
            samples=1 << 20,
            tensor_parallel_size=settings.tensor_parallel_size,
            max_num_seqs=settings.max_num_seqs,
        )
        engine = EngineSettings(
            model_path=str(self.checkpoint.path),
            dtype=dtype,
            state_dtype="float32",
            context=settings.context,
            max_num_seqs=capacity.max_num_seqs,
            tensor_parallel_size=settings.tensor_parallel_size,
            on_cpu=device.kind == "cpu",
            cache_bytes=capacity.cache_bytes,
            has_states=has_states(self.checkpoint.config),
        )
        sampling = settings.sampling(self.tokenizer)
        return VllmEngine(engine, sampling, is_mamba2=self.checkpoint.is_mamba2, tokenizer=self.tokenizer)


class EndpointModel(TextModel):
    """A model behind OpenAI-compatible servers; `OPENAI_API_KEY` is sent where it is set."""

    def __init__(self, name: str, settings: ModelSettings):
        super().__init__(name, settings)
        self.identity["served_model_name"] = settings.served_model_name or settings.model_path
        del self.identity["dtype"]  # the server's own

    def _start(self) -> OpenAIEndpoints:
        from promptcot_mamba.sampling.endpoint_pool import EndpointSettings
        from promptcot_mamba.sampling.endpoint_protocol import api_key
        from promptcot_mamba.sampling.openai_endpoint import OpenAIEndpoints

        settings = self.settings
        endpoints = EndpointSettings(
            base_urls=settings.base_url,
            model=self.identity["served_model_name"],
            context=settings.context,
            concurrency=settings.concurrency,
            request_seconds=settings.request_timeout,
            patience_seconds=settings.patience,
            api_key=api_key(),
            chat=settings.chat_template and self.tokenizer is None,
        )
        return OpenAIEndpoints(endpoints, settings.sampling(self.tokenizer), self.tokenizer)


class ModelBook:
    """Opens each named model once. In-process engines are big, so opening one closes the one before."""

    def __init__(self, models: dict[str, dict[str, Any]]):
        self._settings = {
            name: settings_from(ModelSettings, values, f"models: {name}") for name, values in models.items()
        }
        self._open: TextModel | None = None

    def __call__(self, name: str) -> Model:
        """The model of this name; raises InputError listing the known ones."""
        settings = self._find(name)
        if self._open is None or self._open.name != name:
            self.close()
            self._open = (EndpointModel if settings.base_url else VllmModel)(name, settings)
        return self._open

    def format(self, name: str) -> Format:
        """How this model is asked and answers; raises InputError as calling does."""
        settings = self._find(name)
        repairs = settings.chat_template if settings.repair is None else settings.repair
        return replace(load_format(settings.format), repairs=repairs)

    def _find(self, name: str) -> ModelSettings:
        if name not in self._settings:
            raise InputError(f"model {name!r} is not under `models`; known: {', '.join(self._settings) or 'none'}")
        return self._settings[name]

    def close(self) -> None:
        """Free the open model."""
        if self._open is not None:
            self._open.close()
        self._open = None
