"""A generated dataset as the readers of Hugging Face, timm, torchvision and this project see it."""

import os
import shutil

import pytest
from generation_runs import make_dataset

from utils.data.face_set import FaceSet


@pytest.fixture(scope="module")
def dataset(demo, tmp_path_factory):
    """A folder of three people with two images each, with everything that generation writes."""
    return make_dataset(demo, tmp_path_factory.mktemp("layout"), "--skip_attrop")


def test_nothing_but_people_lies_in_the_folder(dataset):
    assert sorted(entry.name for entry in dataset.iterdir()) == ["000000", "000001", "000002"]
    assert all(sorted(p.name for p in person.iterdir()) == ["000.jpg", "001.jpg"] for person in dataset.iterdir())
    about = dataset.with_name("test.about")
    assert sorted(entry.name for entry in about.iterdir()) == [
        "contact_sheet.jpg",
        "manifest.jsonl",
        "manifest.jsonl.index",
        "settings.json",
    ]


def test_hugging_face_reads_it_whole(dataset, tmp_path):
    datasets = pytest.importorskip("datasets")
    read = datasets.load_dataset("imagefolder", data_dir=str(dataset), split="train", cache_dir=str(tmp_path))
    assert read.features["label"].names == ["000000", "000001", "000002"]
    assert read["label"] == [0, 0, 1, 1, 2, 2]
    assert read[0]["image"].size == (112, 112)


def test_timm_reads_it_whole(dataset):
    from timm.data import create_dataset

    read = create_dataset("", root=str(dataset))
    assert read.reader.class_to_idx == {"000000": 0, "000001": 1, "000002": 2}
    assert [label for _, label in read] == [0, 0, 1, 1, 2, 2]


def test_torchvision_reads_it_whole(dataset):
    from torchvision.datasets import ImageFolder

    read = ImageFolder(dataset)
    assert read.classes == ["000000", "000001", "000002"]
    assert read.targets == [0, 0, 1, 1, 2, 2]


def test_a_list_maker_that_stops_at_the_first_stray_file_lists_everything(dataset):
    """As FR-training repositories do: every entry of the folder is a person, every entry of that a photo."""
    listed = []
    for folder, people, photos in os.walk(dataset):
        if folder == str(dataset) and photos:
            break  # a file where people should be
        if folder != str(dataset):
            assert not people
            listed += [os.path.join(folder, photo) for photo in photos]
    assert len(listed) == 6
    assert [len(os.listdir(dataset / person)) for person in os.listdir(dataset)] == [2, 2, 2]  # folder by folder


def test_our_readers_see_the_same_people_in_both_layouts(dataset, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(dataset, old)
    for path in dataset.with_name("test.about").iterdir():
        shutil.copy(path, old)
    for path in (dataset, old):
        faces = FaceSet(path)
        assert faces.identities == ["000000", "000001", "000002"]
        assert faces.labels.tolist() == [0, 0, 1, 1, 2, 2]
