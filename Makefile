# Two commands: `make train` (the main job on synthetic data) and `make test` (everything).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STORE ?= stores/synthetic
RUN ?= runs/synthetic

.PHONY: train test test-ray test-groups test-others lint format install clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt $(wildcard greatmeta_dist/meta/native/*.[ch])
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

train: install
	$(BIN)/greatmeta prepare data=synthetic store=$(STORE)
	$(BIN)/greatmeta train store=$(STORE) run=$(RUN) cluster=ray 'cluster.workers=[1,2]'
	$(BIN)/greatmeta evaluate run=$(RUN)

# Many tests wait for other processes, so three parts of about the same length run at once. Beside
# busy processes a second thread waits in a loop for the first and takes more time than it saves.
test test-ray test-groups test-others: export OMP_NUM_THREADS := 1
ON_RAY := tests/launch
OF_GROUPS := $(addprefix tests/launch/test_,same_bits.py local.py torchrun.py serve.py)
OF_GROUPS += tests/storage tests/sweep tests/test_docs.py tests/test_ml_100k.py

test: install
	$(MAKE) --jobs=3 test-ray test-groups test-others

test-ray:
	$(BIN)/python -m pytest $(ON_RAY) $(addprefix --ignore=,$(OF_GROUPS))

test-groups:
	$(BIN)/python -m pytest $(OF_GROUPS)

test-others:
	$(BIN)/python -m pytest $(addprefix --ignore=,$(ON_RAY) $(OF_GROUPS))

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
