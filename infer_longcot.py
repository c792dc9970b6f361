"""Sample long chains of thought: problems.jsonl -> n samples a problem, written as they finish.

    python infer_longcot.py --data_path data/aime_test.jsonl --output_path data/aime_test_predictions.jsonl \
        --model_path /path/to/model --n_gpus 1 --temperature 0.8 --repetition_penalty 1.1 --max_len 65536 --n 16 \
        --max_retries 1 --use_mamba2 True

A rerun of the same command continues where the last one stopped, whatever stopped it.
"""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from promptcot_mamba.cli import EXIT_INTERRUPTED, parse_args, run_program
from promptcot_mamba.errors import InputError
from promptcot_mamba.log import get_logger
from promptcot_mamba.records import Problem, iter_problems
from promptcot_mamba.run_info import write_run_info
from promptcot_mamba.sampling.backend import Backend, SamplingSettings
from promptcot_mamba.sampling.capacity import find_device, plan_capacity
from promptcot_mamba.sampling.checkpoint import Checkpoint, load_tokenizer, read_checkpoint
from promptcot_mamba.sampling.ledger import Ledger
from promptcot_mamba.sampling.progress import Progress, Report, clock
from promptcot_mamba.sampling.prompts import PromptBook
from promptcot_mamba.sampling.run_settings import problems_fingerprint, refuse_changed, set_aside
from promptcot_mamba.sampling.scheduler import Scheduler

logger = get_logger("infer_longcot")

PROMPT_ROOM = 4096  # the context is max_len + 4,096, as published
EXIT_STOPPED = 1


@dataclass
class Arguments:
    """Flags of infer_longcot.py; sampling defaults are the paper's evaluation settings."""

    data_path: str = field(metadata={"help": "problems, one JSON object a line, with `prompt` or `question`"})
    output_path: str = field(metadata={"help": "predictions, one row a sample"})
    model_path: str = field(metadata={"help": "a Hugging Face checkpoint folder"})
    n_gpus: int = field(default=1, metadata={"help": "devices in all; replicas = n_gpus / tensor_parallel_size"})
    tensor_parallel_size: int = field(default=1, metadata={"help": "devices a replica is spread over"})
    temperature: float = 0.8
    top_p: float = 0.95
    repetition_penalty: float = 1.1
    max_len: int = field(default=65536, metadata={"help": "most tokens of a completion; the context is 4,096 more"})
    n: int = field(default=1, metadata={"help": "samples a problem"})
    max_retries: int = field(default=1, metadata={"help": "attempts in all until the format is valid; 1 is no retry"})
    use_mamba2: bool | None = field(default=None, metadata={"help": "assert that the checkpoint is (not) Mamba-2"})
    seed: int = field(default=0, metadata={"help": "base of every sample's own seed"})
    dtype: str = field(default="auto", metadata={"help": "auto, float32, bfloat16 or float16"})
    state_dtype: str = field(default="float32", metadata={"help": "dtype of the SSM state"})
    prompt_from: str = field(default="auto", metadata={"help": "auto, prompt or question"})
    use_chat_template: bool = field(default=False, metadata={"help": "wrap the text in the tokenizer's chat template"})
    stop_on_loop: bool = field(default=False, metadata={"help": "end chains that repeat themselves exactly"})
    max_num_seqs: int | None = field(default=None, metadata={"help": "chains at once; default: what fits"})
    format: str = field(default="rows", metadata={"help": "rows: one a sample; grouped: one a problem"})
    overwrite: bool = field(default=False, metadata={"help": "rename an earlier run's files instead of continuing it"})

    def __post_init__(self) -> None:
        if self.n < 1:
            raise InputError(f"--n {self.n}: must be at least 1")


def load_problems(args: Arguments) -> list[Problem]:
    problems = list(iter_problems(args.data_path))
    if not problems:
        raise InputError(f"--data_path {args.data_path}: the file is empty")
    return problems


def sample_settings(args: Arguments, checkpoint: Checkpoint, problems: list[Problem]) -> dict[str, Any]:
    """Everything the samples depend on: what a rerun is compared by."""
    names = ("n", "temperature", "top_p", "repetition_penalty", "max_len", "max_retries", "seed", "state_dtype")
    more = ("prompt_from", "use_chat_template", "stop_on_loop")
    return {
        **{name: getattr(args, name) for name in names + more},
        "dtype": checkpoint.dtype(args.dtype),
        "model": checkpoint.fingerprint(),
        "problems": problems_fingerprint(problems),
    }


