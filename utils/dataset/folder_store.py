"""The folder format: ``<dataset>/<identity>/<index>.jpg``.

An identity is stored once its folder has its final name and holds the images named in its manifest lines.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from utils.dataset.manifest import BlockReader, IdentityLines, Key

if TYPE_CHECKING:
    from utils.dataset.parts import Part

# Folders in a part, followed by the token of its owner, so that a process that has lost the part cannot interfere.
UNFINISHED = "unfinished-"  # identities that are being written
REPLACED = "replaced-"  # the previous folder of an identity that is generated again, until the new one has its place
JPEG_END = b"\xff\xd9"


class WrittenFolder(NamedTuple):
    """An identity's images from number ``first`` on, in an unfinished folder; the names of their ``files``."""

    name: str
    first: int
    files: list[str]


class FolderStore:
    """Writes identities as folders of JPEG files. ``root``: the dataset; ``part``: the part that this process owns."""

    def __init__(self, root: Path | str, part: Part):
        self.root, token = Path(root), part.lock.holder.token
        self.unfinished, self.replaced = part.folder / (UNFINISHED + token), part.folder / (REPLACED + token)
        for leftover in (*part.folder.glob(UNFINISHED + "*"), *part.folder.glob(REPLACED + "*")):
            shutil.rmtree(leftover, ignore_errors=True)

    def write(self, name: str, first: int, images: Sequence[bytes | None]) -> WrittenFolder:
        """Write images of an identity, encoded bytes or None each, numbered from ``first``, into an unfinished folder.

        Returns the argument of ``publish``. Several threads may write different identities at the same time.
        """
        files = {file_name(index): data for index, data in enumerate(images, first) if data is not None}
        if files:
            (self.unfinished / name).mkdir(parents=True)
        for file, data in files.items():
            (self.unfinished / name / file).write_bytes(data)
        return WrittenFolder(name, first, list(files))

    def publish(self, written: WrittenFolder) -> None:
        """Move written images to the dataset: a new identity in one step, further images one after the other.

        An identity without images gets no folder, because readers would take that for an empty class.
        """
        name, first, files = written
        unfinished, final, aside = self.unfinished / name, self.root / name, self.replaced / name
        if first and final.exists():
            for file in files:
                (unfinished / file).rename(final / file)
            return
        if final.exists():  # generated again, or left by a killed run and named in no manifest
            aside.parent.mkdir(exist_ok=True)
            final.rename(aside)
        if files:
            unfinished.rename(final)
        shutil.rmtree(aside, ignore_errors=True)

    def close(self) -> None:
        """Delete the unfinished folders."""
        for folder in (self.unfinished, self.replaced):
            shutil.rmtree(folder, ignore_errors=True)

    @staticmethod
    def location(name: str, index: int, written: bool) -> dict[str, str | None]:
        """The entry of a manifest line that says where its image is; None for an image that was not ``written``."""
        return {"file": f"{name}/{file_name(index)}" if written else None}

    @staticmethod
    def in_place(root: Path | str) -> Callable[..., bool]:
        """A function of an identity's key and lines that tells whether its images are stored.

        The folders are listed once, when this is called. With ``tail=True`` the lines are not in the index yet, and
        each image file is checked: lines are written before their images appear, and a power cut may have left files
        without their content.
        """
        root = Path(root)
        folders = {entry.name for entry in os.scandir(root) if entry.is_dir()}

        def check(key: Key, block: IdentityLines, tail: bool = False) -> bool:
            if not block.images:
                return True
            if not tail or key[1] not in folders:
                return key[1] in folders
            return all(is_whole(root / line["file"]) for line in block.read() if line["file"])

        return check

    @staticmethod
    def complete(root: Path | str, blocks: Sequence[IdentityLines]) -> bool:
        """Whether every image named in an identity's lines exists; the user may have deleted some."""
        files = [line["file"] for block in blocks for line in block.read()]
        return all((Path(root) / file).is_file() for file in files if file)

    @staticmethod
    def images(root: Path | str, lines: Sequence[dict[str, Any]]) -> list[bytes]:
        """The encoded images of the manifest lines that have one, without images that the user has deleted."""
        paths = [Path(root) / line["file"] for line in lines if line["file"]]
        return [path.read_bytes() for path in paths if path.is_file()]

    @staticmethod
    def check_merged(root: Path | str, images: int, people: int) -> None:
        """Merging does not move images, so there is nothing to check."""

    @staticmethod
    def next_images(root: Path | str) -> None:
        """None: images are never rewritten."""

    @staticmethod
    def merged_images(root: Path | str, folders: list[Path], images: int, people: int, anew: bool) -> MergedFolders:
        """The target of a merge; see MergedFolders."""
        return MergedFolders()


class MergedFolders:
    """The target of a merge. Images are not moved, so the manifest lines stay the same."""

    def __init__(self):
        self.reader = BlockReader()

    def add(self, key: Key, blocks: Sequence[IdentityLines]) -> bytes:
        """The identity's lines in the merged manifest."""
        return b"".join(map(self.reader.text, blocks))

    def commit(self) -> None:
        """Images were published by their writers."""

    def replace(self) -> None:
        """Images keep their names."""

    def close(self) -> None:
        """Close the manifests that were read."""
        self.reader.close()


def is_whole(path: Path) -> bool:
    """Whether a JPEG file ends with the end-of-image marker."""
    try:
        with open(path, "rb") as file:
            file.seek(-len(JPEG_END), os.SEEK_END)
            return file.read() == JPEG_END
    except OSError:  # missing or empty
        return False


def file_name(index: int) -> str:
    """The file of an identity's image number ``index``."""
    return f"{index:03d}.jpg"
