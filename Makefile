# Each target makes the virtual environment if there is none, says what it does, and needs nothing else.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-docker lint format bench-promotion bench-serving bench-batching soak pin clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tests that share nothing run side by side; those that start processes make two heaps (tests/conftest.py).
PYTEST_ARGS ?= -n 2

# Without compiled bytecode every process pays seconds for its imports.
unexport PYTHONDONTWRITEBYTECODE
export MLFLOW_DISABLE_TELEMETRY = true
export DO_NOT_TRACK = 1

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

demo: $(STAMP) ## The life of a model in about a minute: train, promote, serve, watch, retrain, roll back
	@echo "==> mlplatform demo"
	@$(BIN)/mlplatform demo

test: $(STAMP) ## Every test; those on data sets need MLPLATFORM_DATA
	@echo "==> pytest $(PYTEST_ARGS)"
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

test-docker: $(STAMP) ## Images and containers on a real engine: DOCKER_HOST's, or one of its own (Debian, root)
	@echo "==> pytest -m docker"
	@.ci/with-docker $(BIN)/python -m pytest -m docker -n 0 $(DOCKER_ARGS)

lint: $(STAMP) ## Style, types and floors
	@echo "==> ruff check"
	@$(BIN)/ruff check .
	@echo "==> ruff format --check"
	@$(BIN)/ruff format --check .
	@echo "==> mypy --strict"
	@$(BIN)/mypy
	@echo "==> lint-imports"
	@$(BIN)/lint-imports --no-logo
	@echo "==> hadolint"
	@$(BIN)/hadolint docker/*.Dockerfile

format: $(STAMP) ## Rewrite the code in the house style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench-promotion: $(STAMP) ## What a decision costs and how often it errs: gates, the ledger at a million moves (minutes)
	@echo "==> how often the gates pass what they should not, 2,000 pairs of models a scenario"
	@OPENBLAS_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_gate_calibration
	@echo "==> the ledger at a million moves"
	@$(BIN)/python -m tests.bench.bench_ledger

bench-serving: $(STAMP) ## The model server beside its peers: speed, memory, start (ten minutes; wrk if installed; TORCHSERVE=DIR)
	@$(BIN)/python -m tests.bench.bench_serving $(if $(TORCHSERVE),--torchserve $(TORCHSERVE))

bench-batching: $(STAMP) ## The model server with batching against itself without: three models, 1 to 64 connections (quarter of an hour)
	@$(BIN)/python -m tests.bench.bench_batching

soak: $(STAMP) ## Long runs, before a release: hours (MLPLATFORM_KILLS=20 for fewer kills of each flow)
	@echo "==> pytest -m soak"
	@$(BIN)/python -m pytest -m soak --timeout 7200

pin: $(STAMP) ## Write the installed versions to constraints.txt
	@$(BIN)/python .ci/pin.py > constraints.new && mv constraints.new constraints.txt
	@for image in server control; do $(BIN)/python .ci/pin.py $$image > docker/$$image-requirements.txt; done

clean: ## Remove the virtual environment and every cache
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(STAMP): pyproject.toml constraints.txt
	@echo "==> making $(VENV) with $$($(PYTHON) --version) (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "==> installing torch (CPU), then everything else as constraints.txt says"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
