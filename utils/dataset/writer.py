"""Writing a dataset so that nothing is lost, redone or half-written, however often the run is killed.

The identity is the unit of commit: first its manifest lines, then its images appear in one step. What
determines the images stands in ``settings.json``; other settings are refused, but for more images an identity.
utils/dataset/merge.py tells what holds after a kill and after a power cut.
"""

import json
import shutil
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import lmdb

from models.errors import UserError
from utils.data.images import contact_sheet, decode_image, encode_jpeg
from utils.dataset.folder_store import FolderStore
from utils.dataset.image_record import ImageRecord
from utils.dataset.layout import (
    about_folder,
    contact_sheet_path,
    has_old_layout,
    manifest_path,
    parts_folder,
    read_settings,
    settings_path,
)
from utils.dataset.lmdb_store import LmdbStore
from utils.dataset.manifest import BlockReader, index_manifest, read_lines
from utils.dataset.merge import counts, merge_parts, recover
from utils.dataset.migration import migrate_layout
from utils.dataset.parts import (
    LOCK,
    Part,
    dataset_lock,
    lines_of,
    living_owners,
    part_folders,
    part_is_taken,
    stored_identities,
)
from utils.runtime.durable import atomic_write
from utils.runtime.locks import Holder, LockHeld

STORES = {"folder": FolderStore, "lmdb": LmdbStore}
SHEET_ROWS, SHEET_COLUMNS = 16, 10
SHOWN = 3  # processes named in a message
SYNC_SECONDS = 30.0  # how often what was written is brought to the disk: what a power cut may cost


def prepare_dataset(root, settings, environment, overwrite=False, migrate=False):
    """Make the dataset's folders, or check that those that are there have the same settings. For one process.

    ``settings``: all that determines the images, plain JSON values; ``example``, the number of images an identity, may
    grow. ``environment``: versions and the like, written down but not compared. ``overwrite``: begin anew;
    ``migrate``: bring a dataset of an earlier version to today's layout first. Raises UserError when the folder holds
    something else.
    """
    root = Path(root)
    about = about_folder(root)
    try:
        if root.exists() and any(root.iterdir()) and not (has_old_layout(root) or settings_path(root).exists()):
            raise not_ours(root, root)
        about.mkdir(parents=True, exist_ok=True)
        try:
            with dataset_lock(root) as lock:
                _prepare(root, settings, environment, overwrite, migrate, lock)
        finally:
            if not any(about.iterdir()):
                about.rmdir()
    except (OSError, lmdb.Error) as error:
        raise write_error(root, error) from error


def _prepare(root, settings, environment, overwrite, migrate, lock):
    if overwrite:
        delete_dataset(root)
    if has_old_layout(root):
        if not migrate:
            raise UserError(
                f"{root} was written by an earlier version, which kept settings and manifest among the people. Add "
                f"--migrate to move them to {about_folder(root).name} beside it and to go on."
            )
        migrate_layout(root)
    if not settings_path(root).exists():
        if any(path.name != LOCK for path in about_folder(root).iterdir()):
            raise not_ours(root, about_folder(root))
        root.mkdir(parents=True, exist_ok=True)
        write_settings(root, settings, environment)
        return
    root.mkdir(exist_ok=True)
    recover(root, STORES[settings["format"]])
    if holds_nothing(root):
        LmdbStore.path(root).unlink(missing_ok=True)  # an empty one
        write_settings(root, settings, environment)
    elif check_settings(root, settings):
        prepare_extension(root, settings["format"], lock)
        write_settings(root, settings, environment)


def not_ours(root, folder):
    return UserError(
        f"{folder} is not empty and there is no {settings_path(root)}, so it is not ours to add to: "
        "give another --name."
    )


def write_settings(root, settings, environment):
    content = json.dumps({"settings": settings, "environment": environment}, indent=2) + "\n"
    atomic_write(settings_path(root), content)


def delete_dataset(root):
    """Delete a dataset of ours, of either layout; a folder of anything else stays. For the holder of its lock.

    The people go first and the settings last, so that a killed deletion leaves a folder that is still known as ours.
    Raises UserError when a process is writing it.
    """
    doomed = root.with_name(f".{root.name}.overwritten")
    shutil.rmtree(doomed, ignore_errors=True)
    if not has_old_layout(root) and not settings_path(root).exists():
        return
    if owners := living_owners(root):
        raise UserError(f"{root}: another process ({owners[0]}) is writing it; let it end before --overwrite.")
    if root.exists():
        root.rename(doomed)
        shutil.rmtree(doomed)
    shutil.rmtree(parts_folder(root), ignore_errors=True)
    for path in about_folder(root).iterdir():
        if path.name != LOCK and path != settings_path(root):
            path.unlink()
    settings_path(root).unlink(missing_ok=True)


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


