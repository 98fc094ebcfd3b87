"""Choose random identities of a dataset: the positions of their photos, for --mask of the training scripts.

    python scripts/small_portion_training_mask.py --data lmdb_dataset/faces.lmdb -d masks --identities 900
    python scripts/small_portion_training_mask.py --data tests/photos -d masks --identities 2 --rest
    python scripts/small_portion_training_mask.py -im images.txt -d . --identities 50000 --seed 0

Writes DEST/<identities>_ids_<photos>_ims.npy and, with --rest, DEST/<identities>_ids_<photos>_ims_rest.npy of all other
identities, to hold them out. --data counts the records of that dataset, whichever photos were left out when it was
made. -im counts the photos of a list or folder; with the list, seed and number of the published run it gives the
published mask. A mask records the number of photos that it was made for, and trainings refuse it for a dataset with
another number.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from utils.cli.command import command

import numpy as np

from models.errors import UserError
from utils.cli.flags import finite, make_parser, not_negative, positive
from utils.cli.outputs import output_file
from utils.data.face_labels import labels_by_name, load_labels
from utils.data.face_set import FaceSet, FolderFaces, open_store, refuse_mixtures
from utils.data.images import LABELS, list_images, name_in
from utils.data.masks import save_mask
from utils.data.training_lmdb import photo_names


@command
def main(argv=None):
    parser = make_parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", help="dataset to train on: LMDB, or folder of identity/photo")
    source.add_argument(
        "--image_path", "-im", help="published form of the dataset: .txt of paths, or folder of identity/photo"
    )
    parser.add_argument("--destination", "-d", default=".", help="folder to write into")
    parser.add_argument("--identities", type=positive, default=50_000, help="number of identities to choose")
    parser.add_argument(
        "--min_quality", type=finite, help="lowest quality of the photos, 0 to 1, according to --labels"
    )
    parser.add_argument("--labels", help=f"labels of rendered photos (default: {LABELS} in the folder of the photos)")
    parser.add_argument(
        "--rest", action="store_true", help="a second mask, <...>_ims_rest.npy, of all other identities"
    )
    parser.add_argument("--seed", type=not_negative, default=0, help="seed of the random choice")
    args = parser.parse_args(argv)
    dataset = args.data or args.image_path
    photos = photos_of_dataset(dataset) if args.data else photos_of_list(dataset)
    count = len(photos.identities)
    chosen = choose(photos.identities, args.identities, args.seed)
    good = np.arange(count)
    if args.min_quality is not None:
        good = np.flatnonzero(qualities(photos, Path(dataset), args.labels) >= args.min_quality)
        if not good.size:
            raise UserError(f"--min_quality {args.min_quality:g}: no photo of {dataset} is that good.")
    rest = np.setdiff1d(good, chosen)
    if args.rest and not rest.size:
        raise UserError(f"--identities {args.identities}: these are all, nothing is left for --rest.")
    save(args.destination, args.identities, np.intersect1d(chosen, good), count)
    if args.rest:
        save(args.destination, len(set(photos.identities)) - args.identities, rest, count, "_rest")
    if args.image_path:
        print(
            "note: positions in this list of photos. They are those of a training LMDB only if every photo is in it; "
            "--data NAME.lmdb counts its own records."
        )


class Photos(NamedTuple):
    """The photos that the positions of a mask count."""

    identities: list  # label or name of the identity of each photo, in order
    names: Callable[[], list[str]]  # reads the name of each photo
    labelled_beside: bool  # whether the labels of rendered photos lie in the folder of the photos


def photos_of_dataset(path: str) -> Photos:
    """The photos of a dataset, as trainings count them."""
    store = open_store(Path(path))
    refuse_mixtures(store, path)
    if isinstance(store, FolderFaces):
        return Photos(store.labels.tolist(), lambda: [name_in(path, photo) for photo in store.paths], False)
    return Photos(store.labels.tolist(), lambda: photo_names(store.path), False)


def photos_of_list(source: str) -> Photos:
    """The photos of a list or folder, as the published run counts them."""
    photos = list_images(source)
    return Photos([photo.parent.name for photo in photos], lambda: [name_in(source, photo) for photo in photos], True)


def qualities(photos: Photos, source: Path, labels_file: str | None) -> np.ndarray:
    """The quality of each photo, (N,), according to its label. Raises UserError when there are no labels."""
    if labels_file or photos.labelled_beside:
        labels = labels_by_name(labels_file or source / LABELS, photos.names())
    elif source.suffix == ".lmdb" and not source.with_suffix(".jsonl").exists():
        raise UserError(f"--min_quality: give --labels, the {LABELS} of the photos that {source} was made of.")
    else:
        labels = load_labels(FaceSet(source))
    return np.array([label["quality"] for label in labels])


def save(folder: str, identities: int, positions: np.ndarray, count: int, ending: str = "") -> None:
    """Write a mask of ``positions`` in a dataset of ``count`` photos."""
    with output_file(Path(folder) / f"{identities}_ids_{len(positions)}_ims{ending}.npy") as target:
        save_mask(target, positions, count)
    print(f"{target}: {len(positions)} of {count} photos")


def choose(identities: Sequence, count: int, seed: int) -> np.ndarray:
    """Positions (int64) of the photos of ``count`` random identities, from the identity of each photo in order.

    Draws from NumPy's legacy generator, as the published run does. Raises UserError when there are fewer identities.
    """
    order = {identity: number for number, identity in enumerate(dict.fromkeys(identities))}  # of first appearance
    if count > len(order):
        raise UserError(f"--identities {count}: there are only {len(order)} identities.")
    chosen = np.zeros(len(order), bool)
    chosen[np.random.RandomState(seed).choice(len(order), count, replace=False)] = True
    return np.flatnonzero([chosen[order[identity]] for identity in identities])


if __name__ == "__main__":
    main()
