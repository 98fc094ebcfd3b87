"""Making the images of an order while someone watches."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from models.attrop import Result
from models.attrop_batch import Iterate
from models.pixels import to_pixels
from utils.generation.attrop_progress import AttrOPProgress
from utils.generation.batch_rows import decoded_rows
from utils.generation.pipeline import GeneratedImage, ImageJob, generate
from utils.generation.recipe import Identity
from utils.web.order import Order
from utils.web.session import Session
from utils.web.worker import Stream

SHOWN_EVERY = 10  # iterations of AttrOP
REDRAW_SECONDS = 0.3


class Face(NamedTuple):
    """An image (112, 112, 3) uint8 RGB, what was measured on it, and a note on it."""

    pixels: np.ndarray
    values: dict[str, float]
    note: str = ""
    missed: bool = False  # whether AttrOP ended without reaching all targets


@dataclass(frozen=True)
class View:
    """What the page shows at one moment.

    ``status``: a line on the progress; ``images``: the images as far as they are; ``path``: every tenth iterate of the
    first one; ``changed``: whether either differs from the last View; ``done``: whether all images are finished.
    """

    status: str
    images: list[Face] = field(default_factory=list)
    path: list[Face] = field(default_factory=list)
    changed: bool = True
    done: bool = False


class Watcher(AttrOPProgress):
    """Turns what AttrOP reports into Views for ``emit``."""

    def __init__(self, order: Order, emit: Callable[[View], None]):
        super().__init__()
        self.order, self.emit, self.told = order, emit, 0.0
        self.images: dict[int, Face] = {}  # by number of the image
        self.path: list[Face] = []
        self.changed = False

    def show(self, iterates: list[Iterate]) -> None:
        """Keep the images of some rows on their way."""
        for iterate in iterates:
            steps = iterate.iteration - 1
            face = Face(to_pixels(iterate.image[None])[0].numpy(), iterate.values, f"step {steps}")
            self.keep(image_number(iterate.key), face)

    def keep(self, number: int, face: Face) -> None:
        """Show a face as that of an image, and if it is the first image, as a step on its path."""
        self.images[number], self.changed = face, True
        if number == 0:
            self.path.append(face)

    def __call__(self, results: list[Result]) -> None:
        """Count an iteration, keep the images of the rows that ended in it, and show what is new."""
        super().__call__(results)
        for result in results:
            if result.image is not None:
                pixels = to_pixels(result.image[None])[0].numpy()
                values = {"id_similarity": result.id_similarity, **result.values}
                note = f"step {result.iterations - 1}" if result.accepted else result.reason
                self.keep(image_number(result.key), Face(pixels, values, note, not result.accepted))
        now = time.monotonic()
        if self.changed or now - self.told >= REDRAW_SECONDS:
            self.emit(View(self.status(), self.faces(), list(self.path), self.changed))
            self.changed, self.told = False, now

    def faces(self) -> list[Face]:
        """The images so far, in their order."""
        return [face for _, face in sorted(self.images.items())]

    def status(self) -> str:
        """The line on the progress."""
        rows = self.order.count if self.order.mode == "pose" else 1
        of = f"{self.accepted + self.missed} of {rows} images done" if rows > 1 else f"at most {self.order.max_iters}"
        return f"AttrOP: iteration {self.iterations}, {of}"


def image_number(key: ImageJob | Identity) -> int:
    """The number of the image that a row of AttrOP belongs to; 0 for a row on the identity vector."""
    return key.index if isinstance(key, ImageJob) else 0


def make(session: Session, order: Order) -> Stream[View]:
    """Make the images of an order, and iterate over what there is to see meanwhile; the last View is ``done``.

    Raises UserError for a person that does not exist, or an image that is not finite.
    """
    return session.worker.stream(lambda emit: make_and_show(session, order, emit))


def make_and_show(session: Session, order: Order, emit: Callable[[View], None]) -> None:
    """What ``make`` does in the thread of the models."""
    started = time.monotonic()
    identity = session.identity(order.person)
    watcher = Watcher(order, emit)
    attrop = session.attrop(order, watcher, on_iterates=watcher.show, iterates_every=SHOWN_EVERY)
    size = decoded_rows(session.machine.batch_size, session.machine.device)
    made = generate(
        session.networks.generator, [identity], session.recipe(order), size, attrop,
        "image" if order.mode == "pose" else "identity", session.measures(order),
    )  # fmt: skip
    ((_, images),) = made
    faces = [face_of(image, order) for image in images]
    emit(View(summary(images, order, time.monotonic() - started), faces, watcher.path, True, True))


def face_of(image: GeneratedImage, order: Order) -> Face:
    """A finished image. In identity mode AttrOP's verdict is on the vector and not on this image."""
    verdict = image.record.attrop if order.mode == "pose" else None
    missed = verdict is not None and not verdict.accepted
    return Face(image.pixels, image.record.measured, verdict.reason if missed else "", missed)


def summary(images: list[GeneratedImage], order: Order, seconds: float) -> str:
    """The line on finished images."""
    line = f"{len(images)} images in {seconds:.1f} s" if len(images) > 1 else f"1 image in {seconds:.1f} s"
    verdicts = [image.record.attrop for image in images if image.record.attrop is not None]
    if not verdicts:
        return line
    accepted = sum(verdict.accepted for verdict in verdicts)
    if order.mode == "pose":
        return f"{line}; {accepted} of {len(images)} reach the targets"
    if accepted:
        return f"{line}; the identity vector reached the quality after {verdicts[0].iterations - 1} steps"
    return f"{line}; the identity vector: {verdicts[0].reason}"