def prepare_extension(root, format, lock):
    """Merge what ended processes left, so that the images an identity has are all in one place."""
    if owners := living_owners(root):
        raise UserError(
            f"{root}: another process ({owners[0]}) is writing it; let it end before adding images to its identities."
        )
    merge_parts(root, STORES[format], lock)


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
        self.commit_lock, self.sync_lock, self.synced = threading.Lock(), threading.Lock(), time.monotonic()
        store = STORES[format]
        try:
            with dataset_lock(root):
                self.part = Part(root, part, store.in_place(root))
            self.store = store(root, self.part)
        except LockHeld as held:
            raise part_is_taken(root, held) from held
        except (OSError, lmdb.Error) as error:
            raise write_error(root, error) from error

    def write(self, identity, images):
        """Store one finished identity (with ``number`` and ``name``) and its GeneratedImages in order.

        Where it has images already these are further ones: ``index`` of their records goes on from there.
        """
        if len(self.pending) >= self.most_pending:
            self._wait_for(self.pending.popleft())
        self.pending.append(self.pool.submit(self._commit, identity, images))

    def _commit(self, identity, images):
        encoded = [None if image.pixels is None else encode_jpeg(image.pixels, self.jpeg_quality) for image in images]
        lines = [
            self.store.location(identity.name, image.record.index, image.pixels is not None) | image.record.line()
            for image in images
        ]
        written = self.store.write(identity.name, images[0].record.index, encoded)
        with self.commit_lock:
            self.part.append((identity.number, identity.name), lines)
            try:
                self.store.publish(written)
            except BaseException:
                self.part.withdraw()
                raise
        if time.monotonic() - self.synced > SYNC_SECONDS and self.sync_lock.acquire(blocking=False):
            try:
                self.synced = time.monotonic()
                with self.commit_lock:
                    count = len(self.part.manifest.pending)  # all of them in place
                self.part.sync(count)
            finally:
                self.sync_lock.release()

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
            self._sync()
        except UserError:
            if error[0] is None:
                raise
        finally:
            self.store.close()
            self.part.close()

    def _sync(self):
        try:
            self.part.sync()
        except OSError as error:
            raise write_error(self.root, error) from error


def finish_dataset(root, format, compact=False) -> list[Holder]:
    """Merge the parts of all ended processes and draw the contact sheet; who is still writing other parts.

    For one process, after the others closed their writers. ``compact``: see ``compact_dataset``.
    """
    root, store = Path(root), STORES[format]
    try:
        with dataset_lock(root) as lock:
            merge_parts(root, store, lock, compact)
            sheet = draw_contact_sheet(root, store)
            if sheet is not None:
                atomic_write(contact_sheet_path(root), encode_jpeg(sheet, 90))
            return living_owners(root)
    except (OSError, lmdb.Error) as error:
        raise write_error(root, error) from error


def compact_dataset(root) -> list[Holder]:
    """``finish_dataset`` that writes the dataset in order of identity, as a single run over all identities does.

    That is the order of the manifest, and of the keys and labels of an LMDB. Raises UserError when ``root`` is no
    generated dataset.
    """
    if not settings_path(root).exists():
        raise UserError(f"{root}: not a generated dataset, as there is no {settings_path(root)}.")
    return finish_dataset(root, read_settings(settings_path(root))["settings"]["format"], compact=True)


def unmerged_note(root, owners: list[Holder]) -> str:
    """What to tell the user about parts that other processes are writing."""
    named = "; ".join(map(str, sorted(set(owners))[:SHOWN])) + ("; ..." if len(set(owners)) > SHOWN else "")
    which = "1 part is" if len(owners) == 1 else f"{len(owners)} parts are"
    return (
        f"note: {which} still being written ({named}): whoever finishes last merges what is left, or "
        f"`python scripts/convert_dataset.py {root} --compact` does."
    )


def draw_contact_sheet(root, store):
    rows = []
    for _, lines in merged_identities(root):
        if not lines.images:
            continue
        row = [decode_image(data) for data in store.images(root, lines.read()[:SHEET_COLUMNS])]
        rows += [row] if row else []
        if len(rows) == SHEET_ROWS:
            break
    return contact_sheet(rows) if rows else None


def identities_there(root, format) -> dict[str, int]:
    """{name: number of its images that were dealt with} of the identities in place."""
    return {name: lines_of(blocks) for (_, name), blocks in _stored(root, format).items()}


def identities_to_keep(root, format, names, example) -> dict[str, int]:
    """``identities_there`` of some names, without those that lack an image and are to get more than they have.

    These are drawn anew: their images cannot be taken over. Of the others nobody looks at each image.
    """
    there = {name: blocks for (_, name), blocks in _stored(root, format).items()}
    complete = STORES[format].complete
    return {
        name: lines_of(there[name]) for name in names
        if name in there and (lines_of(there[name]) >= example or complete(root, there[name]))
    }  # fmt: skip


def _stored(root, format):
    with dataset_lock(root):
        return stored_identities(root, part_folders(root), STORES[format].in_place(root))


def merged_identities(root):
    """[((number, name), IdentityLines)] of the merged manifest, in order."""
    return sorted(index_manifest(manifest_path(root)).items())


def dataset_size(root) -> tuple[int, int]:
    """How many images the merged manifest names, and of how many identities."""
    return counts(index_manifest(manifest_path(root)))


def manifest_lines(root):
    """Iterate over the lines of the merged manifest, as they are."""
    return read_lines(manifest_path(root))


def read_records(root, names=None):
    """Iterate over the ImageRecords of a dataset's merged manifest in order of identity; of ``names`` if given."""
    with closing(BlockReader()) as reader:
        for (_, name), block in merged_identities(root):
            if names is None or name in names:
                yield from map(ImageRecord.from_line, reader.lines(block))
