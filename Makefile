# Every target sets up .venv first, once. On a machine without a GPU elsewhere than PyPI's default,
# `make TORCH="--index-url <PyTorch's CPU index>" train` keeps the CUDA packages out.
PYTHON ?= python3
TORCH ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CONSTRAINTS := constraints.txt
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint $(CONSTRAINTS)

.DEFAULT_GOAL := help
.PHONY: help install train segment app test run-tests test-slow test-fast test-lowest lint format bench \
  bench-gpu browser faults coverage notebooks docs clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(INSTALLED) ## set up .venv (every other target does it too)

# fast-slic has no wheels and builds only beside an installed Cython and NumPy.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'Python 3.11 or later is needed: make PYTHON=python3.12 ...'; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { echo 'python venv is needed (Debian: apt install python3-venv)'; exit 1; }
	@echo 'installing into $(VENV), once: a few minutes'
	@$(PIP) setuptools wheel cython numpy
	@$(PIP) $(TORCH) torch
	@$(PIP) --no-build-isolation --editable '.[dev]'
	@$(PIP) --no-build-isolation fast-slic || echo 'fast-slic could not be built. Install a C++' \
	  'compiler and run make clean install, or use data.superpixels.backend=skimage (slower).'
	@touch $@

train: $(INSTALLED) ## train soft features on the embedded scenes; ARGS="key=value ..." for more
	$(BIN)/python -m src.train $(ARGS)

segment: $(INSTALLED) ## a photo into layers, with the shipped weights; ARGS="input=PHOTO_OR_FOLDER output=FOLDER ..."
	$(BIN)/python -m src.segment $(ARGS)

app: $(INSTALLED) ## the page for a web browser, on this computer only; ARGS="--port 8080 ..."
	$(BIN)/softfeat app $(ARGS)

# The tests run in WORKERS processes of one thread each. With loadfile the tests of a file stay in one
# process, where they share their fixtures. The slow tests are few and long, so any process takes any.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS)

test: lint run-tests ## lint, then all tests that are not marked slow: ten minutes on two cores; WORKERS=N, ARGS="..."

run-tests: $(INSTALLED) ## the tests of make test without lint
	$(PYTEST) --dist loadfile -m 'not slow' $(ARGS)

test-slow: $(INSTALLED) ## the tests marked slow: the wheel, a browser, notebooks, kills; 20 minutes
	$(PYTEST) --dist load -m slow $(ARGS)

browser: ## Chromium for the tests of the page, by apt, if there is none
	@command -v chromium > /dev/null || { apt-get update -qq && apt-get install -y -qq chromium; } \
	  || echo 'Chromium could not be installed: as root, run apt install chromium'

test-fast: $(INSTALLED) ## the first two tests of each file and module, not slow: a minute
	$(PYTEST) --dist loadfile -m 'not slow' --first 2 $(ARGS)

test-lowest: ## the tests of make test with the lowest allowed versions, in .venv-lowest
	mkdir -p outputs
	$(PYTHON) -m faults.lowest > outputs/lowest.txt
	$(MAKE) VENV=.venv-lowest CONSTRAINTS=outputs/lowest.txt run-tests

coverage: $(INSTALLED) ## how many branches of the product the tests of make test cover, in outputs/faults
	$(PYTEST) --dist loadfile -m 'not slow' --cov --cov-report=json:outputs/faults/coverage.json $(ARGS)
	$(BIN)/python -m faults.coverage outputs/faults/coverage.json

lint: $(INSTALLED) ## ruff (lint and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

SUITES := pooling loss train_step precompute loader cached_features time_to_quality colours

bench: $(INSTALLED) ## the benchmarks without data or trained features, an hour on two cores; results in outputs/benchmarks
	for suite in $(SUITES); do \
	  $(BIN)/python -m benchmarks suite=$$suite $(ARGS) || exit 1; done

bench-gpu: $(INSTALLED) ## check and measure the training step on a CUDA GPU, ten minutes; result in outputs/benchmarks
	$(BIN)/python -m benchmarks suite=gpu $(ARGS)

PARTS := kills corpus resources long pages cluster mutants

faults: $(INSTALLED) ## kills, bad files, scarce resources, long runs, wrong code: hours; ARGS="minutes=10" for a piece
	@failed=; for part in $(PARTS); do \
	  $(BIN)/python -m faults part=$$part $(ARGS) || failed="$$failed $$part"; done; \
	  test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

notebooks: $(INSTALLED) ## run all notebooks; executed copies in outputs/notebooks
	mkdir -p outputs/notebooks
	$(BIN)/jupyter execute --timeout=-1 --output=../outputs/notebooks/{notebook_name} notebooks/*.ipynb

docs: $(INSTALLED) ## the documents and an API reference as a site, in outputs/site
	$(BIN)/python -m mkdocs build --strict

clean: ## remove .venv and the tools' caches, keep runs and superpixel maps
	rm -rf $(VENV) .venv-lowest .mypy_cache .ruff_cache .pytest_cache
