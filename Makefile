# make try                Table 3 from ten questions a benchmark, into build/try, set-up included
# make reproduce-table3   the paper's Table 3 on the bundled model and data, set-up included
#                         likewise table2, 4, 5, 6, figure2, 3, 5, 6, baselines, gallery, field, all (without field)
#                         PROFILE=paper: the paper's models and the hub; LAUNCHER=ray|submitit_slurm
# make test               the test suite
# make check              formatting, lint, types, who imports whom
# make docs               the pages as a site in build/site
# make regression         every method x eight benchmarks, compared with the committed results sample by sample
# make mutants            seeded faults, and whether tests and regression see them; the result goes to docs/regression.md
# make precision          intervals of random parts by simulation; the result goes to docs/precision.md
# make faults             a sweep killed at 60 random moments; the result goes to docs/faults.md
# make measured           the measured tables of README.md and docs/
# make results-mini       what make reproduce-all wrote, copied to results/mini and README.md
# make audit smoke-wheel   see CONTRIBUTING.md
# make test-lowest        answers, methods and families with the lowest versions that pyproject.toml allows
# make setup              the virtual environment alone, made again only when the pins change
#                         TORCH=cpu: without CUDA, from PyTorch's own index

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help try setup test test-lowest check regression mutants docs faults audit smoke-wheel measured results-mini train-mini clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p;/^$$/q' Makefile

setup: $(READY)

