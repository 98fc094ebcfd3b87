"""Render people who do not exist: photos with exact labels, free to use and to ship.

    python world/render_faces.py --identities 100 --images 20 --output rendered --workers 2
    python world/render_faces.py --identities 1000 --first_identity 100000 --images 20 --output unseen.lmdb
    python world/render_faces.py --grid 7 --output person7.jpg

Every photo comes from (seed, identity, image) alone, on any number of workers. Writes OUTPUT/<identity>/<image>.jpg,
or an LMDB for FR training, and labels.jsonl: who, yaw, pitch and roll in degrees (positive yaw turns the nose to the
image's right), expression, light, what spoils the photo, and its quality. Killed: run it again. Needs
`pip install -e .[render]`.
"""

import json
import multiprocessing
import os
import shutil
import signal
from functools import cache

from utils.cli.command import command

import torch
from tqdm import tqdm

from models.errors import UserError
from utils.cli.flags import make_parser, not_negative, positive
from utils.cli.outputs import output_file
from utils.data.images import contact_sheet, encode_jpeg
from utils.data.lmdb_files import write_fr_lmdb
from utils.runtime.device import CPU, keep_freed_memory

LABELS, SETTINGS = "labels.jsonl", "settings.json"
JPEG_QUALITY = 92
GRID_YAWS = (-90, -60, -30, -15, 0, 15, 30, 60, 90)
GRID_LIGHTS = ((-80, 20), (-30, 45), (0, 60), (60, 10))  # azimuth and elevation in degrees


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--identities", type=positive, default=10, help="people")
    parser.add_argument("--images", type=positive, default=20, help="photos of each")
    parser.add_argument("--first_identity", type=not_negative, default=0, help="number of the first: others are others")
    parser.add_argument("--seed", type=not_negative, default=0, help="of the world")
    parser.add_argument("--grid", type=not_negative, metavar="IDENTITY", help="only a sheet of one person, yaw x light")
    parser.add_argument("--workers", type=positive, default=len(os.sched_getaffinity(0)), help="processes that render")
    parser.add_argument("--output", required=True, help="folder, NAME.lmdb, or with --grid a .jpg")
    args = parser.parse_args(argv)
    with output_file(args.output) as target:
        if args.grid is not None:
            target.write_bytes(encode_jpeg(contact_sheet(grid(args.seed, args.grid)), 92))
            print(f"{target}: person {args.grid}, yaw {GRID_YAWS[0]} to {GRID_YAWS[-1]}, a light a row")
        elif target.suffix == ".lmdb":
            folder = target.with_name(target.name + ".photos")
            render(args, folder)
            count = to_lmdb(folder, target)
            shutil.rmtree(folder)
            print(f"{target}: {count} photos of {args.identities} people; labels: {target.with_suffix('.jsonl')}")
        else:
            render(args, target)
            print(f"{target}: {args.identities * args.images} photos of {args.identities} people; labels: {LABELS}")


def render(args, folder):
    """Photos in folder/<identity>/<image>.jpg: a person's folder appears when it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"seed": args.seed, "images": args.images}
    check_settings(folder / SETTINGS, settings)
    people = range(args.first_identity, args.first_identity + args.identities)
    missing = [person for person in people if not (folder / f"{person:06d}").exists()]
    work = [(folder, args.seed, person, args.images) for person in missing]
    studio()  # loaded before the workers are made, which share it
    fork = multiprocessing.get_context("fork")
    with fork.Pool(args.workers, begin_worker) as pool, tqdm(total=len(work), unit="id") as bar:
        for _ in pool.imap_unordered(render_person, work):
            bar.update()
        pool.close()
        pool.join()
    with open(folder / (LABELS + ".next"), "w") as file:
        for person in people:
            file.write((folder / f"{person:06d}" / LABELS).read_text())
    os.replace(folder / (LABELS + ".next"), folder / LABELS)


def check_settings(path, settings):
    if path.exists():
        try:
            there = json.loads(path.read_text())
        except ValueError as error:
            raise UserError(f"{path}: damaged; delete the folder and start again.") from error
        if there != settings:
            raise UserError(f"{path.parent}: was begun with {there}, now it is {settings}; choose another --output.")
    path.write_text(json.dumps(settings) + "\n")


def begin_worker():
    """Signals are the parent's to answer, and threads of a forked process must not wait for the parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    keep_freed_memory(CPU)


@cache
def studio():
    """What all people share: the head model and the painter."""
    from world.renderer.head import HeadModel
    from world.renderer.paint import Painter

    model = HeadModel()
    return model, Painter(model.head)


def render_person(work):
    """All photos of one person, in one step."""
    from world.renderer.photo import Photographer

    folder, seed, person, images = work
    photographer = Photographer(*studio(), seed, person)
    unfinished = folder / f".{person:06d}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    with open(unfinished / LABELS, "w") as labels:
        for image in range(images):
            photo, label = photographer.take(image)
            (unfinished / f"{image:03d}.jpg").write_bytes(encode_jpeg(photo, JPEG_QUALITY))
            labels.write(json.dumps({"file": f"{person:06d}/{image:03d}.jpg", "identity": person} | label) + "\n")
    unfinished.rename(folder / f"{person:06d}")


def to_lmdb(folder, target):
    """The FR-training LMDB and its labels beside it; how many photos."""
    lines = [json.loads(line) for line in (folder / LABELS).read_text().splitlines()]
    people = {person: number for number, person in enumerate(sorted({line["identity"] for line in lines}))}
    unfinished = target.with_name(target.name + ".unfinished")
    unfinished.unlink(missing_ok=True)
    photos = ((people[line["identity"]], (folder / line["file"]).read_bytes()) for line in lines)
    write_fr_lmdb(unfinished, photos, len(people))
    (folder / LABELS).replace(target.with_suffix(".jsonl"))
    unfinished.replace(target)
    return len(lines)


def grid(seed, identity):
    """Rows of pictures: one person over yaw, a light a row."""
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
