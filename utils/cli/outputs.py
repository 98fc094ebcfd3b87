"""Where scripts write their results, and the checks that keep them from overwriting a file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from models.errors import UserError
from utils.dataset.layout import REPORT_SUFFIX


def report_folder(data: Path | str, output: Path | str | None = None, suffix: str = REPORT_SUFFIX) -> Path:
    """The folder for reports on a dataset: ``output``, or NAME.report beside the folder or LMDB called NAME.

    ``suffix``: in the place of ".report".

    Raises UserError for a folder inside the dataset, where other tools would take it for an identity.
    """
    dataset = Path(data) if Path(data).name not in ("", "..") else Path(data).resolve()
    if dataset.suffix == ".lmdb" and dataset.parent.name == dataset.stem:
        dataset = dataset.parent  # a generated dataset, NAME/NAME.lmdb
    folder = Path(output) if output else dataset.with_name(dataset.name.removesuffix(".lmdb") + suffix)
    if folder.resolve().is_relative_to(dataset.resolve()):
        raise UserError(f"--output {folder}: lies inside the dataset {dataset}; name a folder outside it.")
    return folder


def refuse_existing(*paths: Path | str, overwrite: bool = False) -> None:
    """Raise UserError when one of the files exists, unless the user gave --overwrite."""
    for path in map(Path, paths):
        if path.exists() and not overwrite:
            raise UserError(f"{path}: exists already; give --overwrite to replace it, or name another file.")


@contextmanager
def output_file(path: Path | str) -> Iterator[Path]:
    """Create the parent folder of ``path`` and yield ``path`` as a Path.

    Raises UserError with the file's name in place of an error that occurs while the caller writes.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path
    except (OSError, lmdb.Error) as error:
        raise UserError(f"{path}: cannot write: {getattr(error, 'strerror', None) or error}.") from error
