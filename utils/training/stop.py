"""How a training is asked to stop, and what it says then."""

import os
import signal
import sys
import time

import torch
import torch.distributed as dist

from utils.runtime.launch import command_line, this_launch
from utils.runtime.signals import STOP_SIGNALS, AgreedStop

SAME_CTRL_C = 1.0  # seconds within which a signal that comes twice was sent once


class StopSignal:
    """SIGTERM, SIGUSR1 and Ctrl-C, agreed on by all processes, so that they save and stop after the same step.

    A signal to any one process stops all. SIGUSR1 is what `sbatch --signal` is usually told to send before the time is
    up. A second Ctrl-C raises KeyboardInterrupt at once. ``resume_command``: what the user types to continue the run.
    """

    def __init__(self, world, resume_command):
        self.world, self.resume_command = world, resume_command
        self.seen = self.noticed = False
        self.interrupted = None  # time of the first Ctrl-C
        self.answer = None  # the flag that is being exchanged, and the exchange
        numbers = (*STOP_SIGNALS, signal.SIGINT)
        self.previous = {number: signal.signal(number, self._notice) for number in numbers}

    def _notice(self, number, frame):
        self.noticed = True
        now = time.monotonic()
        # torchrun passes a Ctrl-C on that the terminal may have sent to this process, too; a second one as SIGTERM.
        if self.interrupted is not None and now - self.interrupted > SAME_CTRL_C:
            raise KeyboardInterrupt(f"stopped at once: steps after the last checkpoint are lost.{self._how_to_go_on()}")
        if number == signal.SIGINT and self.interrupted is None:
            self.interrupted = now
            if self.world.is_main:  # print() may not be called while it is already running
                os.write(2, b"\nstopping after this step, to save a checkpoint; Ctrl-C again stops at once\n")

    def asked(self):
        """Whether any process was asked to stop; every process must call it after every step.

        Several processes answer a step late: they exchange their flags while they compute the next step.
        """
        if self.world.size == 1:
            self.seen = self.noticed
            return self.seen
        self._take_answer()
        flag = torch.tensor(float(self.noticed))
        self.answer = flag, dist.all_reduce(flag, group=self.world.patient_group, async_op=True)
        return self.seen

    def _take_answer(self):
        if self.answer:
            flag, exchange = self.answer
            exchange.wait()
            self.seen, self.answer = bool(flag), None

    def close(self):
        """Leave the signals to those who had them; once the training was stopped, say how to continue it.

        Raises AgreedStop with that message after a Ctrl-C, so that the program ends as interrupted.
        """
        stopped = self.seen
        self._take_answer()
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        if not stopped:
            return
        message = f"stopped as asked; the checkpoint is complete.{self._how_to_go_on()}"
        if self.interrupted is not None:
            raise AgreedStop(message)
        if self.world.is_main:
            print(message, flush=True)

    def _how_to_go_on(self):
        return f" To continue:\n    {self.resume_command}"


def resume_command(script, argv, output_dir):
    """The command that continues a training: the ``argv`` (None: this process's) of ``script`` with ``--resume``."""
    words, left = [], list(sys.argv[1:] if argv is None else argv)
    while left:
        word = left.pop(0)
        if word == "--resume":
            left = left[1:]
        elif not word.startswith("--resume=") and word != "--overwrite":
            words.append(word)
    return command_line(this_launch(), script, [*words, "--resume", str(output_dir)])
