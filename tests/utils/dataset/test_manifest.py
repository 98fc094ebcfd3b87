"""Every number in a manifest is of the image its line names."""

import json

import numpy as np
import pytest
import torch
from paths import PHOTOS

import image_generation
import image_generation_with_reference
import pose_image_generation
from models import MaskRates, TokenMask, load_face_encoder
from models.pixels import to_pixels
from utils.data.images import read_image
from utils.dataset.image_record import MEASURES, AttrOPVerdict, ImageRecord
from utils.dataset.layout import manifest_path, settings_path
from utils.generation.image_measures import ImageMeasures
from utils.generation.streams import image_stream, perturb

BEST_JPEG = ["--jpeg_quality", 100]  # so that what is read back is nearly what was measured


def make(script, demo, folder, *words, models=None):
    """(folder of the dataset, its manifest's lines, its settings) of a short run on the demo models."""
    words = [*(models or demo.models), "--quality_weights", demo.encoder, "--batch_size", 4, *words]
    script.main([str(word) for word in [*words, "--output_dir", folder, "--name", "set"]])
    root = next(path for path in folder.iterdir() if not path.name.endswith(".about"))
    lines = [json.loads(line) for line in manifest_path(root).read_text().splitlines()]
    return root, lines, json.loads(settings_path(root).read_text())["settings"]


def measured_again(encoder, root, line, vector):
    image = torch.from_numpy(read_image(root / line["file"])).permute(2, 0, 1)[None] / 127.5 - 1
    values = ImageMeasures(encoder, encoder)(image, torch.from_numpy(np.asarray(vector, np.float32))[None])
    return {name: float(value) for name, value in values.items()}


def test_measured_values_are_those_of_the_image_the_line_names(demo, encoder, vectors, tmp_path):
    words = ["--center_feature", demo.vectors, "--start_end", "0:3", "--example", 3, "--max_iters", 3, *BEST_JPEG]
    root, lines, settings = make(image_generation, demo, tmp_path, *words, "--measure")
    assert settings["measured"] == {"names": ["id_similarity", "quality"], "precision": "fp32"}
    for line in lines:
        again = measured_again(encoder, root, line, vectors[line["identity"]])
        assert line["id_similarity"] == pytest.approx(again["id_similarity"], abs=0.02)
        assert line["quality"] == pytest.approx(again["quality"], abs=0.3)
    assert len({line["quality"] for line in lines}) == len(lines)  # no two images share the value of a third
    checked = [line["attrop"]["quality"] for line in lines if "attrop" in line]
    assert len(checked) == 3
    assert not set(checked) & {line["quality"] for line in lines}


def test_a_line_says_from_which_vector_and_noise_its_image_was_decoded(demo, generator, vectors, tmp_path):
    """Identity, index, sigma and the seed in the settings give the image again; those of the next line do not."""
    words = ["--center_feature", demo.vectors, "--start_end", "3:5", "--example", 3, "--seed", 7, "--skip_attrop"]
    root, lines, settings = make(image_generation, demo, tmp_path, *words, *BEST_JPEG)

    def image_of(line):
        stream = image_stream(settings["seed"], line["identity"], line["index"])
        vector = torch.from_numpy(perturb(vectors[line["identity"]], line["sigma"], stream))[None]  # (1, 512)
        noise, rate = MaskRates().draw(stream)
        mask = TokenMask.from_noise(torch.from_numpy(noise).float()[None], 0.1, rate)
        with torch.inference_mode():
            return to_pixels(generator(vector, mask).images)[0].numpy().astype(float)

    for line, following in zip(lines, [*lines[1:], lines[0]], strict=True):
        assert (
            line["file"]
            == f"{line['name']}/{line['index']:03d}.jpg"
            == f"{line['identity']:06d}/{line['index']:03d}.jpg"
        )
        written = read_image(root / line["file"])
        assert np.abs(written - image_of(line)).mean() < 1.5
        assert np.abs(written - image_of(following)).mean() > 3


def test_accepted_means_that_no_target_was_missed_on_the_check_image(demo, tmp_path):
    """The quality that is asked for is about the median of what the generator gives."""
    words = ["--center_feature", demo.vectors, "--start_end", "0:8", "--example", 1, "--image_quality", 24]
    _, lines, _ = make(image_generation, demo, tmp_path, *words, "--max_iters", 2)
    verdicts = [line["attrop"] for line in lines]
    for verdict in verdicts:
        missed = ["quality"] if verdict["quality"] < 24 - 1 else []
        missed += ["id_similarity"] if verdict["id_similarity"] < 0.7 else []
        assert (verdict["accepted"], sorted(verdict["missed"])) == (not missed, sorted(missed))
        assert (verdict["measured_on"], verdict["reason"] == "") == ("check image", verdict["accepted"])
        assert 1 <= verdict["iterations"] <= 2
    assert {verdict["accepted"] for verdict in verdicts} == {True, False}


def test_what_was_not_measured_is_absent(demo, tmp_path):
    words = ["--center_feature", demo.vectors, "--start_end", "0:2", "--example", 2, "--max_iters", 1, "--no-measure"]
    _, lines, settings = make(image_generation, demo, tmp_path, *words)
    assert settings["measured"] is None
    assert all(not set(MEASURES) & line.keys() for line in lines)
    assert [line["index"] for line in lines if "attrop" in line] == [0, 0]


