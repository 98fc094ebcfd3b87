"""Convert datasets: folder to LMDB and back, several into one, a part of one, and forms for other libraries.

    python scripts/convert_dataset.py tests/photos faces.lmdb
    python scripts/convert_dataset.py faces.lmdb faces --start_end 0:2
    python scripts/convert_dataset.py part1.lmdb part2 all.lmdb
    python scripts/convert_dataset.py generated_images/test test-for-the-hub --to imagefolder
    python scripts/convert_dataset.py generated_images/test test-shards --to webdataset
    python scripts/convert_dataset.py generated_images/test test-rec --to rec
    python scripts/convert_dataset.py generated_images/test --compact

A source is a folder of identity/photo, an LMDB, or an MXNet .rec (or a folder that holds one); the last name is the
target, which appears when it is complete. Bytes of photos are copied; those that are no JPEG are encoded as one, except
into an LMDB or .rec. The identities of several sources are numbered one source after the other, so merging never unites
two identities. --to imagefolder adds Hugging Face's metadata.jsonl, and --to webdataset a .json beside each image, with
the label, the identity's name and the image's line in the manifest of a generated dataset. --to rec writes train.rec
with train.idx, train.lst and property, the form in which InsightFace distributes its training sets.

--compact changes a generated dataset in place: it merges the images of processes that have ended, and sorts the
manifest, and an LMDB's keys and labels, by identity, as a single run writes them. Runs that each add a slice leave them
in the order in which they ended.
"""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from utils.cli.command import command

from tqdm.auto import tqdm

from models.errors import UserError
from utils.cli.flags import make_parser
from utils.cli.outputs import output_file
from utils.data.face_set import FaceSet
from utils.data.lmdb_files import write_fr_lmdb
from utils.data.rec_faces import write_rec
from utils.data.slices import parse_slice
from utils.dataset.export import Photo, photos_of, write_folder, write_imagefolder, write_webdataset
from utils.dataset.writer import compact_dataset, dataset_size, unmerged_note

FORMS = ("folder", "lmdb", "rec", "imagefolder", "webdataset")


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="source folders, LMDBs or .rec files, followed by the target"
    )
    parser.add_argument("--compact", action="store_true", help="sorting of a generated dataset by identity, in place")
    parser.add_argument("--to", choices=FORMS, help="form of the target (default: lmdb for NAME.lmdb, else folder)")
    parser.add_argument("--mask", help=".npy of the positions of the photos to take, for a single source")
    parser.add_argument(
        "--start_end", "--people", metavar="A:B", help="range of identities to take, A to B-1, counted over all sources"
    )
    args = parser.parse_args(argv)
    if args.compact:
        if len(args.paths) > 1 or args.to or args.mask or args.start_end:
            raise UserError("--compact: give one generated dataset and nothing else.")
        compact(args.paths[0])
        return
    *sources, target = args.paths
    if not sources:
        parser.error("give at least one source and the name of the new dataset")
    if args.mask and len(sources) > 1:
        raise UserError("--mask: give one source.")
    if target.endswith((".rec", ".idx")):
        raise UserError(f"{target}: a .rec comes with three other files: name a folder for them, and give --to rec.")
    form = args.to or ("lmdb" if target.endswith(".lmdb") else "folder")
    with output_file(target) as target:
        if target.exists():
            raise UserError(f"{target}: exists already; delete it, or choose another name.")
        sets = [FaceSet(source, args.mask) for source in sources]
        chosen = parse_slice(args.start_end, sum(len(faces.identities) for faces in sets))
        unfinished = target.with_name(target.name + ".unfinished")
        remove(unfinished)
        count = write(form, unfinished, photos(sets, chosen), len(chosen))
        unfinished.rename(target)
    print(f"{target}: {count} photos of {len(chosen)} identities")


def compact(root: str) -> None:
    """Sort a generated dataset by identity, and print its size."""
    others = compact_dataset(root)
    images, identities = dataset_size(root)
    print(f"{root}: {images} images of {identities} identities, in order of identity")
    if others:
        print(unmerged_note(root, others))


def photos(sets: list[FaceSet], chosen: range) -> Iterator[Photo]:
    """Iterate over the Photos of the chosen identities of all sets, labelled from 0, in order of identity."""
    first = 0
    with tqdm(total=sum(len(faces) for faces in sets), unit="im") as bar:
        for faces in sets:
            for photo in photos_of(faces):
                bar.update()
                if first + photo.label in chosen:
                    yield photo._replace(label=first + photo.label - chosen.start)
            first += len(faces.identities)


def write(form: str, path: Path, photos: Iterable[Photo], identities: int) -> int:
    """Write the photos of so many identities in a form of FORMS; the number of photos."""
    if form == "lmdb":
        return write_fr_lmdb(path, ((photo.label, photo.data) for photo in photos), identities)
    if form == "rec":
        return write_rec(path, ((photo.label, photo.identity, photo.data) for photo in photos), identities)
    return {"folder": write_folder, "imagefolder": write_imagefolder, "webdataset": write_webdataset}[form](
        path, photos
    )


def remove(path: Path) -> None:
    """Delete what a killed run left."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.with_name(path.name + "-lock").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
