# run · test · parity · lab · bench · tasks · search · figures: each creates the environment first if needed.
# Options: SCALE=smoke|cpu|paper  ONLY=01,04  ARGS='-p SEED=1'  PYTHON=python3.12  VENV=.venv
# In a conda environment made from environment.yml: make VENV=$CONDA_PREFIX …

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
SCALE ?= cpu
ONLY ?=
ARGS ?=
# PyTorch's index of CPU builds; PyPI's own Linux wheels bring several GB of CUDA libraries.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := $(VENV)/bin
# A conda environment brings its own packages, the GPU build of Paddle among them: add none.
IS_CONDA := $(and $(CONDA_PREFIX),$(filter $(CONDA_PREFIX),$(VENV)))
INSTALL := $(if $(IS_CONDA),--no-deps --editable .,--editable '.[sample,dev]')
INSTALLED := $(VENV)/.convbert-installed
PARITY := $(VENV)/.convbert-parity

.PHONY: run test parity lab bench tasks search figures clean

run: $(INSTALLED)
	$(BIN)/python -m convbert run --scale $(SCALE) $(if $(ONLY),--only $(ONLY)) $(ARGS)

test: $(INSTALLED)
	$(BIN)/python -m pytest tests --ignore tests/parity $(ARGS)

parity: $(PARITY)
	$(BIN)/python -m pytest tests/parity $(ARGS)

lab: $(INSTALLED)
	$(BIN)/jupyter lab notebooks

bench: $(PARITY)
	$(BIN)/python tests/benchmark.py $(ARGS)

# Does pretraining, four times as long as the notebooks', help the tiny model on the sample's tasks
# and on six of GLUE? Over seeds, beside its twin with new weights. More than an hour at cpu.
tasks: $(INSTALLED)
	$(BIN)/python -m convbert tasks --scale $(SCALE) --output_dir . $(ARGS)
	$(BIN)/python -m convbert table

# A GLUE task on which pretraining helps the tiny model, looked for at SCALE (smoke or cpu).
search: $(INSTALLED)
	$(BIN)/python -m convbert search --scale $(SCALE) --output_dir . $(ARGS)
	$(BIN)/python -m convbert table

# The committed results, pictures and README tables: a cpu run into the repository itself.
figures: $(INSTALLED)
	$(BIN)/python -m convbert run --scale smoke --output_dir .
	$(BIN)/python -m convbert run --scale cpu --output_dir .
	$(BIN)/python -m convbert sweep --output_dir .
	$(BIN)/python -m convbert table

clean:
	rm -rf outputs

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; ok = (3, 10) <= v[:2] <= (3, 12); \
	  sys.exit(0 if ok else f"Python {v[0]}.{v[1]} found, 3.10 to 3.12 needed: make PYTHON=python3.11 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	# The pip of Python 3.10 would build old-style packages with Paddle's setuptools, and fail.
	$(BIN)/python -m pip install --quiet --use-pep517 $(INSTALL)
	touch $@

$(PARITY): $(INSTALLED) pyproject.toml
	$(BIN)/python -m pip install --quiet --use-pep517 --retries 1 --extra-index-url $(TORCH_INDEX) --editable '.[sample,dev,parity]'
	$(BIN)/python -c 'import torch, transformers; print("torch", torch.__version__, "transformers", transformers.__version__)'
	touch $@
