# Each target makes what it needs in .venv; `make` alone lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Set first: a looser request for torch than the exact version may bring the CUDA packages.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-fastai test-extras test-torch-2.11 check wheel gpu peers clean

help:  ## List the targets
	@grep -E '^[a-z0-9.-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

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

demo: $(VENV)/.demo  ## Review the built-in cases: gradients, compile, bench; a page and a package for an expert
	$(BIN)/bfo-diag review --force

test: $(VENV)/.test  ## Run the tests
	$(BIN)/python -m pytest -n auto --dist loadfile

# What fastai needs beyond .venv, in a folder in front of it: torch is not installed a second time, and torchvision, whose
# build from PyPI does not import beside torch's for CPUs, not at all.
FASTAI := fastai fastcore fastdownload fastprogress fasttransform plum-dispatch beartype pandas python-fasthtml \
	starlette itsdangerous python-multipart

.venv-fastai/.test: $(VENV)/.test constraints.txt
	rm -rf .venv-fastai
	$(PIP) --no-deps --no-compile --target .venv-fastai/site-packages $(FASTAI)
	@touch $@

test-fastai: .venv-fastai/.test  ## Run the tests that need fastai, in an environment of its own in front of .venv
	PYTHONPATH=$(CURDIR)/.venv-fastai/site-packages $(BIN)/python -m pytest -k fastai \
		tests/pytorch_bfo_optimizer/adapters/test_fastai.py tests/bfo_diag/framework_targets/test_fastai.py \
		tests/docs/test_integrations.py

test-extras: $(VENV)/.dev  ## Install each extra alone into a fresh environment, and run its tests there (minutes)
	$(BIN)/python tests/check_extras.py

# (A plain install of this torch brings its CUDA packages, some 5 GB.)
.venv-torch-2.11/.test: pyproject.toml
	$(PYTHON) -m venv .venv-torch-2.11
	grep -v -e '^torch==' constraints.txt > .venv-torch-2.11/constraints.txt
	.venv-torch-2.11/bin/pip install --quiet -c .venv-torch-2.11/constraints.txt torch==2.11.0
	.venv-torch-2.11/bin/pip install --quiet -c .venv-torch-2.11/constraints.txt --editable '.[test]'
	@touch $@

test-torch-2.11: .venv-torch-2.11/.test  ## Run the tests of the compile probe on torch 2.11, in an environment of its own
	.venv-torch-2.11/bin/python -m pytest tests/bfo_diag/probes/compile

check: $(VENV)/.dev  ## Lint, types and import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

wheel: $(VENV)/.dev  ## Build wheel and sdist into dist/
	$(BIN)/python -m build --outdir dist .

gpu: $(VENV)/.test  ## Run the tests that need a CUDA device
	$(BIN)/python -m pytest tests/gpu -rs

peers:  ## Measure the optimizers beside their peers, in an environment of its own: benchmarks/RESULTS.md (hours)
	$(PYTHON) benchmarks/peers/run.py

clean:  ## Remove what the others made (not logs/)
	rm -rf $(VENV) .venv-check .venv-fastai .venv-torch-2.11 build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
