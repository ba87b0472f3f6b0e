# `make demo` and `make test` are the two commands of the README; both prepare .venv first.
PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.ready
# test files beside one another, in the order that tests/conftest.py gives them, the long ones first
TOGETHER := --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: setup demo test test-quick check clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "installing rtprune and what it needs into $(VENV): some minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: setup
	$(RUN) infra/demo.py

test: setup
	$(RUN) -m pytest $(TOGETHER) --durations=25

test-quick: setup
	$(RUN) -m pytest $(TOGETHER) -m 'not slow'

check: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

clean:
	rm -rf $(VENV) demo build *.egg-info
