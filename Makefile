# Everything runs from a local environment that the first target makes: nothing is installed elsewhere.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# How long `make soak` takes, and how often `make kills` kills.
SOAK_MINUTES ?= 20
KILLS ?= 50

# What `make bench-ci` compares the working tree with, and how thoroughly (default or small).
BASE ?= origin/main
SIZE ?= default

.PHONY: help bench bench-smoke bench-distributed bench-ci bench-micro soak kills test test-thorough lint lock clean

help:
	@echo "make bench              SSE against WebSocket on this machine, about 5 minutes, ends with a report"
	@echo "make bench-smoke        the same path in half a minute: does it run here?"
	@echo "make bench-distributed  a target, a Locust master and two workers here, half a minute: the merged report"
	@echo "make bench-ci           the gate: is the working tree slower than BASE? (BASE=origin/main SIZE=default)"
	@echo "make bench-micro        the measuring path itself, timed: codecs, driver, pacing"
	@echo "make soak               $(SOAK_MINUTES) minutes of streams that are cut, left and resumed: does memory stay? (SOAK_MINUTES=...)"
	@echo "make kills              driver, server or run killed at random moments, $(KILLS) times (KILLS=...)"
	@echo "make test               the tests"
	@echo "make test-thorough      those and some that take longer"
	@echo "make lint               ruff and mypy"
	@echo "make lock               resolve the dependencies anew"

bench: $(VENV)/.run
	$(BIN)/tokenwire run duel

bench-smoke: $(VENV)/.run
	$(BIN)/tokenwire run duel --set experiment.blocks=1 --set experiment.roofline=false

bench-distributed: $(VENV)/.run
	$(BIN)/python -m bench.swarm.here -- -u 100 -r 50 -t 20s

# CI calls the command itself: make turns every failure into exit code 2.
bench-ci: $(VENV)/.run
	$(BIN)/tokenwire gate --base $(BASE) --size $(SIZE)

bench-micro: $(VENV)/.dev
	$(BIN)/pytest tests/benchmarks --benchmark-only -s --benchmark-columns=min,median,rounds --benchmark-sort=name \
		--benchmark-storage=file://results/micro --benchmark-autosave

soak: $(VENV)/.run
	$(BIN)/python -m tests.experiments.soak $(SOAK_MINUTES)

kills: $(VENV)/.run
	$(BIN)/python -m tests.experiments.kills $(KILLS)

# Tests wait more than they work, so three at a time fill two cores. A file stays in one process: its fixtures are dear.
test: $(VENV)/.dev
	$(BIN)/pytest -n 3 --dist loadfile

test-thorough: $(VENV)/.dev
	$(BIN)/pytest -n 3 --dist loadfile -m "thorough or not thorough"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock: $(VENV)/.dev
	$(PIP) uv
	$(BIN)/uv pip compile pyproject.toml --group build --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --quiet --output-file requirements.lock
	$(BIN)/uv pip compile pyproject.toml --group build --group dev --constraint requirements.lock --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet --output-file requirements-dev.lock

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "tokenwire needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.lock pyproject.toml | $(BIN)/python
	$(PIP) --require-hashes -r requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock | $(VENV)/.run
	$(PIP) --require-hashes -r requirements-dev.lock
	@touch $@
