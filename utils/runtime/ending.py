"""Ending the processes of a run together: when one fails, all others end, whatever they are doing.

A process whose peer has died waits in its next collective operation, possibly for ever: NCCL does not detect a dead
peer, and no Python signal handler runs while the process waits in C++. So each process has a thread that receives from
the preceding rank, in a ring, over a connection of its own. The operating system closes the connection when a process
dies for any reason.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist

DONE, FAILED, STOPPED = range(3)  # the message that a process sends to the next rank as it ends
GRACE = 5.0  # seconds that a process has to end by itself after another one was stopped by a signal
SEND_TIMEOUT = timedelta(seconds=2)  # for that message
STATUS = 1  # exit status of a process that ends because of another one


class Ending:
    """The ring of one process. ``group``: a gloo process group of all ranks, used for nothing else."""

    def __init__(self, group: dist.ProcessGroup):
        self.group = group
        rank, size = dist.get_rank(), dist.get_world_size()
        self.rank, self.previous, self.next = rank, (rank - 1) % size, (rank + 1) % size
        self.once = threading.Lock()  # held by the thread that ends the process
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def _listen(self) -> None:
        word = torch.empty(1, dtype=torch.uint8)
        message = None
        try:
            dist.recv(word, src=self.previous, group=self.group)
        except RuntimeError:
            word.fill_(FAILED)
            message = f"rank {self.rank}: error: rank {self.previous} ended without a message (killed, out of memory?)."
        if word == DONE:
            return
        if word == STOPPED:
            time.sleep(GRACE)
        self.now(STATUS, int(word), message)

    def together(self) -> None:
        """Report success to the next rank, and wait until the preceding rank has reported its own."""
        self._say(DONE).wait()
        self.thread.join()

    def now(self, status: int, word: int, message: str | None = None) -> NoReturn:
        """End this process at once with exit status ``status``, skipping any cleanup that would wait for other ranks.

        ``word``: FAILED or STOPPED, sent to the next rank; ``message``: a line for stderr.
        """
        self.once.acquire()
        if message:
            os.write(2, f"{message}\n".encode())
        sys.stdout.flush()
        sys.stderr.flush()
        with suppress(RuntimeError):  # the next rank has ended as well
            self._say(word).wait(SEND_TIMEOUT)
        for child in multiprocessing.active_children():  # data-loading workers hold its connections open
            child.kill()
        os._exit(status)

    def wait_for_reason(self, seconds: float) -> None:
        """Give the thread time to end this process because another one has failed; returns if it does not."""
        self.thread.join(seconds)

    def _say(self, word: int) -> dist.Work:
        return dist.isend(torch.tensor([word], dtype=torch.uint8), self.next, group=self.group)
