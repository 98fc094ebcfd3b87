"""Average the features of each identity: the class centroids, ordered by the name of the identity.

    python scripts/center_features.py -feat features -dataset demo -dest .

Reads FEATURES/identity/photo.npy (or a .txt of such paths). Writes DEST/DATASET_center_feature.npy, an array
(identities, 512), and the names of the identities beside it, one per line, in DATASET_center_feature.txt.
"""

from pathlib import Path

from utils.cli.command import command

import numpy as np
from tqdm.auto import tqdm

from models.errors import UserError
from utils.cli.flags import make_parser, positive
from utils.cli.outputs import output_file
from utils.data.images import list_images


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--feature_path", "-feat", required=True, help="folder of identity/photo.npy, or .txt of paths")
    parser.add_argument("--dataset_name", "-dataset", required=True, help="first part of the name of the output file")
    parser.add_argument("--destination", "-dest", default=".", help="folder to write into")
    parser.add_argument(
        "--num_cpus", "-n", type=positive, default=1, help="number of processes; accepted, but one process reads all"
    )
    args = parser.parse_args(argv)
    write_centroids(args.feature_path, Path(args.destination) / f"{args.dataset_name}_center_feature.npy")


def write_centroids(features: Path | str, output: Path) -> None:
    """Write the class centroids (C, 512) float32 of a folder or list of features, and the names beside them."""
    names, centroids, count = class_centroids(list_images(features, (".npy",), "features"))
    with output_file(output) as target:
        np.save(target, centroids)
        target.with_suffix(".txt").write_text("".join(f"{name}\n" for name in names))
    print(f"{target}: {len(names)} identities from {count} features")


def class_centroids(paths: list[Path]) -> tuple[list[str], np.ndarray, int]:
    """(C names in sorted order, centroids (C, D) float32, number of features) of files IDENTITY/PHOTO.npy.

    Raises UserError when a file holds something else, or the features of an identity differ in length.
    """
    sums, counts = {}, {}
    for path in tqdm(paths, unit="file"):
        name, feature = path.parent.name, load_feature(path)
        if name in sums and sums[name].shape != feature.shape:
            raise UserError(f"{path}: has {feature.size} numbers, others of {name} have {sums[name].size}.")
        sums[name] = sums.get(name, 0) + feature
        counts[name] = counts.get(name, 0) + 1
    names = sorted(sums)
    return names, np.stack([sums[name] / counts[name] for name in names]).astype(np.float32), sum(counts.values())


def load_feature(path: Path) -> np.ndarray:
    """A feature as float64 (D,). Raises UserError when the file holds something else, or NaN or infinite numbers."""
    try:
        feature = np.load(path, allow_pickle=False).astype(np.float64).reshape(-1)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not a feature (.npy of numbers): {error}") from error
    if not np.isfinite(feature).all():
        raise UserError(f"{path}: has NaN or infinite numbers.")
    return feature


if __name__ == "__main__":
    main()
