# make setup   the environment alone (.venv)
# make demo    synthetic street video: trains and evaluates everything, a few minutes
# make test    style, types and the tests but the slow ones
# make test-all     all tests, the slow ones too
# make reliability  everything that is done to break the program, and the table of it in docs/reliability.md
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadgroup -q tests

.PHONY: setup demo style test test-all reliability clean

setup: $(VENV)/.installed

# Rebuilt when the requirements change, reused otherwise.
$(VENV)/.installed: requirements.txt
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --progress-bar off -r requirements.txt
	$(RUN) -c "import torch, torchvision, cv2, tensorboardX; print('torch', torch.__version__, 'torchvision', torchvision.__version__)"
	touch $@

demo: setup
	$(RUN) main.py --demo 1

style: setup
	$(RUN) -m ruff check .
	$(RUN) -m mypy

test: style
	$(PYTEST) -m "not slow" --cov --cov-report=term

test-all: style
	$(PYTEST) --cov --cov-report=term

reliability: setup
	$(PYTEST) -m tried --reliability docs/reliability.md

clean:
	rm -rf demo logs
