PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-all lint

setup: .venv/.installed  ## a virtual environment with everything pinned

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "seggrid needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	@echo "Installing into .venv; PyTorch alone is some gigabytes, so this takes minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup  ## the same cell in three libraries, and their comparison
	@$(BIN)/python train.py -m experiment=demo backend=smp,torchvision,mmseg

test: setup  ## lint, types and the quick tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -n auto

test-all: setup  ## the slow tests too: the whole matrix of models
	@$(BIN)/python -m pytest -n auto -m ''

lint: setup  ## mend what can be mended
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
