# `make discover` runs the main job, `make test` everything that CI runs, `make test-all` the tests
# marked slow too. Each makes its own environment in .venv on first use, from the package registry.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
RUNS ?= .

.PHONY: test-all discover dashboard docs test check clean

discover: .venv/installed
	$(BIN)/python scripts/discover.py $(ARGS)

dashboard: .venv/installed-dashboard
	$(BIN)/python scripts/dashboard.py $(RUNS) $(ARGS)

test: check docs
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadscope --no-loadscope-reorder

test-all: check docs
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "slow or not slow" -n 2 --dist loadscope --no-loadscope-reorder

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/basedpyright --pythonpath $(BIN)/python

docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --config-file docs/mkdocs.yml

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/installed-dashboard: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dashboard]"
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv build *.egg-info
