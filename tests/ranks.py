"""A program of several processes, for test_ending.py: they join, and one of them ends in the way named."""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.cli.command import command

import torch

from models.errors import UserError
from utils.runtime.distributed import init_distributed
from utils.training.stop import StopSignal

HOURS = 10_000


def share():
    """Tensors in several memory formats and sizes, and what is between them."""
    images = torch.arange(48.0).reshape(2, 3, 4, 2).to(memory_format=torch.channels_last)
    return {
        "images": images,
        "turned": images[0, 0].t(),
        "step": torch.tensor(3),
        "none": torch.zeros(0),
        "others": [1],
    }


@command
def main(argv=None):
    how = sys.argv[1]
    world = init_distributed()
    print(f"rank {world.rank} of {world.size}, local {world.local_rank} of {world.local_size}", flush=True)
    culprit = world.rank == 1
    if how == "share":
        shared, expected = world.from_main(share), share()
        assert shared["others"] == expected["others"]
        assert all(shared[name].equal(value) for name, value in expected.items() if name != "others")
        assert shared["images"].stride() == expected["images"].stride()
        assert world.from_main(lambda: world.rank) == 0
    elif how == "error" and culprit:
        raise UserError(f"cannot go on since {time.time()}.")
    elif how == "bug" and culprit:
        raise KeyError(f"since {time.time()}.")
    elif how == "stop" and culprit:
        os.kill(os.getpid(), signal.SIGUSR1)
    elif how == "agree":
        stop = StopSignal(world, "x")
        for step in range(10):
            if step == 3 and culprit:
                os.kill(os.getpid(), signal.SIGUSR1)
            if stop.asked():
                print(f"stopped at step {step}", flush=True)
                break
        stop.close()
    elif how == "barrier":  # in C++, where no signal handler of Python runs
        world.barrier() if not culprit else time.sleep(HOURS)
    else:
        time.sleep(HOURS)


main()
