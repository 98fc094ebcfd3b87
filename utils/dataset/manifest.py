"""A manifest file and the index beside it, which gives the position of each identity's lines in the manifest.

``manifest.jsonl.index`` has one line per identity: ``[number, name, start, end, first, lines, images]``. Lines are only
appended to a manifest, one identity at a time, and the index follows. Lines that are not in the index yet are the
*tail*; they may be incomplete. Without an index, as in datasets of earlier versions, all lines are valid.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

from models.errors import UserError
from utils.runtime.durable import append_whole

INDEX_SUFFIX = ".index"

Key = tuple[int, str]  # an identity's number and name
Line = dict[str, Any]  # one line of a manifest, with its names as in image_record.py and in the store's ``location``


class IdentityLines(NamedTuple):
    """A block of lines of one identity, written together, for its images ``first`` to ``first + lines - 1``.

    ``manifest``: the file; ``start`` and ``end``: offsets of the first byte and of the byte after the last one;
    ``images``: the number of lines that have an image.
    """

    manifest: Path
    start: int
    end: int
    first: int
    lines: int
    images: int

    def read(self) -> list[Line]:
        """The lines of the block."""
        with closing(BlockReader()) as reader:
            return reader.lines(self)


def index_path(manifest: Path) -> Path:
    """The index of a manifest."""
    return manifest.with_name(manifest.name + INDEX_SUFFIX)


def read_index(manifest: Path) -> dict[Key, IdentityLines] | None:
    """The content of the index; the last entry of an identity that was written twice.

    None if there is no index, or if it does not fit the manifest because that was edited.
    """
    try:
        text = index_path(manifest).read_bytes()
        rows = json.loads(b"[" + b",".join(text[: text.rfind(b"\n") + 1].splitlines()) + b"]")
        index = {(row[0], row[1]): IdentityLines(manifest, *row[2:]) for row in rows}
        if index:
            last = max(index, key=lambda key: index[key].end)
            lines = index[last].read()
            if len(lines) != index[last].lines or any((line["identity"], line["name"]) != last for line in lines):
                return None
        return index
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def end_of(index: dict[Key, IdentityLines] | None) -> int:
    """The offset in bytes at which the tail begins."""
    return max((block.end for block in index.values()), default=0) if index else 0


def parse_lines(manifest: Path, start: int = 0) -> Iterator[tuple[Key, IdentityLines]]:
    """The blocks of lines from offset ``start`` on, without an incomplete last line. UserError at a damaged line."""
    key, block, end = None, None, start
    with open(manifest, "rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                record = json.loads(line)
                record_key, index = (record["identity"], record["name"]), record["index"]
            except (ValueError, KeyError, TypeError) as error:
                if block is not None:
                    yield key, block
                raise UserError(
                    f"{manifest}: damaged at byte {end}: restore it, or start again with --overwrite."
                ) from error
            begin, end = end, end + len(line)
            has_image = record.get("passed") is not False
            if block is not None and record_key == key and index == block.first + block.lines:
                block = block._replace(end=end, lines=block.lines + 1, images=block.images + has_image)
            else:
                if block is not None:
                    yield key, block
                key, block = record_key, IdentityLines(manifest, begin, end, index, 1, int(has_image))
    if block is not None:
        yield key, block


def index_manifest(manifest: Path) -> dict[Key, IdentityLines]:
    """{(number, name): IdentityLines} of a manifest without its tail, from the index if there is one."""
    index = read_index(manifest)
    return dict(parse_lines(manifest)) if index is None else index


def part_blocks(manifest: Path) -> Iterator[tuple[Key, IdentityLines, bool]]:
    """The blocks of a part's manifest up to the first damaged line, and whether each belongs to the tail."""
    index = read_index(manifest) or {}
    yield from ((key, block, False) for key, block in index.items())
    with suppress(UserError):
        yield from ((key, block, True) for key, block in parse_lines(manifest, end_of(index)))


