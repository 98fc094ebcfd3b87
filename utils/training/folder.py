"""The output folder of a training: what a run leaves there, and whether another one may begin in it."""

import os
import re
import shlex
from pathlib import Path

from models.errors import UserError

LAST = "checkpoint-last.pth"
LOG = "log.jsonl"
CHECKPOINT = re.compile(r"checkpoint-(last|\d+)\.pth(\.next)?")  # .next: one that was being written
EVENTS = "events.out.tfevents."  # how TensorBoard's file names begin


def check_output_folder(args, results=()):
    """Make ``--output_dir``, and refuse one that holds another run than the one to resume, or cannot be written to.

    ``results``: names of the files that this script writes when a training has ended. With ``--overwrite`` the folder
    is accepted, and ``start_anew`` clears it once everything else is known to be right. Raises UserError.
    """
    folder = Path(args.output_dir)
    check_writable(folder)
    resumed = Path(args.resume).resolve() if args.resume else None
    resumed_here = resumed is not None and folder.resolve() in (resumed, resumed.parent)
    if args.overwrite:
        if resumed_here:
            raise UserError(
                f"--overwrite deletes the run that --resume {args.resume} goes on with: give one of the two."
            )
        return
    present = [path.name for path in files_of_run(folder, results) if not path.name.startswith(EVENTS)]
    if resumed_here:
        if resumed.is_dir() and LAST not in present and set(present) - {LOG}:
            raise UserError(
                f"{folder}: holds {', '.join(present)}, but no {LAST} to go on from. Name one of its checkpoints with "
                "--resume, or start anew with --overwrite, which deletes these files."
            )
    elif present:
        raise UserError(
            f"{folder}: already holds a training run ({', '.join(present)}). Continue it with --resume "
            f"{shlex.quote(str(folder))}, delete it and start anew with --overwrite, or give another --output_dir."
        )


def start_anew(folder, results=()):
    """Delete the files of the run in a folder, and nothing else."""
    for path in files_of_run(folder, results):
        path.unlink()


def files_of_run(folder, results=()):
    """Paths of the checkpoints, the log, TensorBoard's events and the ``results`` in a folder, by name."""

    def belongs(name):
        return CHECKPOINT.fullmatch(name) or name.startswith(EVENTS) or name in (LOG, *results)

    return sorted(path for path in Path(folder).iterdir() if path.is_file() and belongs(path.name))


def check_writable(folder):
    """Make a folder; UserError when nothing can be written there."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"  # every process of a run looks
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{folder}: cannot write here: {error.strerror}.") from error


def find_checkpoint(path):
    """A checkpoint file, or the last one in a run's folder; None when the folder has none yet. Raises UserError."""
    path = Path(path)
    if path.is_dir():
        return path / LAST if (path / LAST).exists() else None
    if not path.exists():
        raise UserError(f"--resume {path}: no such file or folder.")
    return path
