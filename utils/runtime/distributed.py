"""One process or many: joining the others, and what is said among them."""

import io
import os
import pickle
import socket
import sys
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from models.errors import UserError
from utils.runtime.ending import FAILED, STOPPED, Ending
from utils.runtime.launch import meeting_point, this_launch

NEVER = timedelta(days=30)
_ending = None  # of the run this process has joined


class Distributed(NamedTuple):
    """``rank`` of ``size`` processes; ``local_rank`` of ``local_size`` on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    patient_group: Any = None  # for what ranks may reach hours apart, on the CPU

    @property
    def is_main(self):
        return self.rank == 0

    def barrier(self):
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier(group=self.patient_group)

    def gather(self, value):
        """[every rank's ``value``], the same list on every rank, once all are here."""
        values = [value]
        if self.size > 1:
            values *= self.size
            dist.all_gather_object(values, value, group=self.patient_group)
        return values

    def from_main(self, make):
        """What ``make()`` returns on rank 0, on every rank: it is called on rank 0 alone.

        Any object that can be pickled. Its tensors, on the CPU, travel one at a time, so that a checkpoint takes no
        more memory than it has.
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
    """Pickles a value without the numbers of its tensors, which it lists."""

    def __init__(self, file, tensors):
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
    """Unpickles such a value with tensors yet to be filled, which it lists in the same order."""

    def __init__(self, file, tensors):
        super().__init__(file)
        self.tensors = tensors

    def persistent_load(self, layout):
        shape, stride, dtype = layout
        self.tensors.append(torch.empty_strided(shape, stride, dtype=dtype))
        return self.tensors[-1]


def _outline(value, tensors):
    buffer = io.BytesIO()
    _Outlined(buffer, tensors).dump(value)
    return buffer.getvalue()


def init_distributed(backend="gloo"):
    """Join the other processes of this run, however they were started (see launch.py); alone without others.

    From here on all of them end when one ends with an error. Raises UserError when the tasks of an srun step were not
    started with the same command.
    """
    global _ending
    launch = this_launch()
    if launch.size == 1:
        return Distributed()
    os.environ |= meeting_point(launch)
    dist.init_process_group(backend)
    patient_group, ring = (dist.new_group(backend="gloo", timeout=NEVER) for _ in range(2))
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


def leave_run():
    """Leave the run once it has succeeded: waits for the process before this one to have done so."""
    global _ending
    if _ending:
        _ending.together()
        _ending = None
        dist.destroy_process_group()


def fail_run(status):
    """End this process at once with a ``status``, and all others, if it is one of several."""
    if _ending:
        _ending.now(status, FAILED)


def stop_run(status):
    """The same after a signal, which the others may have had as well: they get a few seconds to stop by themselves."""
    if _ending:
        _ending.now(status, STOPPED)


def is_joined():
    return _ending is not None


def wait_for_reason(seconds=10):
    """Give another process's error the time to end this one, which has only lost its connection."""
    if _ending:
        _ending.wait_for_reason(seconds)
