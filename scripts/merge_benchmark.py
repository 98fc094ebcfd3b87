"""Measure the time that jobs which each add a slice to one dataset spend on its earlier slices, without any model.

    python scripts/merge_benchmark.py merging
    python scripts/merge_benchmark.py merging --format folder --slices 10 --identities 100

Prints, for some of the slices and in total, the seconds that a job takes to find the identities that exist (start), to
write its own images (write), to merge them into the dataset (merge) and to read its lines for the summary (summary);
then the seconds that compacting the dataset takes. The dataset is deleted afterwards. One million images of 1 KB take
about 5 GB as folders and 2 GB as an LMDB.
"""

import shutil
import time
from pathlib import Path

from utils.cli.command import command

import numpy as np

from models.errors import UserError
from utils.cli.flags import make_parser, positive
from utils.dataset.image_record import ImageRecord
from utils.dataset.writer import (
    STORES,
    DatasetWriter,
    compact_dataset,
    finish_dataset,
    identities_to_keep,
    prepare_dataset,
    read_records,
)
from utils.generation.pipeline import GeneratedImage
from utils.generation.recipe import Identity
from utils.generation.summary import count_records

PHASES = ("start", "write", "merge", "summary")
PRINTED = 5  # slices


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("folder", help="folder to create for the dataset, and to delete at the end")
    parser.add_argument("--format", choices=list(STORES), default="lmdb", help="format of the dataset")
    parser.add_argument("--slices", type=positive, default=100, help="number of jobs, one after the other")
    parser.add_argument("--identities", type=positive, default=200, help="number of identities in a slice")
    parser.add_argument("--example", type=positive, default=50, help="number of images of an identity")
    args = parser.parse_args(argv)
    folder = Path(args.folder)
    if folder.exists():
        raise UserError(f"{folder}: exists already; name another folder, which is deleted at the end.")
    folder.mkdir(parents=True)
    try:
        measure(folder / "data", args.format, args.slices, args.identities, args.example)
    finally:
        shutil.rmtree(folder)


def measure(root: Path, format: str, slices: int, identities: int, example: int) -> None:
    """Run the jobs and print a table of seconds."""
    total = np.zeros(len(PHASES))
    print("slice   " + "".join(f"{name:>9}" for name in PHASES))
    for number in range(slices):
        seconds = job(root, format, range(number * identities, (number + 1) * identities), example)
        total += seconds
        if (number + 1) % max(1, slices // PRINTED) == 0 or not number:
            print(row(number + 1, seconds), flush=True)
    print(row("sum", total))
    started = time.perf_counter()
    compact_dataset(root)
    print(f"compact {time.perf_counter() - started:9.2f}")


def row(name: int | str, seconds: np.ndarray) -> str:
    return f"{name:<8}" + "".join(f"{value:9.2f}" for value in seconds)


def job(root: Path, format: str, numbers: range, example: int) -> np.ndarray:
    """Do what a generation run does with the dataset, for the identities of a slice; seconds of each of PHASES."""
    names = [f"{number:06d}" for number in numbers]
    times = [time.perf_counter()]
    prepare_dataset(root, {"format": format, "example": example}, {})
    identities_to_keep(root, format, names, example)
    times.append(time.perf_counter())
    with DatasetWriter(root, format, f"{numbers.start:08d}") as writer:
        for number, name in zip(numbers, names, strict=True):
            writer.write(Identity(number, name, None), [image(number, name, index) for index in range(example)])
    times.append(time.perf_counter())
    finish_dataset(root, format)
    times.append(time.perf_counter())
    count_records(read_records(root, set(names)), {})
    times.append(time.perf_counter())
    return np.diff(times)


def image(number: int, name: str, index: int) -> GeneratedImage:
    """An image of one colour, less than 1 KB as JPEG."""
    measured = {"id_similarity": 0.7, "quality": 25.1}
    return GeneratedImage(np.full((112, 112, 3), 120, np.uint8), ImageRecord(number, name, index, 0.3, None, measured))


if __name__ == "__main__":
    main()
