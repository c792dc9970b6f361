"""Greedy tokens from vLLM, in a process of its own: `python greedy_vllm.py request.json answer.json`."""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path


def main(request: Path, answer: Path) -> None:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from vllm import LLM, SamplingParams

    asked = json.loads(request.read_text())
    prompts = [{"prompt_token_ids": prompt} for prompt in asked["prompts"]]
    params = SamplingParams(temperature=0.0, max_tokens=asked["new_tokens"], ignore_eos=True, detokenize=False)
    answers = []
    for checkpoint in asked["checkpoints"]:
        engine = LLM(
            checkpoint, dtype="float32", mamba_ssm_cache_dtype="float32", max_model_len=2048, max_num_seqs=16,
            max_num_batched_tokens=2048, enable_chunked_prefill=False, enforce_eager=True, skip_tokenizer_init=True,
            kv_cache_memory_bytes=256 * 2**20,
        )  # fmt: skip
        answers.append(
            [list(output.outputs[0].token_ids) for output in engine.generate(prompts, params, use_tqdm=False)]
        )
        del engine
        gc.collect()
    answer.write_text(json.dumps(answers))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
