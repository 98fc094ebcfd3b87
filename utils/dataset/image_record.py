"""The schema of a dataset's manifest: one ImageRecord, one line of ``manifest.jsonl``, for every image.

docs/datasets.md describes each field for users of the file.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

MEASURES = ("id_similarity", "quality", "yaw", "pitch")  # what can be measured on an image
GATE_MEASURES = ("gate_similarity", "avoid_similarity", "faces", "landmark_error")  # and what only gates measure
NOT_BEST, INCOMPLETE = "not among the best", "identity incomplete"  # how reasons begin that are not the gate's
DIGITS = 4  # decimal places of measured values
# The names in a manifest line and in a verdict that are not measured values. Custom AttrOP targets need other names.
RECORD_FIELDS = (
    "file", "key", "identity", "name", "index", "source", "sigma", "cosine", "landmarks", "mixture", "attrop", "passed",
    "tries",
)  # fmt: skip
VERDICT_FIELDS = ("measured_on", "accepted", "iterations", "missed", "reason")


@dataclass(frozen=True)
class AttrOPVerdict:
    """The outcome of AttrOP on one vector.

    ``measured_on``: "check image" where AttrOP worked on the identity vector (its image is decoded from the vector
    without noise and is not written), "image" where it worked on this very image. ``missed``: the names of the targets
    that the returned image did not reach, empty when ``accepted``. ``reason``: a text for the user. ``values``:
    measurements on the check image; empty when this very image was measured, whose values are in the record itself.
    """

    measured_on: Literal["check image", "image"]
    accepted: bool
    iterations: int
    missed: tuple[str, ...] = ()
    reason: str = ""
    values: dict[str, float] = field(default_factory=dict)

    def line(self) -> dict[str, Any]:
        """The verdict as a manifest line has it."""
        verdict = {"measured_on": self.measured_on, "accepted": self.accepted, "iterations": self.iterations}
        return verdict | {"missed": list(self.missed), "reason": self.reason} | rounded(self.values)

    @classmethod
    def from_line(cls, line: dict[str, Any]) -> "AttrOPVerdict":
        """The verdict in a manifest line."""
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
    """The metadata of one image of a dataset.

    ``identity``: the identity's number, which seeds its random streams; ``name``: its folder; ``index``: the image's
    number within the identity; ``sigma``: standard deviation of the noise on each dimension of the identity vector,
    None for noise in a cone; ``cosine``: with that noise, the cosine of the image's vector to the identity vector;
    ``source``: the photo or folder that the identity vector came from (reference mode). ``landmarks``: the landmark
    picture that the image was made to: its file's name ("picture"), or the pose that it was drawn at, in degrees.
    ``mixture``: with identity mixup, the second identity and the share of the first one (``mixture_entry``).
    ``measured``: {name: value}, measured on this very image before JPEG compression. The names are those in MEASURES
    and those of custom AttrOP targets.
    ``attrop``: AttrOP's verdict on this image or, only in the record of the identity's first image, on its vector.
    ``passed``: whether it passed the gate, None without a gate; ``tries``: {name: value, "reason": text} of each
    rejected attempt.
    """

    identity: int
    name: str
    index: int
    sigma: float | None
    source: str | None = None
    measured: dict[str, float] = field(default_factory=dict)
    attrop: AttrOPVerdict | None = None
    passed: bool | None = None
    tries: tuple[dict[str, Any], ...] = ()
    cosine: float | None = None
    landmarks: dict[str, Any] | None = None
    mixture: dict[str, Any] | None = None

    def line(self) -> dict[str, Any]:
        """The manifest line without the location of the image; unknown entries are left out."""
        line = {"identity": self.identity, "name": self.name, "index": self.index}
        if self.source is not None:
            line["source"] = self.source
        line |= {"sigma": self.sigma} if self.cosine is None else rounded({"cosine": self.cosine})
        if self.landmarks is not None:
            line["landmarks"] = self.landmarks
        if self.mixture is not None:
            line["mixture"] = self.mixture
        line |= rounded(self.measured)
        if self.attrop is not None:
            line["attrop"] = self.attrop.line()
        if self.passed is not None:
            line["passed"] = self.passed
        if self.tries:
            line["tries"] = list(self.tries)
        return line

    @classmethod
    def from_line(cls, line: dict[str, Any]) -> "ImageRecord":
        """The record of a manifest line; the location of the image (``file`` or ``key``) is not part of it."""
        attrop = line.get("attrop")
        return cls(
            line["identity"],
            line["name"],
            line["index"],
            line.get("sigma"),
            line.get("source"),
            {name: value for name, value in line.items() if name not in RECORD_FIELDS},
            attrop and AttrOPVerdict.from_line(attrop),
            line.get("passed"),
            tuple(line.get("tries", ())),
            line.get("cosine"),
            line.get("landmarks"),
            line.get("mixture"),
        )


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Measured values to DIGITS decimal places, as the manifest has them."""
    return {name: round(float(value), DIGITS) for name, value in values.items()}
