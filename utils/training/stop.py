"""Stopping a training by a signal: all processes stop after the same step and print how to resume."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from utils.runtime.distributed import Distributed
from utils.runtime.launch import command_line, this_launch
from utils.runtime.signals import STOP_SIGNALS, AgreedStop

SAME_CTRL_C = 1.0  # seconds within which two signals count as one


class StopSignal:
    """Handles SIGTERM, SIGUSR1 and Ctrl-C, so that all processes save and stop after the same step.

    A signal to any one process stops all of them. SIGUSR1 is what clusters usually send with `sbatch --signal` before
    a job's time is up. A second Ctrl-C raises KeyboardInterrupt at once. ``resume_command``: the command that the user
    can type to resume the run.
    """

    def __init__(self, world: Distributed, resume_command: str):
        self.world, self.resume_command = world, resume_command
        self.seen = self.noticed = False
        self.interrupted = None  # time of the first Ctrl-C
        self.answer = None  # the flag that is being summed over the processes, and the pending operation
        numbers = (*STOP_SIGNALS, signal.SIGINT)
        self.previous = {number: signal.signal(number, self._notice) for number in numbers}

    def _notice(self, number, frame):
        self.noticed = True
        now = time.monotonic()
        # torchrun forwards a Ctrl-C that the terminal may have sent to this process too; it forwards a second one as
        # SIGTERM.
        if self.interrupted is not None and now - self.interrupted > SAME_CTRL_C:
            raise KeyboardInterrupt(
                f"stopped at once: steps after the last checkpoint are lost.{self._how_to_resume()}"
            )
        if number == signal.SIGINT and self.interrupted is None:
            self.interrupted = now
            if self.world.is_main:  # print() may not be called while it is already running
                os.write(2, b"\nstopping after this step, to save a checkpoint; Ctrl-C again stops at once\n")

    def asked(self) -> bool:
        """Whether any process was asked to stop; every process must call it after every step.

        With several processes the answer is a step late: they exchange their flags while they compute the next step.
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

    def close(self) -> None:
        """Restore the earlier signal handlers; if the training was stopped, print how to resume it.

        After a Ctrl-C it raises AgreedStop with that message instead, so that the program ends as interrupted.
        """
        stopped = self.seen
        self._take_answer()
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        if not stopped:
            return
        message = f"stopped as asked; the checkpoint is complete.{self._how_to_resume()}"
        if self.interrupted is not None:
            raise AgreedStop(message)
        if self.world.is_main:
            print(message, flush=True)

    def _how_to_resume(self):
        return f" To continue:\n    {self.resume_command}"


def resume_command(script: str, argv: Sequence[str] | None, output_dir: Path | str) -> str:
    """The command that resumes a training: ``script`` with its arguments and --resume.

    ``argv``: the arguments; None stands for those of this process.
    """
    words, left = [], list(sys.argv[1:] if argv is None else argv)
    while left:
        word = left.pop(0)
        if word == "--resume":
            left = left[1:]
        elif not word.startswith("--resume=") and word != "--overwrite":
            words.append(word)
    return command_line(this_launch(), script, [*words, "--resume", str(output_dir)])
