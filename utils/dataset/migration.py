"""Converting a dataset of an earlier version to the current layout and manifest format."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from models.errors import UserError
from utils.data.images import CONTACT_SHEET
from utils.dataset.image_record import MEASURES, AttrOPVerdict, ImageRecord
from utils.dataset.layout import MANIFEST, PARTS, SETTINGS, about_folder, read_settings
from utils.dataset.manifest import Line
from utils.runtime.durable import atomic_write

Settings = dict[str, Any]  # the "settings" of settings.json

OLD_PARTS = ".parts"
OLD_GATE = ("id_similarity", "quality")  # measures of the first two numbers of an old "gate" setting


def migrate_layout(root: Path | str) -> None:
    """Move an old dataset's files to ``NAME.about/`` and convert its manifest lines to the current form.

    The settings move last, so that a dataset whose migration was killed still counts as old and the next call resumes.
    Raises UserError when its settings are damaged or a process is still writing it.
    """
    root, about = Path(root), about_folder(root)
    settings = read_settings(root / SETTINGS)
    about.mkdir(exist_ok=True)
    finish_old_merge(root)
    if (root / OLD_PARTS).exists():
        migrate_parts(root, settings["settings"])
        (root / OLD_PARTS).rename(about / PARTS)
    if (root / MANIFEST).exists():
        migrate_manifest(root / MANIFEST, about / MANIFEST, settings["settings"])
        (root / MANIFEST).unlink()
    if (root / CONTACT_SHEET).exists():
        (root / CONTACT_SHEET).rename(about / CONTACT_SHEET)
    settings["settings"]["measured"] = measured_by_gate(settings["settings"])
    atomic_write(about / SETTINGS, json.dumps(settings, indent=2) + "\n")
    (root / SETTINGS).unlink()


def finish_old_merge(root: Path) -> None:
    """Finish a killed merge of the earlier version, or delete its leftovers, as that version did at its start."""
    next_lmdb, next_manifest = root / f"{root.resolve().name}.next", root / f"{MANIFEST}.next"
    if next_manifest.exists() and (root / f"{root.resolve().name}.lmdb").exists() and not next_lmdb.exists():
        next_manifest.replace(root / MANIFEST)  # its LMDB has its final name already
    for leftover in (next_lmdb, next_manifest, root / f"{SETTINGS}.next", root / f"{CONTACT_SHEET}.next"):
        leftover.unlink(missing_ok=True)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a part as in the earlier version. Raises BlockingIOError when one of its processes has it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def migrate_parts(root: Path, settings: Settings) -> None:
    """Convert the manifests of all parts. Raises UserError when a process is still writing one."""
    for part in sorted((root / OLD_PARTS).iterdir()):
        try:
            with locked_folder(part):
                if (part / MANIFEST).exists():
                    migrate_manifest(part / MANIFEST, part / MANIFEST, settings)
        except BlockingIOError as error:
            raise UserError(f"{root}: a process is still writing it; let it end before --migrate.") from error


def measured_by_gate(settings: Settings) -> dict[str, Any] | None:
    """The "measured" setting of an old dataset: it measured what its gate needed, in the precision of the run."""
    if not settings.get("gate"):
        return None
    lowest = zip(OLD_GATE, settings["gate"], strict=False)
    names = [name for name, value in lowest if value is not None]
    return {"names": names, "precision": settings["precision"]}


def migrate_manifest(source: Path, target: Path, settings: Settings) -> None:
    """Rewrite a manifest in the current form, in one step. An incomplete last line, left by a kill, is dropped."""

    def write(new: BinaryIO) -> None:
        with open(source) as old:
            for line in old:
                if line.endswith("\n"):
                    new.write((json.dumps(migrated_line(json.loads(line), settings)) + "\n").encode())

    atomic_write(target, write)


def migrated_line(line: Line, settings: Settings) -> Line:
    """A manifest line in the current form.

    In identity mode earlier versions gave each image the values of AttrOP's check image, which is not part of the
    dataset. These move to the first image's ``attrop``. Values measured by the gate are those of the image and stay.
    """
    if "accepted" not in line:
        return line  # made without AttrOP, or already in the current form
    location = {name: line[name] for name in ("file", "key") if name in line}
    values = {name: line[name] for name in MEASURES if name in line}
    on_this_image = settings["mode"] == "pose"
    gated = (measured_by_gate(settings) or {"names": []})["names"]
    measured = {name: value for name, value in values.items() if on_this_image or name in gated}
    missed = tuple(name for name in MEASURES if name in line["reason"])
    verdict = AttrOPVerdict(
        "image" if on_this_image else "check image",
        line["accepted"],
        line["iterations"],
        missed,
        line["reason"],
        {name: value for name, value in values.items() if name not in measured},
    )
    record = ImageRecord(
        line["identity"], line["name"], line["index"], line["sigma"], measured=measured,
        attrop=verdict if on_this_image or line["index"] == 0 else None,
        passed=line.get("passed"), tries=tuple(line.get("tries", ())),
    )  # fmt: skip
    return location | record.line()
