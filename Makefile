# Thin names over scripts.
PYTHON = .venv/bin/python

.PHONY: setup quickstart test lint bench

setup:
	bash scripts/setup.sh

quickstart:
	bash scripts/quickstart.sh

test:
	bash scripts/test.sh

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

bench: setup
	$(PYTHON) -m scripts.bench_ssd
	$(PYTHON) -m scripts.bench_train
	$(PYTHON) -m scripts.bench_sampling
	$(PYTHON) -m scripts.bench_efficiency
