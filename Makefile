# make demo    install everything and transcribe the bundled clips
# make test    install everything and run the tests
# make check   ruff and mypy

EXTRA := $(if $(shell command -v nvidia-smi),cuda,cpu)
PYTHON ?= python3
RUN := .venv/bin/

.PHONY: demo test check format clean

demo: .venv/.installed
	$(RUN)python demos/demo_vllm.py

test: .venv/.installed
	$(RUN)python -m pytest

check: .venv/.installed
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)mypy

format: .venv/.installed
	$(RUN)ruff check --fix .
	$(RUN)ruff format .

# uv lives inside the environment, because a system's own pip may be locked.
.venv/.installed: pyproject.toml
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	test -x .venv/bin/uv || .venv/bin/python -m pip install --quiet uv
	.venv/bin/uv sync --quiet --inexact --extra $(EXTRA)
	touch $@

clean:
	rm -rf .venv build *.egg-info demos/out
