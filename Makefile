# make demo    rotations in a local AWS, carried into a local Kubernetes, live.  KEEP=1 leaves it running;
#              NODE=real runs real containers, where a real node can run (root on Linux).
# make test    lint and every test.  One tier alone: make test-unit, test-contract, test-integration, test-e2e, test-faults,
#              test-node (on a real node, where one can run: root on Linux).
#              test-faults prints a line for each fault: its number, held or broken, the case.
# make bench   the receiver against raw applies: calls, latency, bursts, memory; writes docs/benchmark.md and
#              build/bench.json, ~10 min.  ONLY="calls latency" runs a part and prints it.
# make bench-notifier    the notifier's cold import, warm CPU per record, and size; a table and build/bench-notifier.json
# make lint · make format · make docs · make chart-docs · make requirements · make clean
#
# All set-up happens by itself, once: the virtual environment, the dependencies, the control plane's programs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SAM_VENV := .venv-sam
export PYTHONPATH := $(CURDIR)/lambda:$(CURDIR)/receiver:$(CURDIR)/infra
PYTEST := $(BIN)/python -m pytest
# Fails where no real node can run, and prints the reason.
PREFLIGHT := $(BIN)/python -m keyturn_local.node.preflight
ENCLOSED := $(BIN)/python -m keyturn_local.node.enclosure

.PHONY: help demo test test-unit test-contract test-integration test-e2e test-faults test-node bench bench-notifier lint format docs chart-docs requirements setup clean

help:
	@sed -n 's/^# //p' Makefile

demo: setup
ifeq ($(NODE),real)
	@$(PREFLIGHT)
	@KUBECONFIG= $(ENCLOSED) $(BIN)/python -m keyturn_local.demo --node $(if $(KEEP),--keep)
else
	$(if $(NODE),$(error NODE=real, or no NODE at all))
	@$(BIN)/python -m keyturn_local.demo $(if $(KEEP),--keep) $(if $(CONTEXT),--context "$(CONTEXT)")
endif

test: lint setup $(SAM_VENV)/installed
	@if why=$$($(PREFLIGHT)); then $(PYTEST) && $(ENCLOSED) $(PYTEST) tests/node; \
		else echo "tests/node is skipped: $$why"; $(PYTEST); fi

test-unit: $(VENV)/installed
	$(PYTEST) tests/unit

test-contract: $(VENV)/installed $(SAM_VENV)/installed
	$(PYTEST) tests/contract

test-integration test-e2e: setup $(SAM_VENV)/installed
	$(PYTEST) tests/$(@:test-%=%)

test-faults: setup
	@$(PYTEST) --quiet tests/faults

test-node: setup
	@$(PREFLIGHT)
	$(ENCLOSED) $(PYTEST) tests/node

bench: setup
	@$(BIN)/python -m keyturn_local.bench.receiver $(ONLY)

bench-notifier: $(VENV)/installed
	@$(BIN)/python -m keyturn_local.bench.notifier

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/installed
	$(BIN)/python -m keyturn_local.docs.tables

chart-docs: $(VENV)/installed
	$(BIN)/python -m keyturn_local.docs.chart_values

# uv is not among the dependencies: it is only needed to change them.
requirements:
	requirements/compile

# The control plane takes longest, so it starts first and runs beside pip.
setup:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Keyturn needs Python 3.11 or newer: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m keyturn_local.toolchain.binaries >/dev/null & resolving=$$!; \
		$(MAKE) --silent --no-print-directory $(VENV)/installed $(VENV)/custom-resources \
			|| { kill $$resolving; exit 1; }; \
		wait $$resolving

$(VENV)/installed: requirements/dev.txt
	@echo "setup: installing the dependencies into $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV) \
		|| { echo "Python's venv is missing: install it (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

# A few tests alone need these, so nothing stops where they cannot be had: those tests try again, and say what is wrong.
$(VENV)/custom-resources: infra/custom_resources/go.sum | $(VENV)/installed
	@$(PYTHON) -m keyturn_local.toolchain.custom_resources >/dev/null || true
	@touch $@

# In an environment of its own, for its pins are not ours; by uv, since the pip of Python 3.11 trips over its extras.
$(SAM_VENV)/installed: requirements/sam.txt requirements/uv.txt
	@echo "setup: installing the SAM command line into $(SAM_VENV) (once)"
	@$(PYTHON) -m venv $(SAM_VENV)
	@$(SAM_VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@$(SAM_VENV)/bin/uv pip install --quiet --python $(SAM_VENV) --require-hashes -r requirements/sam.txt
	@touch $@

clean:
	rm -rf $(VENV) $(SAM_VENV) build .aws-sam .mypy_cache .ruff_cache .pytest_cache .hypothesis
