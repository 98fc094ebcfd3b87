"""The LMDB format of FR training: key ``b"0"``.. -> msgpack (image bytes, label).

Beside them ``__keys__`` (a list of keys), ``__len__`` and ``__classnum__``, msgpacked too.

LMDB has one writer, so every process fills an LMDB in its own part (key: identity, value: its images;
one transaction an identity), and merging appends them to the numbered one. Nobody should read an LMDB that a run is
adding to: a transaction that was begun before two merges may find its pages used again.
"""

import json
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import lmdb
import msgpack

from models.errors import UserError
from utils.data.lmdb_files import RECORDS_PER_TRANSACTION, GrowingLmdb, check_whole, closing_records
from utils.dataset.layout import MANIFEST, about_folder, manifest_path
from utils.dataset.manifest import BlockReader, IdentityLines, Key

PART_FILE = "images.lmdb"


@contextmanager
def reading(path):
    """A read transaction on an LMDB file or folder."""
    env = lmdb.open(str(path), subdir=Path(path).is_dir(), readonly=True, lock=False, readahead=False)
    check_whole(env, path)
    with closing(env), env.begin() as transaction:
        yield transaction


class LmdbStore:
    """Writes identities into this part's LMDB."""

    def __init__(self, root, part):
        self.lmdb = GrowingLmdb(part.folder / PART_FILE)

    def write(self, name, first, images):
        """What ``publish`` puts in place: the images from number ``first`` on, encoded bytes or None each."""
        return part_key(name, first), msgpack.packb(images)

    def publish(self, written):
        """Put an identity's images in place in one transaction, which is on the disk when it ends."""
        self.lmdb.put([written])

    def close(self):
        self.lmdb.close()

    @staticmethod
    def location(name, index, written):
        """What a manifest line says of where its image is; merging gives it its key."""
        return {"key": None}

    @staticmethod
    def path(root):
        """The dataset's LMDB file, named like its folder."""
        return Path(root) / f"{Path(root).resolve().name}.lmdb"

    @staticmethod
    def in_place(root):
        """A function of an identity's key and lines: whether its images are in the merged file, or in its part."""
        merged, has_merged, keys = manifest_path(root), LmdbStore.path(root).exists(), {}  # {part: keys in its LMDB}

        def check(key: Key, block: IdentityLines, tail=False):
            if block.manifest == merged:
                return has_merged
            if block.manifest not in keys:
                keys[block.manifest] = keys_in(block.manifest.with_name(PART_FILE))
            return part_key(key[1], block.first) in keys[block.manifest]

        return check

    @staticmethod
    def complete(root, blocks) -> bool:
        """Whether every image that an identity's lines name is there: nobody deletes one from an LMDB by hand."""
        return True

    @staticmethod
    def images(root, lines):
        """The encoded images of those manifest lines that have one."""
        with reading(LmdbStore.path(root)) as transaction:
            return [image for image in images_by_key(transaction, lines) if image is not None]

    @staticmethod
    def check_merged(root, images, people):
        """Take back what a merge added to the LMDB that was killed before its lines counted.

        ``images`` and ``people``: how many the manifest has. UserError when the LMDB has fewer.
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
                target.put(closing_records(images, people))

    @staticmethod
    def next_images(root):
        """Where an LMDB that is written anew lies before it takes its name."""
        return about_folder(root) / "images.lmdb.next"

    @staticmethod
    def merged_images(root, folders, images, people, anew):
        return MergedLmdb(root, folders, images, people, anew)


class MergedLmdb:
    """Adds images of parts to the numbered LMDB, after the ``images`` of ``people`` that it has.

    ``anew``: write another file beside it, which gets all images and takes its place with ``replace``.
    """

    def __init__(self, root, folders, images, people, anew):
        self.target, self.unfinished = LmdbStore.path(root), LmdbStore.next_images(root)
        self.merged_manifest, self.count, self.people, self.pending = manifest_path(root), images, people, []
        self.stack = ExitStack()
        self.reader = self.stack.enter_context(closing(BlockReader()))
        paths = {folder / MANIFEST: folder / PART_FILE for folder in folders}
        if anew:
            paths[self.merged_manifest] = self.target
        self.sources = {
            manifest: self.stack.enter_context(reading(path)) for manifest, path in paths.items() if path.exists()
        }
        self.lmdb = GrowingLmdb(self.unfinished if anew else self.target)

    def add(self, key, blocks) -> bytes:
        """Put an identity's images into the LMDB; its lines in the merged manifest, which name their keys."""
        texts, first = [], self.count
        for block in blocks:
            lines = self.reader.lines(block)
            for line, image in zip(lines, self._images(key[1], block, lines), strict=True):
                line["key"] = None if image is None else str(self.count)
                texts.append(json.dumps(line) + "\n")
                if image is not None:
                    self.pending.append((line["key"].encode(), msgpack.packb((image, self.people))))
                    self.count += 1
        self.people += self.count > first  # a class has an image
        if len(self.pending) >= RECORDS_PER_TRANSACTION:
            self.lmdb.put(self.pending)
            self.pending = []
        return "".join(texts).encode()

    def _images(self, name, block, lines):
        source = self.sources.get(block.manifest)
        if block.manifest == self.merged_manifest:
            return images_by_key(source, lines)
        return msgpack.unpackb(source.get(part_key(name, block.first)))

    def commit(self):
        """Count the new images, in one transaction: before it nobody sees them."""
        self.lmdb.put(self.pending + closing_records(self.count, self.people))

    def replace(self):
        """Let the file that was written anew take the place of the one before."""
        self.close()
        self.unfinished.replace(self.target)

    def close(self):
        self.stack.close()
        self.lmdb.close()


def part_key(name, first):
    """The key of an identity's images from number ``first`` on in the LMDB of a part."""
    return (f"{name}/{first}" if first else name).encode()


def keys_in(path):
    """The keys in the LMDB of a part; none where there is no such file yet."""
    if not path.exists():
        return set()
    with reading(path) as transaction:
        return set(map(bytes, transaction.cursor().iternext(values=False)))


def images_by_key(transaction, lines):
    """The encoded image of each manifest line, None where it has none."""
    return [line["key"] and msgpack.unpackb(transaction.get(line["key"].encode()))[0] for line in lines]
