"""What several processes may write into one dataset at the same time: each its own part, merged at the end.

A part is a folder ``NAME.about/parts/<name>``. It holds the process's manifest lines, whatever its store has not put in
place yet, and ``owner``, the lock of the process that writes it. Parts are made, taken over and merged under the
dataset's lock, ``NAME.about/lock``.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path

from models.errors import UserError
from utils.dataset.layout import MANIFEST, about_folder, manifest_path, parts_folder
from utils.dataset.manifest import IdentityLines, Key, ManifestWriter, index_manifest, part_blocks
from utils.runtime.durable import sync_file_system
from utils.runtime.locks import Holder, LockFile, LockHeld, is_gone, locked, read_holder

LOCK = "lock"  # of the dataset, in NAME.about
OWNER = "owner"  # the lock of a part, in its folder


@contextmanager
def dataset_lock(root: Path | str) -> Iterator[LockFile]:
    """Hold the lock of a dataset, after waiting for it. ``NAME.about`` must be there."""
    with locked(about_folder(root) / LOCK) as lock:
        yield lock


class Part:
    """A part that this process owns, as the one who writes it or who merges it. Made under the dataset's lock.

    ``in_place(key, lines, tail=True)``: whether an identity's images are where its lines say. What the index of the
    part does not name, because it was not on the disk yet when its process ended, is cut off where it is not whole.
    Raises LockHeld when a living process owns the part.
    """

    def __init__(self, root, name, in_place):
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

    def append(self, key: Key, lines: list[dict]) -> None:
        """Add lines of one identity, all or none of them. Raises UserError when the part was taken over, OSError."""
        self.lock.check()
        images = sum(line.get("passed") is not False for line in lines)
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        self.manifest.append(key, text, lines[0]["index"], len(lines), images)

    def withdraw(self) -> None:
        """Take back the lines that were appended last."""
        self.manifest.withdraw()

    def sync(self, count: int | None = None) -> None:
        """Bring all that is in place to the disk, then name the first ``count`` new identities in the index.

        For one thread at a time, while another one may append.
        """
        self.lock.check()
        self.manifest.commit(sync_file_system, count)

    def close(self) -> None:
        """Let the part go, for others to continue or to merge. To be called again does no harm."""
        self.manifest.close()
        self.lock.release()

    def remove(self) -> None:
        """Delete the part, which was merged, and the folder of parts with the last one."""
        self.manifest.close()
        for path in self.folder.iterdir():
            if path.name == OWNER:
                continue  # last: on NFS a file that is open cannot go
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        self.lock.release()
        for folder in (self.folder, self.folder.parent):
            with suppress(OSError):
                folder.rmdir()


def part_folders(root: Path | str) -> list[Path]:
    return sorted(parts_folder(root).glob("*"))


def living_owners(root: Path | str) -> list[Holder]:
    """Who is writing the dataset's parts now."""
    owners = [(folder / OWNER, read_holder(folder / OWNER)) for folder in part_folders(root)]
    return [holder for path, holder in owners if holder is not None and not is_gone(path, holder)]


def take_idle_parts(root: Path | str, in_place) -> list[Part]:
    """The parts whose processes have ended; nobody else can take them until they are closed or removed."""
    parts = []
    for folder in part_folders(root):
        with suppress(LockHeld):
            parts.append(Part(root, folder.name, in_place))
    return parts


def stored_identities(root: Path | str, folders: list[Path], in_place) -> dict[Key, tuple[IdentityLines, ...]]:
    """{(number, name): blocks of lines, first images first} of the identities in place, in order.

    The merged manifest comes first, then ``folders`` of parts. A part may have an identity anew, or further images of
    one, which follow those that it has already.
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


def lines_of(blocks) -> int:
    """How many images of an identity were dealt with."""
    return blocks[-1].first + blocks[-1].lines if blocks else 0


def images_of(blocks) -> int:
    return sum(block.images for block in blocks)


def part_is_taken(root, held: LockHeld) -> UserError:
    return UserError(
        f"{root}: another process is writing the same slice ({held.holder}); let it end, or give another --start_end."
    )
