PYTHON ?= python3
BIN := .venv/bin
export GRADIO_ANALYTICS_ENABLED := False
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: setup run test check lint fast-training fast-rest bench

setup: .venv/installed  ## the environment in .venv, with the tested versions

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

run: setup  ## the app on ./var, with the embedded default model
	$(BIN)/python -m annotate

check: setup  ## the fast tests, and beside them format, lint, types and import rule
	$(MAKE) --no-print-directory --jobs 2 --output-sync fast-rest fast-training lint

lint:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fast-training:
	$(BIN)/pytest -m "not slow" -q tests/training

fast-rest:  # apart, because neither needs what the other takes seconds to import
	$(BIN)/pytest -m "not slow" -q --ignore tests/training tests

test: setup  ## the whole suite, in two processes
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

bench: setup  ## every benchmark, quick, but those of real data, which need a folder of it
	for name in datasets engine labelers ppo pretrain prove reward sft; do \
		$(BIN)/python tests/benchmarks/$$name.py --quick || exit 1; done
