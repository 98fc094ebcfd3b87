"""Datasets exported for Hugging Face and WebDataset, read by those libraries."""

import json

import pytest
from generation_runs import make_dataset
from paths import PHOTOS

from scripts import convert_dataset
from utils.dataset import export as dataset_export
from utils.dataset.writer import read_records


@pytest.fixture(scope="module")
def measured(demo, tmp_path_factory):
    """{format: dataset} of two people with two images each, measured."""
    folder = tmp_path_factory.mktemp("measured")
    words = ["--skip_attrop", "--measure"]
    return {
        format: make_dataset(demo, folder / format, *words, "--format", format, people=2)
        for format in ("folder", "lmdb")
    }


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
