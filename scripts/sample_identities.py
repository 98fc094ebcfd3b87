"""Sample the identity vectors of people who do not exist, all different from each other.

    python scripts/sample_identities.py --features weights/demo/identity_vectors.npy --count 50 --output people.npy
    python scripts/sample_identities.py --features centres.npy --count 300000 --avoid centres.npy --output people.npy

No two of the vectors written are more similar (cosine) than --max_similarity, nor is one of them to one of --avoid: a
final pass over all pairs makes sure, and people.json says what it found. Killed: run the same command again. Files
that are there already are replaced only with --overwrite.
"""

import json
import os
from pathlib import Path

from utils.cli.command import command

import numpy as np
from tqdm import tqdm

from models.errors import UserError
from models.weight_files import sha256
from utils.cli.flags import finite, make_parser, not_negative, positive
from utils.cli.outputs import refuse_existing, writing
from utils.generation.identity_sampling import (
    GaussianSampler,
    PCASampler,
    directions,
    highest_similarity,
    mix_pairs,
    sample_apart,
    similarity_of_pairs,
    with_mean_similarity,
)
from utils.generation.vector_source import load_vectors
from utils.runtime.device import resolve_device
from utils.runtime.precision import Precision

WIDTH = 512


def sampling_parser():
    parser = make_parser(__doc__)
    parser.add_argument("--method", choices=["pca", "gaussian"], default="pca", help="pca is the published sampler")
    parser.add_argument("--features", help=".npy (N, 512) of identity centres to be like (gaussian does without, too)")
    parser.add_argument("--count", type=positive, required=True, help="vectors wanted")
    parser.add_argument("--max_similarity", type=finite, default=0.3, help="largest cosine between two of them")
    parser.add_argument("--avoid", help=".npy of vectors, of real people for example, that none may come closer to")
    parser.add_argument(
        "--average_similarity", type=finite, help="pull all toward their mean until their mean cosine is this"
    )
    parser.add_argument("--mixup", type=positive, metavar="N", help="also write N mixtures of pairs (OUTPUT_mixup.npy)")
    parser.add_argument("--mixup_range", type=finite, nargs=2, default=[0.5, 1.0], help="share of the pair's first")
    parser.add_argument("--seed", type=not_negative, default=0, help="of all draws")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--output", default="identity_vectors.npy", help="file to write; a .json of its name beside it")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace --output and remove what belongs to it (.json, .txt, _mixup.npy, _mixup_labels.npy)",
    )
    return parser


@command
def main(argv=None):
    args = sampling_parser().parse_args(argv)
    check(args)
    companions = companions_of(Path(args.output))
    unfinished = Partial.begun(args.output)  # which may have written some companions
    refuse_existing(args.output, *([] if unfinished else companions), overwrite=args.overwrite)
    device = resolve_device(args.device)
    Precision().apply()
    features = np.array(load_vectors(args.features, WIDTH)) if args.features else None
    avoid = np.array(load_vectors(args.avoid, WIDTH)) if args.avoid else ()
    if features is not None and len(features) < 2:
        raise UserError(f"{args.features}: one person only; how people differ takes at least two.")
    sampler = PCASampler(features) if args.method == "pca" else GaussianSampler(features)
    with writing(args.output) as target, Partial(target, settings(args)) as partial:
        vectors = collect(sampler, args, avoid, partial, device)
        if args.average_similarity is not None:
            vectors = with_mean_similarity(vectors, args.average_similarity)
        report = verify(vectors, avoid, args, device)
        stale = set(companions) - {target.with_suffix(".json")}
        if args.mixup:
            mixed, labels = mix_pairs(vectors, args.mixup, *args.mixup_range, args.seed)
            for path, array in zip(companions[-2:], (mixed, labels), strict=True):
                save(path, array)
                stale.remove(path)
            print(f"{target.stem}_mixup.npy: {args.mixup} mixtures; who is in them: {target.stem}_mixup_labels.npy")
        target.with_suffix(".json").write_text(json.dumps(settings(args) | report, indent=2) + "\n")
        save(target, vectors)  # last: once it is there, so is what belongs to it
        for path in stale:
            path.unlink(missing_ok=True)
        partial.remove()
    print(f"{target}: {len(vectors)} vectors; similarity {report['largest_similarity']:.4f} at most, "
          f"{report['mean_similarity']:.4f} on average")  # fmt: skip


