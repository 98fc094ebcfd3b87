"""The LMDB format of FR training; see utils/data/lmdb_files.py.

An LMDB has a single writer, so each process fills an LMDB in its own part (key: identity, value: its images; one
transaction per identity), and merging appends these images to the numbered LMDB of the dataset. That LMDB should not be
read while a run adds to it: a read transaction that began before two merges may find its pages overwritten.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb
import msgpack

from models.errors import UserError
from utils.data.lmdb_files import (
    RECORDS_PER_TRANSACTION,
    GrowingLmdb,
    Label,
    check_whole,
    closing_records,
    pack_fr_record,
)
from utils.data.mixup import MIXTURE, SETTING
from utils.dataset.layout import MANIFEST, about_folder, manifest_path, read_settings, settings_path
from utils.dataset.manifest import BlockReader, IdentityLines, Key

if TYPE_CHECKING:
    from utils.dataset.parts import Part

PART_FILE = "images.lmdb"

Record = tuple[bytes, bytes]  # key and value in the LMDB of a part


@contextmanager
def reading(path: Path) -> Iterator[lmdb.Transaction]:
    """A read transaction on an LMDB file or folder. Raises UserError when it is truncated."""
    env = lmdb.open(str(path), subdir=Path(path).is_dir(), readonly=True, lock=False, readahead=False)
    check_whole(env, path)
    with closing(env), env.begin() as transaction:
        yield transaction


class LmdbStore:
    """Writes identities into the LMDB of the part that this process owns."""

    def __init__(self, root: Path | str, part: Part):
        self.lmdb = GrowingLmdb(part.folder / PART_FILE)

    def write(self, name: str, first: int, images: Sequence[bytes | None]) -> Record:
        """The record of an identity's images, encoded bytes or None each, numbered from ``first``, for ``publish``."""
        return part_key(name, first), msgpack.packb(images)

    def publish(self, written: Record) -> None:
        """Write an identity's images in one transaction, which is on the disk when this returns."""
        self.lmdb.put([written])

    def close(self) -> None:
        """Close the LMDB of the part."""
        self.lmdb.close()

    @staticmethod
    def location(name: str, index: int, written: bool) -> dict[str, str | None]:
        """The entry of a manifest line that says where its image is; merging fills in the key."""
        return {"key": None}

    @staticmethod
    def path(root: Path | str) -> Path:
        """The dataset's LMDB file, named like its folder."""
        return Path(root) / f"{Path(root).resolve().name}.lmdb"

    @staticmethod
    def in_place(root: Path | str) -> Callable[..., bool]:
        """A function of an identity's key and lines that tells whether its images are in the merged LMDB or a part."""
        merged, has_merged, keys = manifest_path(root), LmdbStore.path(root).exists(), {}  # {part: keys in its LMDB}

        def check(key: Key, block: IdentityLines, tail: bool = False) -> bool:
            if block.manifest == merged:
                return has_merged
            if block.manifest not in keys:
                keys[block.manifest] = keys_in(block.manifest.with_name(PART_FILE))
            return part_key(key[1], block.first) in keys[block.manifest]

        return check

    @staticmethod
    def complete(root: Path | str, blocks: Sequence[IdentityLines]) -> bool:
        """True: single images are not deleted from an LMDB by hand."""
        return True

    @staticmethod
    def images(root: Path | str, lines: Sequence[dict[str, Any]]) -> list[bytes]:
        """The encoded images of the manifest lines that have one."""
        with reading(LmdbStore.path(root)) as transaction:
            return [image for image in images_by_key(transaction, lines) if image is not None]

    @staticmethod
    def check_merged(root: Path | str, images: int, people: int) -> None:
        """Undo what a killed merge added to the LMDB but did not yet enter into the manifest's index.

        ``images`` and ``people``: numbers of images and identities in the manifest. Raises UserError when the LMDB has
        fewer images.
        """
        path = LmdbStore.path(root)
        if not path.exists():
            if images:
                raise UserError(f"{path} is missing: restore it, or start again with --overwrite.")
            return
        with reading(path) as transaction:
            count = msgpack.unpackb(transaction.get(b"__len__") or b"\0")
        if count < images:
            raise UserError(
                f"{path} has {count} images and {manifest_path(root)} names {images}: one of them was replaced or is "
                "damaged. Restore it, or start again with --overwrite."
            )
        if count > images:
            with closing(GrowingLmdb(path)) as target:
                target.put(closing_records(images, Numbering(root).classes(people)))

    @staticmethod
    def next_images(root: Path | str) -> Path:
        """The temporary file of an LMDB that is being rewritten."""
        return about_folder(root) / "images.lmdb.next"

    @staticmethod
    def merged_images(root: Path | str, folders: list[Path], images: int, people: int, anew: bool) -> MergedLmdb:
        """The target of a merge; see MergedLmdb."""
        return MergedLmdb(root, folders, images, people, anew)


