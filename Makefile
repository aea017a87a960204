# Two commands matter: `make demo` runs the main job, `make test` sets up and passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp

.PHONY: demo test setup check lint types unit e2e interop bench soak fix clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -e . --group dev
	touch $(STAMP)

setup: $(STAMP)

demo: $(STAMP)
	$(BIN)/pt demo

test: $(STAMP)
	$(BIN)/python -m tests.run

check: lint types

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(STAMP)
	$(BIN)/mypy

fix: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

unit: $(STAMP)
	$(BIN)/pytest tests/unit tests/arch tests/sim tests/contract

e2e: $(STAMP)
	$(BIN)/pytest tests/e2e

interop: $(STAMP)
	$(BIN)/python -m interop.matrix
	$(BIN)/python -m interop.quic
	$(BIN)/python -m interop.autonat

bench: $(STAMP)
	$(BIN)/python -m pip install -q --group bench
	$(BIN)/python -m bench.run
	$(BIN)/python -m bench.quic
	$(BIN)/python -m bench.relays

soak: $(STAMP)
	$(BIN)/pytest tests/e2e -m soak

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
