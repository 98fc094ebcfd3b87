# make world: from nothing to the demo models, and what they achieve. Every stage is a file, made once; a stage that was
# stopped goes on where it was. At the sizes below it takes hours on two cores (docs/world.md); for a first look,
#     make world PEOPLE=200 UNSEEN_PEOPLE=50 WORLD_FR="--epochs 2" WORLD_POSE="--epochs 2"

WORLD ?= rendered_world
PEOPLE ?= 10000
UNSEEN_PEOPLE ?= 1000
IMAGES ?= 20
VECTORS ?= 100
PAIRS ?= 6000
WORLD_FR ?= --epochs 4 --milestones 3 4
WORLD_JUDGE ?= --epochs 2 --milestones 2
WORLD_POSE ?= --epochs 1
WORLD_GENERATOR ?= --epochs 1
WORLD_GAN ?= --epochs 1
WORLD_POLISH ?= --epochs 1 --max_steps 1100
WORLD_SIMILARITY ?= --max_similarity 0.4
WORLD_DATASET ?= --example 20
WORLD_ATTROP ?= --max_iters 100
WORLD_WEIGHTS := $(WORLD)/weights
STYLES := random frontal_profile light quality
SETS := $(STYLES:%=$(WORLD)/sets/%.npz)

.PHONY: world
world: $(WORLD)/fr.json $(WORLD)/judge.json $(WORLD)/quality.json $(WORLD)/pose/scores.json $(WORLD)/generator.json \
		$(WORLD)/yaw.json $(WORLD)/dataset/report.html
	@echo "models: $(WORLD_WEIGHTS); figures: $^"

# People, and others whom no model is trained on.
$(WORLD)/people: | .venv/.installed-render
	$(PY) world/render_faces.py --identities $(PEOPLE) --images $(IMAGES) --output $@.unfinished
	mv $@.unfinished $@

$(WORLD)/unseen: | .venv/.installed-render
	$(PY) world/render_faces.py --identities $(UNSEEN_PEOPLE) --first_identity 100000 --images $(IMAGES) --output $@.unfinished
	mv $@.unfinished $@

$(WORLD)/sets/%.npz: $(WORLD)/unseen
	$(PY) scripts/evaluate_fr.py --data $(WORLD)/unseen --style $* --pair_count $(PAIRS) --save_pairs $@

# One network for identity and quality, which keeps traces of pose and light; and another one, to judge.
$(WORLD_WEIGHTS)/face_encoder.pth: $(WORLD)/people
	$(PY) scripts/train_fr.py --data $(WORLD)/people --network 18 --width 16 --no-se --head magface --readout_weights 6 3 \
		--random_erasing 0 --augmentation 0.1 --batch_size 64 --lr 0.05 --warmup_epochs 0.1 $(WORLD_FR) --workers 2 \
		--output_dir $(WORLD)/encoder --resume $(WORLD)/encoder
	$(PY) scripts/convert_weights.py $(WORLD)/encoder/model.pth $@ --overwrite

$(WORLD)/judge/model.pth: $(WORLD)/people
	$(PY) scripts/train_fr.py --data $(WORLD)/people --network 34 --width 16 --head cosface --seed 7 \
		--random_erasing 0 --augmentation 0.1 --batch_size 64 --lr 0.05 --warmup_epochs 0.1 $(WORLD_JUDGE) --workers 2 \
		--output_dir $(WORLD)/judge --resume $(WORLD)/judge

$(WORLD_WEIGHTS)/head_pose.pth $(WORLD)/pose/scores.json &: $(WORLD)/people $(WORLD)/unseen
	$(PY) world/train_pose.py --data $(WORLD)/people --test $(WORLD)/unseen $(WORLD_POSE) --output_dir $(WORLD)/pose \
		--resume $(WORLD)/pose
	$(PY) scripts/convert_weights.py $(WORLD)/pose/model.pth $(WORLD_WEIGHTS)/head_pose.pth --overwrite

# The generator, of the better photos only: what spoils the others cannot be told from a vector. It begins as a linear map,
# for which the image decoder is trained, then sharpened by the GAN; a part of that is taken back, and a second GAN, with a
# discriminator that knows nothing yet, takes away what the first one let through. See docs/world.md.
$(WORLD)/people.lmdb $(WORLD)/unseen.lmdb: $(WORLD)/%.lmdb: $(WORLD)/% $(WORLD_WEIGHTS)/face_encoder.pth
	$(PY) scripts/prepare_training_set.py --data $(WORLD)/$* --id_weights $(WORLD_WEIGHTS)/face_encoder.pth \
		-d $(WORLD)/unfinished -n $*
	mv $(WORLD)/unfinished/$*.lmdb $@

