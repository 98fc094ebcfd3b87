"""What a visitor of the page asks for: a person, and how its images shall be. Wrong values are refused here."""

import hashlib
import math
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from models.errors import UserError
from utils.cli.attribute_flags import WantedAttribute


class Limit(NamedTuple):
    """The range of a value, and its name and unit as the page shows them."""

    low: float
    high: float
    label: str
    unit: str = ""


LIMITS = {
    "yaw": Limit(-90, 90, "Yaw", "°"),
    "pitch": Limit(-60, 60, "Pitch", "°"),
    "quality": Limit(0, 100, "Quality"),
    "sigma": Limit(0, 1.5, "Noise"),
    "seed": Limit(0, 2**32 - 1, "Seed"),
    "count": Limit(1, 200, "Number of images"),
    "max_iters": Limit(1, 200, "Iterations"),
    "share": Limit(0, 1, "Share of the second person"),
}


def is_number(value: object) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def checked(name: str, value: float, whole: bool = False) -> float:
    """A value as a float of four decimal places, with ``whole`` as an int.

    Raises UserError when it is no number, or outside of its Limit.
    """
    limit = LIMITS[name]
    if not is_number(value) or not limit.low <= value <= limit.high or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        raise UserError(
            f"{limit.label}: {kind} from {limit.low:g} to {limit.high:.12g}{limit.unit}, not {value!r:.40}."
        )
    return int(value) if whole else round(float(value), 4)  # as the command line has it


@dataclass(frozen=True)
class Sampled:
    """The person of one row of the file of identity vectors."""

    row: int

    @property
    def name(self) -> str:
        """A name for files: person-3."""
        return f"person-{self.row}"


@dataclass(frozen=True)
class Drawn:
    """A person drawn anew from the distribution of the identity vectors."""

    seed: int

    def __post_init__(self):
        object.__setattr__(self, "seed", checked("seed", self.seed, whole=True))

    @property
    def name(self) -> str:
        """A name for files: drawn-17."""
        return f"drawn-{self.seed}"


@dataclass(frozen=True, eq=False)
class Photo:
    """The person in a photo.

    ``file``: the name of the file; ``align``: whether the face was detected and aligned, or the photo is a crop
    already; ``crop`` (112, 112, 3) uint8 RGB; ``vector`` (512,) float32, its FR feature; ``faces``: number of faces.
    """

    file: str
    align: bool
    crop: np.ndarray
    vector: np.ndarray
    faces: int = 1

    @property
    def name(self) -> str:
        """A name for files: photo-anna."""
        stem = self.file.rpartition(".")[0] or self.file
        return f"photo-{re.sub('[^A-Za-z0-9_]+', '-', stem).strip('-')[:30]}".rstrip("-")


@dataclass(frozen=True)
class Mix:
    """A person between two others. ``second``: a row of the file of vectors; ``share``: its share, 0 to 1."""

    first: Sampled | Drawn | Photo
    second: int
    share: float

    def __post_init__(self):
        object.__setattr__(self, "share", checked("share", self.share))

    @property
    def name(self) -> str:
        """A name for files: person-3-with-7-40."""
        return f"{self.first.name}-with-{self.second}-{100 * self.share:g}"


Person = Sampled | Drawn | Photo | Mix


@dataclass(frozen=True)
class Order:
    """Images of one person.

    ``yaw``, ``pitch`` (degrees) and ``quality`` (norm of the quality model's feature, a lower bound): AttrOP's targets,
    None for any. ``sigma``: standard deviation of the noise on each dimension of the identity vector; ``seed``: seed of
    the noise and the masks; ``count``: number of images; ``max_iters``: largest number of iterations of AttrOP;
    ``attributes``: further targets of AttrOP, whose ranges the estimator knows.
    """

    person: Person
    yaw: float | None = None
    pitch: float | None = None
    quality: float | None = None
    sigma: float = 0.3
    seed: int = 0
    count: int = 4
    max_iters: int = 40
    attributes: tuple[WantedAttribute, ...] = ()

    def __post_init__(self):
        for wanted in self.attributes:
            if not is_number(wanted.value):
                raise UserError(f"{wanted.name}: a number, not {wanted.value!r:.40}.")
        rounded = tuple(wanted._replace(value=round(float(wanted.value), 4)) for wanted in self.attributes)
        object.__setattr__(self, "attributes", rounded)
        for name in ("yaw", "pitch", "quality"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, checked(name, getattr(self, name)))
        object.__setattr__(self, "sigma", checked("sigma", self.sigma))
        for name in ("seed", "count", "max_iters"):
            object.__setattr__(self, name, checked(name, getattr(self, name), whole=True))

    @property
    def mode(self) -> Literal["identity", "pose"]:
        """Whether AttrOP works on the identity vector, before the noise, or for a head pose on every noisy vector."""
        return "identity" if self.yaw is None and self.pitch is None else "pose"

    @property
    def uses_attrop(self) -> bool:
        """Whether there is a target to reach."""
        return self.mode == "pose" or self.quality is not None or bool(self.attributes)

    @property
    def wanted_yaw(self) -> float:
        """The yaw of a head pose; a pitch alone asks for a frontal yaw."""
        return self.yaw or 0.0

    @property
    def name(self) -> str:
        """A name for the dataset: who it shows, and a few letters that tell apart how.

        It does not depend on the number of images, so that a dataset can get more of them later.
        """
        settings = (self.yaw, self.pitch, self.quality, self.sigma, self.seed, self.max_iters)
        content = f"{settings} {' '.join(map(str, self.attributes))}".encode()
        photo = getattr(self.person, "first", self.person)
        content += photo.vector.tobytes() if isinstance(photo, Photo) else b""
        return f"{self.person.name}-{hashlib.sha256(content).hexdigest()[:6]}"
