"""Models by name, as `configs/synthesis.yaml` lists them: vLLM in this process, or an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from promptcot_mamba.errors import InputError
from promptcot_mamba.sampling.backend import SamplingSettings
from promptcot_mamba.sampling.capacity import find_device, plan_capacity
from promptcot_mamba.sampling.checkpoint import load_tokenizer, read_checkpoint
from promptcot_mamba.synthesis.stage import Model, settings_from


@dataclass(frozen=True)
class ModelSettings:
    """One entry under `models`.

    model_path: a checkpoint folder; chat_template: wrap prompts in its chat template (instruction models), or send
    them as they are (our problem generator); context: prompt and reply together, in tokens.
    """

    model_path: str
    temperature: float = 0.6
    top_p: float = 0.95
    repetition_penalty: float = 1.0
    chat_template: bool = True
    context: int = 8192
    dtype: str = "auto"
    max_num_seqs: int | None = None
    tensor_parallel_size: int = 1


class VllmModel:
    """A checkpoint served by vLLM in this process, loaded when first asked."""

    def __init__(self, settings: ModelSettings):
        self.settings = settings
        self.checkpoint = read_checkpoint(settings.model_path)
        self.tokenizer = load_tokenizer(settings.model_path)
        if settings.chat_template and getattr(self.tokenizer, "chat_template", None) is None:
            raise InputError(f"{settings.model_path}: the tokenizer has no chat template; set chat_template: false")
        named = asdict(settings)
        for placement in ("model_path", "max_num_seqs", "tensor_parallel_size"):
            named.pop(placement)
        self.identity = {**named, "fingerprint": self.checkpoint.fingerprint()}

    @cached_property
    def backend(self) -> Any:
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
            model_path=settings.model_path,
            dtype=dtype,
            state_dtype="float32",
            context=settings.context,
            max_num_seqs=capacity.max_num_seqs,
            tensor_parallel_size=settings.tensor_parallel_size,
            on_cpu=device.kind == "cpu",
            cache_bytes=capacity.cache_bytes,
        )
        sampling = SamplingSettings(
            temperature=settings.temperature,
            top_p=settings.top_p,
            repetition_penalty=settings.repetition_penalty,
            stop_token_ids=(self.tokenizer.eos_token_id,),
        )
        return VllmEngine(engine, sampling, is_mamba2=self.checkpoint.is_mamba2, tokenizer=self.tokenizer)

    def render(self, prompt: str) -> str:
        if not self.settings.chat_template:
            return prompt
        messages = [{"role": "user", "content": prompt}]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def encode(self, text: str) -> list[int]:
        """A rendered chat template writes its own beginning-of-text token, so none is added to it."""
        return self.tokenizer(text, add_special_tokens=not self.settings.chat_template)["input_ids"]

    def score(self, pairs: Iterable[tuple[str, str]]) -> Iterator[float]:
        """Continuations are tokenised apart from their prompts and end in eos, as in training."""
        yield from self.backend.log_likelihoods(self._sequence(prompt, continuation) for prompt, continuation in pairs)

    def _sequence(self, prompt: str, continuation: str) -> tuple[list[int], int]:
        start = self.encode(self.render(prompt))
        rest = self.tokenizer(continuation, add_special_tokens=False)["input_ids"]
        return [*start, *rest, self.tokenizer.eos_token_id], len(start)


class ModelBook:
    """Opens each named model once. In-process engines are big, so opening one closes the one before."""

    def __init__(self, models: dict[str, dict[str, Any]]):
        self._settings = {
            name: settings_from(ModelSettings, values, f"models: {name}") for name, values in models.items()
        }
        self._open: tuple[str, VllmModel] | None = None

    def __call__(self, name: str) -> Model:
        """The model of this name; raises InputError listing the known ones."""
        if name not in self._settings:
            raise InputError(f"model {name!r} is not under `models`; known: {', '.join(self._settings) or 'none'}")
        if self._open is None or self._open[0] != name:
            self.close()
            self._open = (name, VllmModel(self._settings[name]))
        return self._open[1]

    def close(self) -> None:
        """Free the open model's engine, if it was started."""
        if self._open is not None and "backend" in vars(self._open[1]):
            self._open[1].backend.close()
        self._open = None
