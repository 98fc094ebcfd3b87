"""What the buttons of the page do: the values of the controls in, the contents of the page out."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from models.errors import UserError
from utils.cli.attribute_flags import WantedAttribute
from utils.web.cards import face_cards, portrait
from utils.web.commands import command_of
from utils.web.download import KINDS, make_zip
from utils.web.making import make
from utils.web.order import Drawn, Mix, Order, Photo, Sampled, checked
from utils.web.session import Session
from utils.web.uploads import read_photo
from utils.web.worker import Stream

SAMPLED, DRAWN, PHOTO = "From the file", "New draw", "Your photo"
SOURCES = (SAMPLED, DRAWN, PHOTO)
TARGETS = ("yaw", "pitch", "quality")
MOST_DRAWS = 10_000  # seeds that "Draw another" picks from: short enough to note down


@contextmanager
def told() -> Iterator[None]:
    """A mistake of the user becomes a message on the page."""
    try:
        yield
    except UserError as error:
        raise gr.Error(str(error), title="That does not work", duration=12, print_exception=False) from error


def telling(handler: Callable) -> Callable:
    """Decorate a handler that returns its result, so that it tells mistakes."""

    @wraps(handler)
    def run(*values: Any) -> Any:
        with told():
            return handler(*values)

    return run


class Handlers:
    """The handlers of a page. ``folder``: where zip files are written."""

    def __init__(self, session: Session, folder: Path):
        self.session, self.folder = session, folder
        self.running: tuple[str, Stream] | None = None  # the visitor who is served, and what is done for them
        self.upload = telling(self.upload)
        self.thumbnails = telling(self.thumbnails)
        self.preview_second = telling(self.preview_second)

    def order_of(
        self, source: str, row: float, draw: float, photo: Photo | None, share: float, second: float,
        targets: list[str], yaw: float, pitch: float, quality: float, max_iters: float,
        sigma: float, seed: float, count: float, changed: list[str], *values: float,
    ) -> Order:  # fmt: skip
        """The Order that the controls show, in their order on the page; ``values``: one for each attribute there is.

        Raises UserError for values that do not fit.
        """
        if source == PHOTO and photo is None:
            raise UserError("Choose a photo first.")
        person = {SAMPLED: lambda: Sampled(row), DRAWN: lambda: Drawn(draw), PHOTO: lambda: photo}.get(source)
        if person is None:
            raise UserError(f"Person: one of {', '.join(SOURCES)}, not {source!r:.40}.")
        person = person()
        if isinstance(person, Sampled):
            self.session.row(person.row)
            person = Sampled(int(person.row))
        if checked("share", share):
            self.session.row(second)
            person = Mix(person, int(second), share)
        if not isinstance(targets, list) or not set(targets) <= set(TARGETS):
            raise UserError(f"Targets: some of {', '.join(TARGETS)}, not {targets!r:.40}.")
        wanted = {name: value for name, value in zip(TARGETS, (yaw, pitch, quality), strict=True) if name in targets}
        there = dict(zip((attribute.name for attribute in self.session.attributes), values, strict=True))
        if not isinstance(changed, list) or not set(changed) <= set(there):
            raise UserError(f"Attributes: some of {', '.join(there) or 'none'}, not {changed!r:.40}.")
        attributes = tuple(WantedAttribute(name, value) for name, value in there.items() if name in changed)
        return Order(person, **wanted, sigma=sigma, seed=seed, count=count, max_iters=max_iters, attributes=attributes)

    @contextmanager
    def running_for(self, request: gr.Request, stream: Stream) -> Iterator[Stream]:
        """A context in which the visitor can stop a stream. Only one is running at a time."""
        self.running = request.session_hash, stream
        try:
            with closing(stream):
                yield stream
        finally:
            self.running = None

    def stop(self, request: gr.Request) -> None:
        """Stop what is done for this visitor: the button was pressed, or the page was left."""
        visitor, stream = self.running or (None, None)
        if visitor == request.session_hash and stream is not None:
            stream.close()

    def make(self, request: gr.Request, *values: Any) -> Iterator[tuple]:
        """Make images; yields (order, status, images, path, command) as they change."""
        with told():
            order = self.order_of(*values)
            command = command_of(self.session, order)
            yield gr.skip(), "Starting …", gr.skip(), "", gr.skip()
            view = None
            with self.running_for(request, make(self.session, order)) as views:
                for view in views:
                    shown = (face_cards(view.images, "images"), face_cards(view.path, "path"))
                    pictures = shown if view.changed else (gr.skip(), gr.skip())
                    known = (order, command) if view.done else (gr.skip(), gr.skip())
                    yield known[0], view.status, *pictures, known[1]
            if view is None or not view.done:
                yield gr.skip(), "Stopped.", gr.skip(), gr.skip(), gr.skip()

    def take_away(self, request: gr.Request, order: Order | None, count: float, kind: str) -> Iterator[tuple]:
        """Make the zip of the images on the page; yields (status, download button)."""
        with told():
            if order is None:
                raise UserError("Make images first; the zip has more of the same person.")
            if kind not in KINDS:
                raise UserError(f"Contents: one of {', '.join(KINDS)}, not {kind!r:.40}.")
            count = checked("count", count, whole=True)
            yield f"Making {count} images …", gr.DownloadButton(visible=False)
            with self.running_for(request, make_zip(self.session, order, count, kind, self.folder)) as results:
                for result in results:
                    if isinstance(result, Path):
                        yield f"{count} images are ready.", save_button(result)
                        result.unlink(missing_ok=True)  # Gradio has its own copy, which it deletes after an hour
                        return
                    yield result.status, gr.skip()
            yield "Stopped.", gr.skip()

    def upload(self, path: str | None) -> tuple[Photo, str]:
        """Read an uploaded photo: (the person in it, their face with a line)."""
        if path is None or not Path(path).resolve().is_relative_to(self.folder.resolve()):
            raise UserError("Choose a photo first.")
        photo = read_photo(self.session, path)
        note = f"{photo.file}: the face as the encoder sees it"
        if not photo.align:
            note = f"{photo.file}: 112 by 112 pixels, taken as an aligned crop"
        elif photo.faces > 1:
            note = f"{photo.file}: {photo.faces} faces; this is the largest one"
        return photo, portrait(photo.crop, note)

    def thumbnails(self) -> list[tuple]:
        """The first people of the file: [(image, number)]."""
        faces = self.session.worker.call(lambda: self.session.first_faces)
        return [(face, str(row)) for row, face in enumerate(faces)]

    def preview_second(self, row: float) -> str:
        """The face of the second person of a mix."""
        self.session.row(row)
        (face,) = self.session.worker.call(lambda: self.session.faces(range(int(row), int(row) + 1)))
        return portrait(face, f"person {int(row)}")

    @staticmethod
    def draw_another() -> int:
        """A seed for another draw."""
        return secrets.randbelow(MOST_DRAWS)


def save_button(path: Path) -> gr.DownloadButton:
    """The button that saves a zip file."""
    size = max(1, path.stat().st_size // 1024)
    return gr.DownloadButton(f"Save {path.name} ({size:,} KB)", value=str(path), visible=True)
