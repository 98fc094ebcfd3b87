"""Writing a dataset so that nothing is lost, redone or half-written, however often the run is killed.

The identity is the unit of commit: first its manifest lines, then its images appear in one step. What
determines the images stands in ``settings.json``; other settings are refused, but for more images an identity.
"""

import json
import os
import shutil
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb

from utils.dataset_folder import FolderStore
from utils.dataset_layout import (
    about_folder,
    contact_sheet_path,
    has_old_layout,
    manifest_path,
    parts_folder,
    read_settings,
    settings_path,
)
from utils.dataset_lmdb import LmdbStore
from utils.dataset_migration import migrate_layout
from utils.dataset_parts import IdentityLines, Part, idle_parts, locked
from utils.errors import UserError
from utils.image_record import ImageRecord
from utils.images import contact_sheet, decode_image, encode_jpeg

STORES = {"folder": FolderStore, "lmdb": LmdbStore}
SHEET_ROWS, SHEET_COLUMNS = 16, 10


def prepare_dataset(root, settings, environment, overwrite=False, migrate=False):
    """Make the dataset's folders, or check that those that are there have the same settings. For one process.

    ``settings``: all that determines the images, plain JSON values; ``example``, the number of images an identity, may
    grow. ``environment``: versions and the like, written down but not compared. ``overwrite``: begin anew;
    ``migrate``: bring a dataset of an earlier version to today's layout first. Raises UserError when the folder holds
    something else.
    """
    root = Path(root)
    try:
        if overwrite:
            delete_dataset(root)
        if has_old_layout(root):
            if not migrate:
                raise UserError(
                    f"{root} was written by an earlier version, which kept settings and manifest among the people. Add "
                    f"--migrate to move them to {about_folder(root).name} beside it and to go on."
                )
            migrate_layout(root)
        if settings_path(root).exists():
            root.mkdir(exist_ok=True)
            with locked(about_folder(root), wait=True):
                STORES[settings["format"]].recover(root)
                if holds_nothing(root):
                    LmdbStore.path(root).unlink(missing_ok=True)  # an empty one
                    write_settings(root, settings, environment)
                elif check_settings(root, settings):
                    prepare_extension(root, settings["format"])
                    write_settings(root, settings, environment)
            return
        for folder in (root, about_folder(root)):
            if folder.exists() and any(folder.iterdir()):
                raise UserError(
                    f"{folder} is not empty and there is no {settings_path(root)}, so it is not ours to add to: give "
                    "another --name."
                )
        root.mkdir(parents=True, exist_ok=True)
        about_folder(root).mkdir(exist_ok=True)
        write_settings(root, settings, environment)
    except OSError as error:
        raise write_error(root, error) from error


def write_settings(root, settings, environment):
    target = settings_path(root)
    temporary = target.with_name(target.name + ".next")
    temporary.write_text(json.dumps({"settings": settings, "environment": environment}, indent=2) + "\n")
    temporary.replace(target)


def delete_dataset(root):
    """Delete a dataset of ours, of either layout; a folder of anything else stays.

    The people go first, so that a killed deletion leaves a folder that is still known as ours.
    """
    doomed = root.with_name(f".{root.name}.overwritten")
    shutil.rmtree(doomed, ignore_errors=True)
    if not has_old_layout(root) and not settings_path(root).exists():
        return
    if root.exists():
        root.rename(doomed)
        shutil.rmtree(doomed)
    if about_folder(root).exists():
        about_folder(root).rename(doomed)
        shutil.rmtree(doomed)


def holds_nothing(root):
    """Whether a dataset was begun and no identity of it was finished or is being made: any settings fit that."""
    if parts_folder(root).exists():
        return False
    if not manifest_path(root).exists():
        return not any(root.iterdir())
    return not manifest_path(root).stat().st_size and not any(path.is_dir() for path in root.iterdir())


def check_settings(root, settings):
    """Whether the dataset there is to be extended by more images an identity. UserError when it has other settings."""
    there = read_settings(settings_path(root))["settings"]
    for name in sorted(settings.keys() | there.keys()):
        new, old = settings.get(name), there.get(name)
        if name == "example" and isinstance(old, int) and new > old:
            continue
        if new != old:
            if name == "identities":
                raise UserError(
                    f"{root} was made of other identity vectors or photos: the file has changed, or a photo was added, "
                    "removed or changed. Give another --name, or --overwrite to start again."
                )
            raise UserError(
                f"{root} holds a dataset with other settings: {name} is {old} there and {new} now. Give another "
                "--name, or --overwrite to start again."
            )
    return settings.get("example") != there.get("example")


