"""Writing a dataset so that a killed run loses nothing, repeats nothing and leaves nothing incomplete.

The identity is the unit of commit: first its manifest lines are written, then its images appear in one step.
``settings.json`` records everything that determines the images. A run with other settings is refused, except that the
number of images per identity may grow. utils/dataset/merge.py states the guarantees after a kill and a power cut.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import lmdb
import numpy as np

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
from utils.dataset.manifest import BlockReader, IdentityLines, Key, Line, index_manifest, read_lines
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
from utils.dataset.settings import Settings, check_settings
from utils.runtime.durable import atomic_write
from utils.runtime.locks import Holder, LockFile, LockHeld

STORES = {"folder": FolderStore, "lmdb": LmdbStore}
SHEET_ROWS, SHEET_COLUMNS = 16, 10
SHOWN = 3  # number of processes named in a message
SYNC_SECONDS = 30.0  # time between flushes to the disk: the most that a power cut can lose


class NamedIdentity(Protocol):
    """The part of an identity that a dataset stores. ``number`` and ``name`` together are its key."""

    number: int
    name: str


class WrittenImage(Protocol):
    """``pixels``: (112, 112, 3) uint8 RGB, None for an image that the gate left out; ``record``: its metadata."""

    pixels: np.ndarray | None
    record: ImageRecord


def prepare_dataset(
    root: Path | str, settings: Settings, environment: Settings, overwrite: bool = False, migrate: bool = False
) -> None:
    """Make the dataset's folders, or check that the existing dataset has the same settings. Called by one process only.

    ``settings``: everything that determines the images, as plain JSON values; ``example``, the number of images per
    identity, may grow. ``environment``: versions and the like, recorded but not compared. ``overwrite``: start again;
    ``migrate``: convert a dataset of an earlier version to the current layout first. Raises UserError when the folder
    holds anything else.
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


