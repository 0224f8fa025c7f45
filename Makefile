# `make` or `make help` lists what there is. Everything runs in .venv, which the first target makes.

PYTHON ?= python3
MODEL ?= smollm2-135m
SCHEME ?= --int4
PROMPT ?= Why is the sky blue?
WORKERS ?= 2
BENCH ?= --short

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ARTIFACT := build/$(MODEL).llmc

.DEFAULT_GOAL := help
.PHONY: help install demo test bench bench-setup bench-resolve conformance lint format clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## Make .venv and install llmc with its compiler and development tools

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "llmc needs Python 3.11 or later; name one with PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(INSTALLED)  ## Compile SmolLM2 for this CPU, print generated text and its speed
	@mkdir -p build
	$(BIN)/llmc compile $(MODEL) $(SCHEME) -o $(ARTIFACT)
	$(BIN)/llmc run $(ARTIFACT) "$(PROMPT)" --max-tokens 64

test: $(INSTALLED)  ## Run the tests
	$(BIN)/python -m pytest -n $(WORKERS)

bench: $(INSTALLED)  ## Measure llmc beside other CPU runtimes (short form; BENCH= other options)
	$(BIN)/python benchmarks/peers.py $(BENCH)

bench-setup: $(INSTALLED)  ## Make what bench needs and start each runtime once; fail if one is missing
	$(BIN)/python benchmarks/peers.py $(BENCH) --set-up

bench-resolve: $(INSTALLED)  ## Ask pip whether it could install the other runtimes
	$(BIN)/python benchmarks/peers.py $(BENCH) --resolve

conformance: $(INSTALLED)  ## Compile all published configs, in narrow form, and compare with eager
	$(BIN)/python tests/conformance/real_configs.py $(CONFORMANCE)

lint: $(INSTALLED)  ## Check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(INSTALLED)  ## Format the code and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove .venv and everything that was built
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
