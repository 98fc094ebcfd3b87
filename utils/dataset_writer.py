"""Writing a dataset so that nothing is lost, redone or half-written, however often the run is killed.

The identity is the unit of commit: first its manifest lines, then its images appear in one step. What
determines the images stands in ``settings.json``; other settings are refused.
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
from utils.dataset_lmdb import LmdbStore
from utils.dataset_parts import MANIFEST, Part, locked
from utils.errors import UserError
from utils.images import CONTACT_SHEET, contact_sheet, decode_image, encode_jpeg

STORES = {"folder": FolderStore, "lmdb": LmdbStore}
SETTINGS = "settings.json"
SHEET_ROWS, SHEET_COLUMNS = 16, 10


def prepare_dataset(root, settings, environment, overwrite=False):
    """Make the dataset folder, or check that the one that is there has the same settings. For one process.

    ``settings``: all that determines the images, plain JSON values. ``environment``: versions and the
    like, written down but not compared. Raises UserError when the folder holds something else.
    """
    root = Path(root)
    try:
        if overwrite and (root / SETTINGS).exists():
            doomed = root.with_name(f".{root.name}.overwritten")
            shutil.rmtree(doomed, ignore_errors=True)
            root.rename(doomed)
            shutil.rmtree(doomed)
        if (root / SETTINGS).exists():
            check_settings(root, settings)
            with locked(root, wait=True):
                STORES[settings["format"]].recover(root)
            return
        if root.exists() and any(root.iterdir()):
            raise UserError(
                f"{root} is not empty and holds no {SETTINGS}, so it is not ours to add to: give another --name."
            )
        root.mkdir(parents=True, exist_ok=True)
        temporary = root / (SETTINGS + ".next")
        temporary.write_text(json.dumps({"settings": settings, "environment": environment}, indent=2) + "\n")
        temporary.replace(root / SETTINGS)
    except OSError as error:
        raise write_error(root, error) from error


def check_settings(root, settings):
    try:
        there = json.loads((root / SETTINGS).read_text())["settings"]
    except (ValueError, KeyError) as error:
        raise UserError(f"{root / SETTINGS} is damaged: restore it, or start again with --overwrite.") from error
    for name in sorted(settings.keys() | there.keys()):
        if settings.get(name) != there.get(name):
            raise UserError(
                f"{root} holds a dataset with other settings: {name} is {there.get(name)} there and "
                f"{settings.get(name)} now. Give another --name, or --overwrite to start again."
            )


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

    def write(self, identity, images):
        """Store one finished identity (with ``number`` and ``name``) and its GeneratedImages in order."""
        if len(self.pending) >= self.most_pending:
            self._wait_for(self.pending.popleft())
        self.pending.append(self.pool.submit(self._commit, identity, images))

    def _commit(self, identity, images):
        encoded = [None if image.pixels is None else encode_jpeg(image.pixels, self.jpeg_quality) for image in images]
        lines = [
            {
                **self.store.place(identity.name, index, image.pixels is not None),
                "identity": identity.number,
                "name": identity.name,
                "index": index,
            }
            | image.record
            for index, image in enumerate(images)
        ]
        with self.commit_lock:
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
        with locked(root, wait=True):
            store.merge(root)
            sheet = draw_contact_sheet(root, store)
            if sheet is not None:
                temporary = root / (CONTACT_SHEET + ".next")
                temporary.write_bytes(encode_jpeg(sheet, 90))
                os.replace(temporary, root / CONTACT_SHEET)
    except (OSError, lmdb.Error) as error:
        raise write_error(root, error) from error


def draw_contact_sheet(root, store):
    rows = []
    for record in list(store.finished(root).values())[:SHEET_ROWS]:
        lines = record.lines()[:SHEET_COLUMNS]
        rows.append([decode_image(data) for data in store.images(root, lines)])
    return contact_sheet(rows) if any(rows) else None


def finished_names(root, format):
    """Names of the identities that need no more work."""
    with locked(root, wait=True):
        return {name for _, name in STORES[format].finished(root)}


def manifest_lines(root):
    """Iterate over the records of the merged manifest."""
    with open(Path(root) / MANIFEST) as file:
        yield from map(json.loads, file)
