# make run    everything from data to report on the embedded data set
# make test   linters and the quick tests; make test-all: every test
SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= python3.11
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)
# uv reads its own name for a local folder of packages.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
# Without compiled modules every start of torch or Snakemake takes seconds more.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup run test test-all lint ui clean-env

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## the environment in .venv; the other targets call it

$(READY): envs/requirements.in envs/constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python -r envs/requirements.in -c envs/constraints.txt
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --editable .
	@touch $@

run: setup ## data, networks, training, evaluation, report: what is missing of it
	i2r stage all
	@i2r show

lint: setup ## style of Python and Snakemake code
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	snakemake --lint

test: lint ## linters and the quick tests, in eight minutes on two cores
	pytest -n 2 --dist worksteal -m "not slow"

test-all: lint ## linters and every test, in forty minutes on two cores
	pytest -n 2 --dist worksteal

ui: setup ## MLflow with all runs, on this machine only
	i2r ui

clean-env: ## remove .venv
	rm -rf $(VENV)