def make_backend(args: Arguments, checkpoint: Checkpoint, tokenizer: Any, samples: int) -> Backend:
    from promptcot_mamba.sampling.vllm_engine import EngineSettings, VllmEngine

    context = args.max_len + PROMPT_ROOM
    device = find_device()
    dtype = checkpoint.dtype(args.dtype)
    capacity = plan_capacity(
        checkpoint,
        device,
        dtype=dtype,
        state_dtype=args.state_dtype,
        context=context,
        samples=samples,
        tensor_parallel_size=args.tensor_parallel_size,
        max_num_seqs=args.max_num_seqs,
    )
    settings = EngineSettings(
        model_path=args.model_path,
        dtype=dtype,
        state_dtype=args.state_dtype,
        context=context,
        max_num_seqs=capacity.max_num_seqs,
        tensor_parallel_size=args.tensor_parallel_size,
        on_cpu=device.kind == "cpu",
        cache_bytes=capacity.cache_bytes,
    )
    sampling = SamplingSettings(
        temperature=args.temperature,
        top_p=args.top_p,
        repetition_penalty=args.repetition_penalty,
        stop_token_ids=(tokenizer.eos_token_id,),
        stop_on_loop=args.stop_on_loop,
    )
    return VllmEngine(settings, sampling, is_mamba2=checkpoint.is_mamba2, tokenizer=tokenizer)


class Interrupt:
    """Ctrl-C or SIGTERM asks for a clean stop; a second one does not wait."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        logger.info("stopping: finished samples are kept (again to stop at once)")

    def __call__(self) -> bool:
        return self.asked


def main(argv: list[str] | None = None, make_backend=make_backend) -> int:
    args = parse_args(Arguments, argv, description=__doc__.split("\n\n")[0])
    problems = load_problems(args)
    checkpoint = read_checkpoint(args.model_path)
    if args.use_mamba2 is not None and args.use_mamba2 != checkpoint.is_mamba2:
        raise InputError(
            f"--use_mamba2 {args.use_mamba2}: {args.model_path} is a {checkpoint.config.get('model_type')!r} checkpoint"
        )
    tokenizer = load_tokenizer(args.model_path)
    prompts = PromptBook(problems, tokenizer, source=args.prompt_from, use_chat_template=args.use_chat_template)
    settings = sample_settings(args, checkpoint, problems)
    report = Report()
    if args.overwrite:
        set_aside(args.output_path)
    with Ledger(
        args.output_path, problems, args.n, args.max_retries, grouped=args.format == "grouped", on_settled=report.add
    ) as ledger:
        refuse_changed(args.output_path, settings)
        write_run_info(args.output_path, asdict(args), samples=settings)
        ledger.resume()
        stop = Interrupt()
        started = time.monotonic()
        tokens = 0
        if not ledger.complete:
            backend = make_backend(args, checkpoint, tokenizer, ledger.units - ledger.settled)
            progress = Progress(ledger.units, report)
            scheduler = Scheduler(
                ledger,
                backend,
                prompts,
                base_seed=args.seed,
                max_len=args.max_len,
                context=args.max_len + PROMPT_ROOM,
                tick=lambda: progress.show(backend.running(), backend.generated_tokens),
                should_stop=stop,
            )
            try:
                scheduler.run()
            finally:
                progress.end()
                tokens = backend.generated_tokens
                backend.close()
        ledger.finish()
        seconds = time.monotonic() - started
        write_run_info(
            args.output_path,
            asdict(args),
            samples=settings,
            complete=ledger.complete,
            results=report.summaries(),
            seconds=round(seconds, 3),
            generated_tokens=tokens,
        )
    if not ledger.complete:
        print(
            f"{ledger.settled} of {ledger.units} samples are in {args.output_path}; rerun the same command to continue"
        )
        return EXIT_INTERRUPTED
    print(report.table())
    print(f"{tokens:,} tokens in {clock(seconds)} ({tokens / max(seconds, 1e-9):,.0f} tok/s) -> {args.output_path}")
    return 0


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
