"""Bringing a dataset that an earlier version wrote to today's layout and manifest."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.errors import UserError
from utils.data.images import CONTACT_SHEET
from utils.dataset.image_record import MEASURES, AttrOPVerdict, ImageRecord
from utils.dataset.layout import MANIFEST, PARTS, SETTINGS, about_folder, read_settings
from utils.runtime.durable import atomic_write

OLD_PARTS = ".parts"
OLD_GATE = ("id_similarity", "quality")  # what the first two numbers of an old "gate" setting are about


def migrate_layout(root: Path | str) -> None:
    """Move an old dataset's files to ``NAME.about/`` and bring its manifest lines to today's form.

    The settings move last: a dataset whose migration was killed still counts as old, and the next call goes on.
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
    """Do what the earlier version would have done first: end a merge that was killed, or drop what it left."""
    next_lmdb, next_manifest = root / f"{root.resolve().name}.next", root / f"{MANIFEST}.next"
    if next_manifest.exists() and (root / f"{root.resolve().name}.lmdb").exists() and not next_lmdb.exists():
        next_manifest.replace(root / MANIFEST)  # its LMDB has its final name already
    for leftover in (next_lmdb, next_manifest, root / f"{SETTINGS}.next", root / f"{CONTACT_SHEET}.next"):
        leftover.unlink(missing_ok=True)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold what was the lock of a part in the earlier version; BlockingIOError when one of its processes has it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def migrate_parts(root: Path, settings: dict) -> None:
    for part in sorted((root / OLD_PARTS).iterdir()):
        try:
            with locked_folder(part):
                if (part / MANIFEST).exists():
                    migrate_manifest(part / MANIFEST, part / MANIFEST, settings)
        except BlockingIOError as error:
            raise UserError(f"{root}: a process is still writing it; let it end before --migrate.") from error


def measured_by_gate(settings: dict) -> dict | None:
    """What an earlier version measured of each written image: only what its gate asked for, in the run's precision."""
    if not settings.get("gate"):
        return None
    lowest = zip(OLD_GATE, settings["gate"], strict=False)
    names = [name for name, value in lowest if value is not None]
    return {"names": names, "precision": settings["precision"]}


def migrate_manifest(source: Path, target: Path, settings: dict) -> None:
    """Rewrite a manifest in today's form, in one step. A torn last line, left by a kill, is dropped."""

    def write(new):
        with open(source) as old:
            for line in old:
                if line.endswith("\n"):
                    new.write((json.dumps(migrated_line(json.loads(line), settings)) + "\n").encode())

    atomic_write(target, write)


def migrated_line(line: dict, settings: dict) -> dict:
    """A manifest line in today's form.

    In identity mode earlier versions gave each image the values of AttrOP's check image, which was never written: these
    move into the first image's ``attrop``. What the gate measured is of the image itself and stays.
    """
    if "accepted" not in line:
        return line  # made without AttrOP, or of today's form
    place = {name: line[name] for name in ("file", "key") if name in line}
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
    return place | record.line()
