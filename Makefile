# make setup        the environment alone (.venv)
# make demo         synthetic street video: trains and evaluates everything, a few minutes
# make test         style, types and correctness tests, about three minutes
# make test-all     all tests, those of hostile input and the slow ones too, with coverage; installs what is optional
# make reliability  all tests that try to break the program; rewrites the table in docs/reliability.md
# make measures     sizes and rules of the tree
# make gpu          tests and benchmarks on a GPU, at most eight minutes; results in logs/gpu (OUT=FOLDER for another)
#                   PYTHON=python3 uses an installed torch as it is; WHEELS=FOLDER installs tensorboardX from there;
#                   BUDGET=SECONDS for all parts together, PARTS="tests video" for some of them
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# An interpreter named on the command line is used as it is, without the environment.
NAMED := $(findstring command,$(origin PYTHON))
OUT ?= logs/gpu
BUDGET ?= 470

PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -q tests

.PHONY: setup demo style test test-all reliability measures gpu clean

setup: $(VENV)/.installed

# Rebuilt when the requirements change, reused otherwise.
$(VENV)/.installed: requirements.txt
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --progress-bar off -r requirements.txt
	$(RUN) -c "import torch, torchvision, cv2, tensorboardX; print('torch', torch.__version__, 'torchvision', torchvision.__version__)"
	touch $@

# What single options need: other people's segmenters, --download.
$(VENV)/.extras: requirements-extra.txt $(VENV)/.installed
	$(RUN) -m pip install --progress-bar off -r requirements-extra.txt
	touch $@

demo: setup
	$(RUN) main.py --demo 1

style: setup
	$(RUN) -m ruff check .
	$(RUN) -m mypy

test: style
	$(PYTEST) -m "not slow and not hostile"

test-all: style $(VENV)/.extras
	EXTRAS=1 $(PYTEST) --cov --cov-report=term

reliability: setup
	MUTANTS=1200 $(PYTEST) -m tried --reliability docs/reliability.md

measures: setup
	$(RUN) -m tests.measures

gpu: $(if $(NAMED),,setup)
	$(if $(WHEELS),$(PYTHON) -m pip install --quiet --no-index --find-links $(WHEELS) tensorboardX)
	$(if $(NAMED),$(PYTHON),$(RUN)) -m tests.gpu_run $(OUT) $(BUDGET) $(PARTS)

clean:
	rm -rf demo logs
