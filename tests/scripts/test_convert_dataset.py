"""Folders and LMDBs converted into one another, merged and split."""

import pytest
from paths import PHOTOS, files_of

from scripts import convert_dataset
from utils.data.face_set import FaceSet
from utils.evaluation import metrics as metrics


def convert(*words):
    convert_dataset.main([str(word) for word in words])


def test_a_dataset_survives_conversion_there_and_back_merging_and_splitting(tmp_path):
    convert(PHOTOS, tmp_path / "a.lmdb")
    convert(tmp_path / "a.lmdb", tmp_path / "a")
    assert [data for _, data in sorted(files_of(tmp_path / "a").items())] == [
        path.read_bytes() for path in sorted(PHOTOS.rglob("*.jpg"))
    ]
    convert(tmp_path / "a.lmdb", PHOTOS, tmp_path / "both.lmdb")
    both = FaceSet(tmp_path / "both.lmdb")
    assert len(both.identities) == 6
    assert both.read(9) == both.read(0)
    both.close()
    convert(tmp_path / "both.lmdb", tmp_path / "part", "--people", "2:4")
    part = FaceSet(tmp_path / "part")
    assert (len(part), part.identities) == (6, ["000000", "000001"])
    assert part.read(0) == (PHOTOS / "person4" / "0.jpg").read_bytes()


def test_a_refused_conversion_leaves_nothing_half_done(tmp_path, capsys):
    (tmp_path / "there").mkdir()
    for words, message in (
        ([PHOTOS, tmp_path / "there"], "exists already"),
        ([tmp_path / "nowhere", tmp_path / "x"], "no such folder"),
        ([PHOTOS, tmp_path / "x", "--people", "2:9"], "--start_end 2:9: goes past the end"),
        ([PHOTOS, PHOTOS, tmp_path / "x", "--mask", "m.npy"], "one source"),
    ):
        with pytest.raises(SystemExit):
            convert(*words)
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
