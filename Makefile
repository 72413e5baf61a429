# `make demo` and `make test` set everything up on the first call; later calls reuse it.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
MINUTES ?= 1.5

.PHONY: help setup test test-all lint demo bench gallery docs clean

help:           ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 14

setup: $(READY) ## the virtual environment with everything installed

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

test: $(READY)  ## the tests that every change must pass (offline, a few minutes)
	$(BIN)/python -m pytest -n auto -m "not slow and not gpu"

test-all: $(READY) ## every test, the slow ones too
	$(BIN)/python -m pytest -n auto

lint: $(READY)  ## style and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

demo: $(READY)  ## train, evaluate and sample a flow on real handwritten digits
	@$(BIN)/python -m steadyflow demo --minutes $(MINUTES)

gallery: $(READY) ## every picture of the documentation anew; DATA=folder with mnist/ for all of them
	$(BIN)/python docs/gallery.py $(if $(DATA),--data $(DATA))

bench: $(READY) ## every benchmark, into benchmarks/results.json (hours; QUICK=1: minutes; DATA=folder with mnist/, adbench/)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt '.[bench]'
	$(BIN)/python benchmarks/bench.py $(if $(QUICK),--quick) $(if $(DATA),--data $(DATA))

docs: $(READY)  ## the documentation, into docs/_build/html
	$(BIN)/sphinx-build -W -q -b html docs docs/_build/html

clean:          ## remove the virtual environment and everything built
	rm -rf $(VENV) build dist docs/_build .pytest_cache .mypy_cache .ruff_cache
