"""Parts of a dataset: each of several processes writes its own part, and the parts are merged at the end.

A part is a folder ``NAME.about/parts/<name>``. It holds the manifest lines of the process, the images that its store
has not published yet, and ``owner``, the lock of the process that writes it. Parts are made, taken over and merged
under the dataset's lock, ``NAME.about/lock``.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path

from models.errors import UserError
from utils.dataset.layout import MANIFEST, about_folder, manifest_path, parts_folder
from utils.dataset.manifest import IdentityLines, Key, Line, ManifestWriter, index_manifest, part_blocks
from utils.runtime.durable import sync_file_system
from utils.runtime.locks import Holder, LockFile, LockHeld, is_gone, locked, read_holder

LOCK = "lock"  # the dataset's lock, in NAME.about
OWNER = "owner"  # the lock of a part, in its folder

InPlace = Callable[..., bool]  # see ``in_place`` of the stores


@contextmanager
def dataset_lock(root: Path | str) -> Iterator[LockFile]:
    """Wait for the lock of a dataset and hold it. ``NAME.about`` must exist."""
    with locked(about_folder(root) / LOCK) as lock:
        yield lock


class Part:
    """A part that this process owns, to write or to merge it. The caller holds the dataset's lock while making it.

    ``in_place(key, lines, tail=True)``: whether an identity's images are stored where its lines say. Lines that are not
    in the index of the part, because they were not flushed when its process ended, are cut off from the first identity
    that is incomplete. Raises LockHeld when a running process owns the part.
    """

    def __init__(self, root: Path | str, name: str, in_place: InPlace):
        self.folder = parts_folder(root) / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = LockFile(self.folder / OWNER)
        self.lock.acquire()
        try:
            self.manifest = ManifestWriter(self.folder / MANIFEST, partial(in_place, tail=True))
            self.sync()
        except BaseException:
            self.lock.release()
            raise

    def append(self, key: Key, lines: list[Line]) -> None:
        """Append lines of one identity, all or none. Raises OSError, or UserError when the part was taken over."""
        self.lock.check()
        images = sum(line.get("passed") is not False for line in lines)
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        self.manifest.append(key, text, lines[0]["index"], len(lines), images)

    def withdraw(self) -> None:
        """Remove the lines that were appended last."""
        self.manifest.withdraw()

    def sync(self, count: int | None = None) -> None:
        """Flush all published identities to the disk, then enter the first ``count`` new ones into the index.

        To be called by one thread at a time; other threads may append meanwhile.
        """
        self.lock.check()
        self.manifest.commit(sync_file_system, count)

    def close(self) -> None:
        """Release the part, so that others can continue or merge it. Calling this again has no effect."""
        self.manifest.close()
        self.lock.release()

    def remove(self) -> None:
        """Delete the part after a merge, and the folder of parts with the last one."""
        self.manifest.close()
        for path in self.folder.iterdir():
            if path.name == OWNER:
                continue  # deleted last: NFS cannot delete an open file
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        self.lock.release()
        for folder in (self.folder, self.folder.parent):
            with suppress(OSError):
                folder.rmdir()


def part_folders(root: Path | str) -> list[Path]:
    """The folders of all parts, sorted."""
    return sorted(parts_folder(root).glob("*"))


def living_owners(root: Path | str) -> list[Holder]:
    """The processes that are writing parts of the dataset."""
    owners = [(folder / OWNER, read_holder(folder / OWNER)) for folder in part_folders(root)]
    return [holder for path, holder in owners if holder is not None and not is_gone(path, holder)]


def take_idle_parts(root: Path | str, in_place: InPlace) -> list[Part]:
    """Take over the parts of ended processes. No other process can take them until they are closed or removed."""
    parts = []
    for folder in part_folders(root):
        with suppress(LockHeld):
            parts.append(Part(root, folder.name, in_place))
    return parts


def stored_identities(root: Path | str, folders: list[Path], in_place: InPlace) -> dict[Key, tuple[IdentityLines, ...]]:
    """{(number, name): blocks of lines, in order of images} of the stored identities, in order.

    The merged manifest is read first, then the parts in ``folders``. A part may replace an identity, or add further
    images, which are numbered after the existing ones.
    """
    merged, identities = manifest_path(root), {}
    blocks = ((key, block, False) for key, block in index_manifest(merged).items()) if merged.exists() else ()
    manifests = [folder / MANIFEST for folder in folders if (folder / MANIFEST).exists()]
    for key, block, tail in chain(blocks, *map(part_blocks, manifests)):
        before = identities.get(key, ())
        follows = block.first in (0, lines_of(before)) and lines_of((block,)) > lines_of(before)
        if follows and in_place(key, block, tail):
            identities[key] = (*before, block) if block.first else (block,)
    return dict(sorted(identities.items()))


def lines_of(blocks: Sequence[IdentityLines]) -> int:
    """Number of images of an identity that were processed, whether they passed the gate or not."""
    return blocks[-1].first + blocks[-1].lines if blocks else 0


def images_of(blocks: Sequence[IdentityLines]) -> int:
    """Number of images of an identity."""
    return sum(block.images for block in blocks)


def part_is_taken(root: Path | str, held: LockHeld) -> UserError:
    """The error of a part that another process is writing."""
    return UserError(
        f"{root}: another process is writing the same slice ({held.holder}); let it end, or give another --start_end."
    )
