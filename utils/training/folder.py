"""The output folder of a training: which files belong to a run, and whether another run may start there."""

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from models.errors import UserError

LAST = "checkpoint-last.pth"
LOG = "log.jsonl"
CHECKPOINT = re.compile(r"checkpoint-(last|\d+)\.pth(\.next)?")  # .next: a checkpoint that was being written
EVENTS = "events.out.tfevents."  # prefix of TensorBoard's file names


def check_output_folder(
    folder: Path | str, resume: Path | str | None = None, overwrite: bool = False, results: Sequence[str] = ()
) -> None:
    """Make the output folder. Raises UserError when it is not writable or holds another run than the resumed one.

    ``resume``: the checkpoint or folder to continue from. ``overwrite``: a folder that holds a run is accepted, and
    ``delete_run`` clears it later, once all other settings are known to be right. ``results``: names of the files that
    the training writes at its end.
    """
    folder = Path(folder)
    check_writable(folder)
    resumed = Path(resume).resolve() if resume else None
    resumed_here = resumed is not None and folder.resolve() in (resumed, resumed.parent)
    if overwrite:
        if resumed_here:
            raise UserError(f"--overwrite deletes the run that --resume {resume} continues: give one of the two.")
        return
    present = [path.name for path in files_of_run(folder, results) if not path.name.startswith(EVENTS)]
    if resumed_here:
        if resumed.is_dir() and LAST not in present and set(present) - {LOG}:
            raise UserError(
                f"{folder}: holds {', '.join(present)}, but no {LAST} to continue from. Name one of its checkpoints "
                "with --resume, or start anew with --overwrite, which deletes these files."
            )
    elif present:
        raise UserError(
            f"{folder}: already holds a training run ({', '.join(present)}). Continue it with --resume "
            f"{shlex.quote(str(folder))}, delete it and start anew with --overwrite, or give another --output_dir."
        )


def delete_run(folder: Path | str, results: Sequence[str] = ()) -> None:
    """Delete the files of the run in a folder, and nothing else."""
    for path in files_of_run(folder, results):
        path.unlink()


def files_of_run(folder: Path | str, results: Sequence[str] = ()) -> list[Path]:
    """The checkpoints, the log, TensorBoard's events and the ``results`` in a folder, sorted by name."""

    def belongs(name):
        return CHECKPOINT.fullmatch(name) or name.startswith(EVENTS) or name in (LOG, *results)

    return sorted(path for path in Path(folder).iterdir() if path.is_file() and belongs(path.name))


def check_writable(folder: Path | str) -> None:
    """Make a folder. Raises UserError when nothing can be written there."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"  # a name of its own for every process of a run
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{folder}: cannot write here: {error.strerror}.") from error


def find_checkpoint(path: Path | str) -> Path | None:
    """A checkpoint file, or the last checkpoint in a run's folder; None when the folder has none yet.

    Raises UserError when there is no such file or folder.
    """
    path = Path(path)
    if path.is_dir():
        return path / LAST if (path / LAST).exists() else None
    if not path.exists():
        raise UserError(f"--resume {path}: no such file or folder.")
    return path
