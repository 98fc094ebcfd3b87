"""Photos that worker processes read and decode ahead, while the models are busy with those before them."""

import atexit
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from utils.data.loader import leave_signals_to_the_parent

CHUNK = 16  # photos that a worker hands over at a time
FEW = 128  # photos; starting processes for fewer takes longer than reading them
MOST_WORKERS = 8  # of one process, unless the user asks for more


class Unreadable(NamedTuple):
    """What stands for a photo that cannot be used."""

    reason: str


class Photos(Dataset):
    """Item ``position`` -> ``read(items[position])``, or Unreadable where that raises a ValueError or an OSError."""

    def __init__(self, read, items):
        self.read, self.items = read, items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, position):
        try:
            return self.read(self.items[position])
        except (ValueError, OSError) as error:
            return Unreadable(reason_of(error))


def read_ahead(
    read: Callable, items: Iterable, workers: int | None = None, ahead: int = 0
) -> Iterator[tuple[Any, Any]]:
    """Iterate over (item, ``read(item)``) in the order of the items; Unreadable where reading failed.

    ``read`` and what it gives must be picklable: images are best left uint8. ``workers``: processes that read, at most
    one a core; 0 reads in this process; by default as many as there are cores for this process, and none for few
    items. ``ahead``: items that are read in advance, at least, as many as the caller works on at a time.
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
        generator=torch.Generator(),  # of the workers' seeds: the process's own one stays as it is
    )
    photos = (photo for chunk in begin(loader) for photo in chunk)
    return zip(items, photos, strict=True)


def begin(loader):
    """The iterator of a DataLoader, whose workers end with this process even where it stops half-way.

    They ignore SIGTERM, by which multiprocessing would end them and then wait for them.
    """
    others = set(multiprocessing.active_children())
    iterator = iter(loader)
    for worker in set(multiprocessing.active_children()) - others:
        atexit.register(worker.kill)
    return iterator


def read_faces(faces, indices, workers=None, ahead=0):
    """``read_ahead`` of the images of a FaceSet, (index, (112, 112, 3) uint8 RGB or Unreadable)."""
    faces.close()  # a worker must not inherit an open LMDB
    return read_ahead(faces.image, map(int, indices), workers, ahead)


def usual_workers(count):
    """How many workers to start for so many photos."""
    return 0 if count < FEW else min(MOST_WORKERS, cores())


def cores():
    """Cores for this process: its share where torchrun started several on this machine."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def reason_of(error: Exception) -> str:
    """What to tell about an error that names no file: "No such file or directory"."""
    return getattr(error, "strerror", None) or str(error)