def check(args):
    if args.method == "pca" and not args.features:
        raise UserError("--method pca needs --features, identity centres to be like (or use --method gaussian).")
    if not -1 < args.max_similarity <= 1:
        raise UserError(f"--max_similarity {args.max_similarity}: a cosine lies between -1 and 1.")
    if args.count < 2:
        raise UserError("--count 1: similarity needs at least two vectors.")
    if not 0 <= args.mixup_range[0] <= args.mixup_range[1] <= 1:
        raise UserError("--mixup_range: two shares between 0 and 1, the smaller first.")
    if Path(args.output).suffix != ".npy":
        raise UserError(f"--output {args.output}: name a .npy file.")


def companions_of(target):
    """The files that belong to an .npy of vectors, by their names."""
    mixtures = (target.with_name(f"{target.stem}_{name}.npy") for name in ("mixup", "mixup_labels"))
    return [target.with_suffix(".json"), target.with_suffix(".txt"), *mixtures]


def settings(args):
    """What determines the candidates and whom they keep apart from."""
    hashes = {name: sha256(getattr(args, name)) if getattr(args, name) else None for name in ("features", "avoid")}
    names = ("method", "max_similarity", "seed", "average_similarity")
    return {name: getattr(args, name) for name in names} | hashes


def collect(sampler, args, avoid, partial, device):
    """``count`` vectors, those of an earlier run first. Raises UserError when the space is full."""
    accepted = partial.vectors()
    blocks = sample_apart(
        sampler, args.count, args.max_similarity, args.seed, avoid, accepted[: args.count], partial.block, device
    )
    with tqdm(total=args.count, initial=min(len(accepted), args.count), unit="id") as bar:
        for block, vectors in blocks:
            partial.add(block, vectors)
            bar.update(len(vectors))
    vectors = partial.vectors()
    if len(vectors) < args.count:
        raise UserError(
            f"only {len(vectors)} vectors fit below --max_similarity {args.max_similarity}: the space of --method "
            f"{args.method} is full. Give --count {len(vectors)}, or a higher --max_similarity."
        )
    return vectors[: args.count]


def verify(vectors, avoid, args, device):
    """The final pass over all pairs: {largest_similarity, mean_similarity, ...}. Raises UserError if two are close."""
    largest, mean = similarity_of_pairs(vectors, device, lambda blocks: tqdm(blocks, desc="check", leave=False))
    report = {"count": len(vectors), "largest_similarity": largest, "mean_similarity": mean}
    if len(avoid):
        nearest = highest_similarity(directions(vectors, device), directions(avoid, device))
        report["largest_similarity_to_avoided"] = float(nearest.max())
    worst = max(largest, report.get("largest_similarity_to_avoided", -1))
    if args.average_similarity is None and worst > args.max_similarity:
        raise UserError(f"two vectors have similarity {worst:.6f}; nothing was written. Please report this.")
    return report


def save(path, array):
    """Write an .npy in one step."""
    temporary = path.with_name(path.name + ".next")
    with open(temporary, "wb") as file:
        np.save(file, array)
    os.replace(temporary, path)


class Partial:
    """What an unfinished run has accepted: raw float32 rows beside the output, and how far it came.

    Raises UserError when it was begun with other settings.
    """

    def __init__(self, target, settings):
        self.rows, self.state = self.files(target)
        self.settings, self.block, self.count = settings, 0, 0
        if self.begun(target):
            state = json.loads(self.state.read_text())
            if state["settings"] != settings:
                raise UserError(f"{self.rows}: was begun with other settings; delete it, or choose another --output.")
            self.block, self.count = state["block"], state["count"]

    @staticmethod
    def files(target):
        """Of the rows, and of how far it came."""
        return [Path(f"{target}{ending}") for ending in (".partial", ".partial.json")]

    @staticmethod
    def begun(target):
        """Whether an unfinished run left something."""
        return all(path.exists() for path in Partial.files(target))

    def __enter__(self):
        self.file = open(self.rows, "r+b" if self.block else "w+b")
        self.file.truncate(4 * WIDTH * self.count)
        return self

    def __exit__(self, *error):
        self.file.close()

    def vectors(self):
        """All accepted so far, (n, 512) float32."""
        self.file.seek(0)
        return np.frombuffer(bytearray(self.file.read()), np.float32).reshape(-1, WIDTH)

    def add(self, block, vectors):
        """Keep newly accepted rows; ``block``: the next one to draw."""
        self.file.seek(0, os.SEEK_END)
        self.file.write(vectors.tobytes())
        self.file.flush()
        self.block, self.count = block, self.count + len(vectors)
        temporary = self.state.with_name(self.state.name + ".next")
        temporary.write_text(json.dumps({"settings": self.settings, "block": self.block, "count": self.count}))
        os.replace(temporary, self.state)

    def remove(self):
        self.rows.unlink()
        self.state.unlink()


if __name__ == "__main__":
    main()
