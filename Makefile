# Everything a clone needs: Python 3.11 or newer, pip and make. `make` alone lists the targets.
SHELL := /bin/sh
unexport PYTHONDONTWRITEBYTECODE # what is installed is compiled when it is first imported
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-input --no-compile \
	--progress-bar off
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-emit-index-url --custom-compile-command 'make lock' --all-extras pyproject.toml
FIND_PYTHON = for p in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { command -v "$$p"; break; }; done
# Of pip's lines those that say what is fetched, how big it is, and what is wrong.
define install
	@echo "installing $(1) into $(VENV), which then has some $(2) MB; what is downloaded:"
	@{ $(PIP) -r $(1) 2>&1; echo $$? >$(VENV)/.code; } | awk \
	'!/^(Collecting|Looking in|Requirement already|Using cached|  Using cached|WARNING: Location|Installing coll|Successfully)/ { print; fflush() }'; \
	exit "$$(cat $(VENV)/.code)"
endef

.DEFAULT_GOAL := help
.PHONY: help setup run demo check test walls wheel lock bench chaos

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.tests ## Make .venv with everything in it

run: $(VENV)/.runs ## Run the whole product on this machine, on port 3005, until Ctrl-C (JOBS=your_module)
	@exec $(BIN)/python -m app.local.run --jobs "$(JOBS)"

demo: $(VENV)/.demo ## Pay 1,000 creators while the flag flips and workers die; writes var/demo.json
	@exec $(BIN)/python -m app.local.demo

check: walls ## The everyday loop: lint, types, import rules, and the quick tests
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not process and not minutes"

test: walls ## Lint, check types and import rules, run every test
	$(BIN)/python -m pytest -n 4 --dist worksteal

walls: $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers 2
	$(BIN)/lint-imports --no-logo

wheel: $(VENV)/.tests ## Build dist/switchyard-*.whl: the layer alone, as an adopter installs it
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

bench: $(VENV)/.tests ## Measure it beside its rivals (ARGS="--only start"); writes var/bench.json
	@exec $(BIN)/python -m tests.bench $(ARGS)

chaos: $(VENV)/.tests ## Kills, flips, lost queues and drains for minutes (DATABASE=postgres); writes var/chaos.json
	@exec $(BIN)/python -m tests.proof --database $(or $(DATABASE),sqlite) $(ARGS)

lock: $(VENV)/.tests ## Pin what pyproject.toml asks for, with hashes, in the requirements files
	$(LOCK) --group platform -o requirements-demo.txt
	$(LOCK) --group platform --group documents -o requirements.txt
	$(LOCK) --group platform --group documents --group dev -o requirements-dev.txt

# The stamps: set-up happens once, and again when what it installs has changed. The demo makes
# neither a PDF nor a film, and each of these has all of the one before it.
$(VENV)/.demo: requirements-demo.txt $(BIN)/python
	$(call install,requirements-demo.txt,130)
	@touch $@

$(VENV)/.runs: requirements.txt $(BIN)/python
	$(call install,requirements.txt,280)
	@touch $@ $(VENV)/.demo

$(VENV)/.tests: requirements-dev.txt $(BIN)/python
	$(call install,requirements-dev.txt,720)
	@touch $@ $(VENV)/.runs $(VENV)/.demo

$(BIN)/python:
	@python="$$($(FIND_PYTHON))"; \
	if [ -z "$$python" ]; then echo "Python 3.11 or newer is needed (PYTHON=… names one)" >&2; exit 1; fi; \
	echo "making $(VENV) with $$python"; \
	"$$python" -m venv --clear $(VENV) || { echo "its venv module is missing: on Debian," \
	"apt-get install python3-venv" >&2; exit 1; }
	@# A new pip needs half of the time that a Python's own of some years ago does.
	@sed -n '/^pip==/,/[^\\]$$/p' requirements-dev.txt >$(VENV)/.pip
	@$(PIP) --quiet --retries 1 -r $(VENV)/.pip >/dev/null 2>&1 \
	|| echo "going on with the pip that Python brought: a new one cannot be had"
