"""One process or many: what torchrun says about this one."""

import os
from datetime import timedelta
from typing import Any, NamedTuple

import torch.distributed as dist

NEVER = timedelta(days=30)


class World(NamedTuple):
    """``rank`` of ``size`` processes; ``local_rank`` of ``local_size`` on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    patient_group: Any = None  # for barriers that ranks may reach hours apart

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


def join_world(backend="gloo"):
    """Join the processes torchrun started; alone without torchrun."""
    if "WORLD_SIZE" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        return World()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    numbers = [int(os.environ[name]) for name in names]
    dist.init_process_group(backend)
    return World(*numbers, dist.new_group(backend="gloo", timeout=NEVER))


def leave_world():
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
