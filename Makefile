# Two commands are enough: `make quickstart` and `make test`. Both install what they need.

PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed
DEV_STAMP := .venv/.installed-dev
# Most of a test's time is waiting, so there are more workers than cores.
WORKERS ?= 4
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder

.PHONY: install quickstart scenes test test-slow test-gpu lint format reference bench faults clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(DEV_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

quickstart: $(STAMP)
	$(BIN)/sweepstakes run configs/quickstart.yaml

scenes: $(STAMP)
	$(BIN)/sweepstakes data scenes .sweepstakes/scenes
	$(BIN)/sweepstakes run configs/scenes.yaml

test: $(DEV_STAMP)
	$(PYTEST)

test-slow: $(DEV_STAMP)
	$(PYTEST) -m slow

test-gpu: $(DEV_STAMP)
	$(BIN)/python -m pytest -m gpu -s

lint: $(DEV_STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(DEV_STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

reference: $(STAMP)
	$(BIN)/sweepstakes schema > configs/sweep.schema.json
	$(BIN)/sweepstakes schema --format markdown > configs/reference.md

bench: $(DEV_STAMP)
	$(BIN)/python -m tests.benchmarks

faults: $(DEV_STAMP)
	$(BIN)/python -m tests.faults

clean:
	rm -rf .venv .sweepstakes
