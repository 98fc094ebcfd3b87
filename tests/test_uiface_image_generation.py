"""uiface_image_generation.py on small networks: what it writes, that nothing but the settings matters, bad input."""

import json
import signal

import numpy as np
import pytest
import torch
from commands import refused, run
from generation_runs import lines_written, manifest
from processes import Script, run_script
from uiface_models import SMALLEST, batch, replace, small_unet, write_small_models
from written_datasets import assert_same_dataset, dataset_files

import uiface_image_generation
from models.uiface import load_uiface_unet, two_stage_ddim
from models.uiface.weights import MODEL_KEY, about_unet
from utils.data.images import read_image
from utils.dataset.layout import settings_path
from utils.dataset.writer import compact_dataset


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_small_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def flags(models, demo):
    words = [*models, "--center_feature", demo.vectors, "--example", 3, "--steps", 10, "--name", "t"]
    words += ["--threshold", usual_distance(models[1])]
    return [*words, "--device", "cpu", "--precision", "fp32", "--no-measure"]


def usual_distance(path):
    """A threshold that some samples of a UNet reach at once, and others later."""
    noise, contexts = batch(8, vector_size=512)
    steps = []
    two_stage_ddim(load_uiface_unet(path), noise, contexts, 10, 0, on_step=steps.append)
    return float(steps[1].distance.median())


@pytest.fixture(scope="module")
def finished(flags, tmp_path_factory):
    """A dataset of six identities, 18 images: more than are drawn at a time."""
    folder = tmp_path_factory.mktemp("finished")
    run(uiface_image_generation.main, *flags, "--start_end", "0:6", "--output_dir", folder)
    return folder / "t"


def without_threshold(flags):
    place = flags.index("--threshold")
    return [*flags[:place], *flags[place + 2 :]]


def t0s(folder):
    return [line["t0"] for line in manifest(folder)]


def pixels(folder):
    return [read_image(folder / line["file"]) for line in manifest(folder)]


def test_a_dataset_has_its_images_where_each_got_its_identity_and_the_sampler_s_settings(finished, models):
    lines = manifest(finished)
    assert [(line["identity"], line["index"]) for line in lines] == [(i, j) for i in range(6) for j in range(3)]
    assert {line["t0"] for line in lines} <= {400, 500, 600, 700, 800}
    images = pixels(finished)
    assert images[0].shape == (112, 112, 3)
    assert len({image.tobytes() for image in images}) == len(images)
    settings = json.loads(settings_path(finished).read_text())["settings"]
    assert (settings["mode"], settings["partition"], settings["steps"]) == ("uiface", "adaptive", 10)
    assert "mask_ratio" not in settings
    assert len(settings["autoencoder"][0]) == 64


def test_slices_in_any_order_with_any_batch_size_make_the_same_files(finished, flags, tmp_path):
    """In a batch some samples have their identity already and others do not, and neither matters to the others."""
    assert len(set(t0s(finished))) > 1
    for start_end, size in (("5:6", 1), ("0:1", 64), ("1:5", 7)):
        words = [*flags, "--start_end", start_end, "--batch_size", size]
        run(uiface_image_generation.main, *words, "--output_dir", tmp_path)
    compact_dataset(tmp_path / "t")
    assert_same_dataset(tmp_path / "t", finished)


def test_more_images_are_added_without_changing_those_that_are_there(flags, finished, tmp_path):
    words = [*flags, "--start_end", "0:1", "--output_dir", tmp_path, "--example"]
    run(uiface_image_generation.main, *words, 1)
    run(uiface_image_generation.main, *words, 3)
    assert np.array_equal(pixels(tmp_path / "t"), pixels(finished)[:3])


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--partition", 500], {400}),  # with a stage of 100 timesteps, the first one below 500
        (["--partition", 1000], {900}),
        (["--threshold", 0], {400}),  # never reached
        (["--threshold", 9], {700}),  # reached as soon as two maps are known
    ],
)
def test_the_partition_says_from_which_timestep_a_face_has_its_identity(flags, more, expected, tmp_path):
    words = flags if "--threshold" in more else without_threshold(flags)
    run(uiface_image_generation.main, *words, "--start_end", "0:1", "--output_dir", tmp_path, *more)
    assert set(t0s(tmp_path / "t")) == expected


@pytest.mark.slow
def test_a_dataset_whose_run_was_killed_equals_an_uninterrupted_one(finished, flags, tmp_path):
    words = [*flags, "--start_end", "0:6", "--output_dir", tmp_path]
    process = Script("uiface_image_generation.py", *words)
    process.wait_until(lambda: lines_written(tmp_path / "t") >= 3)  # of one of the identities
    process.signal(signal.SIGKILL)
    assert process.wait().returncode == -signal.SIGKILL
    run(uiface_image_generation.main, *words)
    assert_same_dataset(tmp_path / "t", finished)


@pytest.mark.slow
def test_two_ranks_make_the_same_dataset(finished, flags, tmp_path):
    run_script("uiface_image_generation.py", *flags, "--start_end", "0:6", "--output_dir", tmp_path, ranks=2)
    compact_dataset(tmp_path / "t")
    assert_same_dataset(tmp_path / "t", finished)


