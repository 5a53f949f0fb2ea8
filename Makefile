# Everything a person or a machine does with this project. `make demo` is the place to begin.
# python3, but the system's where only that was built with profiles: the same work takes a fifth less CPU.
PROFILED := import ensurepip, sys, sysconfig as s; sys.exit(sys.version_info < (3, 11) or sys.base_prefix != "/usr" and "--enable-optimizations" not in (s.get_config_var("CONFIG_ARGS") or ""))
PYTHON ?= $(or $(firstword $(foreach p,python3 /usr/bin/python3,$(shell $(p) -c '$(PROFILED)' 2>/dev/null && echo $(p)))),python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest
# Tests of the whole platform: one after the other, for each may take the machine.
WHOLE := tests/system tests/faults
# With ARGS="-k something" one half may have nothing to run.
NONE = $(if $(ARGS),|| test $$? -eq 5)

.PHONY: help install demo test test-fast test-all faults lint format bench docs lock clean

help:
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

install: $(STAMP) ## set up .venv from the hash-locked requirements

$(STAMP): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"expected Python 3.11 or later, found {v[0]}.{v[1]}; try: make PYTHON=python3.11 $(or $(MAKECMDGOALS),install)")'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: $(STAMP) ## start the platform, deploy an example, change it, roll it back, replay it
	$(BIN)/python -m api.cli.demo $(ARGS)

test: $(STAMP) ## everything that shows the project works
	$(PYTEST) tests -m "not long and not system" $(WHOLE:%=--ignore %) --numprocesses 2 --dist loadfile --durations 30 $(ARGS) $(NONE)
	$(PYTEST) $(WHOLE) -m "not long" --durations 30 $(ARGS) $(NONE)

test-fast: $(STAMP) ## the tests that start no server
	$(PYTEST) tests -m "not servers and not system and not long" --numprocesses 2 --dist loadfile $(ARGS)

test-all: $(STAMP) ## the long ones as well
	$(PYTEST) tests --hypothesis-profile whole $(ARGS)

faults: $(STAMP) ## kill, pause and cut what can be killed, paused and cut; NEMESIS="--seconds 60 --seed 7"
	$(PYTEST) tests -m "system or servers" $(ARGS)
	$(BIN)/python -m tests.faults.nemesis $(NEMESIS)

lint: $(STAMP) ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## let ruff lay out the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## every benchmark, one JSON line each
	for name in $$($(BIN)/python -m benchmarks); do $(BIN)/python -m benchmarks.$$name --json $(ARGS) || exit 1; done

docs: $(STAMP) ## check that the documents' links lead somewhere
	$(PYTEST) tests/docs $(ARGS)

lock: ## write the hash-locked requirements anew (needs uv)
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 --upgrade \
	  --custom-compile-command "make lock" requirements/dev.in -o requirements/dev.txt
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
	  --custom-compile-command "make lock" requirements/runtime.in -c requirements/dev.txt -o requirements/runtime.txt

clean: ## remove what the tools left behind
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
