"""Check on the GPUs of this machine what the project promises, in at most 15 minutes.

    python scripts/gpu_check.py                            all GPUs that CUDA shows
    python scripts/gpu_check.py --checks decoding attrop   some of the checks
    python scripts/gpu_check.py --device cpu --quick       the checks themselves, with small models on the CPU

The checks are
    decoding             images of each precision against those of the CPU
    attrop               gradients and accepted vectors
    training             losses, and how often the host waits for the GPU
    resumed-training, resumed-generation    runs that are killed and resumed
    identical            bytes of datasets that are made in different ways
    ranks                torchrun over all GPUs against one process
    memory               the largest batches
    speed                images per second, as a fraction of the peak

Writes gpu_check.md and gpu_check.json after every check. The exit status is 0 when nothing failed, 1 when something
did, and 3 without a GPU. A check that crashes does not end the others.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from utils.cli.command import INTERRUPTED, command

import torch

from scripts.gpu_checks.attrop import attrop
from scripts.gpu_checks.decoding import decoding
from scripts.gpu_checks.identical import identical
from scripts.gpu_checks.isolation import CheckError, results_of, start_server
from scripts.gpu_checks.machine import describe_machine
from scripts.gpu_checks.memory import memory
from scripts.gpu_checks.ranks import ranks
from scripts.gpu_checks.resuming import resumed_generation, resumed_training
from scripts.gpu_checks.rows import FAILED, MEASURED, PASSED, SKIPPED, Row, markdown, plain, skipped
from scripts.gpu_checks.setting import Setting
from scripts.gpu_checks.speed import speed
from scripts.gpu_checks.training import training
from utils.cli.flags import make_parser, positive
from utils.cli.outputs import refuse_existing

WITHOUT_GPU = 3  # exit status
TAIL = 30  # lines of output that are kept of a failed check
FILES = ("gpu_check.json", "gpu_check.md")


class Check(NamedTuple):
    """A check: ``run(setting)`` yields the Rows of its result within ``seconds``."""

    name: str
    run: Callable
    seconds: float


CHECKS = [
    Check("decoding", decoding, 150),
    Check("attrop", attrop, 150),
    Check("training", training, 300),
    Check("resumed-training", resumed_training, 240),
    Check("resumed-generation", resumed_generation, 180),
    Check("identical", identical, 180),
    Check("ranks", ranks, 180),
    Check("memory", memory, 180),
    Check("speed", speed, 600),
]


@command
def main(argv=None):
    names = [check.name for check in CHECKS]
    parser = make_parser(__doc__)
    parser.add_argument(
        "--checks", nargs="+", choices=names, default=names, metavar="CHECK", help="names of the checks to run"
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="device to check: auto (a GPU), cuda, cuda:N, or cpu to try the checks themselves",
    )
    parser.add_argument("--quick", action="store_true", help="small models and few steps, to try the checks themselves")
    parser.add_argument(
        "--minutes",
        type=positive,
        default=15,
        help="minutes for all checks together, after which the others are skipped",
    )
    parser.add_argument(
        "--output", "--output_dir", type=Path, default=Path("."), help="folder for gpu_check.md and gpu_check.json"
    )
    parser.add_argument("--overwrite", action="store_true", help="replacement of the tables of an earlier run")
    args = parser.parse_args(argv)
    if args.device != "cpu" and not torch.cuda.is_available():
        print("no CUDA device: nothing to check; --device cpu --quick tries the checks themselves", file=sys.stderr)
        sys.exit(WITHOUT_GPU)
    refuse_existing(*(args.output / name for name in FILES), overwrite=args.overwrite)
    args.output.mkdir(parents=True, exist_ok=True)
    device = "cuda" if args.device == "auto" else args.device
    chosen = [check for check in CHECKS if check.name in args.checks]
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:
        setting = Setting(device, args.quick, Path(folder), time.monotonic() + 60 * args.minutes)
        sys.exit(run_checks(chosen, setting, args.output))


def run_checks(checks: list[Check], setting: Setting, output_dir: Path) -> int:
    """Run the checks one by one, print one line for each, write both tables after each; the exit status."""
    start_server("scripts.gpu_check")
    machine = dict(results_of(describe_machine, setting, setting.folder / "machine.log", 60))
    report = partial(write_report, output_dir, machine)
    results, notes, finished = [], {}, False
    try:
        for number, check in enumerate(checks, 1):
            print(f"[{number}/{len(checks)}] {check.name} ...", end=" ", flush=True)
            started, before = time.monotonic(), len(results)
            run_check(check, setting, results, notes)
            seconds = time.monotonic() - started
            print(f"{tally([row for _, row in results[before:]])}, {seconds:.0f} s", flush=True)
            report(results, notes, finished)
        finished = True
    except KeyboardInterrupt:
        print("stopped")
    report(results, notes, finished)
    print(markdown(machine, results))
    if not finished:
        print(f"stopped; the results so far are in {output_dir / FILES[1]}.", file=sys.stderr)
        return INTERRUPTED
    return int(any(row.result == FAILED for _, row in results))


def run_check(check: Check, setting: Setting, results: list, notes: dict) -> None:
    """Add the check's (name, row) pairs to ``results`` and, when it fails, its last lines of output to ``notes``."""
    left = setting.seconds_left()
    if left <= 0:
        results.append((check.name, skipped("", "no time left; see --minutes")))
        return
    log = setting.folder / f"{check.name}.log"
    try:
        for row in results_of(check.run, setting, log, min(check.seconds, left)):
            results.append((check.name, row))
    except CheckError as error:
        results.append((check.name, Row("", FAILED, str(error), "ends without an error")))
        notes[check.name] = log.read_text(errors="replace").splitlines()[-TAIL:] if log.exists() else []


def tally(rows: list[Row]) -> str:
    """For example "2 passed, 1 FAILED"."""
    counts = {result: sum(row.result == result for row in rows) for result in (PASSED, FAILED, MEASURED, SKIPPED)}
    return ", ".join(f"{count} {result}" for result, count in counts.items() if count)


def write_report(output_dir: Path, machine: dict, results: list, notes: dict, finished: bool) -> None:
    """Write both tables. ``finished``: whether all chosen checks have been run."""
    content = {"machine": machine, "finished": finished, "rows": plain(results), "printed_by_failed_checks": notes}
    (output_dir / FILES[0]).write_text(json.dumps(content, indent=2) + "\n")
    (output_dir / FILES[1]).write_text(markdown(machine, results))


if __name__ == "__main__":
    main()
