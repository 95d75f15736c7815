# Two commands on a fresh machine: `make demo` and `make test`.
# Every path is relative, so that a checkout in a path with a space works.
PY := .venv/bin/python
UV := $(shell command -v uv 2>/dev/null)
FLEET_ARGS ?=

.PHONY: demo test lint install install-test emulator bench bench-quick simulate-fleet chaos bounds simulate soak model soak-faults soak-checker mutants mutation fuzz clean help

help:
	@echo "make demo    install, then run the main job on the embedded default (about 30 s)"
	@echo "make install make .venv with the broker in it; make install-test: with the test extras"
	@echo "make test    install with the test extras, then ruff, mypy and pytest; make lint: ruff and mypy alone"
	@echo "make bench-quick  measure it, a few rows, under 3 minutes; make bench: every row and peer (about 40 minutes)"
	@echo "make chaos   kill, stop and cut off a fleet under load for DURATION=60 seconds, then judge what clients saw"
	@echo "make bounds  memory over many requests, unread replies, poison, a backlog, overload; SCALE=0.02, SCALE=1 for all"
	@echo "make simulate  2,000 seeded worlds of the production code under faults (a part of make test); SEED=N tells one"
	@echo "make soak    100,000 such worlds (some two hours of CPU time); it says where to go on after an interruption"
	@echo "make simulate-fleet  10,000 factories and a million jobs in simulated time (minutes); ARGS='--redis 4' for others"
	@echo "make model   every state of the protocol as a Promela model, and of six broken variants (needs spin and gcc)"
	@echo "make soak-faults  kill at every step, TIMES=200 each, on every store (hours); FIRST=N goes on with that turn"
	@echo "make mutants  nine broken brokers, and the test that notices each (a part of make test)"
	@echo "make mutation  every small change that mutmut knows, to rules and stores; MUTANTS='broker.fence*' for some"
	@echo "make soak-checker  hold the checker of histories against a brute-force search, 100,000 times (about 6 minutes)"
	@echo "make fuzz    a million wrong inputs to whatever reads requests (about two minutes)"
	@echo "make clean   remove the virtual environment and caches; what a fleet keeps in .broker stays"

demo: .venv/.installed
	@$(PY) -m workers.cli demo $(FLEET_ARGS)

test: .venv/.installed-test emulator lint
	$(PY) -m pytest -n auto --dist worksteal

# Faults on a local fleet for DURATION seconds; SEED=N replays a schedule, TWIN=no-fence or read-check-write fails.
chaos: .venv/.installed-test
	@$(PY) -m tests.chaos --duration $(or $(DURATION),60) $(if $(SEED),--seed $(SEED)) $(if $(TWIN),--twin $(TWIN))

# Memory and queues under load; SCALE=1: a million requests and a million jobs, some ten minutes on an idle machine.
bounds: .venv/.installed-test
	@$(PY) -m tests.bounds --scale $(or $(SCALE),0.02) $(if $(ONLY),--only $(ONLY))

# The production code in simulated worlds, one for each seed; SEED=N tells one step by step, SEEDS=FROM:TO judges others,
# LONG=1: worlds of twice the length, as soak has them.
simulate: .venv/.installed-test
	@$(PY) -m tests.simulation $(if $(LONG),--long) $(if $(SEED),$(SEED),--seeds $(or $(SEEDS),0:2000))

# Queue wait and takeover delay of a large fleet; ARGS: see benchmarks/fleet_simulation/plan.py.
simulate-fleet: .venv/.installed-test
	@$(PY) -m benchmarks.fleet_simulation --factories 10000 --jobs 1000000 $(ARGS)

soak: .venv/.installed-test
	@$(PY) -m tests.simulation --long --seeds $(or $(SEEDS),0:100000)

# Needs Debian's spin and gcc; where they are missing it says so, and fails in CI only.
model:
	@tests/model/check.sh

# A kill at every point of a worker and a sweep, on every store, TIMES times, on all cores (one or two seconds each).
soak-faults: .venv/.installed-test emulator
	$(PY) -m tests.faults.soak --times $(or $(TIMES),200) --first $(or $(FIRST),0) --seed $(or $(SEED),1)

# Each named mutant of the broker against the tests that must notice it.
mutants: .venv/.installed-test
	$(PY) -m tests.mutants

# Small changes to rules and stores, one by one, and how many of them the tests notice.
mutation: .venv/.installed-test emulator
	@if [ -n "$(UV)" ]; then uv pip install --quiet --python $(PY) -e '.[test,mutation]'; \
	 else $(PY) -m pip install --quiet --disable-pip-version-check -e '.[test,mutation]'; fi
	-$(PY) -m tests.mutants.mutate $(if $(MUTANTS),'$(MUTANTS)')
	$(PY) -m tests.mutants.rates

# The checker of histories and a brute-force search must come to the same verdict on random histories.
soak-checker: .venv/.installed-test
	$(PY) -m tests.history.agreement --histories $(or $(HISTORIES),100000) --first-seed $(or $(SEED),0)

# Inputs that nobody foresaw: a million take some two minutes; INPUTS and SEED may be given.
fuzz: .venv/.installed-test
	@$(PY) -m tests.fuzz.campaign $(or $(INPUTS),1000000) $(or $(SEED),1)

lint: .venv/.installed-test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

install: .venv/.installed
install-test: .venv/.installed-test

.venv/bin/python:
	@if [ -n "$(UV)" ]; then uv venv --quiet --python '>=3.11' .venv; else python3 -m venv .venv; fi

.venv/.installed: .venv/bin/python pyproject.toml
	@if [ -n "$(UV)" ]; then uv pip install --quiet --python $(PY) -e .; \
	 else $(PY) -m pip install --quiet --disable-pip-version-check -e .; fi
	@touch $@

.venv/.installed-test: .venv/bin/python pyproject.toml
	@if [ -n "$(UV)" ]; then uv pip install --quiet --python $(PY) -e '.[test]'; \
	 else $(PY) -m pip install --quiet --disable-pip-version-check -e '.[test]'; fi
	@touch .venv/.installed $@

.venv/.installed-bench: .venv/.installed-test
	@if [ -n "$(UV)" ]; then uv pip install --quiet --python $(PY) -e '.[test,bench]'; \
	 else $(PY) -m pip install --quiet --disable-pip-version-check -e '.[test,bench]'; fi
	@touch $@

# The Cosmos emulator for the tests. Without npm the Cosmos tests skip at home and fail in CI.
emulator:
	@if command -v npm >/dev/null 2>&1; then \
	   [ -d tests/emulator/node_modules ] || npm install --silent --no-audit --no-fund --prefix tests/emulator; \
	 else echo "npm is missing: the Cosmos tests will be skipped (and fail where CI is set)"; fi

# Each peer's own environment is made under benchmarks/.environments at the first run.
bench-quick: .venv/.installed-test
	@$(PY) -m benchmarks.run --quick

bench: .venv/.installed-bench
	@$(PY) -m benchmarks.run

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache tests/emulator/node_modules
