# Two commands on a fresh machine: `make demo` and `make test`. Both set up what they need.
SHELL := /bin/bash
BIN := .venv/bin
DATA ?=
DATA_PATH ?=
STACK ?=
# Three on two cores, as tests wait for servers. The tests of a file stay together: they share some.
SIDE_BY_SIDE := -n 3 --dist loadfile

.PHONY: demo stack stack-stop test test-fast test-faults lint format types setup lock bench bench-methods docs clean help

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 15

demo: setup  ## the main job on real data: Fashion-MNIST, or DATA=cifar10 [DATA_PATH=copy.npz or folder]
	@$(BIN)/instar run $(if $(DATA),--preset $(DATA)) $(if $(DATA_PATH),--set data.source=$(if $(filter %.npz,$(DATA_PATH)),npz,folder) --set data.path=$(abspath $(DATA_PATH)))

stack: setup  ## Postgres, S3, MLflow, Prefect and a worker on loopback, until stack-stop [STACK=folder]
	@$(BIN)/python -m flows.stack start $(if $(STACK),--folder $(STACK))

stack-stop: setup  ## end them; databases, objects and passwords stay in .instar/stack
	@$(BIN)/python -m flows.stack stop $(if $(STACK),--folder $(STACK))

# In two processes: once Prefect has run in one, whatever it forks ends with 1 (Prefect's services
# assert at the child's exit what their own fork handler has just taken away), data loaders too.
test: setup  ## all tests, the ones with real servers included
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow and not faults"
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "slow and not faults" --durations=15

test-fast: setup  ## the quick ones: all but real servers and whole runs
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow"

test-faults: setup  ## the long trials of docs/concepts/reliability.md: kill it, unplug it, run it twice
	@$(BIN)/python -m pytest -m faults

lint: setup  ## format, lint, types, and which room may import from which
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports --no-logo

format: setup  ## let ruff rewrite
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

setup: .venv/.ready  ## the virtual environment, from requirements.lock

.venv/.ready: requirements.lock pyproject.toml .ci/setup
	@bash .ci/setup && touch $@

lock: setup  ## pin the dependencies of pyproject.toml anew
	@$(BIN)/uv pip compile --universal --python-version 3.11 --no-emit-index-url --no-header --no-annotate --extra dev pyproject.toml -o requirements.lock

bench: setup  ## the figures of docs/reference/benchmarks.md (quiet machine, minutes)
	@$(BIN)/python -m benchmarks.throughput && $(BIN)/python -m benchmarks.prepare

bench-methods: setup  ## the table of docs/reference/methods.md (hours; nothing beside it) [DATA_PATH=copy of CIFAR-10.npz]
	@$(BIN)/python -m benchmarks.methods --data fashion-mnist --data cifar10$(if $(DATA_PATH),=$(DATA_PATH))

docs: setup  ## docs/reference: settings from the schema, commands from their help
	@$(BIN)/instar params > docs/reference/params.md
	@$(BIN)/typer flows.cli.main utils docs --name instar --title "Commands" --output docs/reference/cli.md

clean:  ## remove what runs leave behind; keeps .venv and raw data
	@rm -rf artifacts .instar mlruns mlartifacts mlflow.db* dvc.lock .dvc/cache .dvc/tmp
