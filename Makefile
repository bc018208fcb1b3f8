# make setup   the environment alone (.venv)
# make demo    synthetic street video: trains and evaluates everything, a few minutes
# make test    the tests
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: setup demo test clean

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

test: setup
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadgroup -q tests

clean:
	rm -rf demo logs
