# One word for each habit. Everything happens in .venv, which is made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.run-installed
DEV := $(VENV)/.dev-installed
BROWSER := $(VENV)/.browser-installed
HAS_CHROMIUM = command -v "$${CHROMIUM:-chromium}" >/dev/null || command -v chromium-browser >/dev/null || \
	{ echo "Chromium is missing: apt-get install chromium, or name one with CHROMIUM=/path/to/it"; exit 1; }

.PHONY: help demo test check browser screenshots format docs site bench load chaos clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(RUN) ## run a workflow and save its pictures to ./demo-output
	@$(BIN)/python examples/demo.py

test: $(DEV) ## run all tests
	$(BIN)/python -m pytest -n auto -q

check: $(DEV) ## lint, formatting, types, and pages drawn from the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m proxy.cli.reference --check

browser: $(BROWSER) ## test the web interface in Chromium, which the machine must have
	@$(HAS_CHROMIUM)
	$(BIN)/python -m pytest -q tests/browser

screenshots: $(BROWSER) ## take the pictures of the documents, in Chromium
	@$(HAS_CHROMIUM)
	PYTHONPATH=tests $(BIN)/python -m browser.screenshot

format: $(DEV) ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(RUN) ## write the pages drawn from the code
	$(BIN)/python -m proxy.cli.reference

site: $(DEV) ## write the documents as a site to ./site, with all links checked
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(DEV) ## measure, and print the tables of docs/performance.md
	$(BIN)/python benchmarks/api.py
	$(BIN)/python benchmarks/calls.py
	$(BIN)/python benchmarks/view.py
	$(BIN)/python benchmarks/object_info.py
	$(BIN)/python benchmarks/validation.py
	$(BIN)/python benchmarks/sockets.py

load: $(DEV) ## a thousand jobs of twenty members on five slots: who had which turns
	$(BIN)/python benchmarks/fairness.py
	$(BIN)/python benchmarks/dispatch.py

chaos: $(DEV) ## a thousand jobs, faults everywhere, kills in between, and the accounting
	PYTHONPATH=tests $(BIN)/python -m chaos.run

clean: ## remove the environment and all caches
	rm -rf $(VENV) build dist site demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "comfy-cloud-proxy needs Python 3.11 or newer: run make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUN): pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(DEV): pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,check]'
	@touch $@ $(RUN)

$(BROWSER): $(DEV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[ui,browser]'
	@touch $@
