# Every target calls `setup`; a second call takes a moment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
SUBAK := $(BIN)/subak
WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help setup lock check unit test stack-test chaos mutants demo bench clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make .venv with everything

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Subak needs Python 3.11 or later: make PYTHON=/path/to/python3.11 ..."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setup: installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(STAMP)

LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --upgrade

lock: setup  ## renew deploy/locks, from which the images are made, after pyproject.toml was changed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(LOCK) pyproject.toml --output-file deploy/locks/hub.txt
	@$(LOCK) pyproject.toml --extra mssql --output-file deploy/locks/outlet.txt
	@echo 'setuptools>=77' | $(LOCK) - --output-file deploy/locks/build.txt
	@echo 'pytest pytest-timeout' | tr ' ' '\n' | $(LOCK) - --output-file deploy/locks/test.txt
	@echo 'mssql-python-odbc' | $(LOCK) - --output-file deploy/locks/microsoft.txt

check: setup  ## style, types, layering, SQL
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/sqlfluff lint sql
	@bash tests/engines.sh unixodbc
	@$(BIN)/pytest --quiet tests/unit/test_tsql.py

unit: setup  ## the tests that need no server, in under a minute (those of T-SQL are in `check`)
	@bash tests/engines.sh unixodbc
	@$(BIN)/pytest --numprocesses $(WORKERS) --ignore tests/unit/test_tsql.py tests/unit

test: setup  ## everything, on real databases (WORKERS=3: processes at a time, each with servers of its own)
	@bash tests/engines.sh
	@$(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal tests

stack-test: setup  ## docker-compose.yml brought up for real, with faults under load (a Docker engine, or root on Debian)
	@bash tests/engines.sh unixodbc
	@[ '$(ACCEPT_EULA)' != Y ] || $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement deploy/locks/microsoft.txt
	@bash tests/stack/docker/engine.sh run $(BIN)/pytest --durations 5 tests/integration

chaos: setup  ## faults by seed for SECONDS=600, SEED=n to repeat (ENGINES=sqlite,mariadb: only these)
	@bash tests/engines.sh
	@$(BIN)/python -m tests.chaos --seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED)) $(if $(ENGINES),--engines $(ENGINES))

mutants: setup  ## every known way to break it must be found by a test (ONLY=words of a name)
	@bash tests/engines.sh
	@$(BIN)/python -m tests.mutants $(ONLY)

demo: setup  ## a small retail company on three outlets
	@$(SUBAK) demo $(ARGS)

bench: setup  ## figures for MariaDB outlets on this machine, written to bench.json
	@bash tests/engines.sh
	@$(BIN)/python -m tests.bench $(ARGS)

clean:  ## remove what was built here
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
