"""Choose some people of a dataset at random: the positions of their photos, for --mask of the trainings.

    python scripts/small_portion_training_mask.py --data lmdb_dataset/faces.lmdb -d masks --identities 900
    python scripts/small_portion_training_mask.py --data tests/photos -d masks --identities 2 --rest
    python scripts/small_portion_training_mask.py -im images.txt -d . --identities 50000 --seed 0

Writes DEST/<people>_ids_<photos>_ims.npy and, with --rest, DEST/<people>_ids_<photos>_ims_rest.npy of everybody else,
to hold them out. --data counts the records of that dataset, whichever photos were left out when it was made. -im counts
the photos of a list or folder: with the seed and the count of the published run, and its list, the published mask.
A mask keeps the number of photos it was made for; trainings refuse it for a dataset of another number.
"""

from pathlib import Path

from utils.cli.command import command

import numpy as np

from models.errors import UserError
from utils.cli.flags import finite, make_parser, not_negative, positive
from utils.cli.outputs import output_file
from utils.data.face_labels import LABELS, labels_by_name, load_labels
from utils.data.face_set import FaceSet, FolderFaces, open_store
from utils.data.images import list_images, name_in
from utils.data.masks import save_mask
from utils.data.training_lmdb import photo_names


@command
def main(argv=None):
    parser = make_parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", help="dataset to be trained on: an LMDB, or a folder of person/photo")
    source.add_argument("--image_path", "-im", help="published form: a .txt of photos, or a folder of person/photo")
    parser.add_argument("--destination", "-d", default=".", help="folder to write into")
    parser.add_argument("--identities", type=positive, default=50_000, help="number of people to choose")
    parser.add_argument("--min_quality", type=finite, help="lowest quality of the photos, 0 to 1, by their labels")
    parser.add_argument("--labels", help=f"labels of rendered photos (default: {LABELS} in the folder of photos)")
    parser.add_argument("--rest", action="store_true", help="also write a mask of everybody else, <...>_ims_rest.npy")
    parser.add_argument("--seed", type=not_negative, default=0, help="seed of the random choice")
    args = parser.parse_args(argv)
    people, names = photos_of_dataset(args.data) if args.data else photos_of_list(args.image_path)
    chosen = choose(people, args.identities, args.seed)
    good = good_photos(args, names) if args.min_quality is not None else np.arange(len(people))
    rest = np.setdiff1d(good, chosen)
    if args.rest and not rest.size:
        raise UserError(f"--identities {args.identities}: that is everybody, nothing is left for --rest.")
    save(args.destination, args.identities, np.intersect1d(chosen, good), len(people))
    if args.rest:
        save(args.destination, len(set(people)) - args.identities, rest, len(people), "_rest")
    if args.image_path:
        print(
            "note: positions in this list of photos. They are those of a training LMDB only if every photo is in it; "
            "--data NAME.lmdb counts its own records."
        )


def photos_of_dataset(path):
    """([label of each photo], a function that gives the photos' names), as trainings count the photos."""
    store = open_store(Path(path))
    if isinstance(store, FolderFaces):
        return store.labels.tolist(), lambda: [name_in(path, photo) for photo in store.paths]
    return store.labels.tolist(), lambda: photo_names(store.path)


def photos_of_list(source):
    """([person of each photo], a function that gives the photos' names), as the published run counts the photos."""
    photos = list_images(source)
    return [photo.parent.name for photo in photos], lambda: [name_in(source, photo) for photo in photos]


def good_photos(args, names):
    """Positions of the photos with a quality of at least --min_quality; ``names``: a function that gives theirs."""
    source = Path(args.data or args.image_path)
    if args.labels or args.image_path:
        labels = labels_by_name(args.labels or source / LABELS, names())
    elif source.suffix == ".lmdb" and not source.with_suffix(".jsonl").exists():
        raise UserError(f"--min_quality: give --labels, the {LABELS} of the photos that {source} was made of.")
    else:
        labels = load_labels(FaceSet(source))
    good = np.flatnonzero([label["quality"] >= args.min_quality for label in labels])
    if not good.size:
        raise UserError(f"--min_quality {args.min_quality:g}: no photo of {source} is that good.")
    return good


def save(folder, identities, positions, count, ending=""):
    with output_file(Path(folder) / f"{identities}_ids_{len(positions)}_ims{ending}.npy") as target:
        save_mask(target, positions, count)
    print(f"{target}: {len(positions)} of {count} photos")


def choose(people, count, seed):
    """Positions (int64) of the photos of ``count`` people; ``people``: the person of each photo, in order.

    NumPy's legacy generator, as in the published run. Raises UserError when there are fewer people.
    """
    order = {person: number for number, person in enumerate(dict.fromkeys(people))}  # of first appearance
    if count > len(order):
        raise UserError(f"--identities {count}: there are only {len(order)} people.")
    chosen = np.zeros(len(order), bool)
    chosen[np.random.RandomState(seed).choice(len(order), count, replace=False)] = True
    return np.flatnonzero([chosen[order[person]] for person in people])


if __name__ == "__main__":
    main()
