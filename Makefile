# make demo    ten people who do not exist, in generated_images/demo
# make test    the test suite
# make lint    ruff
# make bench   speed of this machine, as shares of its own peak
#
# Each makes .venv from the requirements when it is missing. PYTHON=python3.12 picks the interpreter.

PYTHON ?= python3
PY := .venv/bin/python
DEMO := weights/demo

.PHONY: demo test lint bench clean

.venv/.installed: requirements.txt
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet -r requirements.txt
	touch $@

.venv/.installed-dev: requirements-dev.txt .venv/.installed
	$(PY) -m pip install --quiet -r requirements-dev.txt
	touch $@

demo: .venv/.installed
	$(PY) image_generation.py --name demo --start_end 0:10 --example 10 --batch_size 10 --image_quality 23 \
		--center_feature $(DEMO)/identity_vectors.npy --model_weights $(DEMO)/vec2face_generator.pth \
		--id_weights $(DEMO)/face_encoder.pth --quality_weights $(DEMO)/face_encoder.pth

test: .venv/.installed-dev
	$(PY) -m pytest

lint: .venv/.installed-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

bench: .venv/.installed
	$(PY) scripts/benchmark.py

clean:
	rm -rf .venv generated_images generated_images_ref generated_pose_images
