"""Datasets of earlier versions go on after a migration."""

import json
import shutil

import pytest
from generation_runs import make_dataset
from paths import ROOT
from written_datasets import dataset_files, records

from models.weight_files import sha256
from utils.dataset.layout import manifest_path, settings_path
from utils.dataset.writer import read_records

OLD = ROOT / "tests" / "old_datasets"  # written by the version before the people had a folder of their own


def copy_old(name, folder, generator):
    """A copy of an old dataset, as if it were made with today's generator, which is another one."""
    shutil.copytree(OLD / name, folder / name)
    settings = json.loads((folder / name / "settings.json").read_text())
    settings["settings"]["generator"] = sha256(generator)
    (folder / name / "settings.json").write_text(json.dumps(settings))
    return folder / name


def old_flags(name):
    """The flags that tests/old_datasets were made with."""
    flags = ["--image_quality", 26, "--max_iters", 4, "--batch_size", 2]
    return flags + (["--min_quality", 20, "--max_tries", 2] if name == "gated" else [])


@pytest.mark.parametrize("name", ["plain", "gated"])
def test_a_dataset_of_an_earlier_version_goes_on_after_migrate(demo, name, tmp_path, capsys):
    copy_old(name, tmp_path, demo.generator)
    before = dataset_files(tmp_path / name)
    with pytest.raises(SystemExit) as error:
        make_dataset(demo, tmp_path, *old_flags(name), name=name)
    assert error.value.code == 2
    assert "written by an earlier version" in (message := capsys.readouterr().err)
    assert "--migrate" in message
    assert dataset_files(tmp_path / name) == before

    root = make_dataset(demo, tmp_path, *old_flags(name), "--migrate", name=name)
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


@pytest.mark.slow
def test_a_killed_migration_goes_on(demo, tmp_path):
    """The settings move last: a dataset with some of its files moved is still one to migrate."""
    whole, half = (copy_old("plain", tmp_path / folder, demo.generator) for folder in ("whole", "half"))
    (tmp_path / "half" / "plain.about").mkdir()
    (tmp_path / "half" / "plain.about" / "manifest.jsonl.next").write_text('{"iden')
    make_dataset(demo, tmp_path / "whole", *old_flags("plain"), "--migrate", name="plain")
    make_dataset(demo, tmp_path / "half", *old_flags("plain"), "--migrate", name="plain")
    assert dataset_files(whole) == dataset_files(half)


@pytest.mark.parametrize("killed", [False, True])
def test_an_lmdb_of_an_earlier_version_goes_on_after_migrate(demo, killed, tmp_path):
    """``killed``: the earlier version was stopped between giving the merged LMDB and the manifest their names."""
    words = ["--skip_attrop", "--format", "lmdb", "--no-measure"]
    whole = make_dataset(demo, tmp_path / "whole", *words, people=3)
    root = make_dataset(demo, tmp_path / "old", *words, people=2)
    settings = json.loads(settings_path(root).read_text())
    del settings["settings"]["measured"]
    (root / "settings.json").write_text(json.dumps(settings))
    if killed:
        (root / "manifest.jsonl").write_text("".join(manifest_path(root).read_text().splitlines(keepends=True)[:2]))
    (root / ("manifest.jsonl.next" if killed else "manifest.jsonl")).write_text(manifest_path(root).read_text())
    shutil.rmtree(root.with_name("test.about"))
    make_dataset(demo, tmp_path / "old", *words, "--migrate", people=3)
    assert records(root) == records(whole)
    assert list(read_records(root)) == list(read_records(whole))
    assert [entry.name for entry in root.iterdir()] == ["test.lmdb"]
