"""Render photos of people who do not exist, with exact labels, free to use and to redistribute.

    python world/render_faces.py --identities 100 --example 20 --output rendered --workers 2
    python world/render_faces.py --identities 1000 --first_identity 100000 --example 20 --output unseen.lmdb
    python world/render_faces.py --identities 100 --example 20 --identity_mixup linspace:0.6:1:11 --output mixed
    python world/render_faces.py --grid 7 --output person7.jpg

Every photo depends on (seed, identity, image) alone, whatever the number of workers. Writes
OUTPUT/<identity>/<image>.jpg, or an LMDB for FR training, and labels.jsonl: identity, yaw, pitch and roll in degrees
(positive yaw turns the nose to the image's right), landmarks in pixels, expression, light, the artefacts of the photo,
and its quality. With --identity_mixup each photo shows a person between two of the identities; labels.jsonl names the
second one and the share of the first.
After an interruption the same command continues. Needs `pip install -e .[render]`.
"""

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.cli.command import command

import numpy as np
import torch
from tqdm.auto import tqdm

from models.errors import UserError
from utils.cli.flags import make_parser, not_negative, positive
from utils.cli.mixup_flags import add_mixup_flag
from utils.cli.outputs import output_file
from utils.data.images import LABELS, contact_sheet, encode_jpeg
from utils.data.lmdb_files import Label, write_fr_lmdb
from utils.data.mixup import MIXTURE, SETTING, Shares, draw_mixture, mixture_entry, mixup_setting
from utils.runtime.device import CPU, keep_freed_memory

if TYPE_CHECKING:  # needs the packages of the render extra
    from world.renderer.head import HeadModel
    from world.renderer.paint import Painter

SETTINGS = "settings.json"
JPEG_QUALITY = 92
GRID_YAWS = (-90, -60, -30, -15, 0, 15, 30, 60, 90)
GRID_LIGHTS = ((-80, 20), (-30, 45), (0, 60), (60, 10))  # azimuth and elevation in degrees


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--identities", type=positive, default=10, help="number of identities")
    parser.add_argument("--example", "--images", type=positive, default=20, help="number of photos of an identity")
    parser.add_argument(
        "--first_identity",
        type=not_negative,
        default=0,
        help="number of the first identity; other numbers are other people",
    )
    parser.add_argument("--seed", type=not_negative, default=0, help="seed of all random draws")
    add_mixup_flag(parser)
    parser.add_argument(
        "--grid",
        type=not_negative,
        metavar="IDENTITY",
        help="number of an identity, for a single picture of it with yaw in columns and light in rows",
    )
    parser.add_argument(
        "--workers", type=positive, default=len(os.sched_getaffinity(0)), help="number of processes that render"
    )
    parser.add_argument("--output", required=True, help="folder or NAME.lmdb to write, with --grid a .jpg")
    args = parser.parse_args(argv)
    identities = range(args.first_identity, args.first_identity + args.identities)
    check_mixup(args.identity_mixup, len(identities), args.grid)
    with output_file(args.output) as target:
        if args.grid is not None:
            target.write_bytes(encode_jpeg(contact_sheet(grid(args.seed, args.grid)), 92))
            print(f"{target}: identity {args.grid}, yaw {GRID_YAWS[0]} to {GRID_YAWS[-1]}, one light per row")
        elif target.suffix == ".lmdb":
            folder = target.with_name(target.name + ".photos")
            render(folder, args.seed, identities, args.example, args.workers, args.identity_mixup)
            count = to_lmdb(folder, target)
            shutil.rmtree(folder)
            print(f"{target}: {count} photos of {args.identities} identities; labels: {target.with_suffix('.jsonl')}")
        else:
            render(target, args.seed, identities, args.example, args.workers, args.identity_mixup)
            print(
                f"{target}: {args.identities * args.example} photos of {args.identities} identities; labels: {LABELS}"
            )


def check_mixup(mixup: Shares | None, identities: int, grid: int | None) -> None:
    """Raise UserError for an identity mixup that cannot be."""
    if mixup is not None and grid is not None:
        raise UserError("--identity_mixup: does not go with --grid, a picture of one identity.")
    if mixup is not None and identities < 2:
        raise UserError("--identity_mixup: there is only one identity, and so nobody to mix it with.")


