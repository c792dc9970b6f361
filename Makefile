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
	$(PYTHON) -m scripts.bench.ssd
	$(PYTHON) -m scripts.bench.train
	$(PYTHON) -m scripts.bench.sampling
	$(PYTHON) -m scripts.bench.efficiency
