"""Photos as identities: one for each photo, or with --per_person one for each folder. Unusable photos are named."""

import shutil

import cv2
import numpy as np
import pytest
from paths import PHOTOS
from processes import run_script

import image_generation_with_reference
from scripts import extract_features
from utils.generation.person_source import PersonSource, mean_vector, people_warnings
from utils.generation.photo_source import PhotoSource


def flags(demo, photos, folder, *more):
    words = ["--image_file", photos, *demo.models, "--example", 1, "--name", "x", "--output_dir", folder, *more]
    return [str(word) for word in words]


def generate(*words):
    image_generation_with_reference.main(flags(*words))


@pytest.fixture
def photos(tmp_path):
    """A copy to spoil."""
    return shutil.copytree(PHOTOS, tmp_path / "photos")


def spoil(path):
    path.write_bytes(path.read_bytes()[:800])


def test_a_mean_vector_has_the_mean_direction_and_the_mean_norm():
    mean = mean_vector(np.array([[3.0, 0], [0, 1]]))
    assert np.allclose(mean, [np.sqrt(2), np.sqrt(2)])  # each photo counts the same; norm (3 + 1) / 2
    assert mean.dtype == np.float32


def test_a_folder_is_an_identity(encoder, photos):
    spoil(photos / "person3" / "1.jpg")
    by_photo = {i.source: i.vector for i in PhotoSource(photos, encoder).identities(range(9))}
    source = PersonSource(photos, encoder)
    identities = list(source.identities(source.slice))
    assert [(i.number, i.name, i.source) for i in identities] == [
        (row, name, name) for row, name in enumerate(["person1", "person3", "person4"])
    ]
    readable = np.stack([by_photo["person3/0.jpg"], by_photo["person3/2.jpg"]])
    assert np.array_equal(identities[1].vector, mean_vector(readable))
    assert len(source.skipped) == 1
    (last,) = PersonSource(photos, encoder, "2:3").identities([2])
    assert np.array_equal(last.vector, identities[2].vector)


def test_folders_of_one_name_get_different_names(encoder, photos):
    for side in ("left", "right"):
        shutil.copytree(photos / "person1", photos / side / "person1")
    assert list(PersonSource(photos, encoder).names.values()) == [
        "left_person1", "photos_person1", "person3", "person4", "right_person1",
    ]  # fmt: skip


def test_people_in_folders_are_warned_about(encoder, photos, tmp_path):
    (warning,) = people_warnings(PhotoSource(photos, encoder))
    assert "9 photos in 3 folders" in warning
    assert "--per_person" in warning
    assert not people_warnings(PersonSource(photos, encoder))
    assert not people_warnings(PhotoSource(photos / "person1", encoder))  # photos that lie in the folder itself
    for person in photos.iterdir():
        for number in (1, 2):
            (person / f"{number}.jpg").unlink()
    assert not people_warnings(PhotoSource(photos, encoder))  # one photo a folder


def test_per_person_is_said_and_part_of_the_settings(demo, photos, tmp_path, capsys):
    generate(demo, photos, tmp_path, "--per_person")
    out = capsys.readouterr().out
    assert "9 photos in 3 folders: each folder is one identity." in out
    assert "warning" not in out
    assert "the dataset has 3 images of 3 identities" in out
    with pytest.raises(SystemExit):
        generate(demo, photos, tmp_path)
    printed = capsys.readouterr()
    assert "9 photos: each is an identity of its own." in printed.out
    assert "warning: " + str(photos) in printed.out
    assert "each_folder_is_an_identity is True there and None now" in printed.err


def test_the_skipped_photos_of_all_ranks_are_reported(demo, photos, tmp_path):
    paths = sorted(photos.rglob("*.jpg"))
    for path in paths:
        spoil(path)
    run = run_script("image_generation_with_reference.py", *flags(demo, photos, tmp_path), ranks=2, check=False)
    assert run.returncode
    for path in paths:
        assert run.stdout.count(f"skipped {path}: truncated JPEG") == 1
    assert "none of the 9 images could be used" in run.stderr


def test_photos_that_are_no_crops_are_warned_about(encoder, photos):
    assert PhotoSource(photos, encoder).warnings == []
    for name, (width, height) in (("wide", (120, 112)), ("large", (800, 800)), ("small", (96, 96))):
        cv2.imwrite(str(photos / f"{name}.png"), np.full((height, width, 3), 127, np.uint8))
    (warning,) = PhotoSource(photos, encoder).warnings
    assert warning.startswith("2 of 12 photos are not aligned 112x112 face crops")
    assert f"{photos / 'large.png'} (800x800)" in warning
    assert "--align" in warning
    assert PhotoSource(photos, encoder, align=True).warnings == []


def test_files_that_are_no_photos_are_counted(demo, photos, tmp_path, capsys):
    for name in ("a.txt", "b.txt", "person1/c.mp4", ".hidden"):
        (photos / name).write_text("x")
    extract_features.main(["--images", str(photos), "--encoder", str(demo.encoder), "-d", str(tmp_path / "features")])
    assert f"warning: {photos}: ignored, as they are not images: 2 .txt, 1 .mp4." in capsys.readouterr().out
