"""What the buttons of the page do: the values of the controls in, the contents of the page out."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from models.errors import UserError
from utils.web.cards import face_cards, portrait
from utils.web.commands import command_of
from utils.web.download import make_zip
from utils.web.making import make
from utils.web.order import Drawn, Mix, Order, Photo, Sampled, checked
from utils.web.session import Session
from utils.web.uploads import read_photo

SAMPLED, DRAWN, PHOTO = "From the file", "New draw", "Your photo"
SOURCES = (SAMPLED, DRAWN, PHOTO)
TARGETS = ("yaw", "pitch", "quality")
THUMBNAILS = 12  # people to click on
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
        self.upload = telling(self.upload)
        self.thumbnails = telling(self.thumbnails)
        self.preview_second = telling(self.preview_second)

    def order_of(
        self, source: str, row: float, draw: float, photo: Photo | None, share: float, second: float,
        targets: list[str], yaw: float, pitch: float, quality: float, max_iters: float,
        sigma: float, seed: float, count: float,
    ) -> Order:  # fmt: skip
        """The Order that the controls show, in their order on the page. Raises UserError for values that do not fit."""
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
        return Order(person, **wanted, sigma=sigma, seed=seed, count=count, max_iters=max_iters)

    def make(self, *values: Any) -> Iterator[tuple]:
        """Make images; yields (order, status, images, path, command) as they change."""
        with told():
            order = self.order_of(*values)
            command = command_of(self.session, order)
            yield gr.skip(), "Starting …", gr.skip(), "", gr.skip()
            with closing(make(self.session, order)) as views:
                for view in views:
                    shown = (face_cards(view.images, "images"), face_cards(view.path, "path"))
                    pictures = shown if view.changed else (gr.skip(), gr.skip())
                    yield (order, view.status, *pictures, command) if view.done else (
                        gr.skip(), view.status, *pictures, gr.skip(),
                    )  # fmt: skip

    def take_away(self, order: Order | None, count: float, kind: str) -> Iterator[tuple]:
        """Make the zip of the images on the page; yields (status, download button)."""
        with told():
            if order is None:
                raise UserError("Make images first; the zip has more of the same person.")
            count = checked("count", count, whole=True)
            yield f"Making {count} images …", gr.DownloadButton(visible=False)
            with closing(make_zip(self.session, order, count, kind, self.folder)) as results:
                for result in results:
                    if not isinstance(result, Path):
                        yield result.status, gr.skip()
                        continue
                    size = result.stat().st_size / 1024
                    label = f"Save {result.name} ({size:,.0f} KB)"
                    yield f"{count} images are ready.", gr.DownloadButton(label, value=str(result), visible=True)
                    result.unlink(missing_ok=True)  # Gradio has its own copy, which it deletes after an hour

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
        rows = range(min(THUMBNAILS, self.session.people))
        faces = self.session.worker.call(lambda: self.session.faces(rows))
        return [(face, str(row)) for row, face in zip(rows, faces, strict=True)]

    def preview_second(self, row: float) -> str:
        """The face of the second person of a mix."""
        self.session.row(row)
        (face,) = self.session.worker.call(lambda: self.session.faces(range(int(row), int(row) + 1)))
        return portrait(face, f"person {int(row)}")

    @staticmethod
    def draw_another() -> int:
        """A seed for another draw."""
        return secrets.randbelow(MOST_DRAWS)
