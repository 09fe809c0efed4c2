# Works with GNU make 3.81 and later. `make` alone lists the targets.

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Stamps: an install is repeated only when what it depends on has changed.
INSTALLED := $(VENV)/installed
TESTABLE := $(VENV)/testable

.DEFAULT_GOAL := help
.PHONY: help train test lint format types mutants bench smoke reproduce-convergence clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-22s %s\n", $$1, $$2 }' Makefile

train: $(INSTALLED)  ## set up, then the default run; ARGS="eps=2 seed=1" adds to it
	$(BIN)/dpexp train $(ARGS)

test: $(TESTABLE)  ## the test suite on two processes; ARGS="tests/test_conf.py" narrows it
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(ARGS)

lint: $(TESTABLE)  ## style and format, nothing is changed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(TESTABLE)  ## bring the format in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(TESTABLE)  ## check the annotations
	$(BIN)/mypy

mutants: $(TESTABLE)  ## plant faults; the tests must find every one
	OMP_NUM_THREADS=1 $(BIN)/python scripts/mutants.py $(ARGS)

BENCH := OMP_NUM_THREADS=1 $(BIN)/dpexp bench step styles=flat,layerwise output=results/bench

bench: $(INSTALLED)  ## a clipped step over an ordinary one, on five networks; ARGS="rounds=21"
	$(BENCH) model.name=vit_small_patch16_224 batch=8 $(ARGS)
	$(BENCH) model.name=beit_base_patch16_224 batch=4 $(ARGS)
	$(BENCH) model.name=resnet18 model.image_size=32 batch=32 $(ARGS)
	$(BENCH) model.name=vgg19_cifar model.image_size=32 batch=32 $(ARGS)
	$(BENCH) model.name=convnext_atto model.image_size=64 batch=16 $(ARGS)
	$(BENCH) model.name=vit_small_patch16_224 batch=8 clipping.plan=time styles=flat $(ARGS)
	$(BIN)/python scripts/bench_page.py results/bench

SCALE ?= cpu
JOBS ?= 1

reproduce-convergence: $(INSTALLED)  ## paper A; ROW=digits_grid SCALE=smoke|cpu|gpu|paper JOBS=2
	OMP_NUM_THREADS=1 $(BIN)/python scripts/reproduce.py --scale $(SCALE) --row "$(ROW)" --jobs $(JOBS)

smoke: $(INSTALLED)  ## two steps of every experiment file, on embedded data
	OMP_NUM_THREADS=1 $(BIN)/python scripts/reproduce.py --scale smoke

clean:  ## remove the environment and caches; runs and data stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find dpexp conf tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "Python %d.%d found, but dpexp needs 3.11, 3.12 or 3.13: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(TESTABLE): $(INSTALLED)
	$(PIP) install -q -c constraints.txt -e '.[test]'
	@touch $@
