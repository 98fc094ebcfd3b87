"""Rewrite datasets of people: folder to LMDB and back, several into one, one into several.

    python scripts/convert_dataset.py tests/photos faces.lmdb
    python scripts/convert_dataset.py faces.lmdb faces --people 0:2
    python scripts/convert_dataset.py part1.lmdb part2 all.lmdb

A source is a folder of person/photo or an LMDB; the last name is the target, an LMDB when it ends in .lmdb, else a
folder. Photos are copied as they are. The people of several sources are numbered one source after the other:
merging never mixes two people. The target appears when it is complete.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import shutil

import numpy as np
from tqdm import tqdm

from utils.cli import command, make_parser, parse_slice, writing
from utils.dataset_lmdb import write_fr_lmdb
from utils.errors import UserError
from utils.face_set import FaceSet
from utils.images import decode_image, encode_jpeg

JPEG_START = b"\xff\xd8"


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("sources", nargs="+", help="folders or LMDBs")
    parser.add_argument("target", help="NAME.lmdb, or a folder")
    parser.add_argument("--mask", help=".npy of positions to take, of a single source")
    parser.add_argument("--people", metavar="A:B", help="only people A to B-1, counted over all sources")
    args = parser.parse_args(argv)
    if args.mask and len(args.sources) > 1:
        raise UserError("--mask: give one source.")
    with writing(args.target) as target:
        if target.exists():
            raise UserError(f"{target}: exists already; delete it, or choose another name.")
        sets = [FaceSet(source, args.mask) for source in args.sources]
        chosen = parse_slice(args.people, sum(len(faces.people) for faces in sets), "--people")
        unfinished = target.with_name(target.name + ".unfinished")
        write = write_fr_lmdb if target.suffix == ".lmdb" else write_folder
        remove(unfinished)
        count = write(unfinished, photos(sets, chosen), len(chosen))
        unfinished.rename(target)
    print(f"{target}: {count} photos of {len(chosen)} people")


def photos(sets, chosen):
    """Iterate over (person from 0, encoded photo), people in order. Raises UserError at a photo that cannot be read."""
    first = 0
    bar = tqdm(total=sum(len(faces) for faces in sets), unit="im")
    for faces in sets:
        for index in np.argsort(faces.labels, kind="stable").tolist():
            person = first + int(faces.labels[index])
            bar.update()
            if person in chosen:
                try:
                    yield person - chosen.start, faces.read(index)
                except (OSError, ValueError) as error:
                    raise UserError(f"{faces.name(index)}: cannot be read: {error}") from error
        first += len(faces.people)
        faces.close()
    bar.close()


def write_folder(path, records, people):
    """FOLDER/<six digits>/<three digits>.jpg; photos in other formats are encoded as JPEG. How many photos."""
    count, last, index = 0, None, 0
    path.mkdir()
    for person, photo in records:
        index = index + 1 if person == last else 0
        last = person
        folder = path / f"{person:06d}"
        folder.mkdir(exist_ok=True)
        if not photo.startswith(JPEG_START):
            try:
                photo = encode_jpeg(decode_image(photo), 95)
            except ValueError as error:
                raise UserError(f"photo {index} of person {person}: {error}") from error
        (folder / f"{index:03d}.jpg").write_bytes(photo)
        count += 1
    return count


def remove(path):
    """Delete what a killed run left."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.with_name(path.name + "-lock").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
