"""How a command line starts, stops and fails."""

import os
import signal
import sys
import threading
import traceback
from functools import wraps

from utils.runtime.threads import stop_before_start

from models.errors import UserError
from utils.runtime.signals import STOP_SIGNALS, AgreedStop

INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it
BUG = 1  # exit status after a traceback, as Python has it
LOST_CONNECTION = ("gloo", "connection closed", "connection reset")


def command(main):
    """Decorator of a ``main``: user errors become one line and a non-zero exit, Ctrl-C and signals a clean stop.

    SIGTERM and SIGUSR1, which clusters send before they take a machine away, are answered like Ctrl-C. Afterwards the
    signals have the handlers they had before. A KeyboardInterrupt may carry what to tell the user. Where this process
    is one of several, its error or stop ends all of them; see utils/runtime/ending.py.
    """

    @wraps(main)
    def run(argv=None):
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
            told = str(stop) if isinstance(stop, KeyboardInterrupt) else ""
            _say_once(told or "stopped. What is finished stays; run the same command again to go on.", INTERRUPTED)
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


def _others(action, *words):
    """Call a function of utils/runtime/distributed.py, unless that was never loaded: then there are no others."""
    distributed = sys.modules.get("utils.runtime.distributed")
    return getattr(distributed, action)(*words) if distributed else None


def _explain(error):
    """Say in a line what an error means to a user; the exit status, or None for any other error: a bug of ours."""
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
        _others("wait_for_reason")  # which ends this process when another one has failed, and has said why
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
        if _others("is_joined"):  # else Python prints it as the process ends
            traceback.print_exc()
        return None
    return say(f"error: {meaning}", 3)


def _interrupt(signal_number, frame):
    raise KeyboardInterrupt


def say(message, code):
    """Print a message for the user on stderr, with the rank of a process that is not the first; the ``code`` again."""
    rank = os.environ.get("RANK")
    print(f"rank {rank}: {message}" if rank and rank != "0" else message, file=sys.stderr)
    return code


def _say_once(message, code):
    """What all processes of a run have to say, since they are stopped together."""
    return say(message, code) if os.environ.get("RANK", "0") == "0" else code
