"""The flags of scripts that run models: which, where, and how precisely. Apart from cli.py, as this imports torch."""

from models.vec2face import PRESETS
from utils.device import PRECISIONS


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


def add_model_flags(parser):
    group = parser.add_argument_group("models")
    group.add_argument(
        "--model", choices=list(PRESETS), help="preset; read off the weights, given only to be checked against them"
    )
    group.add_argument(
        "--model_weights", default="weights/vec2face_generator.pth", help="generator, released or own file"
    )
    group.add_argument("--id_weights", default="weights/arcface-r100-glint360k.pth", help="face encoder")
