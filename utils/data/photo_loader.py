"""Reading and decoding photos ahead in worker processes, while the models process earlier ones."""

import atexit
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from utils.data.face_set import FaceSet
from utils.data.loader import leave_signals_to_the_parent

CHUNK = 16  # number of photos that a worker sends at a time
FEW = 128  # number of photos below which starting workers takes longer than reading
MOST_WORKERS = 8  # per process, unless the user asks for more


class Unreadable(NamedTuple):
    """Stands in for a photo that cannot be used."""

    reason: str


class Photos(Dataset):
    """Item ``position`` -> ``read(items[position])``, or or Unreadable if that raises a ValueError or an OSError."""

    def __init__(self, read: Callable[[Any], Any], items: Sequence[Any]):
        self.read, self.items = read, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: int) -> Any:
        try:
            return self.read(self.items[position])
        except (ValueError, OSError) as error:
            return Unreadable(reason_of(error))


def read_ahead(
    read: Callable, items: Iterable, workers: int | None = None, ahead: int = 0
) -> Iterator[tuple[Any, Any]]:
    """Iterate over (item, ``read(item)``) in order of the items, with Unreadable in place of the result on failure.

    ``read`` and its results must be picklable; images should stay uint8. ``workers``: number of worker processes, at
    most one per core; 0 reads in this process; by default one per available core, and none for few items. ``ahead``:
    smallest number of items to read in advance; at least the caller's batch size.
    """
    items = list(items)
    workers = usual_workers(len(items)) if workers is None else min(workers, cores())
    loader = DataLoader(
        Photos(read, items),
        CHUNK,
        num_workers=workers,
        prefetch_factor=max(2, 1 + ahead // (workers * CHUNK)) if workers else None,
        worker_init_fn=leave_signals_to_the_parent,
        collate_fn=list,
        generator=torch.Generator(),  # for the workers' seeds, instead of the process's global generator
    )
    photos = (photo for chunk in begin(loader) for photo in chunk)
    return zip(items, photos, strict=True)


def begin(loader: DataLoader) -> Iterator[Any]:
    """The iterator of a DataLoader. Its workers are killed at exit if the process stops before the end.

    Otherwise multiprocessing would send them SIGTERM, which they ignore, and wait for them.
    """
    others = set(multiprocessing.active_children())
    iterator = iter(loader)
    for worker in set(multiprocessing.active_children()) - others:
        atexit.register(worker.kill)
    return iterator


def read_faces(
    faces: FaceSet, indices: Iterable[int], workers: int | None = None, ahead: int = 0
) -> Iterator[tuple[int, np.ndarray | Unreadable]]:
    """``read_ahead`` for the photos of a FaceSet: (index, (112, 112, 3) uint8 RGB or Unreadable)."""
    faces.close()  # a worker must not inherit an open LMDB
    return read_ahead(faces.image, map(int, indices), workers, ahead)


def usual_workers(count: int) -> int:
    """The default number of workers for ``count`` photos."""
    return 0 if count < FEW else min(MOST_WORKERS, cores())


def cores() -> int:
    """Number of cores for this process: its share if torchrun has started several on this machine."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def reason_of(error: Exception) -> str:
    """The text of an error without the file name: "No such file or directory"."""
    return getattr(error, "strerror", None) or str(error)
