"""A label for each photo, from the folder it lies in."""

import pytest
from commands import run
from paths import PHOTOS

from scripts import (
    identity_label_collection,
)


def test_each_photo_gets_the_number_of_its_folder(tmp_path):
    run(identity_label_collection.main, "-im", PHOTOS, "-d", tmp_path, "-n", "demo")
    assert (tmp_path / "demo_labels.txt").read_text().split() == list("000111222")


def test_a_folder_that_cannot_be_written_is_named_and_left_alone(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SystemExit) as error:
        run(identity_label_collection.main, "-im", PHOTOS, "-d", tmp_path / "file", "-n", "demo")
    assert error.value.code == 2
    assert "demo_labels.txt: cannot write" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"
