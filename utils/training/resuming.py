"""Resuming a training: reading its checkpoint, and which settings must stay the same."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import UserError
from models.weight_files import load_file
from utils.runtime.distributed import Distributed
from utils.training.folder import find_checkpoint

# Flags that say where and how a run works; no weight depends on them.
WITHOUT_INFLUENCE = {
    "output_dir", "log_dir", "log_every", "save_every", "resume", "overwrite", "device", "workers", "pin_memory",
    "max_steps", "max_bad_records", "start_from", "held_out", "score_every", "sets", "data_dir", "test",
}  # fmt: skip


def load_checkpoint(path: Path | str) -> tuple[Path | None, Any]:
    """(path, content) of a checkpoint file or of the last checkpoint in a folder; (None, None) if it has none yet.

    Raises UserError when there is no such file or folder, or the file is damaged.
    """
    path = find_checkpoint(path)
    if path is None:
        return None, None
    others = [other.name for other in path.parent.glob("checkpoint-*.pth") if other != path]
    earlier = f" one of {', '.join(sorted(others))}" if others else " another checkpoint"
    return path, load_file(path, f"Name{earlier} with --resume, or start anew with --overwrite.")


def run_description(world: Distributed, records: Sequence[Sequence[int]]) -> dict[str, Any]:
    """What a checkpoint keeps, beside the flags, of the data and the processes that its steps depended on.

    ``records``: arrays of integers that identify the records in use; the first one has one entry per record.
    """
    digest = hashlib.sha256()
    for array in records:
        digest.update(np.ascontiguousarray(array, np.int64).tobytes())
    return {"processes": world.size, "records": len(records[0]), "records_sha256": digest.hexdigest()}


def check_settings(
    path: Path | str,
    content: Mapping[str, Any],
    settings: Mapping[str, Any],
    run: Mapping[str, Any],
    fixed: Iterable[str],
    may_change: Iterable[str] = (),
) -> list[str]:
    """Compare the settings in a checkpoint with those of this run; returns notes for the user about changed ones.

    ``settings``: {flag: value} of this run. ``run``: its ``run_description``. ``fixed``: flags that decide which
    records and random draws a step gets. Raises UserError when one of those, or ``run``, differs, except for what is
    named in ``may_change``. What an older checkpoint does not contain is not compared.
    """
    earlier, earlier_run = content.get("args") or {}, content.get("run") or {}
    problems = [f"--{flag} is {settings[flag]}, the run to resume has {earlier[flag]}"
                for flag in fixed if flag in earlier and earlier[flag] != settings[flag]]  # fmt: skip
    for key, name in (("processes", "processes"), ("records", "records")):
        if key not in may_change and earlier_run.get(key, run[key]) != run[key]:
            problems.append(f"the number of {name} is {run[key]}, the run to resume has {earlier_run[key]}")
    same_count = earlier_run.get("records", run["records"]) == run["records"]
    if same_count and earlier_run.get("records_sha256", run["records_sha256"]) != run["records_sha256"]:
        problems.append("its data or its mask has other records than the run to resume")
    if problems:
        raise UserError(
            f"{path}: cannot be resumed, because the steps would get other records or draws: {'; '.join(problems)}."
        )
    changes = [
        f"--{flag} {_as_given(value)} (was {_as_given(earlier[flag])})"
        for flag, value in settings.items()
        if flag in earlier and earlier[flag] != value and flag not in WITHOUT_INFLUENCE
    ]  # fmt: skip
    return [f"note: the run goes on with {', '.join(changes)}"] if changes else []


def step_with(processes: int, earlier_processes: int, step: int, count: int, batch_size: int) -> int:
    """The step at which a run goes on with another number of processes.

    ``count``: number of items in an epoch. The order of an epoch does not depend on the number of processes: the run
    goes on in the same epoch after the items it has used, of which fewer than a batch of all processes are used again.
    """
    earlier_batch, batch = (batch_size * number for number in (earlier_processes, processes))
    epoch, used = divmod(step, count // earlier_batch)
    return epoch * (count // batch) + used * earlier_batch // batch


def _as_given(value):
    return "not given" if value is None else value


def check_agreement(world: Distributed, settings: Mapping[str, Any]) -> None:
    """Raise UserError when the processes have different numbers or switches; paths may differ between nodes."""
    compared = {flag: value for flag, value in settings.items()
                if flag not in WITHOUT_INFLUENCE and not isinstance(value, str)}  # fmt: skip
    of_ranks = world.gather(compared)
    for rank, other in enumerate(of_ranks):
        for flag, value in of_ranks[0].items():
            if other[flag] != value:
                raise UserError(
                    f"the processes of this run have different settings: rank {rank} has --{flag} {other[flag]}, "
                    f"rank 0 has --{flag} {value}."
                )
