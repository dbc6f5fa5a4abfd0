# Sets up what it needs on a bare machine with Python 3.11+, git and make.
PYTHON ?= python3
VENV ?= .venv
TASK ?=
RUN := $(VENV)/bin/python
export GOMP_SPINCOUNT ?= 0

.PHONY: demo test lint bench setup clean

demo: setup
	$(RUN) -m training.demo $(if $(TASK),--task $(TASK))

test: lint
	$(RUN) -m pytest -n auto --maxprocesses 4 --dist loadfile

bench: setup
	env -u GOMP_SPINCOUNT $(RUN) -m training.bench  # alone on the machine, threads may wait actively

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

setup: $(VENV)/.installed
	@bash .ci/install_gl

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed')"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt torch
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
