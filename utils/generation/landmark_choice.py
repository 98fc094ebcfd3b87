"""Which landmarks the images of an identity are made to: those of a list of pictures, of one pose, or of many poses."""

import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import count, pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from models.errors import UserError
from models.weight_files import sha256
from utils.data.images import listed_paths
from utils.data.landmarks import draw_landmarks, landmarks_at, landmarks_of_label, read_pictures
from utils.generation.streams import landmark_stream

SPREAD = {"pitch": 9.0, "roll": 4.0}  # degrees: standard deviation where poses are drawn, as of the rendered photos
MOST = {"pitch": 35.0, "roll": 15.0}  # degrees: drawn angles are clipped to them
QUOTA = re.compile(r"(\d+(?:\.\d*)?)-(\d+(?:\.\d*)?):(\d+(?:\.\d*)?)%?")


class Landmarks(NamedTuple):
    """A landmark picture (112, 112, 3) uint8 RGB, and what the manifest says of it."""

    picture: np.ndarray
    record: dict[str, Any]


class LandmarkChoice(Protocol):
    """Chooses landmarks. ``settings``: what settings.json says of the choice."""

    settings: dict[str, Any]

    def sequence(self, seed: int, identity: int) -> Iterator[Landmarks]:
        """Yield without end the landmarks of the images of an identity, given by its number."""


class ListedPictures:
    """The pictures of a published list, a ``.txt`` with the path of an image file in each line.

    Image k of the identity numbered i gets picture (i + k) modulo their number: in turn, in the order of the list.
    Raises UserError when the list or a picture cannot be used.
    """

    def __init__(self, path: Path | str):
        path = Path(path)
        try:
            paths = listed_paths(path)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path}: cannot read this list of landmark pictures: {getattr(error, 'strerror', None) or error}. The "
                "published one and its pictures are in the folder `landmarks` of the code of Vec2Face; without it, "
                "--pose draws the landmarks."
            ) from error
        if not paths:
            raise UserError(f"{path}: an empty list of landmark pictures.")
        pictures = read_pictures(paths)
        self.all = [Landmarks(p, {"picture": path.name}) for p, path in zip(pictures, paths, strict=True)]
        self.settings = {"pose_file": [sha256(path) for path in paths]}

    def sequence(self, seed: int, identity: int) -> Iterator[Landmarks]:
        yield from (self.all[number % len(self.all)] for number in count(identity))


class OnePose:
    """One pose for all images, in degrees; without ``signed`` the side of the yaw is drawn for each image.

    Raises UserError for angles out of range.
    """

    def __init__(self, yaw: float, pitch: float = 0.0, roll: float = 0.0, signed: bool = False):
        self.settings = {"pose": yaw, "signed_pose": signed, "pitch": pitch, "roll": roll}
        try:
            sides = (1,) if signed else (1, -1)
            self.sides = [drawn(side * yaw, pitch, roll) for side in sides]
        except ValueError as error:
            raise UserError(f"--pose {yaw:g} --pitch {pitch:g} --roll {roll:g}: {error}.") from error

    def sequence(self, seed: int, identity: int) -> Iterator[Landmarks]:
        stream = landmark_stream(seed, identity)
        while True:
            yield self.sides[stream.integers(len(self.sides))]


class Quota(NamedTuple):
    """A share of the images whose |yaw| is from ``low`` to below ``high`` degrees."""

    low: float
    high: float
    share: float

    def holds(self, yaw: float) -> bool:
        """Whether a yaw in degrees is in this range; 90 is in a range that ends there."""
        return self.low <= abs(yaw) < self.high or abs(yaw) == self.high == 90


def parse_quotas(words: Sequence[str]) -> list[Quota]:
    """``0-15:50 15-45:30 45-90:20`` -> Quotas whose shares sum to 1. Raises UserError for other texts."""
    quotas = []
    for word in words:
        match = QUOTA.fullmatch(word)
        if not match or not float(match[1]) < float(match[2]) <= 90 or float(match[3]) == 0:
            raise UserError(f"--yaw_quota {word}: not a range of |yaw| in degrees with a share, such as 15-45:30.")
        quotas.append(Quota(*map(float, match.groups())))
    quotas.sort()
    for before, after in pairwise(quotas):
        if after.low < before.high:
            raise UserError(f"--yaw_quota: the ranges {shown(before)} and {shown(after)} overlap.")
    total = sum(quota.share for quota in quotas)
    return [quota._replace(share=quota.share / total) for quota in quotas]


