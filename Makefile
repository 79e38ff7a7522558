# Two commands on a fresh machine with Python 3.10 or later:
#   make report   compare the four families on real digits and write runs/…/report.html
#   make test     install the test tools and run the test suite
# Options:  make report PYTHON=python3.12 ARGS='--budget 60s'    make test ARGS='-k flow'

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --constraint constraints.txt
# A worker a core; the tests of one file stay together, because they share what is slow to make.
SIDE_BY_SIDE := --numprocesses auto --dist loadscope
# The `dev` stamp also holds what `use` needs, so each command installs once at most.
USE := $(VENV)/genzoo-use.stamp
DEV := $(VENV)/genzoo-dev.stamp

.DEFAULT_GOAL := help
.PHONY: help report test test-slow lint format types clean

help:
	@echo 'make report     compare a GAN, a VAE, a flow and a diffusion model on real digits'
	@echo 'make test       run the test suite             make test-slow  also the slow checks'
	@echo 'make lint       ruff                           make types      mypy --strict'
	@echo 'make format     let ruff rewrite the sources   make clean      remove $(VENV) and caches'

report: $(USE)
	$(BIN)/genzoo compare $(ARGS)

test: $(DEV)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

test-slow: $(DEV)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m 'slow or not slow' --timeout 3600 $(ARGS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(DEV)
	$(BIN)/mypy

$(USE): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[dev]'
	@touch $(USE) $@

$(BIN)/python:
	@command -v '$(PYTHON)' > /dev/null || { \
	  echo "make: there is no '$(PYTHON)': install Python 3.10 or later," \
	    "or name one with PYTHON=python3.12" >&2; exit 2; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "make: '$(PYTHON)' is $$('$(PYTHON)' -V 2>&1), but genzoo needs Python 3.10 or later:" \
	    "name one with PYTHON=python3.12" >&2; exit 2; }
	@'$(PYTHON)' -m venv '$(VENV)' || { rm -rf '$(VENV)'; \
	  echo "make: '$(PYTHON)' cannot make virtual environments:" \
	    "install its venv module (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 2; }

clean:
	rm -rf $(VENV) build dist *.egg-info cli/*.egg-info reports/*.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find genzoo cli reports tests -name __pycache__ -type d -prune -exec rm -rf {} +
