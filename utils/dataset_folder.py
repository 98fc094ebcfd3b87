"""The folder format: ``<dataset>/<identity>/<index>.jpg``.

An identity is in place once its folder has its final name and holds the images that its manifest lines name.
"""

import os
import shutil
from pathlib import Path

from utils.dataset_layout import MANIFEST, manifest_path
from utils.dataset_parts import IdentityLines, identities_in_place, idle_parts, remove_parts

UNFINISHED = "unfinished"  # inside a part: identities being written
REPLACED = "replaced"  # inside a part: the folder of an identity that was extended, until the new one is in place


class FolderStore:
    """Writes identities as folders of JPEG files."""

    def __init__(self, root, part):
        self.root, self.folder = Path(root), part.folder
        self._clean()

    def put(self, name, images):
        """Write ``images``, a list of encoded bytes or None, then give the folder its final name.

        An identity without a single image gets no folder: a reader would take it for an empty class.
        """
        temporary, final, aside = (
            folder / name for folder in (self.folder / UNFINISHED, self.root, self.folder / REPLACED)
        )
        shutil.rmtree(temporary, ignore_errors=True)
        if any(data is not None for data in images):
            temporary.mkdir(parents=True)
            for index, data in enumerate(images):
                if data is not None:
                    (temporary / file_name(index)).write_bytes(data)
        if final.exists():  # an identity to extend, or what a killed run left and no manifest names
            aside.parent.mkdir(exist_ok=True)
            final.rename(aside)
        if temporary.exists():
            temporary.rename(final)
        shutil.rmtree(aside, ignore_errors=True)

    def stored(self, lines):
        """The encoded image, or None, of each manifest line of an identity in place."""
        return [line["file"] and (self.root / line["file"]).read_bytes() for line in lines]

    @staticmethod
    def complete(root, lines) -> bool:
        """Whether every image that an identity's lines name is there; somebody may have deleted one."""
        return all((Path(root) / line["file"]).is_file() for line in lines if line["file"])

    def close(self):
        self._clean()

    def _clean(self):
        for name in (UNFINISHED, REPLACED):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    @staticmethod
    def place(name, index, written):
        """What a manifest line says of where its image is."""
        return {"file": f"{name}/{file_name(index)}" if written else None}

    @staticmethod
    def finished(root, parts=None) -> dict[tuple[int, str], IdentityLines]:
        """{(number, name): IdentityLines} of the identities in place."""
        root, merged = Path(root), manifest_path(root)
        folders = {entry.name for entry in os.scandir(root) if entry.is_dir()}

        def in_place(key, lines):
            if not lines.images or key[1] not in folders:
                return not lines.images
            return lines.manifest == merged or sum(1 for _ in os.scandir(root / key[1])) >= lines.images

        return identities_in_place(root, parts, in_place)

    @staticmethod
    def merge(root):
        """Bring the manifest lines of all ended processes together, in order of identity and image."""
        parts, target = idle_parts(root), manifest_path(root)
        temporary = target.with_name(MANIFEST + ".next")
        with open(temporary, "wb") as merged:
            for lines in FolderStore.finished(root, parts).values():
                merged.write(lines.text())
        temporary.replace(target)
        remove_parts(parts)

    @staticmethod
    def recover(root):
        """Drop what a merge left that was killed."""
        target = manifest_path(root)
        target.with_name(MANIFEST + ".next").unlink(missing_ok=True)

    @staticmethod
    def images(root, lines):
        """The encoded images of those manifest lines that have one, without those that somebody deleted."""
        paths = [Path(root) / line["file"] for line in lines if line["file"]]
        return [path.read_bytes() for path in paths if path.is_file()]


def file_name(index):
    return f"{index:03d}.jpg"
