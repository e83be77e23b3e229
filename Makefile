# make reproduce-table3   the paper's Table 3 on the bundled model and data, set-up included
# make test               the test suite
# make check              formatting, lint, types
# make setup              the virtual environment alone, made again only when the pins change

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup test check reproduce-table3 train-mini clean

setup: $(READY)

$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
		{ echo "error: hired_eval needs Python 3.11 or 3.12; name one with make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

TASKS ?= vqav2,scienceqa,textvqa,docvqa,ocrbench,mme,pope,chartqa

reproduce-table3: $(READY)
	@echo "Table 3 on the bundled model and mini benchmarks; the paper's setting, on a GPU with the hub:"
	@echo "  python -m hired_eval -m profile=paper method=hired budget=0.2,0.4 task=$(TASKS)"
	$(BIN)/python -m hired_eval -m method=full task=$(TASKS)
	$(BIN)/python -m hired_eval -m method=hired budget=0.4,0.2 task=$(TASKS)
	$(BIN)/python -m hired_eval.reporting table3

train-mini: $(READY)
	$(BIN)/python scripts/train_mini.py

clean:
	rm -rf $(VENV) build dist *.egg-info
