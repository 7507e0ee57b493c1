# make run    everything from data to report on the embedded data set
# make test   linters and quick tests; make test-all: linters and all tests
SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= python3.11
READY := $(VENV)/.ready
DOCS := .venv-docs
export PATH := $(CURDIR)/$(BIN):$(PATH)
# uv has its own variable for a local folder of packages.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
# Without compiled modules torch and Snakemake start seconds later.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup run test test-all lint chaos docs ui clean-env

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## make the environment in .venv; the other targets do this first

$(READY): envs/requirements.in envs/constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python -r envs/requirements.in -c envs/constraints.txt
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --editable .
	@touch $@

run: setup ## data, networks, training, evaluation and report, as far as they are missing
	i2r stage all
	@i2r show

lint: setup ## check the style of Python and Snakemake code
	ruff check .
	ruff format --check .
	snakefmt --check workflow
	snakemake --lint

test: lint ## linters and quick tests, eight minutes on two cores
	pytest -n 2 --dist worksteal -m "not slow"

test-all: lint ## linters and all tests, forty minutes on two cores
	pytest -n 2 --dist worksteal

chaos: setup ## kill runs of the preset tiny, make faults, and compare; half an hour, see results/chaos.md
	PYTHONPATH=$(CURDIR) $(BIN)/python tests/chaos.py

docs: $(DOCS)/.ready ## the documentation site, in site/
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build
	@echo "site/index.html: the documentation"

$(DOCS)/.ready: envs/docs.in envs/docs-constraints.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -r envs/docs.in -c envs/docs-constraints.txt
	@touch $@

ui: setup ## serve MLflow with all runs, on this machine only
	i2r ui

clean-env: ## remove .venv and .venv-docs
	rm -rf $(VENV) $(DOCS)
