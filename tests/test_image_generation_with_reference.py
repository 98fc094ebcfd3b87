"""image_generation_with_reference.py on photos in folders, broken photos and photos to align."""

import numpy as np
from commands import run
from generation_runs import manifest
from paths import PHOTOS
from written_datasets import dataset_files

import image_generation_with_reference


def test_every_readable_photo_becomes_an_identity_named_after_it(demo, tmp_path, encoder, capsys):
    photos = tmp_path / "photos"
    for person in ("person1", "person3"):
        (photos / person).mkdir(parents=True)
        (photos / person / "0.jpg").write_bytes((PHOTOS / person / "0.jpg").read_bytes())
    (photos / "person4.jpg").write_bytes((PHOTOS / "person4" / "0.jpg").read_bytes())
    (photos / "torn.jpg").write_bytes((PHOTOS / "person4" / "0.jpg").read_bytes()[:900])
    flags = ["--image_file", photos, *demo.models, "--example", 3, "--batch_size", 4, "--name", "refs"]
    run(image_generation_with_reference.main, *flags, "--output_dir", tmp_path / "out")
    out = capsys.readouterr().out
    assert "torn.jpg: truncated JPEG" in out
    folder = tmp_path / "out" / "refs"
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["person1_0", "person3_0", "person4"]
    assert [line["sigma"] for line in manifest(folder)] == [0.2] * 9

    before = dataset_files(folder)
    run(image_generation_with_reference.main, *flags, "--output_dir", tmp_path / "out")
    assert dataset_files(folder) == before


def test_align_finds_the_face_and_names_photos_without_one(demo, tmp_path, capsys):
    import cv2

    photo = cv2.imread(str(PHOTOS / "person1" / "0.jpg"))
    scene = np.full((400, 500, 3), 90, np.uint8)
    scene[80:304, 150:374] = cv2.resize(photo, (224, 224))
    cv2.imwrite(str(tmp_path / "scene.png"), scene)
    cv2.imwrite(str(tmp_path / "empty.png"), np.full((200, 200, 3), 90, np.uint8))
    (tmp_path / "list.txt").write_text("scene.png\nempty.png\n")
    flags = ["--image_file", tmp_path / "list.txt", "--align", *demo.models, "--example", 1, "--batch_size", 1]
    run(image_generation_with_reference.main, *flags, "--name", "a", "--output_dir", tmp_path / "out")
    assert "empty.png: no face found" in capsys.readouterr().out
    assert [line["name"] for line in manifest(tmp_path / "out" / "a")] == ["scene"]