class BlockReader:
    """Reads the lines of many identities. Each file is opened once, as opening one takes a network round trip."""

    def __init__(self):
        self.files = {}

    def text(self, block: IdentityLines) -> bytes:
        """The bytes of a block."""
        if block.manifest not in self.files:
            self.files[block.manifest] = open(block.manifest, "rb")  # noqa: SIM115, for close()
        self.files[block.manifest].seek(block.start)
        return self.files[block.manifest].read(block.end - block.start)

    def lines(self, block: IdentityLines) -> list[Line]:
        """The lines of a block."""
        return [json.loads(line) for line in self.text(block).splitlines()]

    def close(self) -> None:
        """Close all files."""
        for file in self.files.values():
            file.close()


def read_lines(manifest: Path) -> Iterator[Line]:
    """The lines of a manifest in file order, without its tail."""
    index = read_index(manifest)
    end = manifest.stat().st_size if index is None else end_of(index)
    with open(manifest, "rb") as file:
        while file.tell() < end and (line := file.readline()).endswith(b"\n"):
            yield json.loads(line)


class ManifestWriter:
    """Appends identities to a manifest and, once they are finished, to its index.

    ``index``: the content of the index, {key: IdentityLines}. ``keep``: whether a block of the tail is valid; the
    manifest is truncated at the first block that is not. By default no block is valid if there is an index, and all
    are if there is none. Raises UserError when the manifest is damaged.
    """

    def __init__(self, path: Path, keep: Callable[[Key, IdentityLines], bool] | None = None):
        self.path = path
        index = read_index(path)
        self.index, self.end, self.pending = index or {}, end_of(index), []
        if path.exists():
            self._settle(keep or (lambda key, block: index is None), strict=keep is None)
            os.truncate(path, self.end)
        if index is None:
            index_path(path).unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self.manifest = os.open(path, flags, 0o644)
        self.index_file = os.open(index_path(path), flags, 0o644)
        written = index_path(path).read_bytes()
        os.ftruncate(self.index_file, written.rfind(b"\n") + 1)

    def _settle(self, keep: Callable[[Key, IdentityLines], bool], strict: bool) -> None:
        """Take over the valid blocks of the tail."""
        if strict and self.index:
            return
        try:
            for key, block in parse_lines(self.path, self.end):
                if not keep(key, block):
                    break
                self.pending.append((key, block))
                self.end = block.end
        except UserError:
            if strict:
                raise

    def append(self, key: Key, text: bytes, first: int, lines: int, images: int) -> None:
        """Append an identity's lines: all of them, or nothing when an OSError is raised (disk full)."""
        append_whole(self.manifest, text)
        block = IdentityLines(self.path, self.end, self.end + len(text), first, lines, images)
        self.pending.append((key, block))
        self.end = block.end

    def withdraw(self) -> None:
        """Remove the lines that were appended last."""
        _, block = self.pending.pop()
        self.end = block.start
        os.ftruncate(self.manifest, self.end)

    def flush(self) -> None:
        """Flush the lines to the disk."""
        os.fsync(self.manifest)

    def commit(self, sync: Callable[[int], None] = os.fsync, count: int | None = None) -> None:
        """Enter the first ``count`` (default: all) of the ``pending`` blocks into the index.

        ``sync``: flushes the data to the disk first, given a file descriptor. Another thread may append meanwhile.
        """
        count = len(self.pending) if count is None else count
        if count:
            sync(self.manifest)
            rows = [json.dumps([*key, *block[1:]]) + "\n" for key, block in self.pending[:count]]
            append_whole(self.index_file, "".join(rows).encode())
            self.index |= dict(self.pending[:count])
            del self.pending[:count]
            os.fsync(self.index_file)

    def close(self) -> None:
        """Close both files; calling this again has no effect."""
        for descriptor in (self.manifest, self.index_file):
            if descriptor is not None:
                os.close(descriptor)
        self.manifest = self.index_file = None
