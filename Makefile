# make demo    install everything and transcribe the bundled clips
# make test    install everything and run the tests
# make check   ruff and mypy
# make micro   train the micro checkpoint from nothing into demos/out/micro (one GPU, under 20 minutes; espeak-ng)

EXTRA := $(if $(shell command -v nvidia-smi),cuda,cpu)
PYTHON ?= python3
RUN := .venv/bin/

.PHONY: demo test check micro format clean

demo: .venv/.installed
	$(RUN)python demos/demo_vllm.py

# Two processes share the files of tests; each computes with one thread, so that they do not wait for each other.
test: .venv/.installed
	OMP_NUM_THREADS=1 $(RUN)python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: .venv/.installed
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)mypy

micro: .venv/.installed
	$(RUN)python demos/micro/make_checkpoint.py --out demos/out/micro
	$(RUN)python demos/micro/synthesize.py --set heldout --clips 320 --out demos/out/heldout
	$(RUN)python demos/micro/evaluate.py demos/out/heldout/manifest.jsonl --model demos/out/micro

format: .venv/.installed
	$(RUN)ruff check --fix .
	$(RUN)ruff format .

# uv lives inside the environment, because a system's own pip may be locked.
.venv/.installed: pyproject.toml
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	test -x .venv/bin/uv || .venv/bin/python -m pip install --quiet uv
	.venv/bin/uv sync --quiet --inexact --extra $(EXTRA) --extra server
	touch $@

clean:
	rm -rf .venv build *.egg-info demos/out
