# make demo   installs into .venv and runs the loop on real records      make test    installs and passes the tests
# make up     serves what the demo made: Prefect, MLflow, the gateway     make check   format, lint, types, import contracts
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Test files run side by side, for many of them wait for servers; the slow ones, which kill and time things, run alone.
SIDE_BY_SIDE := --numprocesses auto --maxprocesses 4 --dist loadfile

# Every tool we build on can phone home; none does unless a user turns it on again.
export MLFLOW_DISABLE_TELEMETRY ?= true
export DO_NOT_TRACK ?= 1
export DVC_NO_ANALYTICS ?= 1
export PREFECT_SERVER_ANALYTICS_ENABLED ?= false

.PHONY: install demo up test test-all check format bench clean
.DEFAULT_GOAL := test

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "Python 3.11 is needed, and $(PYTHON) is not it: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time)"
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]' \
	  > $(VENV)/install.log 2>&1 || { grep -v 'is ignored: it is neither' $(VENV)/install.log | tail -n 20; exit 1; }
	@touch $@

demo: install
	@$(BIN)/evermoe demo

up: install
	@$(BIN)/evermoe up

test: install
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-all: install
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE)
	@$(BIN)/python -m pytest -m slow

check: install
	@$(BIN)/ruff format --check --quiet . || { echo "run 'make format'"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@out=$$($(BIN)/lint-imports 2>&1) || { echo "$$out"; exit 1; }

format: install
	@$(BIN)/ruff format --quiet . && $(BIN)/ruff check --fix --quiet .

bench: install
	@for name in $$(ls benchmarks/*.py | xargs -n1 basename -s .py | grep -v __init__); do $(BIN)/python -m benchmarks.$$name || exit 1; done

clean:
	rm -rf $(VENV) .evermoe
