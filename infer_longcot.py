r"""Sample long chains of thought: problems.jsonl -> n samples a problem, each written as it finishes.

    python infer_longcot.py --data_path data/aime_test.jsonl --output_path data/aime_test_predictions.jsonl \
        --model_path /path/to/model --n_gpus 1 --temperature 0.8 --repetition_penalty 1.1 --max_len 65536 --n 16 \
        --max_retries 1 --use_mamba2 True

    python infer_longcot.py --benchmark aime math500 --output_dir outputs/eval/7b --model_path /path/to/model

The second line takes each benchmark's own problem file and settings, and starts one engine for all of them.
Whatever stops it, a rerun of the same command continues, chains under way included. Beside X.jsonl stand
X.attempts.jsonl (every attempt), X.partial.jsonl (chains under way) and X.run.json (how it was made, at what cost). See
docs/sampling.md for other models, for many GPUs and many nodes.
"""

import errno
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict

from promptcot_mamba.cli import EXIT_INTERRUPTED, parse_args, run_program
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import DurableAppender, write_json
from promptcot_mamba.log import logger
from promptcot_mamba.records import Problem, Sample
from promptcot_mamba.run_info import describe_run, side_path
from promptcot_mamba.sampling.arguments import SamplingArguments
from promptcot_mamba.sampling.backend import Backend, BackendFailedError
from promptcot_mamba.sampling.decisions import Decisions
from promptcot_mamba.sampling.engines import make_backend
from promptcot_mamba.sampling.healing import heal_scores
from promptcot_mamba.sampling.ledger import Ledger, count_settled
from promptcot_mamba.sampling.partial import PartialFile
from promptcot_mamba.sampling.plan import DEFAULTS, Plan, describe, make_plan, place
from promptcot_mamba.sampling.progress import Progress, Report, clock
from promptcot_mamba.sampling.recipes import split_benchmarks
from promptcot_mamba.sampling.run_settings import (
    TEMPLATE_TIME,
    read_sessions,
    read_stopped,
    refuse_changed,
    set_aside,
    settings_hash,
)
from promptcot_mamba.sampling.scheduler import Scheduler
from promptcot_mamba.sampling.sessions import Session, count_devices, device_hours, speed_per_device
from promptcot_mamba.sampling.shared import EXIT_LEFT, sample_each
from promptcot_mamba.stop_signal import StopSignal

EXIT_FAILED = 1
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class SamplesLeftError(Exception):
    """Everything was asked for, and some requests no server could answer."""


def main(argv: list[str] | None = None, make_backend: Callable[[Plan], Backend] = make_backend) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if len(commands := split_benchmarks(argv)) > 1:
        return sample_each(commands, main, make_backend)
    args = parse_args(SamplingArguments, argv, description=__doc__)
    plan = make_plan(args)
    if args.overwrite and not args.dry_run:
        set_aside(args.output_path)
    if not args.overwrite:
        refuse_changed(args.output_path, plan.sample_settings, DEFAULTS)
    if args.dry_run:
        return show_plan(plan)
    report = Report(args.max_len)
    decisions = Decisions(plan.problems, args.n) if args.stop_when_decided else None

    def on_settled(sample: Sample, problem: Problem) -> None:
        report.add(sample, problem)
        if decisions is not None:
            decisions.add(sample, problem)

    with Ledger(
        args.output_path,
        plan.problems,
        args.n,
        args.max_retries,
        grouped=args.format == "grouped",
        on_settled=on_settled,
        prompt_of=plan.prompt_text,
        base_seed=args.seed,
        sent=plan.sent(),
        limit=args.limit,
    ) as ledger:
        try:
            return run(plan, ledger, report, decisions, make_backend)
        except SamplesLeftError as error:
            return stopped(ledger, str(error), EXIT_LEFT)
        except BackendFailedError as error:
            return stopped(ledger, str(error))
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            return stopped(ledger, f"{error.strerror}: nothing more can be written")


def show_plan(plan: Plan) -> int:
    """--dry_run: what would run, after the same checks."""
    settled, mean_tokens = 0, None
    if not plan.args.overwrite:
        settled, mean_tokens = count_settled(plan.args.output_path, plan.args.max_retries)
    place(plan, plan.args.n * len(plan.problems) - settled)
    sessions = [] if plan.args.overwrite else read_sessions(plan.args.output_path)
    speed = speed_per_device(sessions, plan.device)
    devices = count_devices(plan.args, plan.device)
    print(describe(plan, settled, mean_tokens, speed * devices if speed and devices else None))
    return 0