def render(
    folder: Path, seed: int, identities: range, images: int, workers: int, mixup: Shares | None = None
) -> None:  # fmt: skip
    """Render folder/<identity>/<image>.jpg; the folder of an identity appears when it is complete.

    ``mixup``: the distribution of the share of its own identity in a photo, which is mixed with another of the
    ``identities``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"seed": seed, "images": images}
    if mixup is not None:
        settings[SETTING] = mixup_setting(mixup, len(identities)) | {"first_identity": identities.start}
    check_settings(folder / SETTINGS, settings)
    missing = [identity for identity in identities if not (folder / f"{identity:06d}").exists()]
    mixing = None if mixup is None else (mixup, identities)
    work = [(folder, seed, identity, images, mixing) for identity in missing]
    studio()  # loaded before the workers are forked, which share it
    fork = multiprocessing.get_context("fork")
    with fork.Pool(workers, begin_worker) as pool, tqdm(total=len(work), unit="id") as bar:
        for _ in pool.imap_unordered(render_person, work):
            bar.update()
        pool.close()
        pool.join()
    with open(folder / (LABELS + ".next"), "w") as file:
        for identity in identities:
            file.write((folder / f"{identity:06d}" / LABELS).read_text())
    os.replace(folder / (LABELS + ".next"), folder / LABELS)


def check_settings(path: Path, settings: dict) -> None:
    """Write the settings of a folder; raise UserError when it holds photos of other settings."""
    if path.exists():
        try:
            before = json.loads(path.read_text())
        except ValueError as error:
            raise UserError(f"{path}: damaged; delete the folder and start again.") from error
        if before != settings:
            raise UserError(f"{path.parent}: was begun with {before}, now it is {settings}; choose another --output.")
    path.write_text(json.dumps(settings) + "\n")


def begin_worker() -> None:
    """Leave signals to the parent process, and compute in one thread, as a fork has none of the parent's threads."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    keep_freed_memory(CPU)


@cache
def studio() -> tuple["HeadModel", "Painter"]:
    """The head model and the painter, which all identities share."""
    from world.renderer.head import HeadModel
    from world.renderer.paint import Painter

    model = HeadModel()
    return model, Painter(model.head)


def render_person(work: tuple[Path, int, int, int, tuple[Shares, range] | None]) -> None:
    """Render all photos of one identity, whose folder appears when it is complete."""
    folder, seed, identity, images, mixing = work
    unfinished = folder / f".{identity:06d}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    with open(unfinished / LABELS, "w") as labels:
        for image, (photo, label) in enumerate(photos_of(seed, identity, images, mixing)):
            (unfinished / f"{image:03d}.jpg").write_bytes(encode_jpeg(photo, JPEG_QUALITY))
            labels.write(json.dumps({"file": f"{identity:06d}/{image:03d}.jpg", "identity": identity} | label) + "\n")
    unfinished.rename(folder / f"{identity:06d}")


def photos_of(
    seed: int, identity: int, images: int, mixing: tuple[Shares, range] | None
) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """The photos (112, 112, 3) uint8 of one identity, and their labels.

    ``mixing``: with identity mixup, the distribution of phi and all identities. Each photo is then of a person of its
    own, but its pose, expression and light are those that it has without mixup.
    """
    from world.renderer.person import stream
    from world.renderer.photo import Photographer

    if mixing is None:
        photographer = Photographer(*studio(), seed, identity)
        yield from map(photographer.take, range(images))
        return
    shares, everyone = mixing
    for image in range(images):
        own = identity - everyone.start
        row, phi = draw_mixture(stream(seed, identity, 4, image), own, len(everyone), shares)
        other = everyone[row]
        photo, label = Photographer(*studio(), seed, identity, (other, phi)).take(image)
        yield photo, {MIXTURE: mixture_entry(other, f"{other:06d}", phi)} | label


def to_lmdb(folder: Path, target: Path) -> int:
    """Write the FR-training LMDB, and its labels beside it; the number of photos."""
    lines = [json.loads(line) for line in (folder / LABELS).read_text().splitlines()]
    classes = {identity: label for label, identity in enumerate(sorted({line["identity"] for line in lines}))}

    def label_of(line: dict[str, Any]) -> Label:
        other = line.get(MIXTURE)
        return (
            (classes[line["identity"]], classes[other["identity"]], other["phi"])
            if other
            else classes[line["identity"]]
        )

    unfinished = target.with_name(target.name + ".unfinished")
    unfinished.unlink(missing_ok=True)
    photos = ((label_of(line), (folder / line["file"]).read_bytes()) for line in lines)
    write_fr_lmdb(unfinished, photos, len(classes))
    (folder / LABELS).replace(target.with_suffix(".jsonl"))
    unfinished.replace(target)
    return len(lines)


def grid(seed: int, identity: int) -> list[list[np.ndarray]]:
    """Images (112, 112, 3) uint8 of one identity: a row for each light, over yaw."""
    from world.renderer.person import stream
    from world.renderer.photo import Photographer

    photographer = Photographer(*studio(), seed, identity)
    plain = {
        "pitch": 0, "roll": 0, "expression": {}, "gaze": [0, 0], "distance": 1.0, "glasses": False, "warmth": 0,
        "light_hardness": 0.6, "exposure": 1.0, "occluded": False, "blur": 0, "resolution": 1, "noise": 0, "jpeg": 95,
    }  # fmt: skip
    return [
        [
            photographer.shoot(
                plain | {"yaw": yaw, "light_azimuth": azimuth, "light_elevation": elevation},
                stream(seed, identity, 3),
            )
            for yaw in GRID_YAWS
        ]
        for azimuth, elevation in GRID_LIGHTS
    ]


if __name__ == "__main__":
    main()
