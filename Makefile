# make demo    ten people who do not exist, a pose sheet, a quality sheet and a report, in generated_images
# make page    a page in the browser: make people, turn them, mix them, take a dataset away; PAGE="--port 8000"
# make test    the test suite, without its slowest tests
# make test-all   the whole test suite
# make test-oldest   the same tests with the lowest versions that the requirements allow; Python 3.10 to 3.12, 6 GB
# make lint    ruff
# make train-demo   a small generator from 900 of 1,000 rendered people, scored on the others; PHOTOS=folder: on yours
# make pipeline   vectors, images, report, recogniser, test: the whole chain at toy scale with the demo models
# make table-noise  a table of the paper on rendered people; also -attrop, -similarity, -people, -real, -mixup,
#              -synface, -separability; TABLE="--people 1000 --images 20 --seeds 3": larger
# make world   everything from nothing: people, face encoder, head pose, generator, figures; WORLD=folder PEOPLE=10000
# make bench   speed of this machine, as shares of its own peak
# make gpu-check   what holds on the GPUs of this machine, in 15 minutes: gpu_check.md; GPU_CHECK="--checks decoding speed"
#
# Each makes .venv from pyproject.toml when it is missing. PYTHON=python3.12 picks the interpreter.

PYTHON ?= python3
PY ?= .venv/bin/python
DEMO := weights/demo
DEMO_QUALITIES := 22 24 26 28
TRAINING ?= training
PHOTOS ?= rendered/people
UNSEEN ?= rendered/unseen
PIPELINE ?= pipeline

.PHONY: demo page train-demo pipeline test test-all test-oldest lint bench gpu-check clean
include world/world.mk

.venv/.installed: pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet -e .
	touch $@

# The extras: .venv/.installed-test, .venv/.installed-render.
.venv/.installed-%: pyproject.toml .venv/.installed
	$(PY) -m pip install --quiet -e '.[$*]'
	touch $@

DEMO_MODELS := --model_weights $(DEMO)/vec2face_generator.pth --id_weights $(DEMO)/face_encoder.pth \
	--quality_weights $(DEMO)/face_encoder.pth --center_feature $(DEMO)/identity_vectors.npy
DEMO_OUTPUT := generated_images/demo

demo: .venv/.installed
	$(PY) image_generation.py --name demo --start_end 0:10 --example 10 --batch_size 10 $(DEMO_MODELS)
	$(PY) scripts/attribute_sheet.py --attribute yaw --values -60 -30 0 30 60 --count 5 --max_iters 40 $(DEMO_MODELS) \
		--pose_weights $(DEMO)/head_pose.pth --output $(DEMO_OUTPUT)-yaw --overwrite
	$(PY) scripts/attribute_sheet.py --attribute quality --values $(DEMO_QUALITIES) --count 4 --max_iters 40 $(DEMO_MODELS) \
		--output $(DEMO_OUTPUT)-quality --overwrite
	$(PY) scripts/measure_dataset.py $(DEMO_OUTPUT) --id_weights $(DEMO)/face_encoder.pth \
		--quality_weights $(DEMO)/face_encoder.pth --pose_weights $(DEMO)/head_pose.pth

page: .venv/.installed-web
	$(PY) scripts/web_page.py --open $(PAGE)

# Rendered people, for who has no photos: 20,000 photos and 2,000 of others, 4 to 15 minutes on two cores.
rendered/people: | .venv/.installed-render
	$(PY) world/render_faces.py --identities 1000 --images 20 --output rendered/unfinished
	mv rendered/unfinished $@

rendered/unseen: | .venv/.installed-render
	$(PY) world/render_faces.py --identities 200 --first_identity 1000 --images 10 --output rendered/unfinished-unseen
	mv rendered/unfinished-unseen $@

# For a generator that begins as a linear map: train its image decoder, with judges that need no download.
DECODER_ALONE := --model vec2face_vit_tiny --fmae_lr 0 --dropout 0 --token_weight 0 --lpips_weights encoder --pixel_weight 5 \
	--identity_weight 0.1 --batch_size 8 --min_lr 2e-5 --warmup_epochs 0.03 --workers 1 --save_every 500
