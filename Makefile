# make quickstart: fit, test and report on generated data, core dependencies only
# make test:       the full environment and every test that needs no GPU
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
UV     := $(shell command -v uv 2>/dev/null)
PINS   := -c requirements/constraints.txt

ifeq ($(UV),)
install = $(BIN)/python -m pip install --quiet --disable-pip-version-check
else
install = $(UV) pip install --quiet --python $(BIN)/python
endif

.PHONY: quickstart setup test style bench docs clean

quickstart: $(VENV)/.core
	$(BIN)/septet fit -c configs/cne_n/smoke.yaml
	$(BIN)/septet test --run cne_n/smoke
	$(BIN)/septet report cne_n/smoke

setup: $(VENV)/.full

test: $(VENV)/.full
	$(BIN)/python -m pytest -q -m "not gpu and not network" $(ARGS)

style: $(VENV)/.full
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.full
	$(BIN)/septet bench

docs: $(VENV)/.full
	$(BIN)/mkdocs build --strict

$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { echo "python venv failed; on Debian: apt-get install python3-venv"; exit 1; }

$(VENV)/.core: pyproject.toml requirements/constraints.txt | $(BIN)/python
	@test -f $(VENV)/.full || $(install) $(PINS) -e .
	@touch $@

$(VENV)/.full: pyproject.toml requirements/constraints.txt requirements/no-deps.txt | $(BIN)/python
	$(install) $(PINS) -e '.[all,dev,docs]'
	$(install) --no-deps -r requirements/no-deps.txt
	@touch $(VENV)/.core $@

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
