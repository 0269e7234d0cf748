# Everything starts from a machine with Python 3.10 or newer and make; the first target called makes .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=

.PHONY: help run test test-slow lint types floors docs audit format clean

help:
	@echo "make run        train NCF over ten clients on the embedded data (ARGS='-o runner.epochs=5' adds flags)"
	@echo "make test       the suite of every day        make test-slow  the rest of it"
	@echo "make lint       ruff                          make types      mypy --strict"
	@echo "make floors     the import rules              make docs       the documentation, into site/"
	@echo "make audit      dependencies: pinned, unchanged, their licences and known vulnerabilities"
	@echo "make format     ruff format and safe fixes    make clean      remove .venv and what was built"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "flps needs Python 3.10 or newer; name one with make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

run: $(STAMP)
	$(BIN)/flrun --worker_num=10 --server_num=1 --coordinator_num=1 -m configs/ncf.yaml $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

# pytest ends with 5 when nothing is marked slow: not an error
test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow $(ARGS) || [ $$? -eq 5 ]

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

floors: $(STAMP)
	$(BIN)/python -m pytest -q tests/unit/test_floors.py

docs: $(STAMP)
	$(BIN)/python docs/write_configuration.py
	$(BIN)/mkdocs build --strict --quiet

audit: $(STAMP)
	$(BIN)/python .ci/audit.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