def prepare_extension(root, format):
    """Merge what ended processes left, so that the images an identity has are all in one place."""
    idle = set(idle_parts(root))
    if any(part not in idle for part in parts_folder(root).glob("*")):
        raise UserError(f"{root}: another process is writing it; let it end before adding images to its identities.")
    STORES[format].merge(root)


def write_error(root, error):
    return UserError(
        f"{root}: cannot write: {getattr(error, 'strerror', None) or error}. Finished identities are safe; "
        "mend this and run the same command again."
    )


class DatasetWriter:
    """Encodes and stores identities in the background. Use as a context manager.

    ``part``: a name no other process uses at the same time. Errors of the background work are raised,
    as UserError, by the next ``write`` or at the end.
    """

    def __init__(self, root, format, part, jpeg_quality=75, workers=2):
        self.root, self.jpeg_quality = Path(root), jpeg_quality
        self.pool = ThreadPoolExecutor(max(1, workers))
        self.pending, self.most_pending = deque(), 4 * max(1, workers)
        self.commit_lock = threading.Lock()
        try:
            self.part = Part(root, part)
            self.store = STORES[format](root, self.part)
        except (OSError, lmdb.Error) as error:
            raise write_error(root, error) from error

    def write(self, identity, images, before: IdentityLines | None = None):
        """Store one finished identity (with ``number`` and ``name``) and its GeneratedImages in order.

        ``before``: the IdentityLines of the images that it has already; the new ones are added to these.
        """
        if len(self.pending) >= self.most_pending:
            self._wait_for(self.pending.popleft())
        self.pending.append(self.pool.submit(self._commit, identity, images, before))

    def _commit(self, identity, images, before):
        encoded = [None if image.pixels is None else encode_jpeg(image.pixels, self.jpeg_quality) for image in images]
        lines = [
            self.store.place(identity.name, image.record.index, image.pixels is not None) | image.record.line()
            for image in images
        ]
        with self.commit_lock:
            if before is not None:
                earlier = before.read()
                encoded, lines = self.store.stored(earlier) + encoded, earlier + lines
            self.part.append(lines)
            self.store.put(identity.name, encoded)

    def _wait_for(self, future):
        try:
            future.result()
        except (OSError, lmdb.Error) as error:
            raise write_error(self.root, error) from error

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.pool.shutdown(wait=True, cancel_futures=False)
        try:
            while self.pending:
                self._wait_for(self.pending.popleft())
        except UserError:
            if error[0] is None:
                raise
        finally:
            self.store.close()
            self.part.close()


def finish_dataset(root, format):
    """Merge the parts of all ended processes and draw the contact sheet. For one process, after the others closed."""
    root, store = Path(root), STORES[format]
    try:
        with locked(about_folder(root), wait=True):
            store.merge(root)
            sheet = draw_contact_sheet(root, store)
            if sheet is not None:
                target = contact_sheet_path(root)
                temporary = target.with_name(target.name + ".next")
                temporary.write_bytes(encode_jpeg(sheet, 90))
                os.replace(temporary, target)
    except (OSError, lmdb.Error) as error:
        raise write_error(root, error) from error


def draw_contact_sheet(root, store):
    rows = []
    for lines in store.finished(root).values():
        if not lines.images:
            continue
        row = [decode_image(data) for data in store.images(root, lines.read()[:SHEET_COLUMNS])]
        rows += [row] if row else []
        if len(rows) == SHEET_ROWS:
            break
    return contact_sheet(rows) if rows else None


def identities_there(root, format) -> dict[str, IdentityLines]:
    """{name: IdentityLines} of the identities that are in place, with as many images as they have."""
    with locked(about_folder(root), wait=True):
        return {name: lines for (_, name), lines in STORES[format].finished(root).items()}


def identities_to_keep(root, format, names, example) -> dict[str, IdentityLines]:
    """``identities_there`` of some names, without those that lack an image and are to get more than they have.

    These are drawn anew: their images cannot be taken over. Of the others nobody looks at each image.
    """
    there = identities_there(root, format)
    there = {name: there[name] for name in names if name in there}
    complete = STORES[format].complete
    return {name: lines for name, lines in there.items() if lines.lines >= example or complete(root, lines.read())}


def manifest_lines(root):
    """Iterate over the lines of the merged manifest, as they are."""
    with open(manifest_path(root)) as file:
        yield from map(json.loads, file)


def read_records(root):
    """Iterate over the ImageRecords of a dataset's merged manifest."""
    return map(ImageRecord.from_line, manifest_lines(root))
