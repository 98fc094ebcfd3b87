"""The decorator of every ``main``: how a command starts, stops and reports errors."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from types import FrameType
from typing import Any, NoReturn, TypeVar

from utils.runtime.threads import stop_before_start

from models.errors import UserError
from utils.runtime.signals import STOP_SIGNALS, AgreedStop

INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it
BUG = 1  # exit status after a traceback, as Python has it
Result = TypeVar("Result")
Main = Callable[[Sequence[str] | None], Result]
LOST_CONNECTION = ("gloo", "connection closed", "connection reset")


def command(main: Main) -> Main:
    """Decorate a ``main``: a user error prints one line and exits with a non-zero status; Ctrl-C stops cleanly.

    SIGTERM and SIGUSR1, which clusters send before they reclaim a machine, are handled like Ctrl-C. The previous signal
    handlers are restored at the end. A KeyboardInterrupt may carry a message for the user. If this process is one of
    several, an error or a stop ends all of them; see utils/runtime/ending.py.
    """

    @wraps(main)
    def run(argv: Sequence[str] | None = None) -> Result:
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread:
            if signal.getsignal(signal.SIGINT) is stop_before_start:  # the libraries are loaded
                signal.signal(signal.SIGINT, signal.default_int_handler)
            previous = {number: signal.getsignal(number) for number in (signal.SIGINT, *STOP_SIGNALS)}
            for number in STOP_SIGNALS:
                signal.signal(number, _interrupt)
        try:
            result = main(argv)
            _others("leave_run")
            return result
        except AgreedStop as stop:
            _others("leave_run")
            sys.exit(_say_once(str(stop), INTERRUPTED))
        except (KeyboardInterrupt, BrokenPipeError) as stop:
            message = str(stop) if isinstance(stop, KeyboardInterrupt) else ""
            _say_once(message or "stopped. What is finished stays; run the same command again to go on.", INTERRUPTED)
            _others("stop_run", INTERRUPTED)
            sys.exit(INTERRUPTED)
        except Exception as error:
            status = _explain(error)
            _others("fail_run", status or BUG)
            if status is None:
                raise
            sys.exit(status)
        finally:
            if in_main_thread:
                for number, handler in previous.items():
                    signal.signal(number, handler)

    return run


def _others(action: str, *words: Any) -> Any:
    """Call a function of utils/runtime/distributed.py, unless it was never imported: then this process is alone."""
    distributed = sys.modules.get("utils.runtime.distributed")
    return getattr(distributed, action)(*words) if distributed else None


def _explain(error: Exception) -> int | None:
    """Print one line on an error that the user can act on and return the exit status; None for any other error."""
    if isinstance(error, UserError):
        return say(f"error: {error}", 2)
    text = str(error).lower()
    first_line = str(error).splitlines()[0] if text else ""
    if not isinstance(error, RuntimeError):
        meaning = None
    elif type(error).__name__ == "OutOfMemoryError":
        meaning = f"out of memory on the GPU; give a smaller --batch_size ({first_line})"
    elif "duplicate gpu" in text:
        meaning = "two processes of this run would share one GPU; start at most as many as there are GPUs."
    elif type(error).__name__.startswith("DistStore"):
        meaning = f"the processes of this run did not all meet ({first_line})"
    elif any(words in text for words in (*LOST_CONNECTION, "nccl")):
        _others("wait_for_reason")  # if another process has failed and reported it, this call ends the process
        meaning = "another process of this run ended early; run the same command again to go on."
        if "nccl" in text:
            meaning = f"the GPUs of this run cannot exchange data ({first_line}); NCCL_DEBUG=INFO says more."
    elif "can't allocate memory" in text:
        meaning = (
            "out of memory; give a smaller --batch_size (generation on a CPU works on few rows anyway), or free some."
        )
    else:
        meaning = None
    if meaning is None:
        if _others("is_joined"):  # otherwise Python prints it at exit
            traceback.print_exc()
        return None
    return say(f"error: {meaning}", 3)


def _interrupt(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def say(message: str, code: int) -> int:
    """Print a message on stderr, with the rank of this process unless it is 0, and return ``code``."""
    rank = os.environ.get("RANK")
    print(f"rank {rank}: {message}" if rank and rank != "0" else message, file=sys.stderr)
    return code


def _say_once(message: str, code: int) -> int:
    """Print a message that all ranks share on rank 0 only, and return ``code``."""
    return say(message, code) if os.environ.get("RANK", "0") == "0" else code
