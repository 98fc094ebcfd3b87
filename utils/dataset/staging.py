"""The folder NAME.hub beside a dataset: what is uploaded to the Hugging Face Hub, written whole and used again.

NAME.hub/
    README.md           the card
    settings.json       the dataset's settings, by which a repository on the Hub is known to hold this dataset
    contact_sheet.jpg   the first identities
    data/               the images, as imagefolder, WebDataset shards or Parquet files
    .export.json        what the export was made from; not uploaded
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from models.errors import UserError
from utils.data.face_set import FaceSet
from utils.dataset.export import Photo, photos_of, write_imagefolder, write_webdataset
from utils.dataset.layout import HUB_SUFFIX, SETTINGS, contact_sheet_path
from utils.dataset.parquet import write_parquet
from utils.runtime.durable import atomic_write

FORMS = {"imagefolder": write_imagefolder, "webdataset": write_webdataset, "parquet": write_parquet}
CARD, DATA, STAMP = "README.md", "data", ".export.json"


def stage_images(folder: Path, faces: FaceSet, form: str, root: Path, settings: Path, progress: Callable) -> bool:
    """Have the images of a dataset in ``folder``; whether they had to be written.

    ``root``: the dataset's folder; ``settings``: its settings.json; ``progress``: wraps the iterable of photos. The
    names of photos that identity vectors were taken from stay out. Raises UserError when ``folder`` holds something
    else, or an image cannot be read.
    """
    stamp = read_stamp(folder)
    content = settings.read_bytes()
    source = {"form": form, "photos": faces.fingerprint(), "settings": hashlib.sha256(content).hexdigest()}
    if stamp is not None and stamp["source"] == source:
        return False
    card = edited_card(folder)
    unfinished = folder.with_name(folder.name.removesuffix(HUB_SUFFIX) + ".unfinished" + HUB_SUFFIX)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    from_photos = json.loads(content)["settings"].get("mode") == "reference"
    FORMS[form](unfinished / DATA, without_sources(progress(photos_of(faces)), from_photos))
    (unfinished / SETTINGS).write_bytes(content)
    if (sheet := contact_sheet_path(root)).is_file():
        shutil.copyfile(sheet, unfinished / sheet.name)
    if card is not None:
        (unfinished / CARD).write_text(card)
    write_stamp(unfinished, source, card=None)
    if folder.exists():
        shutil.rmtree(folder)
    unfinished.rename(folder)
    return True


def without_sources(photos: Iterable[Photo], from_photos: bool) -> Iterator[Photo]:
    """Photos without the paths of the files that they were made from.

    ``from_photos``: the identities are named after photos, too, so they are called by their labels instead.
    """
    for photo in photos:
        hidden = {"source", "identity"} if from_photos else {"source"}
        about = {name: value for name, value in photo.about.items() if name not in hidden}
        yield photo._replace(identity=f"{photo.label:06d}" if from_photos else photo.identity, about=about)


def stage_card(folder: Path, text: str) -> bool:
    """Write the card, unless there is one that somebody has edited; whether it was written."""
    if edited_card(folder) is not None:
        return False
    atomic_write(folder / CARD, text)
    write_stamp(folder, read_stamp(folder)["source"], hashlib.sha256(text.encode()).hexdigest())
    return True


def edited_card(folder: Path) -> str | None:
    """The card in ``folder`` where it is not the one that ``stage_card`` wrote."""
    if not (folder / CARD).is_file():
        return None
    text = (folder / CARD).read_text()
    return None if read_stamp(folder)["card"] == hashlib.sha256(text.encode()).hexdigest() else text


def read_stamp(folder: Path) -> dict | None:
    """What an export was made from, None where there is no export. Raises UserError for a folder of something else."""
    if not folder.exists():
        return None
    try:
        stamp = json.loads((folder / STAMP).read_text())
        return {"source": stamp["source"], "card": stamp["card"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: is there and no export for the Hub; move it away or delete it.") from error


def write_stamp(folder: Path, source: dict, card: str | None) -> None:
    atomic_write(folder / STAMP, json.dumps({"source": source, "card": card}, indent=2) + "\n")


def staged_files(folder: Path) -> list[str]:
    """The paths to upload, relative to ``folder``: the settings first and the card last.

    By its settings an upload that was interrupted is known; the card appears when the images are there.
    """
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    names = sorted(path.relative_to(folder).as_posix() for path in paths)
    return sorted(names, key=lambda name: (name == CARD) - (name == SETTINGS))