def test_another_seed_draws_other_images_of_the_same_identities(flags, finished, tmp_path):
    run(uiface_image_generation.main, *flags, "--noise_seed", 1, "--start_end", "0:1", "--output_dir", tmp_path)
    assert not any(np.array_equal(*both) for both in zip(pixels(tmp_path / "t"), pixels(finished), strict=False))


def test_gates_and_an_lmdb_work_as_with_the_other_generators(demo, flags, tmp_path):
    words = [word for word in flags if word != "--no-measure"]
    words += ["--id_weights", demo.encoder, "--start_end", "0:2", "--format", "lmdb", "--output_dir", tmp_path]
    run(uiface_image_generation.main, *words, "--min_id_similarity", -0.2, "--max_tries", 2)
    lines = manifest(tmp_path / "t")
    assert all("t0" in line and "id_similarity" in (line | {"id_similarity": 0}) for line in lines)
    assert any(line["passed"] for line in lines)


def test_a_run_with_another_sampler_is_refused_by_name_and_changes_nothing(flags, finished, capsys):
    before = dataset_files(finished)
    words = [*without_threshold(flags), "--start_end", "0:6", "--output_dir", finished.parent]
    words += ["--partition", 500, "--no-injection", "--guidance", 3]
    message = refused(uiface_image_generation.main, words, capsys)
    for text in ("partition is adaptive there and 500 now", "injection is True there and False now", "guidance is 1 "):
        assert text in message
    assert dataset_files(finished) == before


def test_vectors_that_are_not_of_length_1_are_normalised_with_a_note_and_make_the_same_images(
    demo, flags, finished, tmp_path, capsys
):
    vectors = np.load(demo.vectors)[:7]
    np.save(tmp_path / "unit.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    words = [*flags, "--steps", 4, "--start_end", "0:1", "--output_dir", tmp_path]
    run(uiface_image_generation.main, *words)
    assert "normalised to length 1" in capsys.readouterr().out
    scaled = pixels(tmp_path / "t")
    run(uiface_image_generation.main, *words, "--overwrite", "--center_feature", tmp_path / "unit.npy")
    out = capsys.readouterr().out
    assert "normalised" not in out
    assert "warning" not in out
    assert np.abs(np.stack(pixels(tmp_path / "t")).astype(int) - np.stack(scaled)).max() <= 1


def test_steps_that_do_not_divide_1000_are_more_steps_and_a_note(flags, tmp_path, capsys):
    run(uiface_image_generation.main, *flags, "--steps", 7, "--start_end", "0:1", "--output_dir", tmp_path)
    assert "7 steps do not divide 1000: one timestep in 142 makes 8 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model", "uiface"], "unet.pth: not a uiface, whose width is 96, but no preset; its width is 32"),
        (["--autoencoder", "absent.pth"], "absent.pth: no such file of the autoencoder"),
        (["--model_weights", "absent.pth"], "absent.pth: no such UNet file"),
        (["--center_feature", "narrow.npy"], "narrow.npy: has shape (2, 8); identity vectors have shape"),
        (["--model_weights", "four.pth"], "vq.pth: its latents have 3 channels, and the UNet takes 4"),
        (["--partition", "0"], "must be adaptive or a timestep from 1 to 1000, not 0"),
        (["--partition", "500"], "--threshold: belongs to --partition adaptive"),
        (["--threshold", "-1"], "threshold -1.0: must be at least 0"),
        (["--steps", "1001"], "1001 sampling steps: must be a number from 1 to 1000"),
    ],
)
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(flags, more, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("narrow.npy", np.ones((2, 8), np.float32))
    if "four.pth" in more:
        architecture = replace(SMALLEST, vector_size=512, latent_channels=4)
        torch.save({MODEL_KEY: small_unet(architecture).state_dict()} | about_unet(architecture), "four.pth")
    assert message in refused(uiface_image_generation.main, [*flags, "--output_dir", tmp_path / "out", *more], capsys)
    assert not (tmp_path / "out").exists()


def test_the_file_of_another_generator_is_refused(flags, demo, tmp_path, capsys):
    words = [*flags, "--model_weights", demo.generator, "--output_dir", tmp_path / "out"]
    assert "vec2face_generator.pth: not a state dict" in refused(uiface_image_generation.main, words, capsys)


def test_vectors_of_another_encoder_and_latents_of_another_autoencoder_give_warnings(demo, flags, tmp_path, capsys):
    about = {"trained_on": {"encoder_sha256": "x", "feature_norm": 1.0}, "autoencoder_sha256": "y"}
    words = [*flags, *write_small_models(tmp_path, **about), "--start_end", "0:1", "--example", 1, "--measure"]
    run(uiface_image_generation.main, *words, "--id_weights", demo.encoder, "--quality_weights", demo.encoder,
        "--output_dir", tmp_path)  # fmt: skip
    out = capsys.readouterr().out
    assert "was trained on the features of another face encoder" in out
    assert "was trained on latents of another autoencoder" in out
    assert "id_similarity" in manifest(tmp_path / "t")[0]
