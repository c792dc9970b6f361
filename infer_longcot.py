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
from functools import partial
from pathlib import Path
from typing import Any

from promptcot_mamba.cli import EXIT_INTERRUPTED, parse_args, run_program
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import DurableAppender, write_json
from promptcot_mamba.log import logger
from promptcot_mamba.records import Problem, Sample
from promptcot_mamba.run_info import describe_run, side_path
from promptcot_mamba.sampling.arguments import SamplingArguments
from promptcot_mamba.sampling.backend import Backend, BackendFailedError
from promptcot_mamba.sampling.decisions import Decisions
from promptcot_mamba.sampling.describe_plan import describe
from promptcot_mamba.sampling.engines import make_backend
from promptcot_mamba.sampling.healing import heal_scores
from promptcot_mamba.sampling.ledger import Ledger, count_settled
from promptcot_mamba.sampling.partial import PartialFile
from promptcot_mamba.sampling.plan import DEFAULTS, Plan, make_plan, place
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
    run = Run(plan)
    with run.ledger:
        try:
            return run.go(make_backend)
        except SamplesLeftError as error:
            return run.stopped(str(error), EXIT_LEFT)
        except BackendFailedError as error:
            return run.stopped(str(error))
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            return run.stopped(f"{error.strerror}: nothing more can be written")


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


