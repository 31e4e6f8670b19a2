.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Tests start hundreds of processes: each would compile the project anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install quickstart test test-slow check format bench bench-cache bench-method bench-quickstart bench-payoff bench-versus bench-mappings bench-orchestration torture mutations coverage audit reference clean

help:  ## show this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

# The stamps make a second call instant; a changed dependency list installs again.
$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.demo

install: $(VENV)/.demo  ## create .venv with everything the quickstart needs

quickstart: $(VENV)/.demo  ## distil a real teacher on real photos, in a few minutes
	$(BIN)/tintem quickstart

# Three processes on two cores, as tests wait for servers, leases and kills a fifth of the time.
test: $(VENV)/.test  ## the tests that take seconds
	$(BIN)/python -m pytest -n 3 --dist worksteal

test-slow: $(VENV)/.test  ## the tests that take minutes: real processes, kills, the quickstart
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile

check: $(VENV)/.test  ## lint, formatting, types and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.test  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.test  ## every benchmark, one after the other
	@for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

bench-cache: $(VENV)/.test  ## reading the cache: memmap, zarr, tensorstore, zarrs, ours
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/cache_reading.py

bench-method: $(VENV)/.test  ## TinTeM against its baselines, into benchmarks/results (hours; goes on when stopped)
	$(BIN)/python benchmarks/method.py

bench-quickstart: $(VENV)/.demo  ## the quickstart's student with three seeds, beside its goals
	$(BIN)/python benchmarks/quickstart.py

bench-payoff: $(VENV)/.test  ## the teacher on-line against the cache; LIGHTLY=python-with-lightly-train
	$(BIN)/python benchmarks/payoff.py $(if $(LIGHTLY),--lightly $(LIGHTLY))

bench-versus: $(VENV)/.test  ## TinTeM against LightlyTrain for equal seconds; LIGHTLY=python-with-lightly-train
	$(BIN)/python benchmarks/versus.py --lightly $(LIGHTLY)

bench-mappings: $(VENV)/.test  ## angles kept by every mapping, into benchmarks/results
	$(BIN)/python benchmarks/mappings.py

bench-orchestration: $(VENV)/.test  ## what Prefect costs per stage, and the start of a local run
	$(BIN)/python benchmarks/orchestration.py

torture: $(VENV)/.test  ## KILLS=100 kills at random instants (SEED=n): all ends as undisturbed; about an hour
	$(BIN)/python -m tests.system.torture --kills $(or $(KILLS),100) $(if $(SEED),--seed $(SEED))

audit: $(VENV)/.test  ## known vulnerabilities of the exact versions that are installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[audit]'
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip --progress-spinner off

mutations: $(VENV)/.test  ## mistakes put into a copy, one at a time: the quick tests must notice (ONLY=names)
	$(BIN)/python -m tests.mutations $(if $(ONLY),--only $(ONLY)) --out benchmarks/results/mutations.md

coverage: $(VENV)/.test  ## branches of tintem_core and storage that their quick tests take
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m coverage run -m pytest tests/tintem_core tests/storage
	$(BIN)/python -m coverage json -q
	$(BIN)/python -m tests.mutations.branches coverage.json --out benchmarks/results/mutations.md

reference: $(VENV)/.test  ## docs/settings.md and docs/tintem.schema.json, from the models
	$(BIN)/python -m flows.config.reference docs

clean:  ## remove the environment and everything generated
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .coverage coverage.json tintem-quickstart
