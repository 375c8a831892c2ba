# demo, test, test-all and check each make .venv and install what they need; all they ask for is Python 3.11+, pip and
# make. `make test` leaves out the tests that are marked slow, `make test-all` runs all there are.
PYTHON ?= python3
BIN := .venv/bin
# As many tests at once; each takes one core. They are dealt out in runs that follow each other in a file, so that what a
# file's tests share is mostly made once, and whoever is done first takes over from the end of another's.
PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist worksteal
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable

.PHONY: demo test test-all check format clean

demo: .venv/installed
	$(BIN)/segweave demo --out runs/demo --overwrite

test: .venv/installed-test
	$(PYTEST) -m "not slow"

test-all: .venv/installed-test
	$(PYTEST)

check: .venv/installed-check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/installed-check
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build runs .pytest_cache .mypy_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "segweave needs Python 3.11 or later")'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) .
	touch $@

.venv/installed-test: .venv/installed
	$(INSTALL) '.[test]'
	touch $@

.venv/installed-check: .venv/installed-test
	$(INSTALL) '.[test,check]'
	touch $@
