"""A dataset that gets more images, or loses some."""

import json

import numpy as np
import pytest
from generation_runs import make_dataset
from paths import PHOTOS
from written_datasets import dataset_files, records

import image_generation_with_reference
from utils.dataset.layout import manifest_path, settings_path
from utils.dataset.writer import finish_dataset, read_records


@pytest.mark.parametrize(
    ("format", "words"),
    [
        pytest.param("folder", ["--skip_attrop", "--min_quality", 23], marks=pytest.mark.slow),
        ("lmdb", ["--skip_attrop", "--min_quality", 23]),
        ("folder", ["--max_iters", 2]),
    ],
)
def test_more_images_are_added_to_what_is_there(demo, format, words, tmp_path, capsys):
    """The extended dataset is the one that was asked for at once, and the images that were there are not made again."""
    words = [*words, "--format", format, "--max_tries", 2]
    whole = make_dataset(demo, tmp_path / "whole", *words, example=5)
    root = make_dataset(demo, tmp_path / "extended", *words, example=2)
    make_dataset(demo, tmp_path / "extended", *words, example=2, people=4)
    capsys.readouterr()
    make_dataset(demo, tmp_path / "extended", *words, example=5)
    out = capsys.readouterr().out
    assert "3 identities have fewer than 5 images and get the others" in out
    whole_lines, lines = list(read_records(whole)), list(read_records(root))
    added = sum(record.passed is not False for record in lines[:15] if record.index >= 2)
    assert f"{added} images made" in out
    assert lines[:15] == whole_lines
    assert [record.index for record in lines[15:]] == [0, 1]  # the fourth person was not in this slice
    if format == "folder":
        for file, data in dataset_files(whole).items():
            assert file.startswith("about/") or (root / file).read_bytes() == data
    else:
        written = sum(record.passed is not False for record in whole_lines)
        there, expected = records(root), records(whole)
        assert all(there[str(i).encode()] == expected[str(i).encode()] for i in range(written))


def test_fewer_images_than_there_are_is_refused(demo, tmp_path, capsys):
    make_dataset(demo, tmp_path, "--skip_attrop", example=3)
    with pytest.raises(SystemExit):
        make_dataset(demo, tmp_path, "--skip_attrop", example=2)
    assert "example is 3 there and 2 now" in capsys.readouterr().err


def test_a_kill_while_images_are_added_loses_nothing(demo, tmp_path):
    """The lines of the extended person were written, the folder was not swapped yet: the old images still count."""
    root = make_dataset(demo, tmp_path / "killed", "--skip_attrop", example=1)
    whole = make_dataset(demo, tmp_path / "whole", "--skip_attrop", example=2)
    part = root.with_name("test.about") / "parts" / "x"
    part.mkdir(parents=True)
    lines = manifest_path(whole).read_text().splitlines(keepends=True)
    (part / "manifest.jsonl").write_text("".join(lines[:2]))
    settings = json.loads(settings_path(root).read_text())
    settings["settings"]["example"] = 2
    settings_path(root).write_text(json.dumps(settings))
    finish_dataset(root, "folder")
    assert [record.index for record in read_records(root)] == [0, 0, 0]
    make_dataset(demo, tmp_path / "killed", "--skip_attrop", example=2)
    assert {k: v for k, v in dataset_files(root).items() if k != "about/settings.json"} == {
        k: v for k, v in dataset_files(whole).items() if k != "about/settings.json"
    }


def test_identities_without_an_image_that_passed_leave_no_empty_folder(demo, tmp_path, capsys):
    words = ["--skip_attrop", "--min_id_similarity", 0.7, "--max_tries", 2, "--no-measure"]
    root = make_dataset(demo, tmp_path, *words, example=2, people=6)
    out = capsys.readouterr().out
    written = [record for record in read_records(root) if record.passed]
    people = {record.name for record in written}
    assert 0 < len(people) < 6, "a threshold that some people pass"
    assert {entry.name for entry in root.iterdir()} == people
    assert f"the dataset has {len(written)} images of {len(people)} identities" in out
    best = [
        max(values["id_similarity"] for values in (*record.tries, record.measured) if "id_similarity" in values)
        for record in read_records(root)
    ]
    suggested = float(out.split("would pass at --min_id_similarity ")[1].split(".\n")[0])
    assert np.mean(np.array(best) >= suggested) >= 0.9 > np.mean(np.array(best) >= suggested + 0.05)
    make_dataset(demo, tmp_path, *words, example=2, people=6)
    assert "6 of 6 identities are there already" in capsys.readouterr().out


def test_a_deleted_image_stops_no_run_and_its_person_is_drawn_anew_when_images_are_added(demo, tmp_path, capsys):
    whole = make_dataset(demo, tmp_path / "whole", "--skip_attrop", example=2)
    root = make_dataset(demo, tmp_path / "spoilt", "--skip_attrop", example=1)
    (root / "000000" / "000.jpg").unlink()
    make_dataset(demo, tmp_path / "spoilt", "--skip_attrop", example=1)
    assert "3 of 3 identities are there already" in capsys.readouterr().out
    make_dataset(demo, tmp_path / "spoilt", "--skip_attrop", example=2)
    assert dataset_files(root) == dataset_files(whole)


@pytest.mark.parametrize("format", ["folder", "lmdb"])
def test_a_run_that_made_nothing_blocks_no_other_settings(demo, format, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes((PHOTOS / "person1" / "0.jpg").read_bytes()[:500])
    words = ["--image_file", photos, *demo.models, "--example", 1, "--output_dir", tmp_path, "--name", "x"]
    words = [str(word) for word in [*words, "--format", format]]
    with pytest.raises(SystemExit):
        image_generation_with_reference.main(words)
    assert "none of the 1 images could be used" in capsys.readouterr().err
    (photos / "a.jpg").write_bytes((PHOTOS / "person1" / "0.jpg").read_bytes())
    image_generation_with_reference.main(words)
    assert len(list(read_records(tmp_path / "x"))) == 1
    (photos / "a.jpg").write_bytes((PHOTOS / "person3" / "0.jpg").read_bytes())
    with pytest.raises(SystemExit):
        image_generation_with_reference.main(words)
    assert "made of other identity vectors or photos" in capsys.readouterr().err
