"""Where scripts write what they found out about a dataset, and what they do not overwrite."""

from contextlib import contextmanager
from pathlib import Path

import lmdb

from models.errors import UserError

REPORT = ".report"  # ending of the folder


def report_folder(data, output=None):
    """The folder for reports on a dataset: ``output``, or NAME.report beside the folder or LMDB called NAME.

    Raises UserError for a folder inside the dataset, where other tools would take it for a person.
    """
    dataset = Path(data) if Path(data).name not in ("", "..") else Path(data).resolve()
    if dataset.suffix == ".lmdb" and dataset.parent.name == dataset.stem:
        dataset = dataset.parent  # a generated dataset, NAME/NAME.lmdb
    folder = Path(output) if output else dataset.with_name(dataset.name.removesuffix(".lmdb") + REPORT)
    if folder.resolve().is_relative_to(dataset.resolve()):
        raise UserError(f"--output {folder}: lies inside the dataset {dataset}; name a folder outside it.")
    return folder


def refuse_existing(*paths, overwrite=False):
    """Raise UserError when one of the files is there already, unless the user gave --overwrite."""
    for path in map(Path, paths):
        if path.exists() and not overwrite:
            raise UserError(f"{path}: exists already; give --overwrite to replace it, or name another file.")


@contextmanager
def writing(target):
    """Make the folder of ``target`` and hand it on as a Path; a failure to write becomes a UserError that names it."""
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield target
    except (OSError, lmdb.Error) as error:
        raise UserError(f"{target}: cannot write: {getattr(error, 'strerror', None) or error}.") from error
