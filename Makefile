# Two commands matter: `make quickstart` and `make test`. Both build .venv themselves; the tests add to it.
#
#   PYTHON    the interpreter that .venv is made from (3.11 or newer)
#   PIP_ARGS  passed to every pip install, for example to name another package index or a folder of wheels
#   ARGS      passed to the command that runs (codi quickstart, pytest)

PYTHON   ?= python3
PIP_ARGS ?=
ARGS     ?=

VENV  := .venv
BIN   := $(VENV)/bin
# What `codi` itself needs, and on top of that what the tests, linters and docs need.
CORE  := $(VENV)/.core
STAMP := $(VENV)/.installed
# The pinned version is written once, in constraints.txt.
TORCH := $(shell grep '^torch==' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help quickstart test gpu versions lint docs format clean
.DELETE_ON_ERROR:

help:
	@echo "make quickstart   train CoT-SFT, No-CoT-SFT and CODI on generated problems and compare them"
	@echo "make test         run the tests"
	@echo "make versions     run the core's tests on the oldest and the newest transformers that are allowed"
	@echo "make gpu          run the tests that need a CUDA GPU, and measure training steps there"
	@echo "make lint         run ruff and mypy"
	@echo "make docs         build the docs site into build/site; a broken link is an error"
	@echo "make format       sort imports and apply ruff's safe fixes"
	@echo "make clean        remove .venv and caches (runs/ stays)"
	@echo
	@echo "PYTHON=python3.12             make .venv from another interpreter"
	@echo "PIP_ARGS='--find-links DIR'   options for pip, such as an index that holds CPU-only wheels of torch"
	@echo "ARGS='...'                    options for codi quickstart or for pytest"

quickstart: $(CORE)
	$(BIN)/codi quickstart $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

# Each in a folder of its own, before the one in .venv on the path.
OLDEST := $(shell grep -o 'transformers>=[0-9.]*' pyproject.toml | sed 's/>=/==/')
NEWEST := $(shell grep -o 'transformers>=[0-9.]*,<[0-9]*' pyproject.toml)
CORE_TESTS := $(addprefix tests/test_,context.py codi_oracle.py feed_and_refine.py lora.py decoding.py \
  checkpoint.py training.py resume_parts.py no_waiting.py)

versions: $(STAMP)
	rm -rf build/transformers
	for wanted in '$(OLDEST)' '$(NEWEST)'; do \
	  $(BIN)/python -m pip install --disable-pip-version-check --quiet --target "build/transformers/$$wanted" \
	    $(PIP_ARGS) "$$wanted" && \
	  echo "--- $$wanted" && \
	  PYTHONPATH="build/transformers/$$wanted" $(BIN)/python -m pytest -q $(CORE_TESTS) $(ARGS) || exit 1; \
	done

# Sizes with the rows of a batch that the literal step has room for on 80 GB.
GPU_BENCHES := gpt2:128 smollm2:64 llama1b:16
gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu -s $(ARGS)
	card=$$($(BIN)/python -c \
	  "import torch; print(torch.cuda.get_device_name().lower().replace('nvidia ', '').split()[0])") && \
	for each in $(GPU_BENCHES); do \
	  $(BIN)/codi bench train --size $${each%:*} --batch-size $${each#*:} --pairs 5 --bf16 --base-bf16 \
	    --overwrite --output docs/results/bench/train-$${each%:*}-$$card-bf16.json || exit 1; \
	done

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

format: $(STAMP)
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
	find src tests -type d -name __pycache__ -prune -exec rm -rf {} +

# torch comes first and alone: it is the largest download, and everything else is resolved around its version.
$(CORE): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { \
	  echo "error: no interpreter '$(PYTHON)' was found; install Python 3.11 or newer," \
	       "or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: codi needs Python 3.11 or newer, but '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1);" \
	       "name a newer one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' cannot make virtual environments: its venv or ensurepip module is missing;" \
	       "install it (on Debian and Ubuntu: the package python3-venv)" \
	       "or name another interpreter: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) -c constraints.txt $(TORCH)
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e .
	@touch $@

$(STAMP): $(CORE)
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@
