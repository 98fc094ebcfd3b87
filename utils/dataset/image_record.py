"""The schema of a dataset's manifest: one ImageRecord, one line of ``manifest.jsonl``, for every image.

docs/datasets.md describes each field for those who read the file.
"""

from dataclasses import dataclass, field
from typing import Literal

MEASURES = ("id_similarity", "quality", "yaw", "pitch")  # what may be measured of an image
DIGITS = 4
# What stands beside measured values in a manifest line and in a verdict; AttrOP targets of one's own have other names.
RECORD_FIELDS = ("file", "key", "identity", "name", "index", "source", "sigma", "attrop", "passed", "tries")
VERDICT_FIELDS = ("measured_on", "accepted", "iterations", "missed", "reason")


@dataclass(frozen=True)
class AttrOPVerdict:
    """How AttrOP ended on one vector.

    ``measured_on``: "check image" where AttrOP worked on the identity vector (the image it checked is decoded from the
    vector without noise and is not written), "image" where it worked on this very image. ``missed``: the names of the
    targets that the image it returned did not reach, empty when ``accepted``. ``values``: what it measured on the check
    image; empty when it was measured on this image, whose values stand in the record itself.
    """

    measured_on: Literal["check image", "image"]
    accepted: bool
    iterations: int
    missed: tuple[str, ...] = ()
    reason: str = ""
    values: dict[str, float] = field(default_factory=dict)

    def line(self) -> dict:
        """As the manifest has it."""
        verdict = {"measured_on": self.measured_on, "accepted": self.accepted, "iterations": self.iterations}
        return verdict | {"missed": list(self.missed), "reason": self.reason} | rounded(self.values)

    @classmethod
    def from_line(cls, line: dict) -> "AttrOPVerdict":
        return cls(
            line["measured_on"],
            line["accepted"],
            line["iterations"],
            tuple(line["missed"]),
            line["reason"],
            {name: value for name, value in line.items() if name not in VERDICT_FIELDS},
        )


@dataclass(frozen=True)
class ImageRecord:
    """What is known of one image of a dataset.

    ``identity``: the identity's number, which seeds its draws; ``name``: its folder; ``index``: the image's number
    among the identity's; ``sigma``: standard deviation of the noise on each dimension of the identity vector;
    ``source``: the photo or folder that the identity vector came from (reference mode).
    ``measured``: {name: value} of this image, before JPEG compression; nothing else may stand there. The names are
    those in MEASURES, and those of AttrOP targets of one's own.
    ``attrop``: AttrOP's verdict: on this image, or, in the record of the identity's first image alone, on its vector.
    ``passed``: whether it passed the gate, None without a gate; ``tries``: {name: value, "reason": text} of each draw
    that did not pass.
    """

    identity: int
    name: str
    index: int
    sigma: float
    source: str | None = None
    measured: dict[str, float] = field(default_factory=dict)
    attrop: AttrOPVerdict | None = None
    passed: bool | None = None
    tries: tuple[dict, ...] = ()

    def line(self) -> dict:
        """As the manifest has it; what is not known is left out."""
        line = {"identity": self.identity, "name": self.name, "index": self.index}
        if self.source is not None:
            line["source"] = self.source
        line |= {"sigma": self.sigma} | rounded(self.measured)
        if self.attrop is not None:
            line["attrop"] = self.attrop.line()
        if self.passed is not None:
            line["passed"] = self.passed
        if self.tries:
            line["tries"] = list(self.tries)
        return line

    @classmethod
    def from_line(cls, line: dict) -> "ImageRecord":
        """The record of a manifest line; where the image lies (``file`` or ``key``) is no part of it."""
        attrop = line.get("attrop")
        return cls(
            line["identity"],
            line["name"],
            line["index"],
            line["sigma"],
            line.get("source"),
            {name: value for name, value in line.items() if name not in RECORD_FIELDS},
            attrop and AttrOPVerdict.from_line(attrop),
            line.get("passed"),
            tuple(line.get("tries", ())),
        )


def rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(float(value), DIGITS) for name, value in values.items()}
