"""Mixtures of two identity vectors."""

import numpy as np
import pytest
from commands import refused, run

from scripts import mix_vectors


def words(demo, folder, first=0, second=7, *more):
    return ["--first", demo.vectors, first, "--second", demo.vectors, second, "--output", folder / "mixed.npy", *more]


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_mixtures_lead_from_the_first_vector_to_the_second(demo, vectors, tmp_path):
    run(mix_vectors.main, *words(demo, tmp_path), "--share", 0, 0.25, 0.5, 0.75, 1)
    mixed = np.load(tmp_path / "mixed.npy")
    assert mixed.dtype == np.float32
    assert mixed[[0, -1]] == pytest.approx(vectors[[0, 7]], rel=1e-5)
    nearer = [cosine(row, vectors[7]) for row in mixed]
    assert nearer == sorted(nearer)
    norms = np.linalg.norm(vectors[[0, 7]], axis=1)
    assert np.linalg.norm(mixed, axis=1) == pytest.approx(np.linspace(*norms, 5), rel=1e-5)


def test_wrong_rows_shares_and_existing_files_are_refused(demo, tmp_path, capsys):
    for row in (200, -1, "x"):
        assert f"has no row {row}; its rows are 0 to 199" in refused(
            mix_vectors.main, words(demo, tmp_path, second=row), capsys
        )
    assert "between 0 and 1" in refused(mix_vectors.main, [*words(demo, tmp_path), "--share", 1.5], capsys)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mixed.npy").write_bytes(b"mine")
    assert "exists already" in refused(mix_vectors.main, words(demo, tmp_path), capsys)
    assert (tmp_path / "mixed.npy").read_bytes() == b"mine"
