"""What all command lines share: flags, plain error messages, and how a run stops."""

import argparse
import difflib
import math
import os
import signal
import sys
import threading
import traceback
from contextlib import contextmanager
from functools import wraps
from pathlib import Path

import lmdb

from utils import stop_before_start
from utils.errors import AgreedStop, UserError

# Flags of the released scripts that change nothing there either: (flag, argparse options).
WITHOUT_EFFECT = [
    ("--use_rep", {"action": "store_true"}),
    ("--use_class_label", {"action": "store_true"}),
    ("--rep_drop_prob", {"type": float, "default": 0.0}),
    ("--input_size", {"type": int, "default": 112}),
    ("--pretrained_rdm_ckpt", {}),
    ("--pretrained_rdm_cfg", {}),
]
INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it
BUG = 1  # exit status after a traceback, as Python has it
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
LOST_CONNECTION = ("gloo", "connection closed", "connection reset")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, keeps the line breaks of the description, and says nothing about a default of None."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False or action.default == []:
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Answers a mistake with one line, and an unknown flag with the known one that is most like it."""

    def parse_args(self, args=None, namespace=None):
        args, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = [word.split("=")[0] for word in unknown if word.startswith("-")]
            self.error(f"unrecognized arguments: {', '.join(map(self._with_a_guess, flags)) or ' '.join(unknown)}")
        return args

    def _with_a_guess(self, flag):
        likely = difflib.get_close_matches(flag, self._option_string_actions, n=1)
        return f"{flag} (did you mean {likely[0]}?)" if likely else flag

    def error(self, message):
        self.exit(_say(f"error: {message}; see --help", 2))


def make_parser(description):
    return Parser(description=description, formatter_class=HelpFormatter)


def add_flags_without_effect(parser, flags=WITHOUT_EFFECT):
    """Accept the flags that have no effect; ``note_flags_without_effect`` says so when one is used."""
    for flag, options in flags:
        parser.add_argument(flag, **options, help="accepted, but without effect, as in the released model")


def note_flags_without_effect(args, flags=WITHOUT_EFFECT):
    used = [
        flag
        for flag, options in flags
        if getattr(args, flag[2:]) != options.get("default", False if "action" in options else None)
    ]
    if used:
        print(f"note: {', '.join(used)}: without effect, as in the released model")


def multiple_of(step):
    """argparse type: a positive whole number that ``step`` divides."""

    def whole_number(text):
        if int(text) < step or int(text) % step:
            raise argparse.ArgumentTypeError(f"must be a multiple of {step}, not {text}")
        return int(text)

    return whole_number


def positive(text):
    """argparse type: a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def share(text):
    """argparse type: a number of 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, not {text}")
    return value


def not_negative(text):
    """argparse type: a whole number of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {value}")
    return value


def finite(text):
    """argparse type: a number."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a number, not {text}")
    return value


def cosine(text):
    """argparse type: a similarity, -1 to 1."""
    value = float(text)
    if not -1 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be between -1 and 1, not {text}")
    return value


def noise_level(text):
    """argparse type: a sigma, at least 0."""
    value = float(text)
    if not 0 <= value < 100:
        raise argparse.ArgumentTypeError(f"must be between 0 and 100, not {text}")
    return value


def jpeg_quality(text):
    """argparse type: 1 to 100."""
    value = int(text)
    if not 1 <= value <= 100:
        raise argparse.ArgumentTypeError(f"must be between 1 and 100, not {value}")
    return value


def folder_name(text):
    """argparse type: one plain folder name."""
    if not text or text in (".", "..") or text.startswith(".") or any(c in text for c in "/\\\0"):
        raise argparse.ArgumentTypeError(f"must be a plain folder name, not {text!r}")
    return text


def add_training_run_flags(parser, output_dir):
    """Where a training writes, how often, and how it goes on; the group they are in."""
    run = parser.add_argument_group("run")
    run.add_argument("--output_dir", default=output_dir, help="checkpoints and log.jsonl")
    run.add_argument("--log_dir", help="TensorBoard (default: the output folder)")
    run.add_argument("--log_every", type=positive, default=20, help="steps between log lines")
    run.add_argument("--save_every", type=positive, help="also save every so many steps (default: every epoch)")
    run.add_argument("--resume", help="checkpoint to continue from, or the folder of an earlier run")
    run.add_argument(
        "--overwrite", action="store_true", help="delete the run that the output folder holds, and start anew"
    )
    run.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return run


def parse_slice(text, count, flag="--start_end"):
    """``A:B`` -> range(A, B) in ``count``; None is everything. UserError when malformed, reversed or past the end."""
    if text is None:
        return range(count)
    try:
        start, end = (
            int(part) if part.strip() else default for part, default in zip(text.split(":"), (0, count), strict=True)
        )
    except ValueError as error:
        raise UserError(f"{flag} {text}: write it as FIRST:END, for example 0:10.") from error
    if not 0 <= start < end:
        raise UserError(f"{flag} {text}: needs 0 <= FIRST < END.")
    if end > count:
        raise UserError(f"{flag} {text}: goes past the end, there are {count}.")
    return range(start, end)


@contextmanager
def writing(target):
    """Make the folder of ``target`` and hand it on as a Path; a failure to write becomes a UserError that names it."""
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield target
    except (OSError, lmdb.Error) as error:
        raise UserError(f"{target}: cannot write: {getattr(error, 'strerror', None) or error}.") from error


def command(main):
    """Decorator of a ``main``: user errors become one line and a non-zero exit, Ctrl-C and signals a clean stop.

    SIGTERM and SIGUSR1, which clusters send before they take a machine away, are answered like Ctrl-C. Afterwards the
    signals have the handlers they had before. A KeyboardInterrupt may carry what to tell the user. Where this process
    is one of several, its error or stop ends all of them; see utils/ending.py.
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
            _others("leave_world")
            return result
        except AgreedStop as stop:
            _others("leave_world")
            sys.exit(_say_once(str(stop), INTERRUPTED))
        except (KeyboardInterrupt, BrokenPipeError) as stop:
            told = str(stop) if isinstance(stop, KeyboardInterrupt) else ""
            _say_once(told or "stopped. What is finished stays; run the same command again to go on.", INTERRUPTED)
            _others("stop_world", INTERRUPTED)
            sys.exit(INTERRUPTED)
        except Exception as error:
            status = _explain(error)
            _others("fail_world", status or BUG)
            if status is None:
                raise
            sys.exit(status)
        finally:
            if in_main_thread:
                for number, handler in previous.items():
                    signal.signal(number, handler)

    return run


def _others(action, *words):
    """Importing torch takes seconds, so it is not imported here: only a script that did can have joined others."""
    return getattr(sys.modules["utils.distributed"], action)(*words) if "utils.distributed" in sys.modules else None


def _explain(error):
    """Say in a line what an error means to a user; the exit status, or None for any other error: a bug of ours."""
    if isinstance(error, UserError):
        return _say(f"error: {error}", 2)
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
    return _say(f"error: {meaning}", 3)


def _interrupt(signal_number, frame):
    raise KeyboardInterrupt


def _say(message, code):
    rank = os.environ.get("RANK")
    print(f"rank {rank}: {message}" if rank and rank != "0" else message, file=sys.stderr)
    return code


def _say_once(message, code):
    """What all processes of a run have to say, since they are stopped together."""
    return _say(message, code) if os.environ.get("RANK", "0") == "0" else code
