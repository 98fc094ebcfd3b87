"""Choose some people of a dataset at random: the positions of their photos, to train with --mask.

    python scripts/small_portion_training_mask.py -im tests/photos -d . --identities 2 --seed 0

Writes DEST/<people>_ids_<photos>_ims.npy, and with --rest another one of all other people: photos to hold out. Of
rendered people, --min_quality takes the better photos only. With the seed and the count of the published run, and its
list of photos, this gives the published mask.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from utils.cli import command, finite, make_parser, not_negative, positive, writing
from utils.errors import UserError
from utils.face_labels import load_labels
from utils.face_set import FaceSet
from utils.images import list_images


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--image_path", "-im", required=True, help="folder of person/photo, or a .txt of paths")
    parser.add_argument("--destination", "-d", default=".", help="folder to write into")
    parser.add_argument("--identities", type=positive, default=50_000, help="people to choose")
    parser.add_argument("--min_quality", type=finite, help="of rendered photos, 0 to 1 by their labels.jsonl")
    parser.add_argument("--rest", action="store_true", help="also write a mask of everybody else")
    parser.add_argument("--seed", type=not_negative, default=0, help="of the choice")
    args = parser.parse_args(argv)
    people = [path.parent.name for path in list_images(args.image_path)]
    chosen = choose(people, args.identities, args.seed)
    good = good_photos(args, len(people))
    save(args.destination, args.identities, np.intersect1d(chosen, good), len(people))
    if args.rest:
        rest = np.setdiff1d(good, chosen)
        if not rest.size:
            raise UserError(f"--identities {args.identities}: that is everybody, nothing is left for --rest.")
        save(args.destination, len(set(people)) - args.identities, rest, len(people))


def good_photos(args, total):
    """Positions of the photos with a quality of --min_quality, of all without it."""
    if args.min_quality is None:
        return np.arange(total)
    labels = load_labels(FaceSet(args.image_path))
    good = np.flatnonzero([label["quality"] >= args.min_quality for label in labels])
    if not good.size:
        raise UserError(f"--min_quality {args.min_quality:g}: no photo of {args.image_path} is that good.")
    return good


def save(folder, identities, positions, total):
    with writing(Path(folder) / f"{identities}_ids_{len(positions)}_ims.npy") as target:
        np.save(target, positions)
    print(f"{target}: {len(positions)} of {total} photos")


def choose(people, count, seed):
    """Positions (int64) of the photos of ``count`` people; ``people``: the person of each photo, in order.

    NumPy's legacy generator, as in the published run. Raises UserError when there are fewer people.
    """
    names = np.array(list(dict.fromkeys(people)))  # in order of first appearance
    if count > len(names):
        raise UserError(f"--identities {count}: there are only {len(names)} people.")
    chosen = set(np.random.RandomState(seed).choice(names, count, replace=False).tolist())
    return np.array([position for position, person in enumerate(people) if person in chosen])


if __name__ == "__main__":
    main()
