"""A generated dataset as its users' tools see it, datasets of earlier versions, and more images for a dataset."""

import json
import os
import shutil

import numpy as np
import pytest
from paths import PHOTOS, ROOT
from written_datasets import dataset_files, records

import image_generation
import image_generation_with_reference
from scripts import convert_dataset
from utils.data.face_set import FaceSet
from utils.dataset import export as dataset_export
from utils.dataset.layout import manifest_path, settings_path
from utils.dataset.writer import finish_dataset, read_records

OLD = ROOT / "tests" / "old_datasets"  # written by the version before the people had a folder of their own


def make(demo, folder, *words, name="test", people=3, example=2):
    flags = [*demo.models, "--quality_weights", demo.encoder, "--center_feature", demo.vectors, "--batch_size", 4]
    flags += ["--start_end", f"0:{people}", "--example", example, "--output_dir", folder, "--name", name, *words]
    image_generation.main([str(flag) for flag in flags])
    return folder / name


@pytest.fixture(scope="module")
def dataset(demo, tmp_path_factory):
    """A folder of three people with two images each, with everything that generation writes."""
    return make(demo, tmp_path_factory.mktemp("layout"), "--skip_attrop")


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
        assert faces.people == ["000000", "000001", "000002"]
        assert faces.labels.tolist() == [0, 0, 1, 1, 2, 2]


def old_flags(name):
    """The flags that tests/old_datasets were made with."""
    flags = ["--image_quality", 26, "--max_iters", 4, "--batch_size", 2]
    return flags + (["--min_quality", 20, "--max_tries", 2] if name == "gated" else [])


@pytest.mark.parametrize("name", ["plain", "gated"])
def test_a_dataset_of_an_earlier_version_goes_on_after_migrate(demo, name, tmp_path, capsys):
    shutil.copytree(OLD / name, tmp_path / name)
    before = dataset_files(tmp_path / name)
    with pytest.raises(SystemExit) as error:
        make(demo, tmp_path, *old_flags(name), name=name)
    assert error.value.code == 2
    assert "written by an earlier version" in (message := capsys.readouterr().err)
    assert "--migrate" in message
    assert dataset_files(tmp_path / name) == before

    root = make(demo, tmp_path, *old_flags(name), "--migrate", name=name)
    assert "2 of 3 identities are there already" in capsys.readouterr().out
    assert sorted(entry.name for entry in root.iterdir()) == ["000000", "000001", "000002"]
    for file, data in before.items():
        if file.count("/") == 1 and not file.startswith("about/"):
            assert (root / file).read_bytes() == data
    after = list(read_records(root))
    assert [record.identity for record in after] == [0, 0, 1, 1, 2, 2]
    for record in after:
        assert record.measured.keys() == ({"quality"} if name == "gated" else set())
        assert (record.attrop is not None) == (record.index == 0)
    old_lines = [json.loads(line) for line in before["manifest.jsonl"].decode().splitlines()]
    assert after[0].attrop.values["id_similarity"] == old_lines[0]["id_similarity"]
    assert after[0].attrop.missed == ("quality",)


def test_a_killed_migration_goes_on(demo, tmp_path):
    """The settings move last: a dataset with some of its files moved is still one to migrate."""
    whole, half = (shutil.copytree(OLD / "plain", tmp_path / folder / "plain") for folder in ("whole", "half"))
    (tmp_path / "half" / "plain.about").mkdir()
    (tmp_path / "half" / "plain.about" / "manifest.jsonl.next").write_text('{"iden')
    make(demo, tmp_path / "whole", *old_flags("plain"), "--migrate", name="plain")
    make(demo, tmp_path / "half", *old_flags("plain"), "--migrate", name="plain")
    assert dataset_files(whole) == dataset_files(half)


@pytest.mark.parametrize(
    ("format", "words"),
    [
        ("folder", ["--skip_attrop", "--min_quality", 23]),
        ("lmdb", ["--skip_attrop", "--min_quality", 23]),
        ("folder", ["--max_iters", 2]),
    ],
)
def test_more_images_are_added_to_what_is_there(demo, format, words, tmp_path, capsys):
    """The extended dataset is the one that was asked for at once, and the images that were there are not made again."""
    words = [*words, "--format", format, "--max_tries", 2]
    whole = make(demo, tmp_path / "whole", *words, example=5)
    root = make(demo, tmp_path / "extended", *words, example=2)
    make(demo, tmp_path / "extended", *words, example=2, people=4)
    capsys.readouterr()
    make(demo, tmp_path / "extended", *words, example=5)
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
    make(demo, tmp_path, "--skip_attrop", example=3)
    with pytest.raises(SystemExit):
        make(demo, tmp_path, "--skip_attrop", example=2)
    assert "example is 3 there and 2 now" in capsys.readouterr().err


def test_a_kill_while_images_are_added_loses_nothing(demo, tmp_path):
    """The lines of the extended person were written, the folder was not swapped yet: the old images still count."""
    root = make(demo, tmp_path / "killed", "--skip_attrop", example=1)
    whole = make(demo, tmp_path / "whole", "--skip_attrop", example=2)
    part = root.with_name("test.about") / "parts" / "x"
    part.mkdir(parents=True)
    lines = manifest_path(whole).read_text().splitlines(keepends=True)
    (part / "manifest.jsonl").write_text("".join(lines[:2]))
    settings = json.loads(settings_path(root).read_text())
    settings["settings"]["example"] = 2
    settings_path(root).write_text(json.dumps(settings))
    finish_dataset(root, "folder")
    assert [record.index for record in read_records(root)] == [0, 0, 0]
    make(demo, tmp_path / "killed", "--skip_attrop", example=2)
    assert {k: v for k, v in dataset_files(root).items() if k != "about/settings.json"} == {
        k: v for k, v in dataset_files(whole).items() if k != "about/settings.json"
    }


