# `make setup`, `make test`, `make demo`: each is all that a newcomer types.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Named after the contents of what it was made from: present means that nothing changed, whatever the file times say.
STAMP := $(VENV)/.complete-$(shell cat requirements.lock pyproject.toml | cksum | tr ' ' -)

# Package by package to a terminal, warnings and errors alone to a log.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --no-deps $(if $(MAKE_TERMOUT),,--quiet)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup lint test test-all crash-test demo benchmark docs clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup: $(STAMP) ## Install everything into .venv (3.5 GB to download, 7 GB on disk; Python 3.11 or 3.12)
	@echo "Ready: $(VENV) has `$(BIN)/python --version`. Next: make test, make demo, $(BIN)/vilp-pipe --help"

$(STAMP):
	@test -x $(BIN)/pip || $(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || { \
	  echo "PYTHON is $(PYTHON); Python 3.11 or 3.12 is needed: make setup PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up $(VENV): 3.5 GB to download, 7 GB on disk, a few minutes the first time"
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@rm -f $(VENV)/.complete-*
	$(PIP) -r requirements.lock
	$(PIP) --no-build-isolation --editable .
	@touch $@

lint: $(STAMP) ## Check style, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

test: $(STAMP) ## Run the quick tests (ten minutes or so on two cores)
	$(BIN)/pytest -m "not slow"

test-all: $(STAMP) ## Run all tests
	$(BIN)/pytest

crash-test: $(STAMP) ## Kill, cut off and corrupt: every fault that the store is promised to survive (half an hour)
	$(BIN)/pytest -rs tests/crash tests/store/test_power_failure.py tests/store/test_bit_rot.py tests/pipeline/test_object_storage.py

demo: $(STAMP) ## Render, extract, train and compare heads on the embedded dataset
	$(BIN)/vilp-pipe demo

benchmark: $(STAMP) ## Compare with a plain script on this machine
	$(BIN)/vilp-pipe benchmark

docs: $(STAMP) ## Run the tutorial, and build the documentation with what it made into build/site (two minutes)
	$(BIN)/python docs/_site/tutorial.py build/tutorial
	$(BIN)/mkdocs build --strict
	@echo "Open build/site/index.html; for its search: $(BIN)/python -m http.server --directory build/site"

clean: ## Remove .venv and everything that tools left behind; data, stores and runs stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find cli docs pipeline stages store tests -name __pycache__ -type d -prune -exec rm -rf {} +
