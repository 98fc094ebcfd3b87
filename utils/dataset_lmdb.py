"""The LMDB format of FR training: key ``b"0"``.. -> msgpack (image bytes, label).

Beside them ``__keys__`` (a list of keys), ``__len__`` and ``__classnum__``, msgpacked too.

LMDB has one writer, so every process fills an LMDB in its own part (key: identity, value: its images;
one transaction an identity), and merging writes the numbered one.
"""

import json
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import lmdb
import msgpack

from utils.dataset_parts import MANIFEST, idle_parts, recorded_identities, remove_parts

PART_FILE = "images.lmdb"
FIRST_MAP_SIZE = 1 << 26
RECORDS_PER_TRANSACTION = 2000


class GrowingLmdb:
    """An LMDB in one file whose map grows when it is full."""

    def __init__(self, path):
        size = max(FIRST_MAP_SIZE, 2 * Path(path).stat().st_size if Path(path).exists() else 0)
        self.env = lmdb.open(str(path), subdir=False, map_size=size, lock=False)

    def put(self, records):
        """Write (key, value) pairs of bytes in one transaction."""
        while True:
            try:
                with self.env.begin(write=True) as transaction:
                    for key, value in records:
                        transaction.put(key, value)
                return
            except lmdb.MapFullError:
                self.env.set_mapsize(2 * self.env.info()["map_size"])

    def close(self):
        self.env.close()


def write_fr_lmdb(path, records, people):
    """Write (label, encoded image) pairs as an FR-training LMDB of ``people`` people; how many images."""
    number, pending = 0, []
    with closing(GrowingLmdb(path)) as target:
        for label, image in records:
            pending.append((str(number).encode(), msgpack.packb((image, label))))
            number += 1
            if len(pending) >= RECORDS_PER_TRANSACTION:
                target.put(pending)
                pending = []
        target.put(pending + closing_records(number, people))
    return number


def closing_records(count, people):
    """What stands beside the numbered records."""
    keys = [str(i).encode() for i in range(count)]
    return [
        (b"__keys__", msgpack.packb(keys)),
        (b"__len__", msgpack.packb(count)),
        (b"__classnum__", msgpack.packb(people)),
    ]


@contextmanager
def reading(path):
    """A read transaction on an LMDB file or folder."""
    env = lmdb.open(str(path), subdir=Path(path).is_dir(), readonly=True, lock=False, readahead=False)
    with closing(env), env.begin() as transaction:
        yield transaction


class LmdbStore:
    """Writes identities into this part's LMDB."""

    def __init__(self, root, part):
        self.lmdb = GrowingLmdb(part.folder / PART_FILE)

    def put(self, name, images):
        """Write ``images``, a list of encoded bytes or None, in one transaction."""
        self.lmdb.put([(name.encode(), msgpack.packb(images))])

    def close(self):
        self.lmdb.close()

    @staticmethod
    def place(name, index, written):
        """What a manifest line says of where its image is; merging gives it its key."""
        return {"key": None}

    @staticmethod
    def path(root):
        """The dataset's LMDB file, named like its folder."""
        return Path(root) / f"{Path(root).resolve().name}.lmdb"

    @staticmethod
    def finished(root, parts=None):
        """{(number, name): Record} of the identities in the merged file or in a part."""
        records, keys = recorded_identities(root, parts), {Path(root): None}
        for folder in {record.manifest.parent for record in records.values()} - set(keys):
            keys[folder] = set()
            if (folder / PART_FILE).exists():
                with reading(folder / PART_FILE) as transaction:
                    keys[folder] = {bytes(key).decode() for key in transaction.cursor().iternext(values=False)}

        def in_place(name, folder):
            return keys[folder] is None or name in keys[folder]

        return {key: record for key, record in records.items() if in_place(key[1], record.manifest.parent)}

    @staticmethod
    def merge(root):
        """Write the numbered LMDB anew from the one before and the parts of all ended processes."""
        root, parts = Path(root), idle_parts(root)
        finished = LmdbStore.finished(root, parts)
        next_file, next_manifest = next_paths(root)
        next_file.unlink(missing_ok=True)
        number, pending = 0, []
        with ExitStack() as stack, open(next_manifest, "w") as manifest:
            merged = stack.enter_context(closing(GrowingLmdb(next_file)))
            sources = (
                {root: stack.enter_context(reading(LmdbStore.path(root)))} if LmdbStore.path(root).exists() else {}
            )
            sources |= {
                part: stack.enter_context(reading(part / PART_FILE)) for part in parts if (part / PART_FILE).exists()
            }
            label = 0
            for (_, name), record in finished.items():
                lines = record.lines()
                images = stored_images(sources, record, name, lines, root)
                for line, image in zip(lines, images, strict=True):
                    line["key"] = None if image is None else str(number)
                    manifest.write(json.dumps(line) + "\n")
                    if image is not None:
                        pending.append((line["key"].encode(), msgpack.packb((image, label))))
                        number += 1
                label += any(image is not None for image in images)  # a class has an image
                if len(pending) >= RECORDS_PER_TRANSACTION:
                    merged.put(pending)
                    pending = []
            merged.put(pending + closing_records(number, label))
        next_file.replace(LmdbStore.path(root))
        next_manifest.replace(root / MANIFEST)
        remove_parts(parts)

    @staticmethod
    def recover(root):
        """Finish a merge whose LMDB has its final name already; drop what one left that was killed before."""
        next_file, next_manifest = next_paths(root)
        if next_file.exists():
            next_file.unlink()
            next_manifest.unlink(missing_ok=True)
        elif next_manifest.exists():
            next_manifest.replace(Path(root) / MANIFEST)

    @staticmethod
    def images(root, lines):
        """The encoded images of those manifest lines that have one."""
        with reading(LmdbStore.path(root)) as transaction:
            return [image for image in images_by_key(transaction, lines) if image is not None]


def stored_images(sources, record, name, lines, root):
    """An identity's encoded images or Nones, from the merged file (by key) or from its part (by name)."""
    folder = record.manifest.parent
    if folder != root:
        return msgpack.unpackb(sources[folder].get(name.encode()))
    return images_by_key(sources[root], lines)


def images_by_key(transaction, lines):
    """The encoded image of each manifest line, None where it has none."""
    return [line["key"] and msgpack.unpackb(transaction.get(line["key"].encode()))[0] for line in lines]


def next_paths(root):
    """Where a merge writes the LMDB and the manifest before they take their names, in this order."""
    return LmdbStore.path(root).with_suffix(".next"), Path(root) / (MANIFEST + ".next")
