"""The folder format: ``<dataset>/<identity>/<index>.jpg``.

An identity is in place once its folder has its final name and holds the images that its manifest lines name.
"""

import os
import shutil
from pathlib import Path

from utils.dataset.manifest import BlockReader, IdentityLines, Key

# Inside a part, followed by the token of the process that owns it: who lost the part to another process does no harm.
UNFINISHED = "unfinished-"  # identities being written
REPLACED = "replaced-"  # the folder of an identity that is drawn anew, until the new one is in place
JPEG_END = b"\xff\xd9"


class FolderStore:
    """Writes identities as folders of JPEG files."""

    def __init__(self, root, part):
        self.root, token = Path(root), part.lock.holder.token
        self.unfinished, self.replaced = part.folder / (UNFINISHED + token), part.folder / (REPLACED + token)
        for leftover in (*part.folder.glob(UNFINISHED + "*"), *part.folder.glob(REPLACED + "*")):
            shutil.rmtree(leftover, ignore_errors=True)

    def write(self, name, first, images):
        """Write the images from number ``first`` on, encoded bytes or None each, where nobody looks yet.

        Returns what ``publish`` needs. Several threads may write different identities at the same time.
        """
        files = {file_name(index): data for index, data in enumerate(images, first) if data is not None}
        if files:
            (self.unfinished / name).mkdir(parents=True)
        for file, data in files.items():
            (self.unfinished / name / file).write_bytes(data)
        return name, first, list(files)

    def publish(self, written):
        """Put in place what was written: a new identity in one step, further images one after the other.

        An identity without a single image gets no folder: a reader would take it for an empty class.
        """
        name, first, files = written
        unfinished, final, aside = self.unfinished / name, self.root / name, self.replaced / name
        if first and final.exists():
            for file in files:
                (unfinished / file).rename(final / file)
            return
        if final.exists():  # one to be drawn anew, or what a killed run left and no manifest names
            aside.parent.mkdir(exist_ok=True)
            final.rename(aside)
        if files:
            unfinished.rename(final)
        shutil.rmtree(aside, ignore_errors=True)

    def close(self):
        for folder in (self.unfinished, self.replaced):
            shutil.rmtree(folder, ignore_errors=True)

    @staticmethod
    def location(name, index, written):
        """What a manifest line says of where its image is."""
        return {"file": f"{name}/{file_name(index)}" if written else None}

    @staticmethod
    def in_place(root):
        """A function of an identity's key and lines: whether its images are there. Made anew when a run begins.

        ``tail``: the index does not name the lines, so each image is looked at: lines are written before the images
        appear, and a power cut may have left files without their content.
        """
        root = Path(root)
        folders = {entry.name for entry in os.scandir(root) if entry.is_dir()}

        def check(key: Key, block: IdentityLines, tail=False):
            if not block.images:
                return True
            if not tail or key[1] not in folders:
                return key[1] in folders
            return all(is_whole(root / line["file"]) for line in block.read() if line["file"])

        return check

    @staticmethod
    def complete(root, blocks) -> bool:
        """Whether every image that an identity's lines name is there; somebody may have deleted one."""
        files = [line["file"] for block in blocks for line in block.read()]
        return all((Path(root) / file).is_file() for file in files if file)

    @staticmethod
    def images(root, lines):
        """The encoded images of those manifest lines that have one, without those that somebody deleted."""
        paths = [Path(root) / line["file"] for line in lines if line["file"]]
        return [path.read_bytes() for path in paths if path.is_file()]

    @staticmethod
    def check_merged(root, images, people):
        """The images are where the writers put them."""

    @staticmethod
    def next_images(root):
        """Images are never written anew."""

    @staticmethod
    def merged_images(root, folders, images, people, anew):
        return MergedFolders()


class MergedFolders:
    """Merging does not move images, and so leaves the manifest's lines as they are."""

    def __init__(self):
        self.reader = BlockReader()

    def add(self, key, blocks) -> bytes:
        """The identity's lines in the merged manifest."""
        return b"".join(map(self.reader.text, blocks))

    def commit(self):
        pass

    def replace(self):
        pass

    def close(self):
        self.reader.close()


def is_whole(path) -> bool:
    """Whether a JPEG file has its end."""
    try:
        with open(path, "rb") as file:
            file.seek(-len(JPEG_END), os.SEEK_END)
            return file.read() == JPEG_END
    except OSError:  # missing or empty
        return False


def file_name(index):
    return f"{index:03d}.jpg"
