# Python 3.11 or newer and make are all that these targets need: each makes its own virtual
# environment in .venv and installs what it uses.  A stamp file marks what is installed, so a
# second run starts at once.

PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2
ARGS   ?=
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
STAMPS := $(VENV)/.stamps

.PHONY: demo demo-text test smoke sweep check bench fusion docs spec format clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo    train on handwritten digits, eager and compiled, and compare"
	@echo "make demo-text  train a language model on Python's own sources, eager and compiled"
	@echo "make test    the whole test suite (PyTorch, if it can be installed, is the oracle)"
	@echo "make check   format, lint, types, layers"
	@echo "make bench   speed, each system in its own process (JSON=PATH writes the figures too)"
	@echo "make fusion  what each kind of fusion is worth: kernels and times without it and with it"
	@echo "make docs    regenerate docs/errors and docs/operators.md"
	@echo "make spec    rows of the behaviour specs, the tests that show them (JSON=PATH writes it too)"

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit("plait needs Python 3.11 or newer; say make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS)
	@touch $@

$(STAMPS)/demo: $(STAMPS)/venv pyproject.toml constraints.txt
	$(PIP) --editable '.[demo]'
	@touch $@

$(STAMPS)/dev: $(STAMPS)/venv pyproject.toml constraints.txt
	$(PIP) --editable '.[dev,demo]'
	@touch $@

# PyTorch is the oracle of the tests, not a dependency: where it cannot be had, the tests that
# need it are skipped by name.
$(STAMPS)/torch: $(STAMPS)/venv constraints.txt
	@$(PIP) torch || echo "PyTorch could not be installed: tests that compare with it will be skipped."
	@touch $@

$(STAMPS)/bench: $(STAMPS)/torch
	@for peer in jax numba onnxruntime onnx; do \
	  $(PIP) $$peer || echo "$$peer could not be installed: it is left out of the comparison."; done
	@touch $@

demo: $(STAMPS)/demo
	$(BIN)/plait demo $(ARGS)

demo-text: $(STAMPS)/demo
	$(BIN)/plait demo --text $(ARGS)

test: $(STAMPS)/dev $(STAMPS)/torch
	$(BIN)/python -m pytest -q -n $(JOBS) $(ARGS)

smoke: $(STAMPS)/dev
	$(BIN)/python -m pytest -q -x -m "not slow and not sweep" tests/structure tests/dispatch tests/symbolic $(ARGS)

sweep: $(STAMPS)/dev $(STAMPS)/torch
	$(BIN)/python -m pytest -q -n $(JOBS) -m sweep $(ARGS)

spec: $(STAMPS)/dev $(STAMPS)/torch
	$(BIN)/python -m pytest -q -n $(JOBS) -p tools.spec_table -m spec $(if $(JSON),--spec-json=$(JSON)) $(ARGS)

check: $(STAMPS)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/structure

format: $(STAMPS)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMPS)/dev $(STAMPS)/bench
	$(BIN)/python benchmarks/run.py $(if $(JSON),--json $(JSON)) $(ARGS)

fusion: $(STAMPS)/dev
	$(BIN)/python -m benchmarks.fusion_kinds $(if $(JSON),--json $(JSON)) $(ARGS)

docs: $(STAMPS)/dev
	$(BIN)/python -m tools.docs

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache demo-out bench-out
