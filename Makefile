# `make discover` runs the main job, `make test` everything that CI runs, `make test-all` the tests
# marked slow too. Each makes its own environment in .venv on first use, from the package registry.
PYTHON ?= python3
# what is compiled at the first import is kept: else each process compiles all of it again
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin
ARGS ?=
RUNS ?= .

PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest
MARKED ?= not slow

.PHONY: discover dashboard test test-all check format lint contracts types shapes rest docs clean

discover: .venv/installed
	$(BIN)/python scripts/discover.py $(ARGS)

dashboard: .venv/installed-dashboard
	$(BIN)/python scripts/dashboard.py $(RUNS) $(ARGS)

test: .venv/installed-dev
	$(MAKE) --jobs=2 check shapes docs rest

test-all:
	$(MAKE) test MARKED="slow or not slow"

check: format lint contracts types

format: .venv/installed-dev
	$(BIN)/ruff format --check .

lint: .venv/installed-dev
	$(BIN)/ruff check .

contracts: .venv/installed-dev
	$(BIN)/lint-imports

types: .venv/installed-dev
	$(BIN)/basedpyright --pythonpath $(BIN)/python

# A few tests, apart: types and shapes are checked at every call in them, which takes a third longer.
shapes: .venv/installed-dev
	$(PYTEST) --quiet --shapes=checked -m "$(MARKED)"

# All tests but those, in two processes.
rest: .venv/installed-dev
	$(PYTEST) --shapes=rest -m "$(MARKED)" -n 2 --dist loadscope --no-loadscope-reorder

docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --config-file docs/mkdocs.yml

# Modules are compiled when they are first imported: most of what is installed never is.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) .
	touch $@

.venv/installed-dashboard: .venv/installed
	$(INSTALL) ".[dashboard]"
	touch $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) ".[dev]"
	touch .venv/installed $@

clean:
	rm -rf .venv build *.egg-info
