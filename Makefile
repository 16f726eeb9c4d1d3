# make demo    rotations in a local AWS, carried into a local Kubernetes, live.  KEEP=1 leaves it running;
#              NODE=real runs real containers, where a real node can run (root on Linux).
# make test    lint and every test; goes on after a tier that fails.  One tier alone:
#              make test-unit, test-contract, test-integration, test-e2e, test-faults, test-deployed (the stack, deployed
#              by SAM to an emulator of AWS), test-node (on a real node, where one can run: root on Linux).
#              test-faults prints a line for each fault: its number, held or broken, the case.
#              Tests that wait run in WORKERS=4 processes, each with a control plane (600 MiB).  Results: build/tests/*.xml.
# make test-hostile    a hostile tenant beside a team that rotates: every known attack at once, for HOSTILE_SECONDS=600.
#              test-faults has it for 40 seconds, with a tenth of the objects.
# make test-argo       restarts of Rollouts by Argo's own controller, which is built once, in about ten minutes.
# make bench   the receiver against raw applies: calls, latency, bursts, memory; writes docs/benchmark.md and
#              build/bench.json, 20 to 50 min.  ONLY="calls latency" runs a part and prints it.
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
AWS_VENV := .venv-aws
# Each test starts many processes, so the modules are compiled once, whatever the user's own settings are.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPATH := $(CURDIR)/lambda:$(CURDIR)/receiver:$(CURDIR)/cli:$(CURDIR)/infra
WORKERS ?= 4
# The flags of this make are not for the makes that tests and SAM start.
HERMETIC := env -u MAKEFLAGS -u MAKELEVEL
# Runs the tier of the target; prints its slowest tests, and writes a JUnit file.
PYTEST = $(PYTEST_ALONE) tests/$(TIER)
PYTEST_ALONE = $(PYTEST_PLAIN) --durations=20 --junit-xml=build/tests/$(TIER).xml
# The programs in Go that tests start, such as the API server, take a tenth less of a core if they collect less often.
PYTEST_PLAIN = $(HERMETIC) GOGC=400 $(BIN)/python -m pytest --override-ini=cache_dir=build/pytest/$(TIER)
TIER = $(@:test-%=%)
# Runs failed tests again, by themselves: beside three others on two cores, a test of time may be late. A tier with more
# than three failed tests has failed. So has one with a test that fails in two more runs. One that passes is to be mended.
FAILED = $(1) $(PYTEST_PLAIN) --last-failed --last-failed-no-failures=none --junit-xml=build/tests/$(TIER)-again.xml $(2)
AGAIN = || { test $$? = 1 && test $$(grep -c :: build/pytest/$(TIER)/v/cache/lastfailed) -le 3 \
	&& echo "$(TIER): failed tests run again, by themselves" && { $(FAILED) || $(FAILED); }; }
# Tests that compute get a process for each core. Tests that wait get more: four of them keep two cores busy. With seven,
# the tier takes longer, and tests are late.
COMPUTE := --dist=loadscope --numprocesses=auto --maxprocesses=$(WORKERS)
WAIT := --dist=loadscope --numprocesses=$(WORKERS)
TIERS := test-unit test-contract test-integration test-e2e test-deployed test-faults
# The tier on a real node runs in two enclosures side by side, because its tests wait most of the time. The second one
# has every file that is not in this list.
NODE_FIRST := tests/node/test_storm.py tests/node/test_walk.py
NODE_REST := tests/node $(NODE_FIRST:%=--ignore=%)
NODE_TIERS := test-node-first test-node-rest
# Fails where no real node can run, and prints the reason.
PREFLIGHT := $(BIN)/python -m keyturn_local.node.preflight
ENCLOSED := $(BIN)/python -m keyturn_local.node.enclosure

