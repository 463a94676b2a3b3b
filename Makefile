# make train        set up .venv and train; CONFIG=configs/… ARGS="--config.key=value …" choose what
# make test         set up .venv and run all tests
# make lint         check style and format
PYTHON ?= python3
CONFIG ?= configs/quickstart.py
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
# Containers often forbid bytecode files; each of the tests' many processes would compile all sources anew (7 s).
export PYTHONDONTWRITEBYTECODE :=
# JAX's CUDA packages are gigabytes: only where a driver answers.
PACKAGES := $(if $(shell nvidia-smi -L 2>/dev/null | grep GPU),-r requirements.txt -e '.[dev]',-e '.[dev]')

train: $(VENV)/installed
	$(BIN)/python train.py --config=$(CONFIG) $(ARGS)

test: $(VENV)/installed
	$(BIN)/python -m pytest -n auto --maxprocesses=4 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(VENV)/installed: pyproject.toml requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'error: $(PYTHON) is older than Python 3.11; pass a newer one: make PYTHON=python3.12 …'; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(PACKAGES)
	@touch $@

.PHONY: train test lint
