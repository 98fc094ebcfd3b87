"""An identity that cannot fill its images is replaced by the next of the reserve, however the dataset is made."""

import json
import signal
import time

import numpy as np
import pytest
from commands import refused, run
from generation_runs import lines_written
from people_files import write_people
from processes import Script, run_script
from written_datasets import assert_same_dataset, dataset_files

import image_generation
from utils.dataset.layout import about_folder, manifest_path
from utils.dataset.writer import compact_dataset

SIMILARITY = 0.54  # the lowest that passes: reached by all four images of some identities, not of others


@pytest.fixture(scope="module")
def reserve(demo, tmp_path_factory):
    """The vectors of twelve identities, and six others in reserve."""
    return write_people(tmp_path_factory.mktemp("reserve"), np.load(demo.vectors), 12, 6)


def words(demo, people, folder, start_end="0:12", **others):
    flags = {"reserve": people / "reserve.npy", "min_id_similarity": SIMILARITY, "example": 4, "max_tries": 2} | others
    flags |= {"center_feature": people / "people.npy", "start_end": start_end, "output_dir": folder, "name": "full"}
    flags |= {"quality_weights": demo.encoder, "noise": "cone"}
    return [*demo.models, "--skip_attrop", *(word for name, value in flags.items() for word in (f"--{name}", value))]


@pytest.fixture(scope="module")
def whole(demo, reserve, tmp_path_factory):
    """The dataset of a single run."""
    folder = tmp_path_factory.mktemp("whole")
    run(image_generation.main, *words(demo, reserve, folder))
    return folder / "full"


def replaced(root):
    return [json.loads(line) for line in (about_folder(root) / "replaced.jsonl").read_text().splitlines()]


def test_each_identity_has_all_of_its_images_and_a_list_says_who_replaces_whom_and_why(whole):
    counts = {folder.name: len(list(folder.glob("*.jpg"))) for folder in whole.iterdir()}
    assert set(counts.values()) == {4}
    assert len(counts) == 12, "as many as were asked for"
    listed = replaced(whole)
    failed = [line for line in listed if "from_reserve" not in line]
    assert failed, "a threshold that some identities do not reach"
    assert [line["identity"] for line in failed] == sorted(set(range(12)) - {int(name) for name in counts})
    assert [line["replaced_by"] for line in failed] == sorted(name for name in counts if int(name) >= 12)
    for line in listed:
        assert line["wanted"] == 4
        assert line["passed"] + line["missed"]["id_similarity"] == 4
    lines = list(map(json.loads, manifest_path(whole).read_text().splitlines()))
    assert all(line["file"] is None for line in lines if line["name"] not in counts)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["folder", pytest.param("lmdb", marks=pytest.mark.slow)])
def test_ranks_that_are_killed_make_the_same_dataset(demo, reserve, whole, format, tmp_path):
    flags = [*words(demo, reserve, tmp_path), "--format", format]
    kills = 0
    for wanted in (4, 40):
        process = Script("image_generation.py", *flags)
        while process.alive() and lines_written(tmp_path / "full") < wanted:
            time.sleep(0.002)
        process.signal(signal.SIGKILL)
        kills += process.wait().returncode == -signal.SIGKILL
    assert kills
    run_script("image_generation.py", *flags, ranks=2)
    if format == "lmdb":
        run(image_generation.main, *words(demo, reserve, tmp_path / "once"), "--format", "lmdb")
        assert_same_dataset(tmp_path / "full", tmp_path / "once" / "full")
    else:
        assert_same_dataset(tmp_path / "full", whole)


@pytest.mark.slow
def test_slices_at_different_times_make_the_same_dataset(demo, reserve, whole, tmp_path):
    for start_end in ("6:12", "0:6"):
        run(image_generation.main, *words(demo, reserve, tmp_path, start_end))
    compact_dataset(tmp_path / "full")
    there, expected = dataset_files(tmp_path / "full"), dataset_files(whole)
    assert there.keys() == expected.keys()
    assert {name for name in there if there[name] != expected[name]} <= {"about/contact_sheet.jpg"}


def test_a_kill_while_the_reserve_is_used_loses_nothing(demo, reserve, whole, tmp_path):
    process = Script("image_generation.py", *words(demo, reserve, tmp_path))
    manifest = manifest_path(tmp_path / "full")
    process.wait_until(lambda: manifest.exists() and manifest.read_bytes().count(b"\n") >= 48)
    process.signal(signal.SIGKILL)
    process.wait()
    run(image_generation.main, *words(demo, reserve, tmp_path))
    assert_same_dataset(tmp_path / "full", whole)


def test_a_reserve_that_is_used_up_is_said(demo, reserve, tmp_path, capsys):
    run(image_generation.main, *words(demo, reserve, tmp_path, "0:2", min_id_similarity=0.99, max_tries=1))
    assert "the reserve is used up; 2 identities are missing" in capsys.readouterr().out
    assert [line.get("replaced_by") for line in replaced(tmp_path / "full")] == [None] * 8
    line = refused(
        image_generation.main, words(demo, reserve, tmp_path, "0:2", min_id_similarity=0.99, example=5), capsys
    )
    assert "the number of images that each identity must have, or the reserve replaces it, is 4 there and 5 now" in line


def test_a_reserve_that_overlaps_the_identities_is_refused(demo, reserve, tmp_path, capsys):
    vectors = np.load(demo.vectors)
    np.save(tmp_path / "overlap.npy", vectors[[50, 3]])
    np.save(tmp_path / "twice.npy", vectors[[50, 51, 50]])
    for name, message in (("overlap", "row 1 is also row 3 of"), ("twice", "rows 0 and 2 are the same identity")):
        flags = words(demo, reserve, tmp_path / "out", reserve=tmp_path / f"{name}.npy")
        assert message in refused(image_generation.main, flags, capsys)
    assert not (tmp_path / "out").exists()