class Numbering:
    """How the identities of a dataset are numbered in its LMDB.

    Identities with images are numbered in the order in which they are merged. With identity mixup an image has two
    labels, and the second identity may be merged much later, or have no images of its own; then every identity of the
    file has its row as its label.
    """

    def __init__(self, root: Path | str):
        settings = read_settings(settings_path(root))["settings"]
        self.mixed, self.first = settings.get(SETTING), settings.get("start_class_id", 0)

    def classes(self, people: int) -> int:
        """The number of classes of an LMDB with images of so many ``people``."""
        return self.mixed["identities"] if self.mixed else people

    def label(self, line: dict[str, Any], count: int) -> Label:
        """The label of the image of a manifest line. ``count``: number of identities that are merged already."""
        if not self.mixed:
            return count
        other = line[MIXTURE]
        return line["identity"] - self.first, other["identity"] - self.first, other["phi"]


class MergedLmdb:
    """The target of a merge: adds the images of parts to the numbered LMDB.

    ``folders``: the parts; ``images`` and ``people``: numbers of images and identities that the LMDB already has.
    ``anew``: whether to write all images to a new file, which ``replace`` then renames to the dataset's LMDB.
    """

    def __init__(self, root: Path | str, folders: list[Path], images: int, people: int, anew: bool):
        self.target, self.unfinished = LmdbStore.path(root), LmdbStore.next_images(root)
        self.merged_manifest, self.count, self.identities, self.pending = manifest_path(root), images, people, []
        self.numbering, self.stack = Numbering(root), ExitStack()
        self.reader = self.stack.enter_context(closing(BlockReader()))
        paths = {folder / MANIFEST: folder / PART_FILE for folder in folders}
        if anew:
            paths[self.merged_manifest] = self.target
        self.sources = {
            manifest: self.stack.enter_context(reading(path)) for manifest, path in paths.items() if path.exists()
        }
        self.lmdb = GrowingLmdb(self.unfinished if anew else self.target)

    def add(self, key: Key, blocks: Sequence[IdentityLines]) -> bytes:
        """Add an identity's images, and return its lines in the merged manifest, which now have their keys."""
        texts, first = [], self.count
        for block in blocks:
            lines = self.reader.lines(block)
            for line, image in zip(lines, self._images(key[1], block, lines), strict=True):
                line["key"] = None if image is None else str(self.count)
                texts.append(json.dumps(line) + "\n")
                if image is not None:
                    label = self.numbering.label(line, self.identities)
                    self.pending.append((line["key"].encode(), pack_fr_record(image, label)))
                    self.count += 1
        self.identities += self.count > first  # only an identity with an image is a class
        if len(self.pending) >= RECORDS_PER_TRANSACTION:
            self.lmdb.put(self.pending)
            self.pending = []
        return "".join(texts).encode()

    def _images(self, name: str, block: IdentityLines, lines: list[dict[str, Any]]) -> list[bytes | None]:
        source = self.sources.get(block.manifest)
        if block.manifest == self.merged_manifest:
            return images_by_key(source, lines)
        return msgpack.unpackb(source.get(part_key(name, block.first)))

    def commit(self) -> None:
        """Write the remaining images and the new counts in one transaction, which makes the new images visible."""
        self.lmdb.put(self.pending + closing_records(self.count, self.numbering.classes(self.identities)))

    def replace(self) -> None:
        """Replace the dataset's LMDB by the new file."""
        self.close()
        self.unfinished.replace(self.target)

    def close(self) -> None:
        """Close all files; calling this again has no effect."""
        self.stack.close()
        self.lmdb.close()


def part_key(name: str, first: int) -> bytes:
    """The key, in the LMDB of a part, of an identity's images numbered from ``first``."""
    return (f"{name}/{first}" if first else name).encode()


def keys_in(path: Path) -> set[bytes]:
    """The keys in the LMDB of a part; empty if the file does not exist yet."""
    if not path.exists():
        return set()
    with reading(path) as transaction:
        return set(map(bytes, transaction.cursor().iternext(values=False)))


def images_by_key(transaction: lmdb.Transaction, lines: Sequence[dict[str, Any]]) -> list[bytes | None]:
    """The encoded image of each manifest line, None for a line without one."""
    return [line["key"] and msgpack.unpackb(transaction.get(line["key"].encode()))[0] for line in lines]
