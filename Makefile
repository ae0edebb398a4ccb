# Two commands: `make train` (the main job on synthetic data) and `make test` (everything).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STORE ?= stores/synthetic
RUN ?= runs/synthetic

.PHONY: train test lint format install clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

train: install
	$(BIN)/greatmeta prepare data=synthetic store=$(STORE)
	$(BIN)/greatmeta train store=$(STORE) run=$(RUN) cluster=ray cluster.workers=2
	$(BIN)/greatmeta evaluate run=$(RUN)

test: install
	$(BIN)/python -m pytest -n 2 --dist loadgroup

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv stores runs
