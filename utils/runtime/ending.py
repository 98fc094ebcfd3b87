"""How the processes of one run end together: one that fails takes the others with it, whatever they are doing.

A process whose partner is gone waits in the next collective operation: for ever on a GPU, where nobody tells it, and
in C++, where no signal handler of Python runs. So every process has a thread that listens to the process before it, in
a ring, over a connection of its own. The operating system closes that connection when a process dies of anything.
"""

import multiprocessing
import os
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta

import torch
import torch.distributed as dist

DONE, FAILED, STOPPED = range(3)  # what a process says to the next one as it ends
GRACE = 5.0  # seconds that a process has to end by itself after another one was stopped by a signal
LAST_WORD = timedelta(seconds=2)  # to say it
STATUS = 1  # exit status of a process that ends because of another one


class Ending:
    """``group``: a gloo group of all processes that nothing else uses."""

    def __init__(self, group):
        self.group = group
        rank, size = dist.get_rank(), dist.get_world_size()
        self.rank, self.previous, self.next = rank, (rank - 1) % size, (rank + 1) % size
        self.once = threading.Lock()  # taken by whoever ends the process
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def _listen(self):
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

    def together(self):
        """Say that this process is done, and wait until the one before is."""
        self._say(DONE).wait()
        self.thread.join()

    def now(self, status, word, message=None):
        """End this process at once, without the cleaning up that would wait for others. Does not return."""
        self.once.acquire()
        if message:
            os.write(2, f"{message}\n".encode())
        sys.stdout.flush()
        sys.stderr.flush()
        with suppress(RuntimeError):  # the next one has ended, too
            self._say(word).wait(LAST_WORD)
        for child in multiprocessing.active_children():  # data loading; they hold connections of this process open
            child.kill()
        os._exit(status)

    def wait_for_reason(self, seconds):
        """Wait for the thread to end this process because another one has ended; returns if it does not."""
        self.thread.join(seconds)

    def _say(self, word):
        return dist.isend(torch.tensor([word], dtype=torch.uint8), self.next, group=self.group)
