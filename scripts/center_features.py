"""Average the features of each person: identity vectors, ordered by the name of the identity.

    python scripts/center_features.py -feat features -dataset demo -dest .

Reads FEATURES/person/photo.npy (or a .txt of such paths); writes DEST/DATASET_center_feature.npy, an array
(people, 512), and the names beside it.
"""

from pathlib import Path

from utils.cli.command import command

import numpy as np
from tqdm import tqdm

from models.errors import UserError
from utils.cli.flags import make_parser, positive
from utils.cli.outputs import writing
from utils.data.images import list_images


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--feature_path", "-feat", required=True, help="folder of person/photo.npy, or a .txt of paths")
    parser.add_argument("--dataset_name", "-dataset", required=True, help="begins the name of the file")
    parser.add_argument("--destination", "-dest", default=".", help="folder to write into")
    parser.add_argument("--num_cpus", "-n", type=positive, default=1, help="accepted; reading is the slow part")
    args = parser.parse_args(argv)

    sums, counts = {}, {}
    for path in tqdm(list_images(args.feature_path, (".npy",), "features"), unit="file"):
        person, feature = path.parent.name, load_feature(path)
        if person in sums and sums[person].shape != feature.shape:
            raise UserError(f"{path}: has {feature.size} numbers, others of {person} have {sums[person].size}.")
        sums[person] = sums.get(person, 0) + feature
        counts[person] = counts.get(person, 0) + 1
    names = sorted(sums)
    centres = np.stack([sums[name] / counts[name] for name in names]).astype(np.float32)
    with writing(Path(args.destination) / f"{args.dataset_name}_center_feature.npy") as target:
        np.save(target, centres)
        target.with_suffix(".txt").write_text("".join(f"{name}\n" for name in names))
    print(f"{target}: {len(names)} people from {sum(counts.values())} features")


def load_feature(path):
    """A feature as float64 (512,). Raises UserError when the file holds something else."""
    try:
        feature = np.load(path, allow_pickle=False).astype(np.float64).reshape(-1)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not a feature (.npy of numbers): {error}") from error
    if not np.isfinite(feature).all():
        raise UserError(f"{path}: has NaN or infinite numbers.")
    return feature


if __name__ == "__main__":
    main()