def shown(quota: Quota) -> str:
    """A range in a message."""
    return f"{quota.low:g}-{quota.high:g}"


class LandmarkBank:
    """A distribution of poses over the images of each identity.

    ``path``: JSON lines, each with ``landmarks``, five pixels (x, y) of an aligned 112x112 photo, or with ``yaw`` and
    perhaps ``pitch`` and ``roll`` in degrees: the labels of rendered photos, or a manifest with measured poses. An
    image gets a random line. None: poses are drawn, the yaw evenly within its range and to either side, pitch and roll
    as of the rendered photos. ``quotas``: shares of ranges of |yaw|, held to within about one image for every identity
    and any number of images; empty for the distribution of the file. Raises UserError when the file cannot be used.
    """

    def __init__(self, path: Path | str | None, quotas: Sequence[Quota] = ()):
        self.path, self.quotas = path, list(quotas)
        self.settings = {"landmark_bank": None if path is None else sha256_of(path)}
        self.settings |= {"yaw_quota": [[q.low, q.high, round(q.share, 6)] for q in self.quotas]}
        self.entries = [] if path is None else read_bank(path)
        self.members = [
            [number for number, (_, record) in enumerate(self.entries) if "yaw" in record and q.holds(record["yaw"])]
            for q in self.quotas
        ]
        for quota, members in zip(self.quotas, self.members, strict=True):
            if path is not None and not members:
                raise UserError(f"{path}: none of its poses has a |yaw| of {shown(quota)} degrees (--yaw_quota).")

    @cached_property
    def shares(self) -> np.ndarray:
        """The shares of the quotas, (Q,)."""
        return np.array([quota.share for quota in self.quotas])

    def sequence(self, seed: int, identity: int) -> Iterator[Landmarks]:
        stream = landmark_stream(seed, identity)
        made = np.zeros(len(self.quotas))
        lead = stream.uniform(-0.5, 0.5, len(self.quotas))  # so that not all identities begin with the same range
        for number in count(1):
            if not self.quotas:
                yield self._entry(int(stream.integers(len(self.entries))))
                continue
            most_wanting = int((self.shares * number + lead - made).argmax())
            made[most_wanting] += 1
            if self.path is None:
                yield self._drawn(self.quotas[most_wanting], stream)
            else:
                yield self._entry(int(stream.choice(self.members[most_wanting])))

    def _entry(self, number: int) -> Landmarks:
        points, record = self.entries[number]
        return Landmarks(draw_landmarks(points), record)

    @staticmethod
    def _drawn(quota: Quota, stream: np.random.Generator) -> Landmarks:
        yaw = stream.uniform(quota.low, quota.high) * (1 if stream.random() < 0.5 else -1)
        pitch, roll = (float(np.clip(SPREAD[n] * stream.standard_normal(), -MOST[n], MOST[n])) for n in SPREAD)
        return drawn(round(yaw, 2), round(pitch, 2), round(roll, 2))


def drawn(yaw: float, pitch: float, roll: float) -> Landmarks:
    """The landmarks of an average head at a pose in degrees. Raises ValueError for angles out of range."""
    picture = draw_landmarks(landmarks_at(yaw, pitch, roll))
    return Landmarks(picture, {"yaw": float(yaw), "pitch": float(pitch), "roll": float(roll)})


def sha256_of(path: Path | str) -> str:
    """SHA-256 of a file. Raises UserError when it cannot be read."""
    try:
        return sha256(path)
    except OSError as error:
        raise UserError(f"{path}: cannot read this landmark bank: {error.strerror}.") from error


def read_bank(path: Path | str) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """(landmarks (5, 2), what the manifest says) of every line of a bank. Raises UserError that names a bad line."""
    entries = []
    for number, text in enumerate(Path(path).read_text(errors="replace").splitlines(), 1):
        try:
            label = json.loads(text)
            if not isinstance(label, dict):
                raise ValueError("not an object with a name for each value")
            record = {"line": number}
            record |= {name: round(float(label[name]), 2) for name in ("yaw", "pitch", "roll") if name in label}
            entries.append((landmarks_of_label(label), record))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}: line {number} is no pose: {error}.") from error
    if not entries:
        raise UserError(f"{path}: an empty landmark bank.")
    return entries