# What deploys the stack, and what it is deployed to. SAM builds before an enclosure, which has no way out.
DEPLOYER := $(SAM_VENV)/installed $(AWS_VENV)/installed
SAM_BUILD := $(HERMETIC) $(BIN)/python -m keyturn_local.aws.emulator.sam

.PHONY: help demo test test-unit test-contract test-integration test-e2e test-deployed test-faults test-hostile test-argo test-node test-node-first test-node-rest test-node-if-possible bench bench-notifier lint format docs chart-docs requirements setup clean

help:
	@sed -n 's/^# //p' Makefile

demo: setup $(DEPLOYER)
ifeq ($(NODE),real)
	@$(PREFLIGHT)
	@$(SAM_BUILD)
	@KUBECONFIG= $(ENCLOSED) $(BIN)/python -m keyturn_local.demo --node $(if $(KEEP),--keep)
else
	$(if $(NODE),$(error NODE=real, or no NODE at all))
	@$(BIN)/python -m keyturn_local.demo $(if $(KEEP),--keep) $(if $(CONTEXT),--context "$(CONTEXT)")
endif

test: setup $(DEPLOYER)
	@$(MAKE) --no-print-directory --keep-going --jobs=1 lint $(TIERS) test-node-if-possible

test-unit: $(VENV)/installed
	$(PYTEST) $(COMPUTE)

test-contract: $(VENV)/installed $(SAM_VENV)/installed
	$(PYTEST) $(COMPUTE)

test-integration: setup $(DEPLOYER)
	$(PYTEST) $(WAIT) $(call AGAIN,,tests/$(TIER))

test-e2e: setup $(DEPLOYER)
	$(PYTEST) $(WAIT) $(call AGAIN,,tests/$(TIER))

test-deployed: setup $(DEPLOYER)
	$(PYTEST) $(COMPUTE) $(call AGAIN,,tests/$(TIER))

test-faults: setup $(DEPLOYER)
	@$(PYTEST) $(WAIT) --quiet $(call AGAIN,,tests/$(TIER))

test-hostile: setup
	HOSTILE_SECONDS=$${HOSTILE_SECONDS:-600} $(BIN)/python -m pytest -s -p xdist -n0 -m long tests/faults/test_s22_hostile_tenant.py

test-argo: setup
	@$(BIN)/python -m keyturn_local.toolchain.argo_controller >/dev/null
	$(PYTEST)

test-node: setup $(DEPLOYER)
	@$(PREFLIGHT)
	@$(SAM_BUILD)
	@$(MAKE) --no-print-directory --keep-going --jobs=2 --output-sync=target $(NODE_TIERS)

# test-node alone prepares what these two need.
test-node-first:
	$(ENCLOSED) $(PYTEST_ALONE) $(NODE_FIRST) $(call AGAIN,$(ENCLOSED),$(NODE_FIRST))

test-node-rest:
	$(ENCLOSED) $(PYTEST_ALONE) $(NODE_REST) $(call AGAIN,$(ENCLOSED),$(NODE_REST))

test-node-if-possible: setup $(DEPLOYER)
	@if why=$$($(PREFLIGHT)); then $(MAKE) --no-print-directory test-node; else echo "tests/node is skipped: $$why"; fi

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
	$(BIN)/python -m keyturn_local.docs.cli_help

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
	@$(SAM_VENV)/bin/uv pip install --quiet --compile-bytecode --python $(SAM_VENV) --require-hashes -r requirements/sam.txt
	@touch $@

# In an environment of its own, for the pins of aws-sam-translator are not ours. It also has AWS's command line.
$(AWS_VENV)/installed: requirements/aws.txt
	@echo "setup: installing the emulator of AWS into $(AWS_VENV) (once)"
	@$(PYTHON) -m venv $(AWS_VENV)
	@$(AWS_VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/aws.txt
	@touch $@

clean:
	rm -rf $(VENV) $(SAM_VENV) $(AWS_VENV) build .aws-sam .mypy_cache .ruff_cache .pytest_cache .hypothesis