SHARPEN := --disc_width 32 --disc_noise 0.06 --disc_weight 0.3 --adversarial lsgan --detail_weight 0.5

# Run it again to go on. The second of the two epochs with the GAN.
train-demo: .venv/.installed $(PHOTOS)
	$(PY) scripts/prepare_training_set.py --data $(PHOTOS) --id_weights $(DEMO)/face_encoder.pth -d $(TRAINING) -n people
	$(PY) scripts/small_portion_training_mask.py --data $(TRAINING)/people.lmdb -d $(TRAINING)/masks --identities 900 --rest
	$(PY) scripts/linear_start.py --data $(TRAINING)/people.lmdb --mask $(TRAINING)/masks/*_ims.npy \
		--id_weights $(DEMO)/face_encoder.pth --output $(TRAINING)/start.pth
	$(PY) vec2face.py --train_source $(TRAINING)/people.lmdb --mask $(TRAINING)/masks/*_ims.npy \
		--held_out $(TRAINING)/masks/*_rest.npy --score_every 500 --id_weights $(DEMO)/face_encoder.pth \
		--start_from $(TRAINING)/start.pth $(DECODER_ALONE) --lr 1e-3 --epochs 2 --disc_start 1 $(SHARPEN) --log_every 50 \
		--output_dir $(TRAINING)/run --resume $(TRAINING)/run

$(PIPELINE)/people.npy: | .venv/.installed
	$(PY) scripts/sample_identities.py --features $(DEMO)/identity_vectors.npy --count 60 --max_similarity 0.4 --output $@

pipeline: .venv/.installed $(PIPELINE)/people.npy
	$(PY) image_generation.py --center_feature $(PIPELINE)/people.npy --example 10 --batch_size 32 \
		--min_id_similarity 0.5 --model_weights $(DEMO)/vec2face_generator.pth --id_weights $(DEMO)/face_encoder.pth \
		--quality_weights $(DEMO)/face_encoder.pth --output_dir $(PIPELINE) --name dataset
	$(PY) scripts/measure_dataset.py $(PIPELINE)/dataset --id_weights $(DEMO)/face_encoder.pth \
		--quality_weights $(DEMO)/face_encoder.pth --reference tests/photos
	$(PY) scripts/train_fr.py --data $(PIPELINE)/dataset --network 18 --width 16 --no-se --batch_size 32 --epochs 12 \
		--milestones 9 --random_erasing 0 --output_dir $(PIPELINE)/fr --resume $(PIPELINE)/fr
	$(PY) scripts/evaluate_fr.py --id_weights $(PIPELINE)/fr/model.pth --pairs tests/photos --pair_count 16

table-%: .venv/.installed $(PHOTOS) $(UNSEEN)
	$(PY) world/run_ablation.py $* --photos $(PHOTOS) --unseen $(UNSEEN) $(TABLE)

test: .venv/.installed-test .venv/.installed-test-web
	$(PY) -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

test-all: test
	$(PY) -m pytest -m slow -n 2

OLDEST := .venv-oldest

# Each lower bound of the requirements as a pin; and a pyarrow, which datasets reads with, that takes NumPy 1.
$(OLDEST)/.installed: pyproject.toml
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	sed -n '/^dependencies/,/^test = /s/^ *"\([A-Za-z0-9_-]*\)>=\([0-9.]*\)".*/\1==\2/p' pyproject.toml > $(OLDEST)/pins.txt
	echo "pyarrow<22" >> $(OLDEST)/pins.txt
	$(OLDEST)/bin/python -m pip install --quiet -e '.[test]' -c $(OLDEST)/pins.txt
	touch $@

test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/.installed-test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

bench: .venv/.installed
	$(PY) scripts/benchmark.py

gpu-check: .venv/.installed
	$(PY) scripts/gpu_check.py --overwrite $(GPU_CHECK)

clean:
	rm -rf .venv $(OLDEST) generated_images generated_images_ref generated_pose_images
