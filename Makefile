# make setup | demo | demo-video | test | lint | train-setup | checksums | clean. Needs only Python 3.11 to 3.14 with venv, and make.
#
# TORCH is what the tests and the training install. Where the index serves CUDA builds, plain torch brings about 3 GB
# of CUDA packages on Linux; without an NVIDIA card, give the CPU build that PyTorch's installation page names:
#   make test TORCH="torch==2.13.0 <options from that page>"

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH ?= torch==2.13.0
PYTEST_ARGS ?=
# What takes longest comes first.
SIDE_BY_SIDE := tests/e2e/test_render.py tests/e2e/test_backends.py tests/models tests/weights tests/training tests/golden tests/unit

.PHONY: setup demo demo-video test lint train-setup checksums clean

setup: $(VENV)/.base

# The live page; Ctrl-C ends it.
demo: $(VENV)/.server
	EMO_LIVE_LOG_LEVEL=warning $(BIN)/emo-live serve --open --greet

demo-video: setup
	$(BIN)/emo-live demo --out demo.mp4 --overwrite

# Tests of pure logic and of models on all cores side by side; then those that live in real time, one after the other.
test: lint
ifeq ($(PYTEST_ARGS),)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(SIDE_BY_SIDE)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE:%=--ignore=%)
else
	$(BIN)/python -m pytest $(PYTEST_ARGS)
endif

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/mypy

train-setup: $(VENV)/.train

checksums: setup
	$(BIN)/python -c "from emo_live.cli.assets import write_sums; print(write_sums())"

clean:
	rm -rf $(VENV) build dist demo.mp4 .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The first of python3, python3.14 ... python3.11 that fits; PYTHON=... chooses another one.
$(BIN)/python:
	@set -e; chosen=; \
	for candidate in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	    if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' 2>/dev/null; \
	    then chosen=$$candidate; break; fi; \
	done; \
	if [ -z "$$chosen" ]; then \
	    echo "error: no Python 3.11 to 3.14 found: install one, or name it with make setup PYTHON=/path/to/python" >&2; \
	    exit 2; \
	fi; \
	if ! "$$chosen" -c 'import ensurepip, venv' 2>/dev/null; then \
	    version=$$("$$chosen" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	    echo "error: $$chosen has no venv: sudo apt-get install python$$version-venv" >&2; exit 2; \
	fi; \
	echo "making $(VENV) with $$chosen"; rm -rf $(VENV); "$$chosen" -m venv $(VENV)

# Modules are compiled when they are first imported, here (all of them would take 30 MB), and so are the networks.
$(VENV)/.base: pyproject.toml | $(BIN)/python
	$(PIP) install --no-compile --editable .
	$(BIN)/python -c "import emo_live.cli.diagnosis, emo_live.bench, openvino, rich.progress, rich.table"
	$(BIN)/python -c "from emo_live.render import compile_ahead; compile_ahead()"
	@touch $@

$(VENV)/.server: $(VENV)/.base
	$(PIP) install --no-compile --editable ".[server]"
	@touch $@

$(VENV)/.torch: $(VENV)/.base
	$(PIP) install $(TORCH)
	@touch $@

$(VENV)/.train: $(VENV)/.torch
	$(PIP) install --editable ".[train]"
	@touch $@

$(VENV)/.test: $(VENV)/.train
	$(PIP) install --no-compile --editable ".[train,dev]"
	@touch $@
