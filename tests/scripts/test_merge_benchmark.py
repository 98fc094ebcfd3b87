"""scripts/merge_benchmark.py at toy size."""

import pytest

from scripts import merge_benchmark


@pytest.mark.parametrize("format", ["lmdb", "folder"])
def test_it_times_every_job_and_leaves_nothing(tmp_path, capsys, format):
    folder = tmp_path / "merging"
    words = ["--format", format, "--slices", "2", "--identities", "2", "--example", "2"]
    merge_benchmark.main([str(folder), *words])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["slice", "1", "2", "sum", "compact"]
    assert all(float(figure) >= 0 for line in lines[1:] for figure in line[1:])
    assert not folder.exists()


def test_a_folder_that_exists_is_left_alone(tmp_path, capsys):
    with pytest.raises(SystemExit):
        merge_benchmark.main([str(tmp_path)])
    assert "exists already" in capsys.readouterr().err
    assert tmp_path.exists()
