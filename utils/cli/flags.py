"""The parser and the flags that command lines share."""

import argparse
import difflib
import math

from utils.cli.command import say

# Flags of the released scripts that change nothing there either: (flag, argparse options).
WITHOUT_EFFECT = [
    ("--use_rep", {"action": "store_true"}),
    ("--use_class_label", {"action": "store_true"}),
    ("--rep_drop_prob", {"type": float, "default": 0.0}),
    ("--input_size", {"type": int, "default": 112}),
    ("--pretrained_rdm_ckpt", {}),
    ("--pretrained_rdm_cfg", {}),
]


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
        self.exit(say(f"error: {message}; see --help", 2))


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


def fraction(text: str) -> float:
    """argparse type: a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, not {text}")
    return value


share = fraction  # the name that vec2face.py still imports


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
