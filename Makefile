# make train [ARGS="--steps 20"]   train the default job, or what ARGS say
# make test  [ARGS="tests/credit"] run the tests
# make lint                        ruff and mypy
#
# Each makes the virtual environment if there is none and installs what it needs.
# TORCH chooses the torch requirement (TORCH=torch==2.13.0), PYTHON the interpreter.

PYTHON ?= python3
TORCH ?= torch>=2.9
VENV ?= .venv
ARGS ?=

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check

.PHONY: train test lint

train: $(VENV)/.train
	@$(PY) train.py $(ARGS)

test: $(VENV)/.dev
	$(PY) -m pytest $(ARGS)

lint: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is %d.%d: make PYTHON=python3.11 ..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

# torch first: the choice of its build is the user's; the other packages then take it as it is.
$(VENV)/.train: pyproject.toml | $(PY)
	$(PIP) install "$(TORCH)"
	$(PIP) install -e ".[train]"
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.train
	$(PIP) install -e ".[train,dev]"
	@touch $@