def test_people_whom_no_image_passed_leave_no_empty_folder(demo, tmp_path, capsys):
    words = ["--skip_attrop", "--min_id_similarity", 0.77, "--max_tries", 2, "--no-measure"]
    root = make(demo, tmp_path, *words, example=2, people=6)
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
    make(demo, tmp_path, *words, example=2, people=6)
    assert "6 of 6 identities are there already" in capsys.readouterr().out


@pytest.fixture(scope="module")
def measured(demo, tmp_path_factory):
    """{format: dataset} of two people with two images each, measured."""
    folder = tmp_path_factory.mktemp("measured")
    words = ["--skip_attrop", "--measure"]
    return {format: make(demo, folder / format, *words, "--format", format, people=2) for format in ("folder", "lmdb")}


@pytest.mark.parametrize("source", ["folder", "lmdb"])
def test_hugging_face_reads_an_export_with_what_the_manifest_says(measured, source, tmp_path):
    datasets = pytest.importorskip("datasets")
    convert_dataset.main([str(measured[source]), str(tmp_path / "export"), "--to", "imagefolder"])
    export = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "export"), split="train", cache_dir=str(tmp_path / "cache")
    )
    expected = list(read_records(measured[source]))
    assert export["label"] == [0, 0, 1, 1]
    assert export["sigma"] == [record.sigma for record in expected]
    for name in ("id_similarity", "quality"):
        assert export[name] == [record.measured[name] for record in expected]
    assert all(row["image"].size == (112, 112) for row in export)
    assert export["identity"] == ["000000", "000000", "000001", "000001"]
    lines = [json.loads(line) for line in (tmp_path / "export" / "metadata.jsonl").read_text().splitlines()]
    for line in lines:
        place = measured["folder"] / line["file_name"]
        assert (tmp_path / "export" / line["file_name"]).read_bytes() == place.read_bytes()


@pytest.mark.parametrize("source", ["folder", "lmdb"])
def test_webdataset_reads_the_shards(measured, source, tmp_path, monkeypatch):
    webdataset = pytest.importorskip("webdataset")
    monkeypatch.setattr(dataset_export, "SHARD_SIZE", 3)
    convert_dataset.main([str(measured[source]), str(tmp_path / "shards"), "--to", "webdataset"])
    convert_dataset.main([str(measured[source]), str(tmp_path / "again"), "--to", "webdataset"])
    shards = sorted((tmp_path / "shards").iterdir())
    assert [shard.name for shard in shards] == ["000000.tar", "000001.tar"]
    assert all(shard.read_bytes() == (tmp_path / "again" / shard.name).read_bytes() for shard in shards)
    samples = list(webdataset.WebDataset([str(shard) for shard in shards], shardshuffle=False).decode("pil"))
    expected = list(read_records(measured[source]))
    assert [sample["__key__"] for sample in samples] == ["000000_000", "000000_001", "000001_000", "000001_001"]
    for sample, record in zip(samples, expected, strict=True):
        assert sample["jpg"].size == (112, 112)
        assert sample["json"]["label"] == record.identity
        assert sample["json"]["sigma"] == record.sigma
        assert sample["json"]["quality"] == record.measured["quality"]


def test_a_folder_of_photos_has_no_manifest_to_export(tmp_path):
    convert_dataset.main([str(PHOTOS), str(tmp_path / "export"), "--to", "imagefolder"])
    lines = [json.loads(line) for line in (tmp_path / "export" / "metadata.jsonl").read_text().splitlines()]
    assert [line["identity"] for line in lines] == ["person1"] * 3 + ["person3"] * 3 + ["person4"] * 3
    assert all(line["quality"] is None for line in lines)


@pytest.mark.parametrize("killed", [False, True])
def test_an_lmdb_of_an_earlier_version_goes_on_after_migrate(demo, killed, tmp_path):
    """``killed``: the earlier version was stopped between giving the merged LMDB and the manifest their names."""
    words = ["--skip_attrop", "--format", "lmdb", "--no-measure"]
    whole = make(demo, tmp_path / "whole", *words, people=3)
    root = make(demo, tmp_path / "old", *words, people=2)
    settings = json.loads(settings_path(root).read_text())
    del settings["settings"]["measured"]
    (root / "settings.json").write_text(json.dumps(settings))
    if killed:
        (root / "manifest.jsonl").write_text("".join(manifest_path(root).read_text().splitlines(keepends=True)[:2]))
    (root / ("manifest.jsonl.next" if killed else "manifest.jsonl")).write_text(manifest_path(root).read_text())
    shutil.rmtree(root.with_name("test.about"))
    make(demo, tmp_path / "old", *words, "--migrate", people=3)
    assert records(root) == records(whole)
    assert list(read_records(root)) == list(read_records(whole))
    assert [entry.name for entry in root.iterdir()] == ["test.lmdb"]


def test_a_deleted_image_stops_no_run_and_its_person_is_drawn_anew_when_images_are_added(demo, tmp_path, capsys):
    whole = make(demo, tmp_path / "whole", "--skip_attrop", example=2)
    root = make(demo, tmp_path / "spoilt", "--skip_attrop", example=1)
    (root / "000000" / "000.jpg").unlink()
    make(demo, tmp_path / "spoilt", "--skip_attrop", example=1)
    assert "3 of 3 identities are there already" in capsys.readouterr().out
    make(demo, tmp_path / "spoilt", "--skip_attrop", example=2)
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
