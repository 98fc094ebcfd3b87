"""Scripts in processes of their own, one or several ranks, as users start them.

Each is forked from a process that has imported the libraries and done nothing else: importing takes longer than
the work of most tests. Ranks are started by what torchrun itself calls.
"""

import io
import multiprocessing
import os
import resource
import runpy
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

from paths import ROOT
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

LIBRARIES = (
    "timm.models.vision_transformer", "torchvision.transforms.v2", "torch.optim.swa_utils",
    "torch.distributed.launcher.api", "sklearn.decomposition", "sklearn.metrics",
    "cv2", "lmdb",
)  # fmt: skip
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(LIBRARIES)


class Script:
    """``python SCRIPT WORDS``, with ``ranks`` ``torchrun --nproc_per_node=RANKS``; leader of its process group.

    ``largest_file``: bytes after which the system refuses to let a file grow, as on a full disk. ``killed_at``: a text;
    the process that prints it is killed as it does so. ``environment``: variables of its own.
    """

    def __init__(self, script, *words, ranks=0, largest_file=None, killed_at=None, environment=None):
        with tempfile.TemporaryDirectory() as folder:
            self.streams = [open(Path(folder, name), "w+") for name in ("stdout", "stderr")]  # noqa: SIM115, for wait()
            self.process = FORKS.Process(
                target=become,
                args=(ROOT / script, list(map(str, words)), ranks, largest_file, killed_at, environment or {}, folder),
            )
            self.process.start()
            self.pid = self.process.pid
            while not Path(folder, "begun").exists() and self.alive():
                time.sleep(0.001)

    def alive(self):
        return self.process.is_alive()

    def printed(self):
        """What is in its standard output by now."""
        self.streams[0].seek(0)
        return self.streams[0].read()

    def wait_until(self, condition):
        """Wait for ``condition()`` to hold, which must be before the script ends."""
        while not condition():
            assert self.alive() or condition(), f"the script ended too early:\n{self.printed()}"
            time.sleep(0.002)

    def signal(self, number, group=False):
        (os.killpg if group else os.kill)(self.pid, number)

    def wait(self):
        """Its ``returncode`` (minus the signal that ended it), ``stdout`` and ``stderr`` once it has ended."""
        self.process.join()
        printed = []
        for stream in self.streams:
            with stream:
                stream.seek(0)
                printed.append(stream.read())
        return SimpleNamespace(returncode=self.process.exitcode, stdout=printed[0], stderr=printed[1])


class KilledAt(io.TextIOWrapper):
    """Standard output of a process that is killed as soon as it prints ``text``."""

    def __init__(self, text):
        super().__init__(open(1, "wb", closefd=False), line_buffering=True)  # noqa: SIM115
        self.text = text

    def write(self, text):
        written = super().write(text)
        if self.text in text:
            self.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return written


def become(script, words, ranks, largest_file, killed_at, environment, folder):
    """Run the script: what the new process does."""
    os.setsid()
    os.chdir(ROOT)
    os.environ |= environment
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(folder, name), os.O_WRONLY | os.O_APPEND), number)
    Path(folder, "begun").touch()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # a fork server that gpu_check started blocks it
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    if killed_at:
        sys.stdout = KilledAt(killed_at)
    sys.argv = [str(script), *words]
    sys.path[0] = str(script.parent)
    if ranks:
        config = LaunchConfig(
            1, 1, ranks, run_id="test", rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0,
            start_method="fork",
        )  # fmt: skip
        elastic_launch(config, run)(script)
    else:
        run(script)


def run(script):
    runpy.run_path(str(script), run_name="__main__")


def run_script(script, *words, check=True, **options):
    """Run a script to its end: ``returncode``, ``stdout`` and ``stderr``. ``check``: that it succeeds."""
    result = Script(script, *words, **options).wait()
    if check and result.returncode:
        raise AssertionError(f"exit {result.returncode}\n{result.stdout}\n{result.stderr}")
    return result


def by_hand(script, *words, **more):
    """The Scripts of a run whose processes were started one by one, rank k with ``words[k]``, on one machine.

    ``more``: variables of each, {name: a value for each rank}.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    more = {"RANK": range(len(words)), "WORLD_SIZE": [len(words)] * len(words)} | more
    given = {name: values for name, values in more.items() if values is not None}
    variables = [{name: str(values[rank]) for name, values in given.items()} for rank in range(len(words))]
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    return [Script(script, *own, environment=address | found) for own, found in zip(words, variables, strict=True)]


def run_by_hand(script, *words, **more):
    """The results of these Scripts, once all have ended."""
    return [process.wait() for process in by_hand(script, *words, **more)]


def fork(work):
    """Run ``work()`` in a copy of this process; a function that waits for it and returns its exit code.

    That is what ``work`` returns, 0 for None, 99 when it raises, and minus the signal that killed it.
    """
    pid = os.fork()
    if not pid:
        try:
            code = work() or 0
        except BaseException:
            traceback.print_exc()
            code = 99
        os._exit(code)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
