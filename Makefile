# make setup | paper [PROFILE=scenes|sketch|coco|smoke] | test | sweeps | lab | bench | clean
#
# PYTHON       the interpreter that creates .venv (3.11 or newer); found by itself where not given.
# PROFILE      what `make paper` runs: scenes (the default, what the repository shows), sketch, coco, smoke.
# FLAGS        more arguments for `sketchae run-all`, e.g. FLAGS="--skip-finished" or FLAGS="-p TEST_SEED 7".
# TORCH_INDEX  optional. On Linux, pip's usual index serves PyTorch with CUDA, gigabytes that a CPU never uses.
#              PyTorch's installation page names the index of the CPU wheels (choose pip, then CPU):
#              `make setup TORCH_INDEX=<that address>` takes PyTorch from there. Where pip is configured to find
#              a CPU wheel by itself, nothing needs to be given.

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.setup-done
PROFILE ?= scenes
FLAGS ?=
TORCH_INDEX ?=
TORCH_PIN = $(shell grep '^torch==' constraints.txt)

# The first candidate that runs and is new enough: a name on the PATH may be an empty shim.
ifndef PYTHON
PYTHON := $(shell for p in python3.11 python3 python3.12 python3.13 python3.14 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
endif

# Nothing of the caller's own environment may leak into ours; nor may it keep Python from caching what it compiles.
unexport PYTHONPATH
unexport PYTHONHOME
unexport VIRTUAL_ENV
unexport PYTHONDONTWRITEBYTECODE

# The files of tests that run whole notebooks (tests marked `notebooks`).
NOTEBOOK_TESTS := tests/test_notebooks_chain.py tests/test_notebooks.py tests/test_coco_profile.py

.PHONY: setup paper test sweeps lab bench clean
.DEFAULT_GOAL := setup

setup: $(STAMP)

# --no-compile: Python compiles what it imports anyway; all of it at once takes a minute.
$(STAMP): constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer with venv and ensurepip was found: install one, or name it: make setup PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --no-compile $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH_PIN)
	$(PY) -m pip install --quiet --no-compile -r constraints.txt
	$(PY) -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

paper: setup
	$(PY) -m sketchae run-all --profile $(PROFILE) $(FLAGS)
ifeq ($(PROFILE),scenes)
	$(PY) -m sketchae paper --refresh
endif

# Quick tests first, whole notebooks after them, even if a quick one fails. Both on two processes of one thread each: on two cores
# that is quicker than one process of two threads. Notebooks that need each other are in one file of tests.
# SKETCHAE_CHECK_TREE makes the tests fail if they changed anything that git sees.
test: setup
	@status=0; export SKETCHAE_CHECK_TREE=1 OMP_NUM_THREADS=1; \
	$(PY) -m pytest -n 2 --dist loadfile -m "not notebooks" || status=1; \
	$(PY) -m pytest -n 2 --dist loadfile -m notebooks $(NOTEBOOK_TESTS) || status=1; \
	exit $$status

# The stored sweeps that 05 and 06 read (hours): made again only where they are missing or were made for other backbones.
sweeps: setup
	$(PY) -m sketchae.sweeps
	$(PY) -m sketchae.ablation
	$(PY) -m sketchae.other_codecs
	$(PY) -m sketchae.backbone_training.limits
	$(PY) -m sketchae.diffusion.studies
	$(PY) -m sketchae.diffusion.other_splits

lab: setup
	$(PY) -m jupyterlab --notebook-dir=notebooks

bench: setup
	$(PY) -m benchmarks

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find sketchae tests notebooks benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
