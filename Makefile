# make demo: prune, thin and recover the shipped pose student.   make test: linters, types, tests.
# make check ROOM=thinning: linters, types and the tests of one room of the package, in a minute or two.
# make docs: the site of docs/, in build/site; a warning is an error.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt

.PHONY: demo test types suite check docs clean

demo: $(VENV)/.base
	$(BIN)/python scripts/prune_pose_drive.py --target-sparsity 0.5 --thin --recover

test: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) -j 2 types suite

types: $(VENV)/.dev
	$(BIN)/mypy

suite: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/$(ROOM) tests/test_architecture.py tests/test_map.py tests/test_public_names.py

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) torch
	$(PIP) -e .
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps torchvision timm
	touch $@

$(VENV)/.docs: $(VENV)/.base
	$(PIP) -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV)
