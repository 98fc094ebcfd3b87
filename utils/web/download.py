"""The images of an order as a zip file."""

import shutil
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

from utils.cli.attribute_flags import attribute_settings
from utils.dataset.layout import manifest_path
from utils.generation.make_dataset import Output, make_dataset
from utils.generation.vector_source import VectorSource
from utils.web.commands import command_of
from utils.web.making import View, Watcher
from utils.web.order import Order
from utils.web.session import Session
from utils.web.worker import Stream

KINDS = {"images": "Images and their manifest", "dataset": "Dataset folder, as the commands make it"}


def make_zip(session: Session, order: Order, count: int, kind: str, folder: Path) -> Stream[View | Path]:
    """Make ``count`` images of an order; iterate over Views of the progress, and at last the path of the zip.

    ``kind``: one of KINDS. Either has the images, the manifest, and command.txt. The zip lies in ``folder``. Raises
    UserError.
    """
    order = replace(order, count=count)
    return session.worker.stream(lambda emit: emit(write_zip(session, order, kind, folder, emit)))


def write_zip(session: Session, order: Order, kind: str, folder: Path, emit: Callable[[View], None]) -> Path:
    """What ``make_zip`` does in the thread of the models."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        root = write_dataset(session, order, Path(temporary), emit)
        target = folder / f"{order.name}.zip"
        unfinished = target.with_suffix(".next")
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("command.txt", command_of(session, order) + "\n")
            if kind == "images":
                archive.write(manifest_path(root), "manifest.jsonl")
            for path in files_of(root if kind == "images" else root.parent):
                base = root if kind == "images" else root.parent
                archive.write(path, path.relative_to(base))
        shutil.move(unfinished, target)
    return target


def files_of(folder: Path) -> list[Path]:
    """All files below a folder, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def write_dataset(session: Session, order: Order, folder: Path, emit: Callable[[View], None]) -> Path:
    """Make the dataset that the command of an order makes, in ``folder``; its root."""
    networks, pose = session.networks_for(order), order.mode == "pose"
    person = session.identity(order.person)
    source = folder / "source"
    source.mkdir()
    path = session.vector_file(order.person, source)
    vectors = VectorSource(path, f"{person.number}:{person.number + 1}", usual_norm=networks.usual_norm)
    root = folder / "dataset" / (f"{order.name}-{order.wanted_yaw:g}" if pose else order.name)
    output = Output(root, measure=True, measured_in=session.measured_in)
    extra = {"mode": order.mode, "start_class_id": 0, "attrop": attrop_settings(session, order)}
    with redirect_stdout(StringIO()):
        make_dataset(
            vectors, networks, session.recipe(order), output, session.machine, extra_settings=extra,
            attrop=session.attrop(order, Watcher(order, emit)), attrop_on="image" if pose else "identity",
        )  # fmt: skip
    return root


def attrop_settings(session: Session, order: Order) -> dict[str, Any] | None:
    """What settings.json says of AttrOP, as the generation scripts write it."""
    if not order.uses_attrop:
        return None
    settings = {"image_quality": session.wanted_quality(order), "max_iters": order.max_iters}
    if order.mode == "pose":
        settings |= {"pose": order.wanted_yaw, "signed_pose": True, "pitch": order.pitch}
    return settings | attribute_settings(order.attributes)
