# Everything a clone needs is Python 3.11 or later, make and the package registries.
# One stamp, .venv/.ready, stands for "set up": it is renewed when the pins or the project's metadata change.

# The newest of the interpreters the project is tested on; override with PYTHON=/path/to/python.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v $$p && break; done)
BIN := .venv/bin
SOURCES := $(patsubst %/,%,$(dir $(wildcard $(addsuffix /__init__.py,bench connectors schemas streams)))) tests
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --strip-extras \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help demo test check fuzz bench audit lock clean
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/.ready ## set up, then the whole job: Kafka, fan-out, deliveries, retries
	@$(BIN)/distributary demo

test: .venv/.ready ## set up, then the tests (T='-k name' passes through)
	@$(BIN)/python -m tests $(T)

check: .venv/.ready ## lint, format, types, layers, what is dangerous, and advisories where they can be asked for
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports --no-cache
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive connectors schemas streams
	@$(BIN)/python -m tests.advisories

fuzz: .venv/.ready ## fuzz filters and decoders for FUZZ_MINUTES, 10 by default
	@$(BIN)/python -m tests.fuzz --minutes $(or $(FUZZ_MINUTES),10)

bench: .venv/.ready ## measure everything, or one figure with BENCH=name
	@$(BIN)/python -m bench $(BENCH)

audit: .venv/.ready ## minutes of faults around a real run, every delivery accounted for (A='--seed 7' passes through)
	@$(BIN)/distributary audit $(A)

lock: .venv/.ready ## pin what pyproject.toml asks for (UPGRADE=1 takes the newest)
	$(LOCK) --extra dev $(if $(UPGRADE),--upgrade) --output-file constraints.txt >/dev/null
	$(LOCK) --extra build --extra otel --extra postgres --constraints constraints.txt --output-file constraints-runtime.txt >/dev/null

clean: ## remove the set-up and every cache
	rm -rf .venv build dist fuzz-found *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.ready: constraints.txt pyproject.toml
	@test ! -L .venv || { \
		echo ".venv is a link: what it points to would be emptied. Run make where it points to, or remove the link." >&2; exit 1; }
	@test -n "$(PYTHON)" || { \
		echo "No Python 3.11 or later found: install one, or name it with make PYTHON=/path/to/python." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is not Python 3.11 or later: name another with make PYTHON=/path/to/python." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments: install its venv package (Debian, Ubuntu: apt install python3-venv)." >&2; exit 1; }
	@echo "Setting up .venv with $(PYTHON) (once; about a minute)" >&2
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
