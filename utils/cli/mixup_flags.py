"""The flag of identity mixup, and what it stands for."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace, _ActionsContainer

from models.errors import UserError
from utils.data.mixup import Shares
from utils.generation.identity_mixup import IdentityMixup
from utils.generation.vector_source import VectorSource


def shares(text: str) -> Shares:
    """argparse type: the distribution of a share."""
    try:
        return Shares.parse(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error


def add_mixup_flag(parser: ArgumentParser | _ActionsContainer) -> None:
    """--identity_mixup."""
    parser.add_argument(
        "--identity_mixup", type=shares, metavar="PHI",
        help="share of its own identity in each image, which is mixed with another one: linspace:0.6:1:11 for evenly "
        "spaced values, uniform:0.6:1, or one number such as 0.8 (default: no mixup)",
    )  # fmt: skip


def mixup_of(args: Namespace, source: VectorSource) -> IdentityMixup | None:
    """The IdentityMixup that the flags ask for. Raises UserError for flags that do not fit together."""
    if args.identity_mixup is None:
        return None
    for flag, is_given, reason in (
        ("--reserve", args.reserve, "an identity of the file cannot be replaced, as images of others show it as well"),
        ("--noise cone", args.noise == "cone", "a mixture lies between two identities and so in no cone of one"),
        ("--gate_weights", args.gate_weights, "a second encoder knows the image of an identity, but not of a mixture"),
    ):
        if is_given:
            raise UserError(f"--identity_mixup: does not go with {flag}: {reason}.")
    return IdentityMixup(args.identity_mixup, source.vectors, source.first)
