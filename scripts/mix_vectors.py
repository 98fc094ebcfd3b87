"""Mix two identity vectors: a person between two others.

    python scripts/mix_vectors.py --first weights/demo/identity_vectors.npy 0 \\
        --second weights/demo/identity_vectors.npy 7 --share 0.25 0.5 0.75 --output mixed.npy

A mixture of a and b with the share s of b is (1 - s) a + s b, rescaled to the norm (1 - s) |a| + s |b|, as in identity
mixup (SynFace, Qiu et al., 2021). Its direction lies between those of a and b.
"""

from pathlib import Path

from utils.cli.command import command

import numpy as np

from models.errors import UserError
from utils.cli.flags import fraction, make_parser
from utils.cli.outputs import output_file, refuse_existing
from utils.generation.identity_sampling import mixtures
from utils.generation.vector_source import load_vectors
from utils.runtime.durable import atomic_write

WIDTH = 512


def mixing_parser():
    parser = make_parser(__doc__)
    for name in ("first", "second"):
        parser.add_argument(
            f"--{name}", nargs=2, required=True, metavar=("FILE", "ROW"),
            help=f".npy of identity vectors (K, {WIDTH}), and the row of the {name} vector, counted from 0",
        )  # fmt: skip
    parser.add_argument(
        "--share", type=fraction, nargs="+", default=[0.5],
        help="shares of the second vector, from 0 to 1; the output has a row for each",
    )  # fmt: skip
    parser.add_argument("--output", default="mixed.npy", help=".npy file to write")
    parser.add_argument("--overwrite", action="store_true", help="replacement of OUTPUT")
    return parser


@command
def main(argv=None):
    args = mixing_parser().parse_args(argv)
    if Path(args.output).suffix != ".npy":
        raise UserError(f"--output {args.output}: name a .npy file.")
    refuse_existing(args.output, overwrite=args.overwrite)
    first, second = vector_in(*args.first), vector_in(*args.second)
    mixed = mixtures(first[None], second[None], 1 - np.array(args.share)[:, None])  # (number of shares, 512)
    with output_file(args.output) as target:
        atomic_write(target, lambda file: np.save(file, mixed))
    print(f"{args.output}: {len(mixed)} mixtures of row {args.first[1]} of {args.first[0]} and row {args.second[1]} of "
          f"{args.second[0]}")  # fmt: skip


def vector_in(path: str, row: str) -> np.ndarray:
    """One vector (512,) float32 of a file. Raises UserError for an unsuitable file, or a row that it does not have."""
    vectors = load_vectors(path, WIDTH)
    if not row.isdecimal() or int(row) >= len(vectors):
        raise UserError(f"{path}: has no row {row}; its rows are 0 to {len(vectors) - 1}.")
    return np.array(vectors[int(row)], np.float32)


if __name__ == "__main__":
    main()
