# One virtual environment in .venv, rebuilt only when pyproject.toml or constraints.txt change; everything runs from it.
#
#   make demo     install, then both halves of the library on small models; results in runs/demo/
#   make test     the tests, and every tutorial from top to bottom
#   make lint     ruff, pyright, import-linter
#   make docs     the documentation site in site/, tutorials with the figures of their own run
#   make browser  every page of that site looked at in Chromium
#   make bench    side by side with other libraries
#   make real     a real pretrained model in runs/smollm2: SmolLM2-135M-Instruct, one minute, 270 MB
#   make clean    remove what the targets above made
#
# constraints.txt holds the exact version of every package, for all targets alike, so that no target changes what another
# one installed. It is also what lets pyvene and pyreft (the `parity` extra) be installed beside everything else: their own
# requirements cap numpy, pandas and matplotlib, and the constraints are the versions on which all agree.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -qq install -c constraints.txt

export CAUSAL_REFT_SHARED ?= $(abspath ../shared)
export CAUSAL_REFT_SMOLLM2 ?= $(abspath runs/smollm2)

SOURCES   := $(shell find causal_reft -name '*.py' -o -name '*.pyi')
TUTORIALS := $(wildcard tutorials/*.ipynb)
EXECUTED  := build/tutorials/.executed

# Tutorials run on a copy in build/tutorials, which is also what the site shows: they run once and the sources stay clean.
# A tutorial on the shared model, or on the pretrained one of `make real`, is left out where that model is not.
COPY_TUTORIALS := rm -rf build/tutorials && mkdir -p build/tutorials && cp -R tutorials/. build/tutorials && \
	for needed in SHARED SMOLLM2; do folder=$$(printenv CAUSAL_REFT_$$needed); [ -d "$$folder" ] || \
	for book in $$(grep -l CAUSAL_REFT_$$needed build/tutorials/*.ipynb); do \
	echo "left out, needs $$folder: $$book"; rm $$book; done; done
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --nbmake --overwrite --nbmake-timeout=600


.PHONY: demo test lint docs browser bench real clean

demo: $(VENV)/.installed
	$(BIN)/python -m causal_reft demo $(ARGS)

test: $(VENV)/.with-test
	$(COPY_TUTORIALS)
	$(PYTEST) build/tutorials tests $(ARGS)
	touch $(EXECUTED)

lint: $(VENV)/.with-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: $(VENV)/.with-docs $(EXECUTED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

browser: docs
	$(BIN)/python -m tests.browser site

bench: $(VENV)/.with-test
	for script in compare serving; do OMP_NUM_THREADS=1 $(BIN)/python benchmarks/$$script.py || exit 1; done

real: $(VENV)/.with-real
	$(BIN)/python data/real_model.py runs/smollm2

clean:
	rm -rf $(VENV) build dist site runs

$(EXECUTED): $(TUTORIALS) $(SOURCES) | $(VENV)/.with-test
	$(COPY_TUTORIALS)
	$(PYTEST) build/tutorials
	touch $@

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Installing causal_reft into $(VENV) (a few minutes the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) pip hatchling editables
	$(PIP) --no-build-isolation -e .
	touch $@

$(VENV)/.with-test: EXTRAS = test,parity,peft,dask,lmeval
$(VENV)/.with-lint: EXTRAS = lint
$(VENV)/.with-docs: EXTRAS = docs
$(VENV)/.with-real: EXTRAS = real

$(VENV)/.with-%: $(VENV)/.installed
	@echo "Installing the extras $(EXTRAS) into $(VENV)"
	$(PIP) --no-build-isolation -e '.[$(EXTRAS)]'
	touch $@
