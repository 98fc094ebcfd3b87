"""The flags of attributes that AttrOP aims at, and the targets they stand for."""

import re
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from typing import Any, NamedTuple

from models.attribute_estimator import AttributeEstimator, attribute_target
from models.attrop import Target
from models.errors import UserError
from utils.cli.demo_weights import DEMO
from utils.cli.flags import finite

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
FORM = re.compile(rf"([^=]+)=({NUMBER})(?:(?:±|\+/?-)({NUMBER}))?")


class WantedAttribute(NamedTuple):
    """A value that an attribute should have. ``tolerance``: None for the estimator's error on held-out photos."""

    name: str
    value: float
    tolerance: float | None = None

    def __str__(self) -> str:
        return f"{self.name}={self.value}" + (f"±{self.tolerance}" if self.tolerance is not None else "")


def wanted_attribute(text: str) -> WantedAttribute:
    """argparse type: NAME=VALUE, NAME=VALUE±TOLERANCE or NAME=VALUE+-TOLERANCE."""
    match = FORM.fullmatch(text.replace(" ", ""))
    if not match:
        raise ArgumentTypeError(f"must be NAME=VALUE or NAME=VALUE±TOLERANCE, such as smile=0.7±0.1, not {text!r}")
    name, value, tolerance = match.groups()
    if tolerance is not None and finite(tolerance) <= 0:
        raise ArgumentTypeError(f"{text}: the tolerance must be above 0")
    return WantedAttribute(name, finite(value), None if tolerance is None else finite(tolerance))


def add_attribute_flags(group: Any) -> None:
    """The attributes that AttrOP aims at, in a group of flags of AttrOP."""
    group.add_argument(
        "--attribute", action="append", default=[], type=wanted_attribute, metavar="NAME=VALUE[±TOL]",
        help="value of an attribute, and how far an image may be from it (default: the mean error of the estimator); "
        "repeatable. +- may stand for ±",
    )  # fmt: skip
    add_attribute_weights_flag(group)


def add_attribute_weights_flag(group: Any) -> None:
    """The estimator of the attributes."""
    group.add_argument(
        "--attribute_weights",
        help="weights of an estimator of attributes that was trained on --id_weights (default: the demo encoder's)",
    )


def attribute_file_of(args: Namespace) -> str:
    """The weight file of the attribute estimator."""
    return args.attribute_weights or str(DEMO / "attributes.pth")


def check_attribute_flags(args: Namespace) -> None:
    """Raise UserError for flags that do not fit together."""
    names = [wanted.name for wanted in args.attribute]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"--attribute {twice}: given twice; an image has one value of it.")
    if args.attribute and getattr(args, "skip_attrop", False):
        raise UserError("--attribute: AttrOP gives an image its attributes; leave --skip_attrop out.")
    if args.attribute_weights and not args.attribute:
        raise UserError("--attribute_weights: nothing uses it; give --attribute NAME=VALUE.")


def attribute_targets(attributes: Sequence[WantedAttribute], estimator: AttributeEstimator | None) -> list[Target]:
    """AttrOP's targets. Raises UserError for an attribute that the estimator does not know, or a value out of range."""
    return [attribute_target(estimator, *wanted) for wanted in attributes]


def attribute_settings(attributes: Sequence[WantedAttribute]) -> dict[str, Any]:
    """What settings.json says of them among AttrOP's settings: nothing without any, as earlier datasets do."""
    if not attributes:
        return {}
    return {"attributes": [str(wanted) for wanted in attributes]}