def run(
    plan: Plan, ledger: Ledger, report: Report, decisions: Decisions | None, make_backend: Callable[[Plan], Backend]
) -> int:
    """Sample what is missing, put the files in order, say how it went."""
    output = plan.args.output_path
    sessions = read_sessions(output)
    stopped_before = read_stopped(output)
    how = {"samples": plan.sample_settings, "template_text": plan.prompts.template_text}
    how = describe_run(asdict(plan.args)) | how
    if plan.prompts.started is not None:
        how[TEMPLATE_TIME] = plan.prompts.started.isoformat()

    def write_info(**results: object) -> None:
        cost = {"sessions": sessions, "device_hours": device_hours(sessions), "spared": ledger.spared}
        # Until all are made, those that there are lean towards what --stop_when_decided waits for.
        chosen = bool(ledger.spared) if ledger.complete else plan.args.stop_when_decided or stopped_before
        write_json(side_path(output, "run.json"), how | cost | {"stopped": chosen} | results)

    ledger.resume()
    while decisions is not None and decisions.decided:
        ledger.spare(decisions.decided.pop())
    write_info(complete=False)  # only now: what is refused above changes nothing
    warn_of_unscored(plan, ledger)
    if not ledger.complete:
        place(plan, ledger.units - ledger.settled - ledger.spared)
        session = Session(plan.args, plan.device, ledger.settled)
        sessions.append(session.row)

        def note(tokens: int, *, now: bool = False) -> None:
            if session.note(tokens, ledger.settled, now=now):  # what is killed has its hours on record
                write_info(complete=False)

        try:
            sample(plan, ledger, report, decisions, make_backend, note)
        except InputError as error:  # an account that is spent midway, say
            if not ledger.settled:
                raise
            raise InputError(f"{error}\n{describe_safe(ledger)}") from None
    ledger.finish()
    if ledger.complete and plan.args.save_logprobs:
        heal_scores(side_path(output, "logprobs.jsonl"))  # of what was drawn again; no line twice
    write_info(complete=ledger.complete, results=report.summaries())
    if not ledger.complete:
        return stopped(ledger, "interrupted", EXIT_INTERRUPTED)
    seconds, tokens = (sum(session[name] for session in sessions) for name in ("seconds", "tokens"))
    print(report.table())
    if ledger.spared:
        print(f"{ledger.spared:,} samples were not made: their problems' majorities were decided without them")
    print(
        f"{tokens:,} tokens in {clock(seconds)} ({tokens / max(seconds, 1e-9):,.0f} tok/s, engine start included)"
        f" -> {output}"
    )
    return 0


def sample(
    plan: Plan,
    ledger: Ledger,
    report: Report,
    decisions: Decisions | None,
    make_backend: Callable[[Plan], Backend],
    note: Callable[..., None],
) -> None:
    """Sample what the ledger lacks, until done or asked to stop; `note` is told the number of tokens generated."""
    backend = make_backend(plan)
    progress = Progress(ledger.units, report)
    stop = StopSignal(signal.SIGINT, signal.SIGTERM, message="stopping; what is finished is kept", insist=True)

    def tick() -> None:
        progress.show(backend, scheduler.longest, spared=ledger.spared)
        note(backend.generated_tokens)

    keeps = plan.args.save_partial or plan.args.segment_len is not None
    path = side_path(plan.args.output_path, "partial.jsonl")
    settings = settings_hash(plan.sample_settings, DEFAULTS)
    partial = PartialFile(path, settings, write=keeps) if keeps or path.exists() else None
    scores = DurableAppender(side_path(plan.args.output_path, "logprobs.jsonl")) if plan.args.save_logprobs else None
    scheduler = Scheduler(
        ledger,
        backend,
        plan.prompts,
        base_seed=plan.args.seed,
        max_len=plan.args.max_len,
        context=plan.context,
        cuts=plan.cuts(),
        partial=partial,
        scores=scores,
        decisions=decisions,
        sent=plan.sent(),
        thinking=plan.args.thinking,
        chat=plan.args.api == "chat",
        tick=tick,
        should_stop=stop,
    )
    try:
        scheduler.run()
        progress.show(backend, scheduler.longest, now=True, spared=ledger.spared)
    finally:
        with ExitStack() as closing:  # in turn, from the last, whatever a full disk does to one of them
            closing.callback(note, backend.generated_tokens, now=True)
            closing.callback(backend.close)
            if scores is not None:
                closing.callback(scores.close)
            if partial is not None:
                closing.callback(partial.close)
            closing.callback(stop.restore)
            closing.callback(progress.end)
    if scheduler.failed:
        raise SamplesLeftError(scheduler.describe_failed())


def warn_of_unscored(plan: Plan, ledger: Ledger) -> None:
    """Say how many samples of an earlier run have no log-probabilities, which nothing would make again."""
    if not plan.args.save_logprobs or not ledger.settled:
        return
    path = side_path(plan.args.output_path, "logprobs.jsonl")
    units = {ledger.unit_of(*key) for key in heal_scores(path)}
    lacking = ledger.settled - sum(unit is not None and not ledger.is_missing(unit) for unit in units)
    if lacking > 0:
        logger.warning("--save_logprobs: %s has nothing of %d sample(s) that are made already", path.name, lacking)


def stopped(ledger: Ledger, why: str, status: int = EXIT_FAILED) -> int:
    """Say why the run ends early and how to go on."""
    print(f"{why}\n{describe_safe(ledger)}", file=sys.stderr)
    return status


def describe_safe(ledger: Ledger) -> str:
    return (
        f"{ledger.settled:,} of {ledger.units:,} samples are safe in {ledger.output}; "
        "run the same command again to continue"
    )


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
