"""vLLM in process: samples that do not depend on their neighbours, loops that end, engine flags that hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from scipy.stats import chi2_contingency

from promptcot_mamba.errors import InputError
from promptcot_mamba.sampling.backend import BackendFailedError, SamplingSettings
from promptcot_mamba.sampling.vllm_engine import EngineSettings, VllmEngine, engine_arguments, share_cores
from promptcot_mamba.sampling.vllm_server import serve_flags
from tests.sampling.conftest import ROOT

pytestmark = pytest.mark.timeout(1800)  # vLLM's start and some thousand tokens, on a machine as slow as it may be


@pytest.fixture(scope="module")
def checked(checkpoint: Path) -> dict:
    """Results of `vllm_checks`, run once in a process of its own: vLLM changes the process it lives in."""
    pytest.importorskip("vllm")
    done = subprocess.run(
        [sys.executable, "-m", "tests.sampling.vllm_checks", str(checkpoint)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1700,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", ["seeded", "greedy"])
def test_a_sample_does_not_depend_on_its_neighbours(checked: dict, kind: str):
    assert checked[f"{kind}_together_as_alone"]
    assert checked[f"{kind}_in_another_order"]
    assert checked[f"{kind}_texts"] > 15  # and they are not all one text


def test_a_prompt_is_read_to_the_same_bits_whatever_is_read_beside_it(checked: dict):
    assert len(checked["read_alone"]) > 12
    assert checked["read_together"] == checked["read_alone"]


def test_a_continued_chain_is_penalised_as_if_uncut(checked: dict):
    """The penalty counts kept tokens, which are read as part of the prompt, like those it has drawn itself."""
    assert len(checked["continued"]) == 7
    for whole, again in checked["continued"]:
        assert again == whole


def test_what_follows_a_cut_is_drawn_as_in_uncut_chains(checked: dict):
    """2,000 chains each: also together with the token before it, which the same numbers drawn twice would tie to it."""
    uncut, continued = checked["pairs"]
    assert sum(uncut) == sum(continued) == 2000
    assert chi2_contingency([uncut, continued]).pvalue > 0.01


def test_saved_scores_are_those_of_reading_the_chain_and_change_nothing(checked: dict):
    assert checked["scores_change_nothing"]
    assert len(checked["scores"]) == 20
    for length, tokens, drawn, read, least, most in checked["scores"]:
        assert length == tokens
        assert drawn == pytest.approx(read, abs=1e-3)
        assert 0 < least <= most < 6  # ln 384 = 5.95


def test_dropped_requests_never_come_back(checked: dict):
    assert checked["dropped"] == []
    assert checked["undropped"] >= 9  # a short one may have ended before
    assert checked["undropped_same"]


def test_loops_end_with_the_text_they_had(checked: dict):
    for reason, tokens, is_prefix in checked["loops"]:
        assert reason == "loop"
        assert 256 <= tokens < 700
        assert is_prefix
    assert checked["still_running"] == 0


def test_the_cpu_engine_takes_prompts_whole_and_starts_without_compiling():
    settings = EngineSettings("m", "float32", "float32", 5000, 8, on_cpu=True, cache_bytes=1 << 20)
    flags = serve_flags(engine_arguments(settings, is_mamba2=True))
    assert flags[0] == "m"
    assert "--no-enable-chunked-prefill" in flags
    assert "--enforce-eager" in flags
    assert flags[flags.index("--max-num-batched-tokens") + 1] == "5000"
    assert flags[flags.index("--mamba-ssm-cache-dtype") + 1] == "float32"


def test_the_parts_of_a_model_share_the_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 4, 5, 6})
    assert share_cores(2) == "0,1|4,5"
    with pytest.raises(InputError, match="this machine lends 5"):
        share_cores(6)


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_what_vllm_refuses_at_its_start_is_said_in_a_line(error: type[Exception], monkeypatch: pytest.MonkeyPatch):
    """Its cache too small for one chain is a plain ValueError; of an engine in a process of its own, as on GPUs, all is
    a RuntimeError. `vllm` is a stand-in here that raises it."""
    words = "To serve at least one request with the model's max seq len (36864), 0.99 GiB KV cache is needed"

    def refuse(arguments: object) -> None:
        raise error(f"{words}\nSee the docs.")

    names = {
        "vllm": {"EngineArgs": dict, "LLMEngine": SimpleNamespace(from_engine_args=refuse), "SamplingParams": dict},
        "vllm.sampling_params": {"RequestOutputKind": SimpleNamespace(DELTA=1, FINAL_ONLY=2)},
        "vllm.v1.engine.exceptions": {"EngineDeadError": RuntimeError},
    }
    for name, held in names.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**held))
    for name in ("VLLM_NO_USAGE_STATS", "VLLM_USE_FLASHINFER_SAMPLER", "VLLM_LOGGING_LEVEL"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))  # which the engine sets, for this test alone
    settings, sampling = EngineSettings("m", "float32", "float32", 36864, 8), SamplingSettings(0.8, 0.95, 1.1, ())
    with pytest.raises(InputError if error is ValueError else BackendFailedError) as caught:
        VllmEngine(settings, sampling, is_mamba2=False, tokenizer=None)
    said = "--model_path m: vLLM cannot start it" if error is ValueError else "m: vLLM's engine did not start"
    assert str(caught.value).startswith(f"{said} ({words}")


def test_the_cuda_engine_is_left_to_compile():
    settings = EngineSettings("m", "bfloat16", "float32", 69632, 256)
    arguments = engine_arguments(settings, is_mamba2=True)
    assert not arguments.keys() & {"enforce_eager", "enable_chunked_prefill", "kv_cache_memory_bytes"}
    assert (arguments["max_num_seqs"], arguments["gpu_memory_utilization"]) == (256, 0.9)
