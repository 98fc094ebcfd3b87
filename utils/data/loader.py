"""Loading the batches of an epoch: order of the batches, worker processes, and removal of broken records."""

import os
import signal
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.runtime.signals import STOP_SIGNALS

Batch = TypeVar("Batch")  # a NamedTuple of tensors and lists, one row per image


class EpochBatches(Sampler):
    """The batches of one rank in an epoch, as lists of (epoch, index). No index occurs twice in an epoch.

    ``steps``: batches per epoch, the same number on every rank. The order depends only on (seed, epoch). Iteration
    starts with epoch 0 unless ``begin`` has chosen another one.
    """

    def __init__(self, count: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1):
        self.count, self.batch_size, self.seed, self.rank, self.world_size = count, batch_size, seed, rank, world_size
        self.steps = count // (batch_size * world_size)
        self.begin(0)

    def begin(self, epoch: int, first: int = 0, end: int | None = None) -> None:
        """Choose the batches of the next iteration: ``first`` to ``end`` - 1 of an epoch, by default to the last."""
        self.epoch, self.chosen = epoch, range(self.steps)[first:end]

    def __len__(self) -> int:
        return len(self.chosen)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, chosen = self.epoch, self.chosen
        order = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch,))).permutation(self.count)
        order = order[: self.steps * self.world_size * self.batch_size]
        order = order.reshape(self.steps, self.world_size, self.batch_size)[:, self.rank].copy()  # (steps, B)
        for step in chosen:
            yield [(epoch, index) for index in order[step].tolist()]


def drop_broken(batch: Batch) -> Batch:
    """A batch without its broken rows; the same object when there are none.

    ``batch``: a NamedTuple of tensors (B, ...) and a column ``error`` of B texts, empty for rows that are not broken.
    """
    if not any(batch.error):
        return batch
    good = torch.tensor([not error for error in batch.error])  # (B,)
    columns = {name: column[good] for name, column in batch._asdict().items() if name != "error"}
    return batch._replace(**columns, error=[""] * int(good.sum()))


def leave_signals_to_the_parent(worker: int) -> None:
    """Ignore Ctrl-C and the stop signals of a cluster: they reach all processes, and the main process handles them."""
    for number in (signal.SIGINT, *STOP_SIGNALS):
        signal.signal(number, signal.SIG_IGN)


def make_loader(data: Dataset, batches: Iterable[list[Any]], workers: int, pin_memory: bool) -> DataLoader:
    """A loader of ``batches``: a sampler, or a list of lists of the dataset's items.

    ``workers``: number of worker processes, at most one per core. They live as long as the loader, so that they need
    not be started in every epoch. ``pin_memory``: whether batches are copied to pinned memory, for a GPU.
    """
    workers = min(workers, len(os.sched_getaffinity(0)))
    options = {"prefetch_factor": 4, "worker_init_fn": leave_signals_to_the_parent, "persistent_workers": True}
    return DataLoader(
        data, batch_sampler=batches, num_workers=workers, pin_memory=pin_memory, **(options if workers else {})
    )
