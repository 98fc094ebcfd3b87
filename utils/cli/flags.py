"""The parser of all scripts, the types of their flags, and the flags that the training scripts share."""

import argparse
import difflib
import math
from collections.abc import Callable, Sequence
from typing import NoReturn

from utils.cli.command import say

# Flags of the released scripts that have no effect there either: (flag, argparse options).
WITHOUT_EFFECT = [
    ("--use_rep", {"action": "store_true"}),
    ("--use_class_label", {"action": "store_true"}),
    ("--rep_drop_prob", {"type": float, "default": 0.0}),
    ("--input_size", {"type": int, "default": 112}),
    ("--pretrained_rdm_ckpt", {}),
    ("--pretrained_rdm_cfg", {}),
]


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults unless they are None, False or empty, and keeps the line breaks of the description."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False or action.default == []:
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, and for an unknown flag suggests the most similar known one."""

    def parse_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        args, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = [word.split("=")[0] for word in unknown if word.startswith("-")]
            self.error(f"unrecognized arguments: {', '.join(map(self._with_suggestion, flags)) or ' '.join(unknown)}")
        return args

    def _with_suggestion(self, flag: str) -> str:
        similar = difflib.get_close_matches(flag, self._option_string_actions, n=1)
        return f"{flag} (did you mean {similar[0]}?)" if similar else flag

    def error(self, message: str) -> NoReturn:
        self.exit(say(f"error: {message}; see --help", 2))


def make_parser(description: str) -> Parser:
    """The parser of a script. ``description``: its module docstring."""
    return Parser(description=description, formatter_class=HelpFormatter)


def add_flags_without_effect(parser: argparse._ActionsContainer, flags: list = WITHOUT_EFFECT) -> None:
    """Add flags without effect; ``note_flags_without_effect`` prints a line when one is used."""
    for flag, options in flags:
        parser.add_argument(flag, **options, help="no effect, as in the released model; accepted for its commands")


def note_flags_without_effect(args: argparse.Namespace, flags: list = WITHOUT_EFFECT) -> None:
    """Print one line that names the flags without effect that differ from their defaults."""
    used = [
        flag
        for flag, options in flags
        if getattr(args, flag[2:]) != options.get("default", False if "action" in options else None)
    ]
    if used:
        print(f"note: {', '.join(used)}: without effect, as in the released model")


def number(text: str) -> float:
    """argparse type: a number, NaN and the infinities among them."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None


def whole(text: str) -> int:
    """argparse type: a whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None


def multiple_of(step: int) -> Callable[[str], int]:
    """argparse type: a positive multiple of ``step``."""

    def whole_number(text: str) -> int:
        value = whole(text)
        if value < step or value % step:
            raise argparse.ArgumentTypeError(f"must be a multiple of {step}, not {text}")
        return value

    return whole_number


def positive(text: str) -> int:
    """argparse type: a whole number of at least 1."""
    value = whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def fraction(text: str) -> float:
    """argparse type: a number from 0 to 1."""
    value = number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, not {text}")
    return value


def not_negative(text: str) -> int:
    """argparse type: a whole number of at least 0."""
    value = whole(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {value}")
    return value


def finite(text: str) -> float:
    """argparse type: a finite number."""
    value = number(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a number, not {text}")
    return value


def open_fraction(text: str) -> float:
    """argparse type: a number between 0 and 1, neither of them."""
    value = number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, not {text}")
    return value


def cosine(text: str) -> float:
    """argparse type: a cosine similarity, -1 to 1."""
    value = number(text)
    if not -1 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be between -1 and 1, not {text}")
    return value


def noise_level(text: str) -> float:
    """argparse type: the standard deviation of noise, from 0 to below 100."""
    value = number(text)
    if not 0 <= value < 100:
        raise argparse.ArgumentTypeError(f"must be between 0 and 100, not {text}")
    return value


def jpeg_quality(text: str) -> int:
    """argparse type: a JPEG quality, 1 to 100."""
    value = whole(text)
    if not 1 <= value <= 100:
        raise argparse.ArgumentTypeError(f"must be between 1 and 100, not {value}")
    return value


def folder_name(text: str) -> str:
    """argparse type: a folder name without a path, not hidden."""
    if not text or text in (".", "..") or text.startswith(".") or any(c in text for c in "/\\\0"):
        raise argparse.ArgumentTypeError(f"must be a plain folder name, not {text!r}")
    return text


def add_amp_flags(parser: argparse._ActionsContainer, amp_dtype: str) -> None:
    """Flags of a training's number formats. ``amp_dtype``: the default of --amp_dtype."""
    parser.add_argument(
        "--use_amp",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="automatic mixed precision; on a CPU in bfloat16, where the CPU supports it",
    )
    parser.add_argument(
        "--amp_dtype", choices=["float16", "bfloat16"], default=amp_dtype, help="16-bit number format on a GPU"
    )


def add_compile_flag(parser: argparse._ActionsContainer, compiled: str) -> None:
    """--compile. ``compiled``: what is compiled, for the help text."""
    parser.add_argument(
        "--compile", action="store_true", help=f"torch.compile of the {compiled}; needs a C++ compiler (on a GPU: C)"
    )


def add_training_run_flags(parser: argparse.ArgumentParser, output_dir: str) -> argparse._ArgumentGroup:
    """Flags of where a training writes, how often, and what it continues; returns their group."""
    run = parser.add_argument_group("output and resuming")
    run.add_argument("--output_dir", default=output_dir, help="folder of the checkpoints and log.jsonl")
    run.add_argument("--log_dir", help="folder of TensorBoard's files (default: --output_dir)")
    run.add_argument("--log_every", type=positive, default=20, help="number of steps between log lines")
    run.add_argument("--save_every", type=positive, help="number of steps between checkpoints within an epoch")
    run.add_argument("--resume", help="checkpoint to continue from, or the folder of an earlier run")
    run.add_argument(
        "--overwrite", action="store_true", help="deletion of the run that the output folder holds, to start anew"
    )
    run.add_argument("--device", default="auto", help="device to train on: auto, cpu, cuda or cuda:N")
    return run
