"""The flags of scripts that run models: which, where, and how precisely. Apart from cli.py, as this imports torch."""

from models.vec2face import PRESETS
from utils.cli.flags import not_negative
from utils.data.photo_loader import FEW, MOST_WORKERS
from utils.runtime.device import keep_freed_memory, resolve_device
from utils.runtime.precision import PRECISIONS, Precision


def add_device_flags(parser, precision="fp32"):
    """``--device`` and ``--precision``: fp32 where something is stored or quoted, auto where images are drawn."""
    group = parser.add_argument_group("where and how to compute")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    group.add_argument(
        "--precision",
        default=precision,
        choices=["auto", *PRECISIONS],
        help="number format the models compute in; auto: 16 bit where the hardware is fast at it",
    )


def set_up_inference(args, local_rank=0, deterministic=False):
    """The device and the Precision that the flags ask for, with this process's backend flags set to them.

    Only for the ``main`` of a script, as these flags hold for the whole process. Raises UserError for a device or a
    precision that is not there.
    """
    device = resolve_device(args.device, local_rank)
    keep_freed_memory(device)
    precision = Precision.for_inference(args.precision, device)
    precision.apply(deterministic)
    return device, precision


def add_model_flags(parser):
    group = parser.add_argument_group("models")
    group.add_argument(
        "--model", choices=list(PRESETS), help="preset; read off the weights, given only to be checked against them"
    )
    group.add_argument(
        "--model_weights", default="weights/vec2face_generator.pth", help="generator, released or own file"
    )
    group.add_argument("--id_weights", default="weights/arcface-r100-glint360k.pth", help="face encoder")


def add_workers_flag(parser, *names):
    """``--workers`` of a script that reads photos. ``names``: further names of the flag."""
    parser.add_argument(
        "--workers",
        *names,
        type=not_negative,
        help="processes that read photos, at most one a core; 0: none but the script's own "
        f"(default: one a core up to {MOST_WORKERS}, none for fewer than {FEW} photos)",
    )
