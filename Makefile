# make demo   the whole walk on a data set that the package draws itself
# make test   lint, types, import contract, tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test clean

$(BIN)/segwright: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/.dev: pyproject.toml $(BIN)/segwright
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

demo: $(BIN)/segwright
	rm -rf demo
	$(BIN)/segwright cells demo/cells
	$(BIN)/segwright inspect demo/cells
	$(BIN)/segwright train demo/cells --minutes 3 --out demo/run
	$(BIN)/segwright evaluate demo/run demo/cells
	$(BIN)/segwright predict demo/run demo/cells/images/val --out demo/predictions --output overlay
	@echo "Open $(CURDIR)/demo/run/report.html and the pictures in $(CURDIR)/demo/predictions"

test: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2

clean:
	rm -rf $(VENV) demo runs
