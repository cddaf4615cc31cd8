# make demo | test | lint | docs | soak | results      (everything runs in .venv, made on first use)
#   PYTHON=python3.12      the interpreter that makes the environment (3.11 or newer)
#   TORCH_INDEX=URL        where to take torch, and torch alone, from; for the small CPU build:
#                          make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
#   SPLITS="val test"      which scans of $MEDSR_DATA results are made on; default val

PYTHON      ?= python3
TORCH_INDEX ?=
SPLITS      ?= val

VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH  := $(shell grep "^torch==" constraints.txt)
INPUTS := pyproject.toml constraints.txt
# One thread for each of the two test processes: small matrices only get slower with more.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help demo test lint format docs soak results constraints clean

help:
	@sed -n '1,5p' Makefile | cut -c3-

# The stamps live in the environment, so that removing it removes them too. An environment that is there is kept.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "medsr needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) lacks the venv module. Debian and Ubuntu: apt-get install python3-venv. Or name another: make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(INPUTS) | $(BIN)/python
ifneq ($(strip $(TORCH_INDEX)),)
	$(PIP) --no-deps --index-url $(TORCH_INDEX) $(TORCH)
endif
	$(PIP) -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) -c constraints.txt -e '.[dev,docs]'
	@touch $@

demo: $(VENV)/.core
	$(BIN)/medsr demo

test: $(VENV)/.dev
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist worksteal --durations 15 $(TESTS)

soak: $(VENV)/.dev
	MEDSR_RESULTS=docs/results $(ONE_THREAD) $(BIN)/python -m pytest -m soak $(TESTS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev
	$(BIN)/python docs/make_reference.py --check
	$(BIN)/python docs/make_dicom_table.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python docs/check_offline.py site

results: $(VENV)/.dev
	$(BIN)/python benchmarks/results.py --split $(SPLITS)
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/imports.py

# What the environment holds now becomes what CI installs; torch without the label of its build.
constraints: $(VENV)/.dev
	@{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --exclude medsr --exclude-editable | \
	  grep -E '^[A-Za-z0-9_.-]+==' | sed 's/^\(torch==[0-9.]*\)+.*/\1/'; } > .constraints.new
	@mv .constraints.new constraints.txt

clean:
	rm -rf build dist site demo_output .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
