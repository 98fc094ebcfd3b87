"""A check in a process of its own: its crash, an exhausted GPU or a hang ends that process and no other check.

The processes are forked from one that has imported the libraries and computed nothing, which saves their imports.
"""

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
GRACE = 5.0  # seconds between asking a process to end and killing it


class CheckError(Exception):
    """Why a check did not end as it should, in one line."""


def start_server(preload: str) -> None:
    """Start the process that the others are forked from, with a module imported.

    Ctrl-C is blocked in it, and so in its children: in a terminal it reaches all processes, and the parent answers.
    """
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # asks for GPUs in a way that leaves forks their use
    FORKS.set_forkserver_preload([preload])
    resource_tracker.ensure_running()  # it would let Ctrl-C in again
    with signals_wait(signal.SIGINT):
        forkserver.ensure_running()


@contextmanager
def signals_wait(*numbers: int) -> Iterator[None]:
    """What is begun in this context is not interrupted halfway: the signals arrive at its end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def results_of(check: Callable[[Any], Iterable], setting: Any, log: Path, seconds: float) -> Iterator:
    """Iterate over what ``check(setting)`` yields, in a process of its own; what it prints goes into ``log``.

    Raises CheckError when the check raises, its process dies, or it takes longer than ``seconds``. Nothing that the
    check has started is left running afterwards, however the iteration ends.
    """
    receiver, sender = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_work, args=(check, setting, log, sender))
    end = time.monotonic() + seconds
    try:
        with signals_wait(signal.SIGINT, signal.SIGTERM):
            process.start()
        sender.close()
        while (message := _next_message(receiver, process, end, seconds)) is not None:
            if isinstance(message, CheckError):
                raise message
            yield message
        process.join(GRACE)
    finally:
        if process.pid is not None:
            _end_group(process)


def _next_message(receiver, process, end, seconds):
    if not receiver.poll(max(0.0, end - time.monotonic())):
        raise CheckError(f"did not end within {seconds:.0f} s")
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        code = process.exitcode
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        raise CheckError(f"its process ended by itself: {how}") from None


def _work(check, setting, log, sender):
    """What the new process does. It leads a process group, by which all that it starts can be ended."""
    os.setsid()
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(f"signal {signal.SIGTERM}"))  # and end what was started
    try:
        for result in check(setting):
            sender.send(result)
        sender.send(None)
    except BaseException as error:
        traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        sender.send(CheckError(_reason(error, log)))


def _reason(error, log):
    """The reason in one line. A script that ends itself has printed it as an error."""
    if isinstance(error, SystemExit):
        errors = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
        return errors[-1] if errors else f"exit status {error.code}"
    first = next(iter(str(error).strip().splitlines()), "")
    return first if isinstance(error, CheckError) else f"{type(error).__name__}: {first}"


def _end_group(process):
    """End the process and all that it started: first asked, as torchrun then ends its own processes, then killed."""
    for number, wait in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:  # it has ended, or does not lead its group yet
            (process.terminate if number == signal.SIGTERM else process.kill)()
        process.join(wait)
