"""inspect_dataset.py: its figures, its sheet, and the broken records it lists."""

import subprocess
import sys

import msgpack
import pytest
from commands import run
from paths import ROOT
from training_lmdbs import content, write_lmdb

from scripts import (
    inspect_dataset,
)


def test_inspect_lists_broken_records(training_lmdb, tmp_path, capsys):
    run(inspect_dataset.main, training_lmdb, "--sheet", tmp_path / "sheet.jpg")
    out = capsys.readouterr().out
    assert "9 records, 3 identities" in out
    assert "photos per identity: 3 to 3" in out
    assert "0 broken records" in out
    assert (tmp_path / "sheet.jpg").exists()
    before = (tmp_path / "sheet.jpg").read_bytes()
    with pytest.raises(SystemExit):
        run(inspect_dataset.main, training_lmdb, "--sheet", tmp_path / "sheet.jpg")
    assert "sheet.jpg: exists already; give --overwrite" in capsys.readouterr().err
    assert (tmp_path / "sheet.jpg").read_bytes() == before
    run(inspect_dataset.main, training_lmdb)
    beside = training_lmdb.with_name(training_lmdb.name.removesuffix(".lmdb") + ".report")
    assert (beside / "contact_sheet.jpg").read_bytes() == before

    records = content(training_lmdb)
    image, feature, _ = msgpack.unpackb(records[b"1"])
    records[b"1"] = msgpack.packb((image, feature, 7))
    records[b"2"] = msgpack.packb((image[:900], feature, 0))
    path = write_lmdb(tmp_path / "x.lmdb", records)
    with pytest.raises(SystemExit) as error:
        run(inspect_dataset.main, path, "--sheet", tmp_path / "sheet.jpg", "--overwrite")
    assert error.value.code == 1
    out = capsys.readouterr().out
    assert "broken record 1: label 7, there are 3 identities" in out
    assert "broken record 2: truncated JPEG" in out


def test_a_truncated_lmdb_is_an_error_and_not_the_end_of_the_process(training_lmdb, tmp_path):
    """Reading a page that is not there would be a bus error, so another process has to try."""
    cut = tmp_path / "cut.lmdb"
    cut.write_bytes(training_lmdb.read_bytes()[: 5 * 4096])
    for script, *words in (
        ("inspect_dataset.py", cut), ("convert_dataset.py", cut, tmp_path / "folder"), ("measure_dataset.py", cut),
    ):  # fmt: skip
        command = [sys.executable, ROOT / "scripts" / script, *words]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 2
        assert "cut.lmdb: truncated, it has 20480 bytes and needs" in result.stderr
