# make demo    install everything, transcribe the bundled clips, and let vLLM transcribe them once more
# make test    install everything and run the tests
# make check   ruff and mypy
# make micro   train the micro checkpoint from nothing into demos/out/micro (one GPU, under 20 minutes; espeak-ng). With
#              REAL=DIR, which holds kokoro/ (demos/micro/train/README.md), also from natural voices; without, from
#              espeak-ng alone, and the checkpoint knows no other voice. AN4=DIR, FSDD=DIR and COMMANDS=DIR add people

EXTRA := $(if $(shell command -v nvidia-smi),cuda,cpu)
PYTHON ?= python3
RUN := .venv/bin/

.PHONY: demo test check micro format clean

demo: .venv/.installed
	$(RUN)python demos/demo_vllm.py --then-vllm

# Two processes share the files of tests; each computes with one thread, so that they do not wait for each other.
test: .venv/.installed
	OMP_NUM_THREADS=1 $(RUN)python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: .venv/.installed
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)mypy

NATURAL := demos/out/kokoro
KOKORO := demos/micro/kokoro.py

PEOPLE := demos/out/people
PREPARED := $(PEOPLE)/.prepared$(if $(FSDD),-fsdd)$(if $(AN4),-an4)$(if $(COMMANDS),-commands)
HELD_OUT_SETS := $(strip $(if $(AN4),--an4 $(AN4)) $(if $(COMMANDS),--speech-commands $(COMMANDS)))
PEOPLE_SETS := $(strip $(if $(FSDD),--fsdd $(FSDD)) $(HELD_OUT_SETS))

micro: .venv/.installed $(if $(REAL),$(NATURAL)/.spoken) $(if $(PEOPLE_SETS),$(PREPARED))
	$(RUN)python demos/micro/make_checkpoint.py --out demos/out/micro \
	    $(if $(REAL),--kokoro $(NATURAL)/shards --kokoro-held-out $(NATURAL)/heldout) \
	    $(if $(PEOPLE_SETS),--people $(PEOPLE)/heard) \
	    $(if $(HELD_OUT_SETS),--people-held-out $(PEOPLE)/heldout)
	$(RUN)python demos/micro/synthesize.py --set heldout --clips 320 --out demos/out/heldout
	$(RUN)python demos/micro/evaluate.py demos/out/heldout/manifest.jsonl --model demos/out/micro

# The phonemisers have an environment of their own; to speak takes torch alone.
$(NATURAL)/.spoken: .venv/.installed
	$(PYTHON) -m venv $(NATURAL)/venv
	$(RUN)uv pip install --quiet --python $(NATURAL)/venv kokoro-onnx "misaki[zh]" onnx soxr numpy
	$(NATURAL)/venv/bin/python $(KOKORO) export --real $(REAL) --out $(NATURAL)/model
	$(NATURAL)/venv/bin/python $(KOKORO) plan --count 14000 --out $(NATURAL)/plan
	$(NATURAL)/venv/bin/python $(KOKORO) plan --count 2000 --unknown --out $(NATURAL)/unknown
	$(NATURAL)/venv/bin/python $(KOKORO) plan --count 400 --held-out --out $(NATURAL)/heldplan
	cat $(NATURAL)/unknown/plan.jsonl $(NATURAL)/plan/plan.jsonl > $(NATURAL)/plan.jsonl  # the last ones may find no time
	$(RUN)python demos/micro/speak.py --held-out --model $(NATURAL)/model --plan $(NATURAL)/heldplan/plan.jsonl \
	    --out $(NATURAL)/heldout
	$(RUN)python demos/micro/speak.py --model $(NATURAL)/model --plan $(NATURAL)/plan.jsonl --out $(NATURAL)/shards
	touch $@

$(PREPARED): .venv/.installed
	rm -rf $(PEOPLE)
	$(RUN)python demos/micro/people.py $(PEOPLE_SETS) --out $(PEOPLE)/heard
	$(if $(HELD_OUT_SETS),$(RUN)python demos/micro/people.py $(HELD_OUT_SETS) --held-out --out $(PEOPLE)/heldout)
	touch $@

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
