# All commands use the environment .venv, which the first one creates.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.run-installed
DEV := $(VENV)/.dev-installed
UI := $(VENV)/.ui-installed
BROWSER := $(VENV)/.browser-installed
OLDEST := $(VENV)/oldest-ui/.installed
HAS_CHROMIUM = command -v "$${CHROMIUM:-chromium}" >/dev/null || command -v chromium-browser >/dev/null || \
	{ echo "Chromium is missing: apt-get install chromium, or name one with CHROMIUM=/path/to/it"; exit 1; }

# What of the suite `make test-cluster` runs on PostgreSQL, too. All of it can, but for what has the mark
# `sqlite`: tests of the file of SQLite, its copies and its disk, and of what only a single process does.
END_TO_END := main_path refusals dashboard_api
ON_POSTGRESQL := tests/jobs/test_service.py tests/engine/test_recorder.py tests/files/test_service.py \
	tests/api/test_userdata.py $(END_TO_END:%=tests/end_to_end/test_%.py)

.PHONY: help demo test test-probe attacks test-cluster check browser readme container screenshots format docs conformance site lock audit bench bench-cluster load chaos chaos-cluster fuzz simulate mutants planted clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(UI) ## run a workflow and save its pictures in ./demo-output
	@$(BIN)/comfy-cloud-proxy demo

# The tests start hundreds of processes, and none has to compile the package again.
test test-probe test-cluster browser: export PYTHONDONTWRITEBYTECODE =

test: $(DEV) ## run the tests
	$(BIN)/python -m pytest -n auto --dist worksteal -q

attacks: $(DEV) ## attack a running proxy, and print what other clients notice; measure when a cloud is back
	$(BIN)/python -m pytest -n 2 -q -m attack tests/security tests/end_to_end/test_cloud_that_returns.py

test-probe: $(DEV) ## test the probe, a program of its own
	$(BIN)/python -m pytest -n auto -q probe/tests

test-cluster: $(DEV) ## test leader and standbys with real servers: PostgreSQL, PgBouncer, HAProxy; run chaos once
	$(BIN)/python -m pytest -n 2 --dist loadfile -q -m cluster tests/cluster tests/chaos tests/simulation
	$(BIN)/python -m pytest -n auto -q --backend=postgresql $(ON_POSTGRESQL)

check: $(DEV) ## check style, formatting, types, generated pages, settings and routes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/windows proxy
	$(BIN)/python docs/reference.py --check
	$(BIN)/python docs/checks.py

browser: $(BROWSER) $(OLDEST) ## test the web interface in Chromium, which must be installed
	@$(HAS_CHROMIUM)
	$(BIN)/python -m pytest -q -m browser tests/browser
	PYTHONPATH=$(dir $(OLDEST)) $(BIN)/python -m pytest -q -m browser tests/browser/test_first_look.py tests/browser/test_flags.py

readme: $(DEV) ## follow the README and the tutorial in fresh clones, with two versions of Python
	$(BIN)/python -m pytest -q -m clone tests/clone

container: $(DEV) ## build and run the images, as root, with buildah, mmdebstrap, runc and netavark
	$(BIN)/python -m pytest -q -m container tests/container

screenshots: $(BROWSER) ## take the pictures of the documents, in Chromium
	@$(HAS_CHROMIUM)
	PYTHONPATH=tests $(BIN)/python -m browser.screenshot

format: $(DEV) ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(RUN) ## write the generated pages
	$(BIN)/python docs/reference.py

conformance: $(DEV) ## compare the simulator with an API description of the cloud: OPENAPI=/path
	$(LOCKED) -r requirements/conformance.lock
	$(INSTALL) --no-build-isolation --editable '.[conformance]'
	COMFY_CLOUD_OPENAPI="$(OPENAPI)" $(BIN)/python -m pytest -q tests/simulator/test_published_api.py

site: $(DEV) ## build the documentation site in ./site, and check its links
	$(LOCKED) -r requirements/docs.lock
	$(INSTALL) --no-build-isolation --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lock: $(DEV) ## update requirements/ after a change to pyproject.toml; UPGRADE=1 upgrades versions
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/python requirements/lock.py $(if $(UPGRADE),--upgrade)

audit: $(DEV) ## look for known vulnerabilities of the locked packages, where an index can be reached
	@if $(LOCKED) -r requirements/audit.lock 2>/dev/null; then $(BIN)/python requirements/audit.py; \
		else echo "Skipped: no package index can be reached."; fi

bench: $(DEV) ## measure one process, for docs/performance.md
	$(BIN)/python benchmarks/api.py
	$(BIN)/python benchmarks/calls.py
	$(BIN)/python benchmarks/view.py
	$(BIN)/python benchmarks/object_info.py
	$(BIN)/python benchmarks/validation.py
	$(BIN)/python benchmarks/sockets.py
	$(BIN)/python benchmarks/start.py --history 100000 --files 100000

