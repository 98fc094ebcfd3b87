"""The flags of scripts that run models: weights, device and precision. Unlike flags.py this module imports torch."""

from argparse import Namespace

import torch

from models.vec2face import PRESETS
from utils.cli.flags import Parser, not_negative
from utils.data.photo_loader import FEW, MOST_WORKERS
from utils.runtime.inference import set_up_process
from utils.runtime.precision import PRECISIONS, Precision

GENERATOR = "weights/vec2face_generator.pth"  # where download_vec2face_weights.py puts the released one


def add_device_flags(parser: Parser, precision: str = "fp32") -> None:
    """Add ``--device`` and ``--precision``: fp32 for results that are stored, auto for generation."""
    group = parser.add_argument_group("computation")
    group.add_argument("--device", default="auto", help="device to compute on: auto, cpu, cuda or cuda:N")
    group.add_argument(
        "--precision",
        default=precision,
        choices=["auto", *PRECISIONS],
        help="number format of the models; auto is 16 bit where the hardware is fast at it",
    )


def set_up_inference(
    args: Namespace, local_rank: int = 0, deterministic: bool = False
) -> tuple[torch.device, Precision]:
    """The device and the Precision of the flags; see ``set_up_process``."""
    return set_up_process(args.device, args.precision, local_rank, deterministic)


def add_model_flags(parser: Parser, default_weights: str | None = None) -> None:
    """Add the flags of the generator and the face encoder.

    ``default_weights``: what the help says of the generator's default where it depends on other flags and is None.
    """
    group = parser.add_argument_group("models")
    group.add_argument(
        "--model",
        choices=list(PRESETS),
        help="preset of the generator, to check the weights against (default: the preset of the weights)",
    )
    group.add_argument(
        "--model_weights",
        default=None if default_weights else GENERATOR,
        help="weights of the generator, in the released form or ours"
        + (f" (default: {default_weights})" if default_weights else ""),
    )
    group.add_argument("--id_weights", default="weights/arcface-r100-glint360k.pth", help="weights of the face encoder")


def add_workers_flag(parser: Parser, *names: str) -> None:
    """Add the ``--workers`` of a script that reads photos. ``names``: further names of the flag."""
    parser.add_argument(
        "--workers",
        *names,
        type=not_negative,
        help="number of processes that read photos, at most one per core; with 0 the script reads them itself "
        f"(default: one per core up to {MOST_WORKERS}, 0 for fewer than {FEW} photos)",
    )
