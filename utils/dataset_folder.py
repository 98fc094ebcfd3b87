"""The folder format: ``<dataset>/<identity>/<index>.jpg``.

An identity is in place once its folder has its final name.
"""

import os
import shutil
from pathlib import Path

from utils.dataset_parts import MANIFEST, idle_parts, recorded_identities, remove_parts

UNFINISHED = "unfinished"  # inside a part: identities being written


class FolderStore:
    """Writes identities as folders of JPEG files."""

    def __init__(self, root, part):
        self.root, self.unfinished = Path(root), part.folder / UNFINISHED
        shutil.rmtree(self.unfinished, ignore_errors=True)

    def put(self, name, images):
        """Write ``images``, a list of encoded bytes or None, then give the folder its final name."""
        temporary = self.unfinished / name
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for index, data in enumerate(images):
            if data is not None:
                (temporary / file_name(index)).write_bytes(data)
        final = self.root / name
        if final.exists():  # in no manifest, or it would have been skipped
            shutil.rmtree(final)
        temporary.rename(final)

    def close(self):
        shutil.rmtree(self.unfinished, ignore_errors=True)

    @staticmethod
    def place(name, index, written):
        """What a manifest line says of where its image is."""
        return {"file": f"{name}/{file_name(index)}" if written else None}

    @staticmethod
    def finished(root, parts=None):
        """{(number, name): Record} of the identities in place."""
        folders = {entry.name for entry in os.scandir(root) if entry.is_dir()}
        return {key: record for key, record in recorded_identities(root, parts).items() if key[1] in folders}

    @staticmethod
    def merge(root):
        """Bring the manifest lines of all ended processes together, in order of identity and image."""
        parts = idle_parts(root)
        temporary = Path(root) / (MANIFEST + ".next")
        with open(temporary, "wb") as merged:
            for record in FolderStore.finished(root, parts).values():
                merged.write(record.text())
        temporary.replace(Path(root) / MANIFEST)
        remove_parts(parts)

    @staticmethod
    def recover(root):
        """Drop what a merge left that was killed."""
        (Path(root) / (MANIFEST + ".next")).unlink(missing_ok=True)

    @staticmethod
    def images(root, lines):
        """The encoded images of those manifest lines that have one."""
        return [(Path(root) / line["file"]).read_bytes() for line in lines if line["file"]]


def file_name(index):
    return f"{index:03d}.jpg"
