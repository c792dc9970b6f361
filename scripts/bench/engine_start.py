r"""How long an engine takes until its first tokens: vLLM's default path against infer_longcot.py's.

    python -m scripts.bench.engine_start --model_path /path/to/model --pairs 3

Each start is a process of its own, timed from the interpreter's start to the end of an eight-token completion. The
default path is `LLM(model)` with the same dtype and context, and a share of memory that is free on a machine in use
(its default of 0.92 seldom is). Writes docs/records/engine_start.json.
"""

import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from promptcot_mamba.bench_record import RecordTable, report_record
from promptcot_mamba.cli import flag, parse_args, run_program

PROMPT, TOKENS = [5, 6, 7], 8


@dataclass
class StartArguments:
    model_path: str = flag("a checkpoint; a tiny one shows the engine's own time")
    context: int = 4608
    pairs: int = flag("starts of each, in turn; medians are compared", default=3)
    memory_fraction: float = flag("gpu_memory_utilization of the default path", default=0.2)
    record: str = "docs/records/engine_start.json"
    start: str | None = flag("make one start and nothing else", default=None, choices=("default", "ours"))


def start_default(args: StartArguments) -> None:
    from vllm import LLM, SamplingParams

    memory = {"gpu_memory_utilization": args.memory_fraction}
    llm = LLM(args.model_path, dtype="float32", max_model_len=args.context, **memory)
    llm.generate([{"prompt_token_ids": PROMPT}], SamplingParams(max_tokens=TOKENS, temperature=0))


def start_ours(args: StartArguments) -> None:
    from promptcot_mamba.checkpoint import load_tokenizer, read_checkpoint
    from promptcot_mamba.sampling.backend import Request, SamplingSettings
    from promptcot_mamba.sampling.capacity import find_device, plan_capacity
    from promptcot_mamba.sampling.vllm_engine import EngineSettings, VllmEngine

    checkpoint, tokenizer = read_checkpoint(args.model_path), load_tokenizer(args.model_path)
    device, dtype = find_device(), "float32"
    capacity = plan_capacity(checkpoint, device, dtype=dtype, state_dtype=dtype, context=args.context, samples=960)
    settings = EngineSettings(
        args.model_path, dtype=dtype, state_dtype=dtype, context=args.context, max_num_seqs=capacity.max_num_seqs,
        cache_bytes=capacity.cache_bytes, on_cpu=device.kind == "cpu",
    )  # fmt: skip
    sampling = SamplingSettings(0.0, 1.0, 1.0, ())
    engine = VllmEngine(settings, sampling, is_mamba2=checkpoint.is_mamba2, tokenizer=tokenizer)
    engine.submit(Request(0, 0, 0, "", PROMPT, TOKENS))
    while not engine.poll(1.0):
        pass
    engine.close()


STARTS = {"default": start_default, "ours": start_ours}


def time_start(name: str, args: StartArguments) -> float:
    """Wall seconds of one start, in a process of its own."""
    flags = asdict(args) | {"start": name}
    started = time.perf_counter()
    command = [sys.executable, "-m", "scripts.bench.engine_start", *(f"--{key}={flags[key]}" for key in flags)]
    subprocess.run(command, check=True, capture_output=True)
    return round(time.perf_counter() - started, 2)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(StartArguments, argv, description=__doc__)
    if args.start is not None:
        STARTS[args.start](args)
        return 0
    seconds: dict[str, list[float]] = {name: [] for name in STARTS}
    for pair in range(args.pairs):
        for name, times in seconds.items():
            times.append(time_start(name, args))
        said = ", ".join(f"{name} {times[-1]:.1f} s" for name, times in seconds.items())
        print(f"pair {pair}: {said}", file=sys.stderr)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratio = medians["ours"] / medians["default"]
    caption = f"One start and {TOKENS} tokens, in a fresh process; medians of {args.pairs} pairs."
    cells = [f"{medians['default']:.1f}", f"{medians['ours']:.1f}", f"{ratio:.2f}"]
    table = RecordTable(caption, ["vLLM's default path, s", "ours, s", "ratio"], [cells])
    results = {"seconds": seconds, "medians": medians, "ratio": ratio}
    report_record(args, title="vLLM engine start-up", tables=[table], results=results)
    return 0


if __name__ == "__main__":
    run_program(main)
