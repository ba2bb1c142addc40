# Each target makes what it needs in .venv; `make` alone lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Set first: a looser request for torch than the exact version may bring the CUDA packages.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test check wheel gpu clean

help:  ## List the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "constraints.txt is for Python 3.11 and newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: $(BIN)/python constraints.txt
	$(PIP) torch
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.test: $(VENV)/.torch pyproject.toml
	$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(PIP) --editable '.[dev]'
	@touch $@

demo: $(VENV)/.demo  ## Examine the built-in cases, and name the log
	$(BIN)/bfo-diag gradients

test: $(VENV)/.test  ## Run the tests
	$(BIN)/python -m pytest

check: $(VENV)/.dev  ## Lint, types and import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

wheel: $(VENV)/.dev  ## Build wheel and sdist into dist/
	$(BIN)/python -m build --outdir dist .

gpu: $(VENV)/.test  ## Run the tests that need a CUDA device
	$(BIN)/python -m pytest tests/gpu -rs

clean:  ## Remove what the others made (not logs/)
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