# cpu: PyTorch without CUDA, 7 GB less, from PyTorch's own index: that of Python has no such build for Linux
TORCH ?=
# uv takes a quarter of pip's time; pip, which knows mirrors of its own, where uv finds no index
PACKAGES := --constraint constraints.txt --editable '.[dev]'
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python $(PACKAGES)
$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
		{ echo "error: hired_eval needs Python 3.11 or 3.12; name one with make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip uv
	$(if $(TORCH),$(UV) --torch-backend $(TORCH),$(UV) || $(BIN)/python -m pip install --quiet $(PACKAGES))
	@touch $@

# Two processes of one thread each: threads that wait for a busy core slow a small model down
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# In an environment of its own, which stays in build/lowest
LOWEST := build/lowest/bin/python
TELLING := test_golden.py test_identity.py mini dropping models/test_fixed_answers.py models/test_apply.py \
	models/test_onevision.py models/test_internvl.py models/test_qwen.py
test-lowest: $(READY)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/lowest
	$(BIN)/uv pip install --quiet --python $(LOWEST) --resolution lowest-direct --editable . 'hypothesis>=6.155' 'pytest>=9'
	@# torch draws the random weights of the tiny LLaVA-OneVision by version
	OMP_NUM_THREADS=1 $(LOWEST) -m pytest -k 'not (are_known and onevision)' $(addprefix tests/,$(TELLING))
	$(LOWEST) -m hired_eval regress --benchmarks docvqa,pope --samples 20 --out build/lowest/reports

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# 0 the same, 1 different beyond the tolerance, 2 could not compare; OPTIONS=--update renews the reference
OPTIONS ?=
regression: $(READY)
	@$(BIN)/python -m hired_eval regress --out $(REPORTS) $(OPTIONS)

mutants: $(READY)
	@$(BIN)/python -m tests.mutants.campaign --write docs/regression.md

# PROFILE=mini: bundled model and data; PROFILE=paper: the paper's models and the hub's data, for a GPU
PROFILE ?= mini
# LAUNCHER=ray or submitit_slurm: one run a job, after pip install 'hired-eval[cluster]'
LAUNCHER ?= basic
# More of Hydra's overrides, e.g. OVERRIDES='limit=100 batch_size=16'
OVERRIDES ?=
RUNS ?= results/runs
REPORTS ?= results/reports
# PRECISION=2: stop where a difference to Full is known to 2 points, or to be within 2 or not; see docs/precision.md
PRECISION ?=

EXPERIMENTS := table2 table3 table4 table5 table6 figure2 figure3 figure5 figure6 gallery baselines
REPRODUCE := $(addprefix reproduce-,$(EXPERIMENTS) field)
.PHONY: reproduce-all precision bench efficiency $(REPRODUCE)
RUN = $(BIN)/python -m hired_eval -m profile=$(PROFILE) hydra/launcher=$(LAUNCHER) runs_dir=$(RUNS) $(if $(PRECISION),precision=$(PRECISION) decide=equivalent:$(PRECISION)) $(OVERRIDES)
# A run that fails is named in the report; the report is written all the same, and make fails at its end.
# Status 130 is Ctrl-C, which ends everything
REPORT = failed=$$?; [ $$failed -ne 130 ] || exit 130; $(BIN)/python -m hired_eval report --runs-dir $(RUNS) --out $(REPORTS) $(1) && exit $$failed

define FIRST_LINE
@if [ "$(PROFILE)" = mini ]; then \
	echo "$(1): bundled model and mini benchmarks; the paper's setting, on a GPU with the hub: make reproduce-$(1) PROFILE=paper"; \
else echo "$(1): profile $(PROFILE)"; fi
endef

# Stages inside the language model keep a mean over its layers, which the first of them see all of
INSIDE := method=fastv,pyramiddrop,sparsevlm,dart budget=0.6111,0.5556
ifeq ($(PROFILE),paper)
INSIDE := method=fastv,sparsevlm,dart tokens=640,320
endif
# One after the other, whatever becomes of those before
FIELD := "" "$(INSIDE)" "measure=efficiency task=docvqa" "$(INSIDE) measure=efficiency task=docvqa"

$(REPRODUCE): reproduce-%: $(READY)
	$(call FIRST_LINE,$*)
	@failed=0; for more in $(if $(filter field,$*),$(FIELD),""); do \
			$(RUN) +experiment=$* $$more || { failed=$$?; [ $$failed -ne 130 ] || exit 130; }; done; \
		(exit $$failed); $(call REPORT,$*)
	@$(if $(filter table4,$*),$(EFFICIENCY))

# The curve needs full execution and the methods without a budget too, which are runs of Table 3
reproduce-baselines: reproduce-table3

reproduce-all: $(READY)
	$(call FIRST_LINE,all)
	@failed=0; for name in $(EXPERIMENTS); do \
			$(RUN) +experiment=$$name || { failed=$$?; [ $$failed -ne 130 ] || exit 130; }; done; \
		(exit $$failed); $(call REPORT,all)

# Do the intervals of parts hold, and what do they save? By simulation, some minutes; goes to docs/precision.md
precision: $(READY)
	@$(BIN)/python -m tests.precision.campaign --write docs/precision.md

try: $(READY)
	@$(MAKE) --no-print-directory reproduce-table3 RUNS=build/try/runs REPORTS=build/try/reports OVERRIDES=limit=10

# Speed side by side; CASES=ae picks comparisons (letters as in docs/speed.md)
CASES ?= abcdefgh
bench: $(READY)
	$(BIN)/python -m bench --cases $(CASES) --write docs/speed.md

# Every efficiency record, measured beside what arithmetic and machine allow
EFFICIENCY = $(BIN)/python -m hired_eval.runs.efficiency --runs-dir $(RUNS)
efficiency: $(READY)
	@$(EFFICIENCY)

# A sweep ended by SIGKILL again and again, and what was left each time; some minutes
KILLS ?= 60
faults: $(READY)
	@$(BIN)/python -m tests.faults.campaign --kills $(KILLS) --write docs/faults.md

# The pages as a site in build/site; a broken link fails
docs: $(READY)
	@$(BIN)/zensical build --strict && echo "written: build/site/index.html"

# Known vulnerabilities among the pinned packages; asks a service on the network
audit: $(READY)
	@$(BIN)/python scripts/audit.py

# Wheel and sdist, and the wheel in a clean environment
smoke-wheel: $(READY)
	$(BIN)/python scripts/smoke_wheel.py

# What the measured tables of README.md and docs/ are filled from, then those tables
MEASURE = $(BIN)/python -m hired_eval -m task=docvqa runs_dir=$(RUNS) $(OVERRIDES)
measured: $(READY)
	$(MEASURE) budget=0.2 'method=glob(*)'
	$(MEASURE) method=full method.newline=none
	$(MEASURE) budget=0.2 method=hired method.newline=rows
	$(MEASURE) budget=0.2 method=hired method.spend_leftover=true
	$(MEASURE) budget=0.2 method=holov method.within=attention
	$(MEASURE) budget=0.2 method=globalcom2 method.scores=logit
	$(MEASURE) budget=0.2 method=hiprune method.wrap=true
	$(BIN)/python scripts/fill_docs.py --runs $(RUNS)

# What make reproduce-all wrote, to results/mini, which is committed; then the tables of README.md and docs/
results-mini: $(READY)
	$(BIN)/python scripts/copy_results.py --runs $(RUNS) --reports $(REPORTS)
	$(BIN)/python scripts/fill_docs.py

train-mini: $(READY)
	$(BIN)/python -m training

clean:
	rm -rf $(VENV) build dist *.egg-info