$(WORLD)/soft_generator.pth: $(WORLD)/people.lmdb | .venv/.installed-train-demo
	$(PY) scripts/small_portion_training_mask.py --data $< --identities $(PEOPLE) --min_quality 0.6 \
		--labels $(WORLD)/people/labels.jsonl -d $(WORLD)/good
	$(PY) scripts/linear_start.py --data $< --mask $(WORLD)/good/*.npy --count 12000 \
		--id_weights $(WORLD_WEIGHTS)/face_encoder.pth --output $(WORLD)/linear_start.pth
	$(PY) vec2face.py --train_source $< --mask $(WORLD)/good/*.npy --id_weights $(WORLD_WEIGHTS)/face_encoder.pth \
		--start_from $(WORLD)/linear_start.pth $(DECODER_ALONE) --lr 1e-3 --ema 0.995 $(WORLD_GENERATOR) \
		--output_dir $(WORLD)/soft_generator --resume $(WORLD)/soft_generator
	$(PY) scripts/convert_weights.py $(WORLD)/soft_generator/checkpoint-last.pth $@ --ema --finished --overwrite

WORLD_SHARPER = $(PY) vec2face.py --train_source $(WORLD)/people.lmdb --mask $(WORLD)/good/*.npy \
	--id_weights $(WORLD_WEIGHTS)/face_encoder.pth --start_from $< $(DECODER_ALONE) --disc_start 0 $(SHARPEN) --ema 0.99

$(WORLD)/sharp_generator.pth: $(WORLD)/soft_generator.pth
	$(WORLD_SHARPER) --lr 5e-4 $(WORLD_GAN) --output_dir $(WORLD)/sharp_generator --resume $(WORLD)/sharp_generator
	$(PY) scripts/convert_weights.py $(WORLD)/sharp_generator/checkpoint-last.pth $@ --ema --finished --interpolate $< --overwrite

$(WORLD_WEIGHTS)/vec2face_generator.pth: $(WORLD)/sharp_generator.pth
	$(WORLD_SHARPER) --lr 2e-4 --disc_weight 0.2 $(WORLD_POLISH) --output_dir $(WORLD)/generator --resume $(WORLD)/generator
	$(PY) scripts/convert_weights.py $(WORLD)/generator/checkpoint-last.pth $@ --ema --finished --overwrite

$(WORLD_WEIGHTS)/identity_vectors.npy: $(WORLD)/people $(WORLD_WEIGHTS)/face_encoder.pth
	$(PY) scripts/extract_features.py --data $(WORLD)/people --id_weights $(WORLD_WEIGHTS)/face_encoder.pth --output $(WORLD)/features
	$(PY) scripts/center_features.py -feat $(WORLD)/features -dataset people -dest $(WORLD)
	$(PY) scripts/sample_identities.py --features $(WORLD)/people_center_feature.npy --avoid $(WORLD)/people_center_feature.npy \
		--count $(VECTORS) $(WORLD_SIMILARITY) --output $@ --overwrite

# What they achieve, on people that none of them saw.
$(WORLD)/fr.json: $(WORLD_WEIGHTS)/face_encoder.pth $(SETS)
	$(PY) scripts/evaluate_fr.py --id_weights $< --sets $(SETS) --output $@

$(WORLD)/judge.json: $(WORLD)/judge/model.pth $(SETS)
	$(PY) scripts/evaluate_fr.py --id_weights $< --sets $(SETS) --output $@

$(WORLD)/quality.json: $(WORLD_WEIGHTS)/face_encoder.pth $(WORLD)/unseen
	$(PY) world/quality_curve.py --quality_weights $< --photos $(WORLD)/unseen --output $(WORLD)/quality --overwrite

$(WORLD)/generator.json: $(WORLD_WEIGHTS)/vec2face_generator.pth $(WORLD)/unseen.lmdb $(WORLD)/judge.json
	$(PY) scripts/evaluate_generator.py --data $(WORLD)/unseen.lmdb --model_weights $< \
		--id_weights $(WORLD_WEIGHTS)/face_encoder.pth --evaluator_weights $(WORLD)/judge/model.pth \
		--threshold $(WORLD)/judge.json --count 1000 --output $(WORLD)/generator --overwrite

WORLD_MODELS = --model_weights $(WORLD_WEIGHTS)/vec2face_generator.pth --id_weights $(WORLD_WEIGHTS)/face_encoder.pth \
	--quality_weights $(WORLD_WEIGHTS)/face_encoder.pth
$(WORLD)/yaw.json: $(WORLD_WEIGHTS)/vec2face_generator.pth $(WORLD_WEIGHTS)/head_pose.pth $(WORLD_WEIGHTS)/identity_vectors.npy
	$(PY) scripts/attribute_sheet.py --attribute yaw --values -60 -30 0 30 60 --count $(VECTORS) $(WORLD_MODELS) \
		--center_feature $(WORLD_WEIGHTS)/identity_vectors.npy --pose_weights $(WORLD_WEIGHTS)/head_pose.pth $(WORLD_ATTROP) --output $(WORLD)/yaw --overwrite

$(WORLD)/dataset/report.html: $(WORLD_WEIGHTS)/vec2face_generator.pth $(WORLD_WEIGHTS)/identity_vectors.npy
	$(PY) image_generation.py --center_feature $(WORLD_WEIGHTS)/identity_vectors.npy $(WORLD_DATASET) $(WORLD_ATTROP) $(WORLD_MODELS) \
		--output_dir $(WORLD) --name images
	$(PY) scripts/measure_dataset.py $(WORLD)/images --id_weights $(WORLD)/judge/model.pth --reference $(WORLD)/people \
		--output $(WORLD)/dataset
