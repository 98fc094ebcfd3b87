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

from utils.dataset_layout import MANIFEST, about_folder, manifest_path
from utils.dataset_parts import IdentityLines, identities_in_place, idle_parts, remove_parts

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
        self.root = Path(root)
        self.lmdb = GrowingLmdb(part.folder / PART_FILE)

    def put(self, name, images):
        """Write ``images``, a list of encoded bytes or None, in one transaction."""
        self.lmdb.put([(name.encode(), msgpack.packb(images))])

    def stored(self, lines):
        """The encoded image, or None, of each manifest line of an identity in the merged file."""
        with reading(LmdbStore.path(self.root)) as transaction:
            return images_by_key(transaction, lines)

    @staticmethod
    def complete(root, lines) -> bool:
        """Whether every image that an identity's lines name is there: nobody deletes one from an LMDB by hand."""
        return True

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
    def finished(root, parts=None) -> dict[tuple[int, str], IdentityLines]:
        """{(number, name): IdentityLines} of the identities in the merged file or in a part."""
        merged, has_merged, names = manifest_path(root), LmdbStore.path(root).exists(), {}  # {part: names in its LMDB}

        def in_place(key, lines):
            if lines.manifest == merged:
                return has_merged
            folder = lines.manifest.parent
            if folder not in names:
                names[folder] = names_in(folder / PART_FILE)
            return key[1] in names[folder]

        return identities_in_place(root, parts, in_place)

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
            sources = {
                part: stack.enter_context(reading(part / PART_FILE)) for part in parts if (part / PART_FILE).exists()
            }
            if LmdbStore.path(root).exists():
                sources[about_folder(root)] = stack.enter_context(reading(LmdbStore.path(root)))
            label = 0
            for (_, name), where in finished.items():
                lines = where.read()
                images = stored_images(sources, where, name, lines, root)
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
        next_manifest.replace(manifest_path(root))
        remove_parts(parts)

    @staticmethod
    def recover(root):
        """Finish a merge whose LMDB has its final name already; drop what one left that was killed before."""
        next_file, next_manifest = next_paths(root)
        if next_file.exists():
            next_file.unlink()
            next_manifest.unlink(missing_ok=True)
        elif next_manifest.exists():
            next_manifest.replace(manifest_path(root))

    @staticmethod
    def images(root, lines):
        """The encoded images of those manifest lines that have one."""
        with reading(LmdbStore.path(root)) as transaction:
            return [image for image in images_by_key(transaction, lines) if image is not None]


def names_in(path):
    """The names of the identities in the LMDB of a part; none where there is no such file yet."""
    if not path.exists():
        return set()
    with reading(path) as transaction:
        return {bytes(key).decode() for key in transaction.cursor().iternext(values=False)}


def stored_images(sources, where, name, lines, root):
    """An identity's encoded images or Nones, from the merged file (by key) or from its part (by name)."""
    folder = where.manifest.parent
    if folder != about_folder(root):
        return msgpack.unpackb(sources[folder].get(name.encode()))
    return images_by_key(sources[folder], lines)


def images_by_key(transaction, lines):
    """The encoded image of each manifest line, None where it has none."""
    return [line["key"] and msgpack.unpackb(transaction.get(line["key"].encode()))[0] for line in lines]


def next_paths(root):
    """Where a merge writes the LMDB and the manifest before they take their names, in this order."""
    return about_folder(root) / "images.lmdb.next", about_folder(root) / (MANIFEST + ".next")