class Run:
    """One run of the program: its plan, its files (the ledger locks them), and what is told of it."""

    def __init__(self, plan: Plan):
        self.plan, self.args = plan, plan.args
        self.report = Report(self.args.max_len)
        self.decisions = Decisions(plan.problems, self.args.n) if self.args.stop_when_decided else None
        self.ledger = Ledger(
            self.args.output_path,
            plan.problems,
            self.args.n,
            self.args.max_retries,
            grouped=self.args.format == "grouped",
            on_settled=self._on_settled,
            prompt_of=plan.prompt_text,
            base_seed=self.args.seed,
            sent=plan.sent(),
            most_tokens=plan.most_tokens,
            limit=self.args.limit,
        )
        self.sessions: list[dict[str, Any]] = []

    def _on_settled(self, sample: Sample, problem: Problem) -> None:
        self.report.add(sample, problem)
        if self.decisions is not None:
            self.decisions.add(sample, problem)

    def _path(self, kind: str) -> Path:
        return side_path(self.args.output_path, kind)

    def go(self, make_backend: Callable[[Plan], Backend]) -> int:
        """Sample what is missing, put the files in order, say how it went."""
        ledger = self.ledger
        self.sessions = read_sessions(ledger.output)
        info = partial(self._write_info, self._describe(), read_stopped(ledger.output))
        ledger.resume()
        while self.decisions is not None and self.decisions.decided:
            ledger.spare(self.decisions.decided.pop())
        info(complete=False)  # only now: what is refused above changes nothing
        if self.args.save_logprobs and ledger.settled:
            self._warn_of_unscored()
        if not ledger.complete:
            try:
                self._sample(make_backend, info)
            except InputError as error:  # an account that is spent midway, say
                if not ledger.settled:
                    raise
                raise InputError(f"{error}\n{self._describe_safe()}") from None
        ledger.finish()
        if ledger.complete and self.args.save_logprobs:
            heal_scores(self._path("logprobs.jsonl"))  # of what was drawn again; no line twice
        info(complete=ledger.complete, results=self.report.summaries())
        if not ledger.complete:
            return self.stopped("interrupted", EXIT_INTERRUPTED)
        self._print_results()
        return 0

    def _describe(self) -> dict[str, Any]:
        """How the samples are made, for run.json."""
        prompts = self.plan.prompts
        how = {"samples": self.plan.sample_settings, "template_text": prompts.template_text}
        if prompts.started is not None:
            how[TEMPLATE_TIME] = prompts.started.isoformat()
        return describe_run(asdict(self.args)) | how

    def _write_info(self, how: dict[str, Any], chose: bool, **results: object) -> None:
        """Write run.json: `how` the samples are made, and what they cost so far. `chose`: an earlier run had chosen
        which samples there are."""
        ledger = self.ledger
        cost = {"sessions": self.sessions, "device_hours": device_hours(self.sessions), "spared": ledger.spared}
        # Until all are made, those that there are lean towards what --stop_when_decided waits for.
        chosen = bool(ledger.spared) if ledger.complete else self.args.stop_when_decided or chose
        write_json(self._path("run.json"), how | cost | {"stopped": chosen} | results)

    def _warn_of_unscored(self) -> None:
        """Say how many samples of an earlier run have no log-probabilities, which nothing would make again."""
        ledger, path = self.ledger, self._path("logprobs.jsonl")
        units = {ledger.unit_of(*key) for key in heal_scores(path)}
        lacking = ledger.settled - sum(unit is not None and not ledger.is_missing(unit) for unit in units)
        if lacking > 0:
            logger.warning("--save_logprobs: %s has nothing of %d sample(s) that are made already", path.name, lacking)

    def _sample(self, make_backend: Callable[[Plan], Backend], info: Callable[..., None]) -> None:
        """Sample what the ledger lacks, until done or asked to stop; `info` writes run.json."""
        args, plan, ledger = self.args, self.plan, self.ledger
        place(plan, ledger.units - ledger.settled - ledger.spared)
        session = Session(args, plan.device, ledger.settled)
        self.sessions.append(session.row)
        backend = make_backend(plan)
        progress = Progress(ledger.units, self.report)
        stop = StopSignal(signal.SIGINT, signal.SIGTERM, message="stopping; what is finished is kept", insist=True)

        def note(tokens: int, *, now: bool = False) -> None:
            if session.note(tokens, ledger.settled, now=now):  # what is killed has its hours on record
                info(complete=False)

        def tick(*, now: bool = False) -> None:
            progress.show(backend, scheduler.longest, now=now, spared=ledger.spared)
            note(backend.generated_tokens)

        keeps = args.save_partial or args.segment_len is not None
        path = self._path("partial.jsonl")
        settings = settings_hash(plan.sample_settings, DEFAULTS)
        chains = PartialFile(path, settings, write=keeps) if keeps or path.exists() else None
        scores = DurableAppender(self._path("logprobs.jsonl")) if args.save_logprobs else None
        scheduler = Scheduler(
            ledger,
            backend,
            plan.prompts,
            base_seed=args.seed,
            max_len=args.max_len,
            context=plan.context,
            cuts=plan.cuts(),
            partial=chains,
            scores=scores,
            decisions=self.decisions,
            sent=plan.sent(),
            thinking=args.thinking,
            chat=args.api == "chat",
            tick=tick,
            should_stop=stop,
        )
        try:
            scheduler.run()
            tick(now=True)
        finally:
            with ExitStack() as closing:  # in turn, from the last, whatever a full disk does to one of them
                closing.callback(note, backend.generated_tokens, now=True)  # of what runs: closed, it has none
                closing.callback(backend.close)
                if scores is not None:
                    closing.callback(scores.close)
                if chains is not None:
                    closing.callback(chains.close)
                closing.callback(stop.restore)
                closing.callback(progress.end)
        if scheduler.failed:
            raise SamplesLeftError(scheduler.describe_failed())

    def _print_results(self) -> None:
        seconds, tokens = (sum(session[name] for session in self.sessions) for name in ("seconds", "tokens"))
        print(self.report.table())
        if self.ledger.spared:
            print(f"{self.ledger.spared:,} samples were not made: their problems' majorities were decided without them")
        print(
            f"{tokens:,} tokens in {clock(seconds)} ({tokens / max(seconds, 1e-9):,.0f} tok/s, engine start included)"
            f" -> {self.args.output_path}"
        )

    def stopped(self, why: str, status: int = EXIT_FAILED) -> int:
        """Say why the run ends early and how to go on."""
        print(f"{why}\n{self._describe_safe()}", file=sys.stderr)
        return status

    def _describe_safe(self) -> str:
        return (
            f"{self.ledger.settled:,} of {self.ledger.units:,} samples are safe in {self.ledger.output}; "
            "run the same command again to continue"
        )


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
