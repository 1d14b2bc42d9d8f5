# `make demo` and `make test`: either, alone, takes a fresh machine (Python 3.10 to 3.13, g++, git) all the way.
# Each stage of the set-up leaves a stamp in .venv/.done, so an interrupted run continues with the stage it was in.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo test setup cuda slow matrix sanitize lint format clean

in_range := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c '$(in_range)' 2>/dev/null && { command -v $$p; break; }; done)

VENV := .venv
BIN  := $(VENV)/bin
DONE := $(VENV)/.done
LOG  := $(VENV)/log
PIP  := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint requirements.txt

# Compiling one file takes up to 2 GB of memory: no more jobs at a time than fit.
export MAX_JOBS ?= $(shell awk -v cores=$$(nproc) '/MemAvailable/ {n = int($$2 / 2000000); \
	print (n < 1 ? 1 : n < cores ? n : cores)}' /proc/meminfo)

# The first thing that is wrong with this machine, as one line; nothing where all is well.
define machine_problem
$(shell \
	if [ -z "$(PYTHON)" ] || ! $(PYTHON) -c '$(in_range)' 2>/dev/null; then \
		echo "needs Python 3.10 to 3.13, found $(or $(shell $(or $(PYTHON),python3) --version 2>&1 | head -1),none): install one or name it, make PYTHON=/path/to/python3.11"; \
	elif ! command -v g++ >/dev/null; then \
		echo "needs the C++ compiler g++, found none on PATH: apt-get install g++"; \
	elif ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$(PYTHON) has no venv module: apt-get install python3-venv"; \
	elif ! $(PYTHON) -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null; then \
		echo "$(PYTHON) has no C headers (Python.h): apt-get install python3-dev"; \
	fi)
endef

# Lines 'files compiled, files in all' as progress: one line that is written over, or, not on a terminal, at most 20 lines
# and the last. In bash itself: Debian's awk, mawk, holds back what it reads.
define PROGRESS
while read -r built all; do \
	text="   compiled $$built of $$all"; \
	if [ -t 1 ]; then printf '\r%s' "$$text   "; \
	elif [ $$((built % (1 + all / 20))) = 0 ] || [ "$$built" = "$$all" ]; then echo "$$text"; fi; \
done && if [ -t 1 ]; then echo; fi
endef
FILES_COMPILED := sed -un 's/^ *\[\([0-9]*\)\/\([0-9]*\)\].*/\1 \2/p'
TOOK := echo "   took $$SECONDS seconds"

demo: setup
	@$(BIN)/python tools/demo.py

# A worker per core, of one thread each: threads of several workers would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(shell nproc) --dist loadfile
test: setup cuda lint
	@echo "== tests (about 8 minutes on 2 cores)"
	@$(PYTEST) -m "not slow"

slow: setup
	@$(BIN)/python -m pytest -m slow

# tests/versions.json: every version of torch that this project is tested on. Downloads 2.5 GB for each.
matrix: setup
	@$(BIN)/python tests/matrix.py

setup: $(DONE)/project

$(DONE)/venv:
	@$(if $(machine_problem),$(error $(machine_problem)))
	@echo "== set-up 1/3: virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@mkdir -p $(DONE) $(LOG)
	@$(PIP) --upgrade pip setuptools wheel ninja packaging && $(TOOK)
	@touch $@

# mmcv, a wheel without compiled code, is built by itself: pip's cache may hold one that was compiled for another PyTorch.
$(DONE)/stack: requirements.txt | $(DONE)/venv
	@echo "== set-up 2/3: PyTorch, OpenMMLab, test tools (download about 2.7 GB; 1 to 2 minutes on a fast line)"
	@$(PIP) --no-cache-dir --no-deps onedl-mmcv && $(PIP) --requirement requirements.txt && $(TOOK)
	@touch $@

# For the CPU, and for the GPUs of this machine where it has any.
$(DONE)/project: setup.py setup.cfg $(shell find ops_dcnv3/csrc -type f) | $(DONE)/stack
	@echo "== set-up 3/3: this project, compiling ops_dcnv3 (1 to 2 minutes on 2 cores; log: $(LOG)/project.log)"
	@$(BIN)/python -m pip install -v --disable-pip-version-check --no-build-isolation --no-deps --editable . 2>&1 \
		| tee $(LOG)/project.log | $(FILES_COMPILED) | { $(PROGRESS); } \
		&& $(TOOK) || { tail -n 20 $(LOG)/project.log; exit 1; }
	@touch $@

# The CUDA kernels for every architecture, where nvcc fits torch: on a machine without a GPU, too, so that no commit breaks them.
cuda: $(DONE)/cuda
$(DONE)/cuda: $(DONE)/project
	@plan=$$(OPS_DCNV3_CUDA=all $(BIN)/python setup.py --version); plan=$${plan%%$$'\n'*}; \
	if [[ $$plan != *'with CUDA'* ]]; then echo "== no CUDA kernels, $$plan"; else \
		echo "== the CUDA kernels, for all GPUs (about 3 minutes on 2 cores; log: $(LOG)/cuda.log)"; \
		OPS_DCNV3_CUDA=all $(BIN)/python setup.py build --build-base build/cuda-objects --build-lib build/cuda 2>&1 \
			| tee $(LOG)/cuda.log | $(FILES_COMPILED) | { $(PROGRESS); } && $(TOOK) || { tail -n 20 $(LOG)/cuda.log; exit 1; }; \
		PYTHONPATH=build/cuda $(BIN)/pytest -q tests/ops/test_cuda_build.py; \
	fi
	@touch $@

# The CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer: the operators' tests, then random calls.
SANITIZED := env LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 PYTHONPATH=build/sanitize
sanitize: setup
	@echo "== the operators with sanitizers: compiling (about 3 minutes), tests (about 5 minutes)"
	@OPS_DCNV3_SANITIZE=1 $(BIN)/python setup.py -q build --build-base build/sanitize-objects --build-lib build/sanitize
	@$(SANITIZED) $(BIN)/pytest -q -m "not slow" tests/ops --deselect tests/ops/test_cuda_emulation.py --deselect tests/ops/test_roi_pool_cuda_emulation.py
	@$(SANITIZED) $(BIN)/python tests/ops/fuzz.py dcnv3 --calls 3000
	@$(SANITIZED) $(BIN)/python tests/ops/fuzz.py roi_pool --calls 3000

SOURCES = $(shell git ls-files '*.cpp' '*.h' '*.cu')
lint: setup
	@$(BIN)/ruff check -q . && $(BIN)/ruff format -q --check . && $(BIN)/clang-format --dry-run -Werror $(SOURCES)

format: setup
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format . && $(BIN)/clang-format -i $(SOURCES)

clean:
	rm -rf build *.egg-info ops_dcnv3/*.so
