"""Merging the parts of ended processes: new identities are appended; the whole dataset is rewritten on request.

The cost of appending depends on the size of the parts, not of the dataset. The merged dataset is in order of merges,
and in order of identity within each merge. ``compact`` rewrites it in order of identity, as a single run does.

Guarantees:

- After a **kill** between any two steps all finished identities are kept. Lines and images are added first, and become
  valid when the lines are entered into the index. The next run cuts off lines that are not in the index; their part
  still exists and is merged again, because parts are deleted last. A rewritten dataset replaces the previous one when
  it is complete.
- After a **power cut** the same holds for merged identities. Of the parts, the identities of the last SYNC_SECONDS of
  writer.py may be lost; identities with incomplete images are detected and generated again.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from utils.dataset.layout import MANIFEST, about_folder, manifest_path
from utils.dataset.manifest import IdentityLines, Key, ManifestWriter, index_path
from utils.dataset.parts import images_of, lines_of, stored_identities, take_idle_parts
from utils.runtime.durable import sync_folder

if TYPE_CHECKING:
    from utils.dataset.folder_store import FolderStore, MergedFolders
    from utils.dataset.lmdb_store import LmdbStore, MergedLmdb
    from utils.runtime.locks import LockFile

    Store = type[FolderStore | LmdbStore]

Identities = dict[Key, tuple[IdentityLines, ...]]


def recover(root: Path | str, store: Store) -> None:
    """Finish or undo a merge that was killed, and index the manifest of an earlier version.

    The caller holds the dataset's lock. Raises UserError when the dataset is damaged.
    """
    images, manifest, target = store.next_images(root), next_manifest(root), manifest_path(root)
    if images is not None and manifest.exists() and not images.exists():
        index_path(target).unlink(missing_ok=True)
        manifest.replace(target)  # the images have their final name already
    for leftover in filter(None, (images, manifest, index_path(manifest))):
        leftover.unlink(missing_ok=True)
    if target.exists():
        writer = ManifestWriter(target)
        writer.commit()
        writer.close()
        store.check_merged(root, *counts(writer.index))


def merge_parts(root: Path | str, store: Store, lock: LockFile, compact: bool = False) -> None:
    """Merge the parts of all ended processes. ``lock``: the dataset's lock, which the caller holds.

    The whole dataset is rewritten if ``compact``, or if identities of it have further images.
    """
    recover(root, store)
    with ExitStack() as stack:
        parts = [stack.enter_context(closing(part)) for part in take_idle_parts(root, store.in_place(root))]
        folders = [part.folder for part in parts]
        manifest = stack.enter_context(closing(ManifestWriter(manifest_path(root))))
        identities = stored_identities(root, folders, store.in_place(root))
        merged = manifest.index
        added = {
            key: blocks for key, blocks in identities.items()
            if key not in merged or lines_of(blocks) > merged[key].lines
        }  # fmt: skip
        if compact or merged.keys() & added.keys():
            write_anew(root, store, folders, identities, lock)
        elif added:
            with closing(store.merged_images(root, folders, *counts(merged), anew=False)) as images:
                add(manifest, images, added, lock)
        for part in parts:
            part.remove()


def add(manifest: ManifestWriter, images: MergedFolders | MergedLmdb, identities: Identities, lock: LockFile) -> None:
    """Append identities to a manifest and to its images."""
    for key, blocks in identities.items():
        manifest.append(key, images.add(key, blocks), 0, lines_of(blocks), images_of(blocks))
    manifest.flush()
    lock.check()
    images.commit()
    manifest.commit()


def write_anew(root: Path | str, store: Store, folders: list[Path], identities: Identities, lock: LockFile) -> None:
    """Write a new manifest and new images in order of identity, and replace the previous ones by them."""
    target, unfinished = manifest_path(root), next_manifest(root)
    # Images come first: ``recover`` takes a new manifest without new images for one whose images are already renamed.
    with closing(store.merged_images(root, folders, 0, 0, anew=True)) as images:
        with closing(ManifestWriter(unfinished)) as manifest:
            add(manifest, images, identities, lock)
        index_path(target).unlink(missing_ok=True)
        images.replace()
        unfinished.replace(target)
        index_path(unfinished).replace(index_path(target))
    sync_folder(about_folder(root))


def counts(index: dict[Key, IdentityLines]) -> tuple[int, int]:
    """(number of images, number of identities with at least one image)."""
    return sum(block.images for block in index.values()), sum(block.images > 0 for block in index.values())


def next_manifest(root: Path | str) -> Path:
    """The temporary file of a manifest that is being rewritten."""
    return about_folder(root) / (MANIFEST + ".next")
