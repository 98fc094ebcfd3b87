"""Bringing the parts of ended processes together: new identities are appended, and all is written anew on request.

Appending costs what the parts hold, not what the dataset holds. The merged dataset then is in order of arrival, and
in order of identity within what one merge brings. ``compact`` writes it in order of identity, as a single run does.

What is guaranteed:

- After a **kill** between any two steps all finished identities are there. Lines and images are added first, and count
  once the index names the lines: what it does not name is cut off by the next run, while its part is still there to be
  merged again, as parts are deleted last. A dataset that is written anew takes the place of the one before when it is
  whole.
- After a **power cut** the same holds for what a merge brought together. Of the parts, identities of the last
  SYNC_SECONDS of dataset_writer may be lost; those whose images are not whole are found and made again.
"""

from contextlib import ExitStack, closing

from utils.dataset.layout import MANIFEST, about_folder, manifest_path
from utils.dataset.manifest import ManifestWriter, index_path
from utils.dataset.parts import images_of, lines_of, stored_identities, take_idle_parts
from utils.runtime.durable import sync_folder


def recover(root, store) -> None:
    """End a merge that was killed, or take it back, and index the manifest of an earlier version. Under the lock."""
    images, manifest, target = store.next_images(root), next_manifest(root), manifest_path(root)
    if images is not None and manifest.exists() and not images.exists():
        index_path(target).unlink(missing_ok=True)
        manifest.replace(target)  # the images have their name already
    for leftover in filter(None, (images, manifest, index_path(manifest))):
        leftover.unlink(missing_ok=True)
    if target.exists():
        writer = ManifestWriter(target)
        writer.commit()
        writer.close()
        store.check_merged(root, *counts(writer.index))


def merge_parts(root, store, lock, compact=False) -> None:
    """Merge the parts of all ended processes. ``lock``: the dataset's, which the caller holds.

    All is written anew with ``compact``, and where identities got further images.
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


def add(manifest, images, identities, lock) -> None:
    """Append identities to a manifest and to the images that belong to it."""
    for key, blocks in identities.items():
        manifest.append(key, images.add(key, blocks), 0, lines_of(blocks), images_of(blocks))
    manifest.flush()
    lock.check()
    images.commit()
    manifest.commit()


def write_anew(root, store, folders, identities, lock) -> None:
    """Write a manifest and images in order of identity, which then take the place of those before."""
    target, unfinished = manifest_path(root), next_manifest(root)
    # The images are begun first: a manifest without them would count as one whose images have their name already.
    with closing(store.merged_images(root, folders, 0, 0, anew=True)) as images:
        with closing(ManifestWriter(unfinished)) as manifest:
            add(manifest, images, identities, lock)
        index_path(target).unlink(missing_ok=True)
        images.replace()
        unfinished.replace(target)
        index_path(unfinished).replace(index_path(target))
    sync_folder(about_folder(root))


def counts(index) -> tuple[int, int]:
    """How many images, and how many identities with an image."""
    return sum(block.images for block in index.values()), sum(block.images > 0 for block in index.values())


def next_manifest(root):
    """Where a manifest that is written anew lies before it takes its name."""
    return about_folder(root) / (MANIFEST + ".next")