def _prepare(
    root: Path, settings: Settings, environment: Settings, overwrite: bool, migrate: bool, lock: LockFile
) -> None:
    if overwrite:
        delete_dataset(root)
    if has_old_layout(root):
        if not migrate:
            raise UserError(
                f"{root} was written by an earlier version, which kept settings and manifest among the identities. Add "
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


def not_ours(root: Path, folder: Path) -> UserError:
    """The error of a ``folder`` with files that do not belong to a generated dataset."""
    return UserError(
        f"{folder} is not empty and there is no {settings_path(root)}, so it is not a dataset to add to: "
        "give another --name."
    )


def write_settings(root: Path, settings: Settings, environment: Settings) -> None:
    """Write settings.json in one step."""
    content = json.dumps({"settings": settings, "environment": environment}, indent=2) + "\n"
    atomic_write(settings_path(root), content)


def delete_dataset(root: Path) -> None:
    """Delete a generated dataset in either layout; any other folder is kept. The caller holds the dataset's lock.

    The identities are deleted first and the settings last, so that what a killed deletion leaves is still recognised as
    a dataset. Raises UserError when a process is writing it.
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


def holds_nothing(root: Path) -> bool:
    """Whether a dataset has neither finished nor unfinished identities, so that its settings may be replaced."""
    if parts_folder(root).exists():
        return False
    if not manifest_path(root).exists():
        return not any(root.iterdir())
    return not manifest_path(root).stat().st_size and not any(path.is_dir() for path in root.iterdir())


def prepare_extension(root: Path, format: str, lock: LockFile) -> None:
    """Merge the parts of ended processes, so that all images of an identity are in the merged dataset.

    Raises UserError when a process is writing the dataset.
    """
    if owners := living_owners(root):
        raise UserError(
            f"{root}: another process ({owners[0]}) is writing it; let it end before adding images to its identities."
        )
    merge_parts(root, STORES[format], lock)


def write_error(root: Path | str, error: Exception) -> UserError:
    """The error of a dataset that cannot be written (disk full, no permission)."""
    return UserError(
        f"{root}: cannot write: {getattr(error, 'strerror', None) or error}. Finished identities are safe; "
        "mend this and run the same command again."
    )


class DatasetWriter:
    """Encodes and stores identities in background threads. Use as a context manager.

    ``format``: a key of STORES; ``part``: a name that no other process uses at the same time; ``workers``: number of
    threads. Errors of the background threads are raised as UserError by a later ``write`` or at the end.
    """

    def __init__(self, root: Path | str, format: str, part: str, jpeg_quality: int = 75, workers: int = 2):
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

    def write(self, identity: NamedIdentity, images: Sequence[WrittenImage]) -> None:
        """Store the images of one finished identity, in order.

        If the identity has images already, these are further ones, and ``index`` in their records continues the count.
        """
        if len(self.pending) >= self.most_pending:
            self._wait_for(self.pending.popleft())
        self.pending.append(self.pool.submit(self._commit, identity, images))

    def _commit(self, identity: NamedIdentity, images: Sequence[WrittenImage]) -> None:
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
                    count = len(self.part.manifest.pending)  # all of these are published
                self.part.sync(count)
            finally:
                self.sync_lock.release()

    def _wait_for(self, future: Future) -> None:
        try:
            future.result()
        except (OSError, lmdb.Error) as error:
            raise write_error(self.root, error) from error

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, *error: Any) -> None:
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

    def _sync(self) -> None:
        try:
            self.part.sync()
        except OSError as error:
            raise write_error(self.root, error) from error


def finish_dataset(root: Path | str, format: str, compact: bool = False) -> list[Holder]:
    """Merge the parts of all ended processes and draw the contact sheet.

    Called by one process, after the others have closed their writers. ``compact``: see ``compact_dataset``. Returns the
    processes that are still writing other parts.
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


def compact_dataset(root: Path | str) -> list[Holder]:
    """``finish_dataset``, with the dataset rewritten in order of identity, as by a single run over all identities.

    This is the order of the manifest, and of the keys and labels of an LMDB. Raises UserError when ``root`` is not a
    generated dataset.
    """
    if not settings_path(root).exists():
        raise UserError(f"{root}: not a generated dataset, as there is no {settings_path(root)}.")
    return finish_dataset(root, read_settings(settings_path(root))["settings"]["format"], compact=True)


def unmerged_note(root: Path | str, owners: list[Holder]) -> str:
    """A line for the user on parts that other processes are still writing."""
    named = "; ".join(map(str, sorted(set(owners))[:SHOWN])) + ("; ..." if len(set(owners)) > SHOWN else "")
    which = "1 part is" if len(owners) == 1 else f"{len(owners)} parts are"
    return (
        f"note: {which} still being written ({named}): whoever finishes last merges what is left, or "
        f"`python scripts/convert_dataset.py {root} --compact` does."
    )


def draw_contact_sheet(root: Path, store: type[FolderStore | LmdbStore]) -> np.ndarray | None:
    """The first images of the first identities as one image, (H, W, 3) uint8 RGB; None for a dataset without images."""
    rows = []
    for _, lines in merged_identities(root):
        if not lines.images:
            continue
        row = [decode_image(data) for data in store.images(root, lines.read()[:SHEET_COLUMNS])]
        rows += [row] if row else []
        if len(rows) == SHEET_ROWS:
            break
    return contact_sheet(rows) if rows else None


def identities_there(root: Path | str, format: str) -> dict[str, int]:
    """{name: number of its processed images} of the stored identities."""
    return {name: lines_of(blocks) for (_, name), blocks in _stored(root, format).items()}


def identities_to_keep(root: Path | str, format: str, names: Iterable[str], example: int) -> dict[str, int]:
    """``identities_there`` for some names, without identities that need further images but have lost some.

    Those are generated again as a whole. Image files of identities that need none (``example`` is reached) are not
    checked.
    """
    stored = {name: blocks for (_, name), blocks in _stored(root, format).items()}
    complete = STORES[format].complete
    return {
        name: lines_of(stored[name]) for name in names
        if name in stored and (lines_of(stored[name]) >= example or complete(root, stored[name]))
    }  # fmt: skip


def _stored(root: Path | str, format: str) -> dict[Key, tuple[IdentityLines, ...]]:
    with dataset_lock(root):
        return stored_identities(root, part_folders(root), STORES[format].in_place(root))


def merged_identities(root: Path | str) -> list[tuple[Key, IdentityLines]]:
    """[((number, name), IdentityLines)] of the merged manifest, in order."""
    return sorted(index_manifest(manifest_path(root)).items())


def dataset_size(root: Path | str) -> tuple[int, int]:
    """(number of images, number of identities with an image) in the merged manifest."""
    return counts(index_manifest(manifest_path(root)))


def manifest_lines(root: Path | str) -> Iterator[Line]:
    """Iterate over the lines of the merged manifest in file order."""
    return read_lines(manifest_path(root))


def read_records(root: Path | str, names: Collection[str] | None = None) -> Iterator[ImageRecord]:
    """Iterate over the records of the merged manifest in order of identity, of all identities or those in ``names``."""
    with closing(BlockReader()) as reader:
        for (_, name), block in merged_identities(root):
            if names is None or name in names:
                yield from map(ImageRecord.from_line, reader.lines(block))