@pytest.mark.slow
def test_measuring_is_left_out_where_it_costs_much_and_this_is_said(demo, filled_files, tmp_path, capsys):
    """The small encoder takes a ninth of the demo generator's operations, and a hundredth of the base generator's."""
    words = ["--image_file", PHOTOS / "person1" / "0.jpg", "--example", 1]
    _, lines, _ = make(image_generation_with_reference, demo, tmp_path / "tiny", *words)
    assert all("id_similarity" not in line for line in lines)
    assert "id similarity of the images is not measured, as that would cost 11%" in capsys.readouterr().out

    base = ["--model_weights", filled_files["generator"], *demo.models[2:]]
    words += ["--batch_size", 1]
    _, lines, _ = make(image_generation_with_reference, demo, tmp_path / "base", *words, models=base)
    assert all("id_similarity" in line for line in lines)
    assert "not measured" not in capsys.readouterr().out


def test_what_costs_nothing_beside_the_gate_is_measured_too(demo, tmp_path):
    """The demo encoder is face encoder and quality model in one: its feature is there for the gate already."""
    words = ["--center_feature", demo.vectors, "--start_end", "0:1", "--example", 2, "--max_iters", 1]
    _, lines, _ = make(image_generation, demo, tmp_path, *words, "--min_id_similarity", -1)
    assert all({"id_similarity", "quality"} <= line.keys() for line in lines)


def test_a_dataset_goes_on_with_the_measures_it_began_with(demo, tmp_path):
    words = ["--center_feature", demo.vectors, "--example", 1, "--skip_attrop"]
    make(image_generation, demo, tmp_path, *words, "--start_end", "0:1", "--measure")
    _, lines, _ = make(image_generation, demo, tmp_path, *words, "--start_end", "1:2", "--measure")
    assert all({"id_similarity", "quality"} <= line.keys() for line in lines)
    with pytest.raises(SystemExit):
        make(image_generation, demo, tmp_path, *words, "--start_end", "2:3", "--no-measure")


def test_reference_mode_names_the_photo_and_measures_the_images(demo, encoder, tmp_path):
    words = ["--image_file", PHOTOS, "--example", 2, "--measure", *BEST_JPEG]
    root, lines, _ = make(image_generation_with_reference, demo, tmp_path, *words)
    assert len(lines) == 18
    for line in lines:
        photo = PHOTOS / line["source"]
        assert line["name"] == f"{photo.parent.name}_{photo.stem}"
        feature = encoder(torch.from_numpy(read_image(photo)).permute(2, 0, 1)[None] / 127.5 - 1)[0].detach().numpy()
        again = measured_again(encoder, root, line, feature)
        assert line["id_similarity"] == pytest.approx(again["id_similarity"], abs=0.02)
        assert line["quality"] == pytest.approx(again["quality"], abs=0.3)


@pytest.mark.slow
def test_pose_mode_measures_the_written_image(demo, encoder, vectors, filled_files, tmp_path):
    words = ["--center_feature", demo.vectors, "--start_end", "0:2", "--example", 2, "--max_iters", 2, "--pose", 30]
    words += ["--pose_weights", filled_files["sixdrepnet"], *BEST_JPEG]
    for folder, more, names in (("plain", (), None), ("measured", ("--measure",), ["id_similarity", "quality", "yaw"])):
        root, lines, settings = make(pose_image_generation, demo, tmp_path / folder, *words, *more)
        assert (settings["measured"] and settings["measured"]["names"]) == names
        for line in lines:
            again = measured_again(encoder, root, line, vectors[line["identity"]])
            assert line["id_similarity"] == pytest.approx(again["id_similarity"], abs=0.02)
            assert line["quality"] == pytest.approx(again["quality"], abs=0.3)
            assert "yaw" in line
            assert line["attrop"]["measured_on"] == "image"
            assert not set(MEASURES) & line["attrop"].keys()


def test_measures_are_fp32_beside_a_run_in_16_bit(demo, vectors, tmp_path):
    models = [word for word in demo.models if word not in ("--precision", "fp32")]
    words = ["--center_feature", demo.vectors, "--start_end", "0:2", "--example", 1, "--skip_attrop", *BEST_JPEG]
    root, lines, settings = make(image_generation, demo, tmp_path, *words, "--measure", models=models)
    assert settings["measured"]["precision"] == "fp32"
    encoder = load_face_encoder(demo.encoder)
    for line in lines:
        again = measured_again(encoder, root, line, vectors[line["identity"]])
        assert line["id_similarity"] == pytest.approx(again["id_similarity"], abs=0.02)


def test_a_record_is_read_as_it_was_written():
    verdict = AttrOPVerdict(
        "check image", False, 7, ("quality",), "missed after 7 iterations", {"quality": 21.5, "hue": 3}
    )
    records = [
        ImageRecord(3, "000003", 0, 0.5, measured={"id_similarity": 0.7, "yaw": -3.25}, attrop=verdict, passed=True),
        ImageRecord(3, "000003", 1, 0.5, "anna/1.jpg", passed=False, tries=({"quality": 12.0, "reason": "x"},)),
        ImageRecord(3, "000003", 2, 0.5),
    ]
    assert [ImageRecord.from_line(json.loads(json.dumps(record.line()))) for record in records] == records


def test_files_are_refused_that_name_no_settings_of_ours(demo, tmp_path, capsys):
    """A folder NAME.about of somebody else's is left alone."""
    (tmp_path / "set.about").mkdir()
    (tmp_path / "set.about" / "thesis.tex").write_text("years of work")
    with pytest.raises(SystemExit):
        make(image_generation, demo, tmp_path, "--center_feature", demo.vectors, "--example", 1, "--skip_attrop")
    assert "not a dataset to add to" in capsys.readouterr().err
    assert (tmp_path / "set.about" / "thesis.tex").read_text() == "years of work"
