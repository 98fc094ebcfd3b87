"""Datasets of plain coloured images, written without a generator, and all that a dataset holds."""

import numpy as np
import pytest
from paths import files_of

from utils.dataset.image_record import ImageRecord
from utils.dataset.layout import about_folder
from utils.dataset.lmdb_store import LmdbStore, reading
from utils.dataset.writer import (
    DatasetWriter,
    finish_dataset,
    prepare_dataset,
)
from utils.generation.pipeline import GeneratedImage
from utils.generation.recipe import Identity

FORMATS = pytest.mark.parametrize("format", ["folder", "lmdb"])


def images(number, count=3, first=0):
    return [
        GeneratedImage(
            np.full((112, 112, 3), (number, 20 * i, 99), np.uint8), ImageRecord(number, f"{number:06d}", i, 0.3)
        )
        for i in range(first, count)
    ]


def dataset_files(root):
    """{relative path: bytes} of the images and of the records beside them."""
    about = {f"about/{name}": data for name, data in files_of(about_folder(root)).items()}
    return files_of(root) | about


def identity(number):
    return Identity(number, f"{number:06d}", None)


def write(root, format, numbers, part="a", finish=True, seed=0, **options):
    prepare_dataset(root, {"format": format, "seed": seed}, {}, **options)
    with DatasetWriter(root, format, part) as writer:
        for number in numbers:
            writer.write(identity(number), images(number))
    if finish:
        finish_dataset(root, format)


def assert_same_dataset(one, two):
    """Compare all files; of an LMDB, the records that it holds."""
    files = [dataset_files(root) for root in (one, two)]
    lmdb = [there.pop(LmdbStore.path(root).name, b"") for there, root in zip(files, (one, two), strict=True)]
    assert files[0] == files[1]
    assert bool(lmdb[0]) == bool(lmdb[1])
    if lmdb[0]:
        assert records(one) == records(two)


def records(root):
    with reading(LmdbStore.path(root)) as transaction:
        return {bytes(key): bytes(value) for key, value in transaction.cursor()}