bench-cluster: $(DEV) ## measure a leader and standbys over PostgreSQL, for docs/performance.md
	PYTHONPATH=tests $(BIN)/python benchmarks/cluster.py

load: $(DEV) ## measure fair sharing with a thousand jobs of twenty members, and the decisions of one engine
	$(BIN)/python benchmarks/fairness.py
	$(BIN)/python benchmarks/dispatch.py
	$(BIN)/python benchmarks/scale.py

chaos: $(DEV) ## run hundreds of jobs with faults and kills of real processes and count; then 30,000 for the memory
	PYTHONPATH=tests $(BIN)/python -m chaos.run
	PYTHONPATH=tests $(BIN)/python -m chaos.soak

chaos-cluster: $(DEV) ## the same with three processes and PostgreSQL, all of which and their networks fail at times
	PYTHONPATH=tests $(BIN)/python -m chaos.replicas
	PYTHONPATH=tests $(BIN)/python -m chaos.networks

simulate: $(DEV) ## simulate the whole proxy: SEEDS (1000) from FIRST (0), in PROCESSES (2), with LONG=1 each for hours
	PYTHONPATH=tests $(BIN)/python -m simulation.simulate $(if $(LONG),--long) --seeds $(or $(SEEDS),1000) \
		--first $(or $(FIRST),0) --processes $(or $(PROCESSES),2) --failures 10 --progress 1000

mutants: $(DEV) ## plant COUNT (100) defects drawn by SEED (1) in ROOMS (all), for MINUTES: who catches each? ALONE=1: does the simulation?
	PYTHONPATH=tests $(BIN)/python -m mutants.run --seed $(or $(SEED),1) --count $(or $(COUNT),100) \
		$(if $(ROOMS),--rooms "$(ROOMS)") $(if $(ALONE),--alone) $(if $(MINUTES),--minutes $(MINUTES)) \
		--processes $(or $(PROCESSES),2)

planted: $(DEV) ## look whether the simulation catches each defect of a list within 200 seeds
	PYTHONPATH=tests $(BIN)/python -m pytest -n auto -q -m mutant tests/simulation

fuzz: $(DEV) ## fuzz what parses foreign input: SECONDS a target (60), TARGETS (all)
	$(LOCKED) -r requirements/fuzz.lock
	$(INSTALL) --no-build-isolation --editable '.[fuzz]'
	PYTHONPATH=tests $(BIN)/python -m fuzz.run --seconds $(or $(SECONDS),60) $(TARGETS)

clean: ## remove the environment and all caches
	rm -rf $(VENV) build dist site demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis .fuzz .mutants *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A failed `python -m venv` leaves a folder without pip: remove it.
$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "comfy-cloud-proxy needs Python 3.11 or newer: run make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) >$(VENV).log 2>&1 || { cat $(VENV).log; rm -rf $(VENV) $(VENV).log; \
		echo "Python cannot create an environment: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	@rm -f $(VENV).log

# Locked packages first, with their hashes; then what pyproject.toml requires and no lock file has.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCKED = $(INSTALL) --require-hashes -r requirements/build.lock -r requirements/run.lock

$(RUN): pyproject.toml requirements/run.lock | $(VENV)/bin/pip
	$(LOCKED)
	$(INSTALL) --no-build-isolation --editable .
	@touch $@

$(UI): pyproject.toml requirements/run.lock requirements/ui.lock | $(VENV)/bin/pip
	@echo "Installing the proxy and ComfyUI's web interface into $(VENV) (about 400 MB, once)"
	@$(LOCKED) -r requirements/ui.lock
	@$(INSTALL) --no-build-isolation --editable '.[ui]'
	@touch $@ $(RUN)

$(DEV): pyproject.toml probe/pyproject.toml $(wildcard requirements/*.lock) | $(VENV)/bin/pip
	$(LOCKED) -r requirements/test.lock -r requirements/check.lock
	$(INSTALL) --no-build-isolation --editable '.[test,check]'
	$(INSTALL) --no-build-isolation --no-deps --editable ./probe
	@touch $@ $(RUN)

# The oldest packages of the web interface that are allowed, in a folder before those of $(BROWSER).
$(OLDEST): requirements/ui-oldest.lock | $(BROWSER)
	$(INSTALL) --no-deps --upgrade --target $(dir $@) --require-hashes -r requirements/ui-oldest.lock
	@touch $@

$(BROWSER): $(DEV)
	$(LOCKED) -r requirements/ui.lock -r requirements/browser.lock
	$(INSTALL) --no-build-isolation --editable '.[ui,browser]'
	@touch $@
