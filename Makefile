# The two commands of the README are `make run` and `make test`; both need only Python 3.11+.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
RUN_ARGS ?=
TEST_ARGS ?=
# What the tests use of Debian. Only root can install it; without it those tests are skipped.
DEBIAN := aria2 nginx-light nodejs curl strace

.PHONY: help run test test-oldest test-long lint format bench soak clean debian

help:
	@echo "make run          virtual environment, install, holdfast demo (offline)"
	@echo "make test         install what the tests need, all checks, all tests"
	@echo "make test-oldest  the adapters, with the oldest client libraries that they support"
	@echo "make test-long    10,000 seeds per scenario, every byte of every cut (8 minutes on 2 CPUs)"
	@echo "make soak         100,000 small files, 5 % of them with faults (5 minutes)"
	@echo "make bench        benchmarks beside the named peers (the faults take 20 minutes)"

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed: $$($(PYTHON) --version)"; \
	    echo "  Name another one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "error: python3 -m venv failed; on Debian: apt-get install python3-venv"; exit 2; }

$(VENV)/.run: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . \
	  --group test --group lint
	@touch $@ $(VENV)/.run

$(VENV)/.bench: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group bench
	@touch $@

run: $(VENV)/.run
	$(BIN)/holdfast demo $(RUN_ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

debian:
	@missing=; for package in $(DEBIAN); do \
	  dpkg -s $$package > /dev/null 2>&1 || missing="$$missing $$package"; done; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	  apt-get install --yes --quiet --no-install-recommends $$missing \
	  || { apt-get update --quiet && \
	       apt-get install --yes --quiet --no-install-recommends $$missing; }; \
	else echo "note: not installed, tests that need it are skipped:$$missing"; fi

test: lint debian
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m "not long" \
	  --cov --cov-report=term --cov-fail-under=95 $(TEST_ARGS)

# Everything newest, then the client libraries set back to the oldest that the adapters support.
$(VENV)-oldest/.test: pyproject.toml constraints.txt constraints-oldest.txt
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(VENV)-oldest/bin/python -m pip install --quiet --constraint constraints.txt --editable . \
	  --group test
	$(VENV)-oldest/bin/python -m pip install --quiet --requirement constraints-oldest.txt
	@touch $@

test-oldest: $(VENV)-oldest/.test
	$(VENV)-oldest/bin/pytest -n $(JOBS) --dist worksteal -m "not long and not newest" \
	  tests/clients tests/core/test_core_classify_clients.py tests/core/test_core_classify_real.py \
	  $(TEST_ARGS)

test-long: $(VENV)/.test
	$(BIN)/pytest -n $(JOBS) -m long --timeout 7200 $(TEST_ARGS)

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: DEBIAN += wget2 haproxy wrk nghttp2-client
bench: $(VENV)/.bench debian
	$(BIN)/python benchmarks/core.py
	$(BIN)/python benchmarks/clients.py
	$(BIN)/python benchmarks/faults.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/gateway_faults.py
	$(BIN)/python benchmarks/gateway_speed.py

soak: $(VENV)/.test
	$(BIN)/python benchmarks/soak.py --json benchmarks/results/soak.json

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage* dist build
