"""How a training is asked to stop, and what it says then."""

import os
import shlex
import shutil
import signal
import sys
import time

import torch
import torch.distributed as dist

SAME_CTRL_C = 1.0  # seconds within which a signal that comes twice was sent once


class StopSignal:
    """SIGTERM and Ctrl-C, agreed on by all processes, so that they save and stop after the same step.

    A second Ctrl-C raises KeyboardInterrupt at once. ``resume_command``: what the user types to continue the run.
    """

    def __init__(self, world, resume_command):
        self.world, self.resume_command = world, resume_command
        self.seen = self.noticed = False
        self.interrupted = None  # time of the first Ctrl-C
        self.previous = {number: signal.signal(number, self._notice) for number in (signal.SIGTERM, signal.SIGINT)}

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
        """Whether any process was asked to stop; every process must call it after every step."""
        flag = torch.tensor(float(self.noticed))
        if self.world.size > 1:
            dist.all_reduce(flag, group=self.world.patient_group)
        self.seen = bool(flag)
        return self.seen

    def close(self):
        """Leave the signals to those who had them; once the training was stopped, say how to continue it.

        Raises KeyboardInterrupt with that message after a Ctrl-C, so that the program ends as interrupted.
        """
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        if not self.seen:
            return
        message = f"stopped as asked; the checkpoint is complete.{self._how_to_go_on()}"
        if self.interrupted is not None:
            raise KeyboardInterrupt(message)
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
    on_path = shutil.which("python") == sys.executable
    launcher = ["python" if on_path else sys.executable]
    if "LOCAL_WORLD_SIZE" in os.environ:
        one_machine = os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"]
        launcher = ["torchrun", f"--nproc_per_node={os.environ['LOCAL_WORLD_SIZE']}"] + ([] if one_machine else ["..."])
    return shlex.join([*launcher, os.path.relpath(script), *words, "--resume", str(output_dir)])
