# What one does with this project; `make help` lists it.
# PYTHON=… chooses the interpreter, ARGS="…" is handed on to the server, to pytest or to the benchmarks.

VENV := .venv
STAMP := $(VENV)/.installed
TESTS_STAMP := $(VENV)/.installed-for-tests
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
PYTEST := $(VENV)/bin/python -m pytest
# Tests wait more than they work: three workers for each processor. ARGS="-n 0" runs them in one process.
WORKERS := $(shell expr 3 \* $$(nproc))

# Workers would compile all that they import, each for itself.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup languages serve test test-long check bench clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | awk -F'|' '{ printf "make %-10s %s\n", $$1, $$2 }'

setup: $(STAMP) ## install what Python needs into .venv (the other targets do it too)

languages: $(STAMP) ## install what all languages need; one that cannot be had stops nothing
	@$(VENV)/bin/era-kernels install

# The server is up at once. What other languages need is installed beside it, which begins a little
# later and ends with the server: exec keeps the number of the shell's process. It is no child of it.
serve: $(STAMP) ## run the server: make serve ARGS="--port 9000"
	@( (sleep 2; exec nice -n 10 $(VENV)/bin/era-kernels install --plain --end-with $$$$) >&2 & ); \
		exec $(VENV)/bin/era-kernels serve $(ARGS)

test: languages $(TESTS_STAMP) ## run all tests in their short form: make test ARGS="-k sessions"
	@$(PYTEST) -m "not long" -n $(WORKERS) $(ARGS)

test-long: languages $(TESTS_STAMP) ## run the full figures that take long
	@$(PYTEST) -m long $(ARGS)

check: $(STAMP) ## lint, formatting and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: languages ## measure and print a table
	@$(VENV)/bin/python -m benchmarks $(ARGS)

clean: ## remove .venv and everything that tools left
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Made again when the dependencies change. The stamp is written last: what was cut short is done anew.
$(STAMP): pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV); the first time takes about a minute ..."
	@$(PIP) install --quiet --editable '.[science,dev]'
	@$(VENV)/bin/era-kernels install python
	@touch $@

$(TESTS_STAMP): $(STAMP)
	@$(PIP) install --quiet --editable '.[science,notebook,served,dev]'
	@touch $@

# The first Python from 3.11 on. Debian ships venv apart from it.
$(VENV)/bin/python:
	@for python in $(if $(PYTHON),$(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python); do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
			echo "The venv module of $$python is missing. Install it: apt-get install python3-venv" >&2; \
			exit 1; \
		fi; \
		"$$python" -m venv --clear $(VENV) && exit 0; \
		rm -rf $(VENV); \
		exit 1; \
	done; \
	echo "No Python from 3.11 on was found$(if $(PYTHON), as $(PYTHON),: apt-get install python3 python3-venv)." >&2; \
	exit 1
