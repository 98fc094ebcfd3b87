"""What all trainings set up: their processes, device and number formats, their log, and the random seed of a step."""

from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from models.errors import UserError
from utils.data.loader import EpochBatches
from utils.data.training_data import TrainingData, held_out_data
from utils.runtime.device import keep_freed_memory, resolve_device
from utils.runtime.distributed import Distributed, init_distributed
from utils.runtime.precision import Precision
from utils.training.folder import delete_run
from utils.training.log import Log
from utils.training.stop import StopSignal


def steps_of_whole_updates(batches: EpochBatches, accum_iter: int, path: Path | str) -> int:
    """Batches per epoch that make whole updates of ``accum_iter`` batches each.

    ``path``: the dataset, for the message. Raises UserError when it has too few records for a single update.
    """
    steps = batches.steps // accum_iter * accum_iter
    if steps == 0:
        raise UserError(
            f"{path}: {batches.count} records are fewer than --batch_size {batches.batch_size} x "
            f"{batches.world_size} processes x --accum_iter {accum_iter}."
        )
    return steps


class Records(NamedTuple):
    """The records of a training LMDB that are trained on, those that are scored, and the batches of an epoch."""

    data: TrainingData
    held_out: TrainingData | None
    batches: EpochBatches
    steps_per_epoch: int  # batches


@contextmanager
def opened_records(args: Namespace, world: Distributed) -> Iterator[Records]:
    """Open what the flags of ``add_record_flags`` name, for this process's batches. Raises UserError."""
    with closing(TrainingData(args.train_source, args.mask, args.augmentation, args.seed, args.rep_dim)) as data:
        batches = EpochBatches(len(data), args.batch_size, args.seed, world.rank, world.size)
        steps_per_epoch = steps_of_whole_updates(batches, args.accum_iter, args.train_source)
        yield Records(
            data, held_out_data(data, args.held_out) if args.held_out else None, batches, steps_per_epoch
        )  # fmt: skip


class Run(NamedTuple):
    """Where a training computes, and what it writes."""

    world: Distributed
    device: torch.device
    precision: Precision
    folder: Path  # of the checkpoints
    log: Log
    stop: StopSignal
    log_every: int  # steps between log lines
    save_every: int | None  # steps between checkpoints within an epoch

    def close(self) -> None:
        """Close the log and print how to resume, if the training was stopped; after a Ctrl-C, raise AgreedStop.

        Nothing may hold the data loader by then: its processes ignore signals, and Python would wait for them at exit.
        """
        self.log.close()
        self.stop.close()


def begin_run(
    world: Distributed,
    device: torch.device,
    precision: Precision,
    step: int,
    last_step: int,
    shown: Sequence[str],
    notes: Iterable[str],
    *,
    resume_command: str,
    output_dir: Path | str,
    log_dir: Path | str | None,
    resume: Path | str | None,
    overwrite: bool,
    log_every: int,
    save_every: int | None,
    results: Sequence[str] = (),
) -> Run:
    """Begin a run whose settings are all known to be right; with ``overwrite`` the earlier run is deleted first.

    ``results``: names of the files that this training writes at its end. ``notes``: lines to print. For the other
    parameters see Log, StopSignal and Run.
    """
    if overwrite and world.is_main:
        delete_run(output_dir, results)
    log = Log(output_dir, world, step, last_step, shown, log_dir)
    log.begin(precision, resume, notes)
    stop = StopSignal(world, resume_command)
    return Run(world, device, precision, Path(output_dir), log, stop, log_every, save_every)


def join_training(device: str) -> Distributed:
    """Join the other processes of this run. ``device``: the value of --device."""
    return init_distributed("nccl" if torch.cuda.is_available() and device != "cpu" else "gloo")


def prepare_device(
    name: str, world: Distributed, use_amp: bool, amp_dtype: str | None
) -> tuple[torch.device, Precision]:
    """The device called ``name`` and the training's Precision, with the backend flags of this process set to them.

    On a CPU, the processes of one machine share its cores. Raises UserError when there is no such device.
    """
    device = resolve_device(name, world.local_rank)
    precision = Precision.for_training(use_amp, amp_dtype, device)
    precision.apply()
    torch.backends.cudnn.benchmark = True  # all batches have the same shape; no effect on a CPU
    if device.type == "cpu":
        keep_freed_memory(device)
        torch.set_num_threads(max(1, torch.get_num_threads() // world.local_size))
    return device, precision


def seed_step(seed: int, step: int, world: Distributed) -> None:
    """Seed all random draws of a step by (seed, step, rank), so that a resumed run needs no saved random state."""
    torch.manual_seed(seed * 1_000_003 + step * world.size + world.rank)
