# Two commands: `make train` (the main job on synthetic data) and `make test` (everything).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STORE ?= stores/synthetic
RUN ?= runs/synthetic

.PHONY: train test test-launch test-others lint format install clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

train: install
	$(BIN)/greatmeta prepare data=synthetic store=$(STORE)
	$(BIN)/greatmeta train store=$(STORE) run=$(RUN) cluster=ray 'cluster.workers=[1,2]'
	$(BIN)/greatmeta evaluate run=$(RUN)

# Tests that start groups of workers take as long as all the others: both run at once.
test: install
	$(MAKE) --jobs=2 test-launch test-others

test-launch:
	$(BIN)/python -m pytest tests/launch

test-others:
	$(BIN)/python -m pytest --ignore=tests/launch

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint cluster/Dockerfile
	$(BIN)/shellcheck cluster/slurm/*.sh

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv stores runs
