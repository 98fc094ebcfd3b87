"""Whether a training goes on as it was begun: which settings of a resumed run must be the same, which may change."""

import hashlib

import numpy as np

from models.errors import UserError
from models.weight_files import load_file
from utils.training.folder import find_checkpoint

# Flags that say where and how a run works; no weight depends on them.
WITHOUT_INFLUENCE = {
    "output_dir", "log_dir", "log_every", "save_every", "resume", "overwrite", "device", "workers", "pin_memory",
    "max_steps", "max_bad_records", "start_from", "held_out", "score_every", "sets", "data_dir", "test",
}  # fmt: skip


def load_checkpoint(path):
    """(path, content) of a checkpoint, or of the last one in a run's folder; (None, None) when it has none yet.

    Raises UserError when there is no such file or folder, or it is no weight file.
    """
    path = find_checkpoint(path)
    if path is None:
        return None, None
    others = [other.name for other in path.parent.glob("checkpoint-*.pth") if other != path]
    earlier = f" one of {', '.join(sorted(others))}" if others else " another checkpoint"
    return path, load_file(path, f"Name{earlier} with --resume, or start anew with --overwrite.")


def run_of(world, records):
    """What a step sees beside the flags, for a checkpoint: ``records`` are arrays that tell which records are used."""
    digest = hashlib.sha256()
    for array in records:
        digest.update(np.ascontiguousarray(array, np.int64).tobytes())
    return {"processes": world.size, "records": len(records[0]), "records_sha256": digest.hexdigest()}


def check_settings(path, content, args, run, fixed):
    """Compare the settings in a loaded checkpoint with the flags ``args`` {name: value} of this run.

    ``fixed``: flags that decide which records and draws a step sees, as ``run`` (of ``run_of``) does. Raises UserError
    when one of these differs; returns lines to print about what else does. A checkpoint made before all of this was
    kept is compared in what it has.
    """
    earlier, was = content.get("args") or {}, content.get("run") or {}
    problems = [f"--{flag} is {args[flag]}, the run to resume has {earlier[flag]}"
                for flag in fixed if flag in earlier and earlier[flag] != args[flag]]  # fmt: skip
    if was.get("processes", run["processes"]) != run["processes"]:
        problems.append(f"the number of processes is {run['processes']}, the run to resume has {was['processes']}")
    if was.get("records", run["records"]) != run["records"]:
        problems.append(f"the number of records is {run['records']}, the run to resume has {was['records']}")
    elif was.get("records_sha256", run["records_sha256"]) != run["records_sha256"]:
        problems.append("its data or its mask has other records than the run to resume")
    if problems:
        raise UserError(
            f"{path}: cannot be resumed, because the steps would see other records or draws: {'; '.join(problems)}."
        )
    changes = [
        f"--{flag} {_told(value)} (was {_told(earlier[flag])})"
        for flag, value in args.items()
        if flag in earlier and earlier[flag] != value and flag not in WITHOUT_INFLUENCE
    ]  # fmt: skip
    return [f"note: the run goes on with {', '.join(changes)}"] if changes else []


def _told(value):
    return "not given" if value is None else value


def check_agreement(world, args):
    """Raise UserError when the processes were given different numbers or switches; paths may differ between nodes."""
    flags = {flag: value for flag, value in vars(args).items()
             if flag not in WITHOUT_INFLUENCE and not isinstance(value, str)}  # fmt: skip
    everybody = world.gather(flags)
    for rank, other in enumerate(everybody):
        for flag, value in everybody[0].items():
            if other[flag] != value:
                raise UserError(
                    f"the processes of this run have different settings: rank {rank} has --{flag} {other[flag]}, "
                    f"rank 0 has --{flag} {value}."
                )


def load_optimizer(optimizer, saved, path):
    """Take an optimiser's state from a checkpoint, but not its settings: this run's flags say them. Raises UserError.

    ``saved``: a state dict of an optimiser over the same parameters in the same groups.
    """
    groups = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in saved["param_groups"]] != [group["params"] for group in groups]:
        raise UserError(f"{path}: its optimiser has other parameters or groups of them, so the run cannot go on.")
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
