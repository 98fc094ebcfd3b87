"""Distributed runs: joining the other processes, and collective operations among them. One process is a run, too."""

import io
import os
import pickle
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist

from models.errors import UserError
from utils.runtime.ending import FAILED, STOPPED, Ending
from utils.runtime.launch import meeting_point, this_launch

NO_TIMEOUT = timedelta(days=30)
Value = TypeVar("Value")
_ending: Ending | None = None  # set while this process belongs to a run of several processes


class Distributed(NamedTuple):
    """The position of this process among the processes of a run, and collective operations among them.

    ``rank`` is from 0 to ``size`` - 1 over all machines, ``local_rank`` from 0 to ``local_size`` - 1 on this one.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    patient_group: Any = None  # gloo process group without a timeout: ranks may reach an operation hours apart

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which prints, and writes the files that all ranks share."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        if self.size > 1:
            dist.barrier(group=self.patient_group)

    def gather(self, value: Value) -> list[Value]:
        """The ``value`` of every rank, in order of rank; the same list on every rank."""
        values = [value]
        if self.size > 1:
            values *= self.size
            dist.all_gather_object(values, value, group=self.patient_group)
        return values

    def from_main(self, make: Callable[[], Value]) -> Value:
        """Call ``make`` on rank 0 only, and return its result on every rank.

        The result can be any object that can be pickled; its tensors must be on the CPU. Tensors are broadcast one at a
        time, so that broadcasting a checkpoint needs no second copy of it in memory.
        """
        if self.size == 1:
            return make()
        value, tensors, outline = None, [], [None]
        if self.is_main:
            value = make()
            outline = [_outline(value, tensors)]
        dist.broadcast_object_list(outline, 0, group=self.patient_group)
        if not self.is_main:
            value = _Filled(io.BytesIO(outline[0]), tensors).load()
        for tensor in tensors:
            in_memory_order = tensor.as_strided((tensor.numel(),), (1,))
            dist.broadcast(in_memory_order, 0, group=self.patient_group)
        return value


class _Outlined(pickle.Pickler):
    """Pickles a value without the contents of its tensors, and appends the tensors to ``tensors``."""

    def __init__(self, file: io.BytesIO, tensors: list[torch.Tensor]):
        super().__init__(file)
        self.tensors = tensors

    def persistent_id(self, item):
        if not isinstance(item, torch.Tensor):
            return None
        dense = item.detach()
        if not any(dense.is_contiguous(memory_format=form) for form in (torch.contiguous_format, torch.channels_last)):
            dense = dense.contiguous()
        self.tensors.append(dense)
        return dense.shape, dense.stride(), dense.dtype


class _Filled(pickle.Unpickler):
    """Unpickles the output of _Outlined with empty tensors, and appends these to ``tensors`` in the same order."""

    def __init__(self, file: io.BytesIO, tensors: list[torch.Tensor]):
        super().__init__(file)
        self.tensors = tensors

    def persistent_load(self, layout):
        shape, stride, dtype = layout
        self.tensors.append(torch.empty_strided(shape, stride, dtype=dtype))
        return self.tensors[-1]


def _outline(value: Any, tensors: list[torch.Tensor]) -> bytes:
    buffer = io.BytesIO()
    _Outlined(buffer, tensors).dump(value)
    return buffer.getvalue()


def init_distributed(backend: str = "gloo") -> Distributed:
    """Join the other processes of this run, however they were started (see launch.py); a single process stays alone.

    From here on an error in one process ends all of them. Raises UserError when the tasks of an srun step were started
    with different commands.
    """
    global _ending
    launch = this_launch()
    if launch.size == 1:
        return Distributed()
    os.environ |= meeting_point(launch)
    dist.init_process_group(backend)
    patient_group, ring = (dist.new_group(backend="gloo", timeout=NO_TIMEOUT) for _ in range(2))
    _ending = Ending(ring)
    world = Distributed(launch.rank, launch.size, patient_group=patient_group)
    node = os.environ.get("SLURMD_NODENAME", socket.gethostname())
    nodes, commands = zip(*world.gather((node, sys.argv[1:])), strict=True)
    if launch.by == "srun" and any(words != commands[0] for words in commands):
        raise UserError(
            "the tasks of this srun step were started with different commands, but they are the processes of one run. "
            "For independent runs start each with `srun --ntasks=1`, or with WORLD_SIZE=1 in the environment."
        )
    local_rank = int(os.environ.get("LOCAL_RANK", nodes[: launch.rank].count(node)))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", nodes.count(node)))
    return world._replace(local_rank=local_rank, local_size=local_size)


def leave_run() -> None:
    """Leave the run after success, once the preceding rank has succeeded as well."""
    global _ending
    if _ending:
        _ending.together()
        _ending = None
        dist.destroy_process_group()


def fail_run(status: int) -> None:
    """After an error: end this process at once with exit status ``status``, and all others with it.

    Returns, and does nothing, if this process is the only one.
    """
    if _ending:
        _ending.now(status, FAILED)


def stop_run(status: int) -> None:
    """After a signal: as ``fail_run``, but the other processes get GRACE seconds to stop by themselves first.

    They may have received the same signal.
    """
    if _ending:
        _ending.now(status, STOPPED)


def is_joined() -> bool:
    """Whether this process belongs to a run of several processes."""
    return _ending is not None


def wait_for_reason(seconds: float = 10) -> None:
    """Wait after a lost connection: if another process has failed, its message ends this process meanwhile."""
    if _ending:
        _ending.wait_for_reason(seconds)
