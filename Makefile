# Ryan-GPT. `make` alone shows what there is.

.DEFAULT_GOAL := help
.PHONY: help setup demo up test test-compose chaos check fmt bench screenshots gpu-check reset clean

# The first of these that really runs and has a supported version; PYTHON=... overrides.
PYTHON ?= $(shell for name in python3.11 python3.12 python3 python; do \
	$$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& echo $$name && break; done)
BIN := .venv/bin
RUN := .venv/.installed-embedded
DEV := .venv/.installed-dev
INGREDIENTS := pyproject.toml constraints.txt scripts/setup.py

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(RUN) ## Make .venv with what the platform needs (PYTHON=..., TORCH_INDEX_URL=...)

$(RUN): $(INGREDIENTS)
	@$(require-python)
	@$(PYTHON) scripts/setup.py embedded

$(DEV): $(INGREDIENTS)
	@$(require-python)
	@$(PYTHON) scripts/setup.py dev

define require-python
if [ -z "$(PYTHON)" ]; then \
	echo "Python 3.11 or 3.12 is needed and neither is on the PATH; PYTHON=/path/to/python names one." >&2; \
	exit 1; fi
endef

demo: $(RUN) ## Train a small chat model on this machine and talk to it (ONCE=1 stops afterwards)
	@$(BIN)/ryangpt demo $(if $(ONCE),--once)

up: $(RUN) ## Start the platform; Ctrl-C stops it
	@$(BIN)/ryangpt up

test: $(DEV) ## Run every test
	@$(BIN)/python -m pytest -q --ignore tests/compose

test-compose: $(DEV) ## Build the images and try the compose file on a real Docker engine
	@$(BIN)/python -m pytest -q -s tests/compose

chaos: $(DEV) ## Break everything at true durations and write docs/chaos-report.md (an hour; QUICK=1: 20 minutes; ONLY="F3 F15")
	@$(BIN)/python -m tests.faults.chaos $(if $(QUICK),--suite quick) $(if $(ONLY),--only $(ONLY))

check: $(DEV) ## Lint, formatting, types, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fmt: $(DEV) ## Format and sort imports
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

BENCHMARKS := $(filter-out __init__ gpu_check,$(basename $(notdir $(wildcard benchmarks/*.py))))
bench: $(DEV) ## Measure beside peers; prints ratio tables
	@for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name || exit 1; done

screenshots: $(DEV) ## Photograph the pages for the documentation (needs Chromium; URL=... of a platform that runs)
	@$(BIN)/python scripts/screenshots.py $(if $(URL),--url $(URL))

gpu-check: $(RUN) ## On a box with a GPU: train, resume, generate; prints speed and memory
	@$(BIN)/python -m benchmarks.gpu_check

reset: $(RUN) ## Delete the data folder (jobs, data, models) after asking
	@$(BIN)/ryangpt reset

clean: ## Delete .venv and caches; the data folder stays
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info
