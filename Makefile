# make demo    ten people who do not exist, in generated_images/demo
# make test    the test suite
# make lint    ruff
# make train-demo PHOTOS=folder   a small generator from person/photo.jpg, 900 people of them, scored on the others
# make bench   speed of this machine, as shares of its own peak
#
# Each makes .venv from the requirements when it is missing. PYTHON=python3.12 picks the interpreter.

PYTHON ?= python3
PY := .venv/bin/python
DEMO := weights/demo
TRAINING ?= training

.PHONY: demo train-demo test lint bench clean

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

# Two hours on two cores; run it again to go on. First without, from the fifth epoch with the GAN.
train-demo: .venv/.installed
	$(PY) scripts/prepare_training_set.py --images $(PHOTOS) --encoder $(DEMO)/face_encoder.pth -d $(TRAINING) -n people
	$(PY) scripts/small_portion_training_mask.py -im $(PHOTOS) -d $(TRAINING)/train --identities 900
	$(PY) scripts/small_portion_training_mask.py -im $(PHOTOS) -d $(TRAINING)/held_out --identities 900 --rest
	rm $(TRAINING)/held_out/900_ids_*
	$(PY) vec2face.py --train_source $(TRAINING)/people.lmdb --mask $(TRAINING)/train/*.npy \
		--held_out $(TRAINING)/held_out/*.npy --score_every 500 --model vec2face_vit_tiny \
		--id_weights $(DEMO)/face_encoder.pth --lpips_weights none --batch_size 16 --blr 2.8e-3 --warmup_epochs 0.2 \
		--epochs 6 --disc_start 4 --workers 1 --save_every 500 --log_every 50 \
		--output_dir $(TRAINING)/run --resume $(TRAINING)/run

test: .venv/.installed-dev
	$(PY) -m pytest

lint: .venv/.installed-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

bench: .venv/.installed
	$(PY) scripts/benchmark.py

clean:
	rm -rf .venv generated_images generated_images_ref generated_pose_images
