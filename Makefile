# Every target sets up .venv by itself; it needs Python >= 3.11 and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
INSTALL := $(PIP) install -c constraints.txt $(PIP_FLAGS)
SOURCES := medssl pipelines examples tests
# A thread per core in every one of several processes only makes them wait for each other.
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test test-slow lint types examples bench gpu-check docs dev wheel wheelhouse clean

help:
	@echo "make demo       phantom archive -> index -> pretrain -> finetune -> predict -> evaluate -> report"
	@echo "make test       tests except the slow ones; make test-slow: the slow ones"
	@echo "make lint types examples bench gpu-check docs wheel wheelhouse clean"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# One stamp per set of extras, so that a target installs no more than it needs.
$(VENV)/.run: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) -e .
	@touch $@

$(VENV)/.test: $(VENV)/.run
	$(INSTALL) -e '.[test]'
	@touch $@

$(VENV)/.lint: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) ruff
	@touch $@

$(VENV)/.types: $(VENV)/.test
	$(INSTALL) -e '.[types]'
	@touch $@

$(VENV)/.dev: $(VENV)/.types
	$(INSTALL) -e '.[dev]'
	@touch $@

demo: $(VENV)/.run
	$(BIN)/medssl demo --out demo-out --overwrite

test: $(VENV)/.test
	$(BIN)/python -m pytest -m "not slow and not gpu" -n auto --dist worksteal $(PYTEST_FLAGS)

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m "slow and not gpu" -n auto --dist worksteal $(PYTEST_FLAGS)

lint: $(VENV)/.lint
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: $(VENV)/.types
	$(BIN)/mypy

examples: $(VENV)/.run
	@for file in examples/*.py; do echo "$$file"; $(BIN)/python $$file || exit 1; done

bench: $(VENV)/.test
	@for file in $(wildcard pipelines/bench_*.py); do echo "$$file"; $(BIN)/python -m pipelines.$$(basename $$file .py) || exit 1; done

# MEDSSL_DATA: folder of the real data sets. Writes docs/results/gpu_check.md.
gpu-check: $(VENV)/.test
	$(BIN)/python -m pytest -m gpu $(PYTEST_FLAGS)
	$(BIN)/python -m pipelines.gpu_check --data $(or $(MEDSSL_DATA),../shared/data)/hippocampus --out gpu-check-out

# README table and docs/objectives from the source files.
docs: $(VENV)/.run
	$(BIN)/python -m pipelines.write_docs

dev: $(VENV)/.dev

wheel: $(VENV)/bin/python
	$(PIP) wheel --no-deps -w dist .

# For machines without a network: copy the checkout with wheelhouse/ there, then
#   pip install --no-index --find-links wheelhouse medssl
# or, for every target of this file, e.g.
#   make test PIP_FLAGS="--no-index --find-links wheelhouse"
wheelhouse: $(VENV)/bin/python
	$(PIP) wheel --no-deps -w wheelhouse .
	$(PIP) download -c constraints.txt -d wheelhouse '.[test]' hatchling editables
	@echo "install with: pip install --no-index --find-links wheelhouse medssl"

clean:
	rm -rf $(VENV) build dist wheelhouse demo-out gpu-check-out .mypy_cache .pytest_cache .ruff_cache .hypothesis
