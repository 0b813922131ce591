# `make demo` and `make test` set up everything they need.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test test-fast test-lowest test-mindspore test-docs check format table docs bench wheel release-check clean

help:                          ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' Makefile | expand -t 16

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "boxwright needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/installed          ## render data, train, evaluate, draw predictions
	$(BIN)/boxwright demo

check: .venv/installed         ## style, types and spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell

# Two processes of one thread each: small tensors gain nothing from a second thread, the suite gains from a second process.
# With compiled modules kept, whatever the environment says: tests start many processes.
test: check                    ## everything CI runs
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --numprocesses 2 --dist worksteal

test-fast: .venv/installed     ## tests, without slow ones and other runtimes
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 -m 'not slow and not runtimes'

.venv-lowest/installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet --constraint constraints-lowest.txt --editable '.[test]'
	touch $@

# In an environment of its own, with the oldest versions that pyproject.toml allows.
test-lowest: .venv-lowest/installed  ## test-fast with the lowest versions of what is needed
	OMP_NUM_THREADS=1 .venv-lowest/bin/pytest --numprocesses 2 -m 'not slow and not runtimes'

.venv-mindspore/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-mindspore
	.venv-mindspore/bin/pip install --quiet --constraint constraints.txt --editable '.[dev,mindspore]'
	touch $@

# In an environment of its own: MindSpore is large, and its wheels end at Python 3.12 (make PYTHON=python3.12).
test-mindspore: .venv-mindspore/installed  ## MindIR and .ckpt files in MindSpore
	OMP_NUM_THREADS=1 .venv-mindspore/bin/pytest tests/test_mindir.py

# `-m` replaces that of pyproject.toml, which leaves most pages out.
test-docs: .venv/installed     ## run the commands of all pages
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist worksteal -m slow tests/test_page_commands.py

format: .venv/installed        ## apply formatting and lint fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Warnings are errors (`strict` in mkdocs.yml), except with --quiet.
docs: .venv/installed          ## build the site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

bench: .venv/installed         ## benchmarks against other libraries; takes minutes on an idle machine
	for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

table: .venv/installed         ## regenerate the table of recipes in README.md
	$(BIN)/python docs/recipes_table.py

wheel: .venv/installed         ## build the wheel
	$(BIN)/python -m build --wheel

# What users get: the newest versions, in an environment without any of ours. mindspore is left out: its wheels end at
# Python 3.12. The wheel is built from the sdist.
EXTRAS := train mlflow wandb geo onnx openvino video web serve cloud parquet ray
comma := ,
release-check: .venv/installed ## build wheel and sdist, try them in a fresh environment, list licences
	rm -rf dist build .venv-release
	$(BIN)/python -m build
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/pip install --quiet "$$(echo dist/*.whl)[train]"
	.venv-release/bin/boxwright doctor --extra train
	.venv-release/bin/boxwright demo --quick --out build/demo
	.venv-release/bin/pip install --quiet "$$(echo dist/*.whl)[$(subst $() ,$(comma),$(EXTRAS))]"
	.venv-release/bin/boxwright doctor $(addprefix --extra ,$(EXTRAS))
	.venv-release/bin/python .ci/licenses.py build/licenses.md $(EXTRAS)

clean:                         ## remove environments and builds
	rm -rf .venv .venv-lowest .venv-mindspore .venv-release dist build site
