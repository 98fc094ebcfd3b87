"""Sample identity vectors of people who do not exist, no two of them alike.

    python scripts/sample_identities.py --features weights/demo/identity_vectors.npy --count 50 --output identities.npy
    python scripts/sample_identities.py --features centres.npy --avoid centres.npy --count 300000 \\
        --output identities.npy

No two of the vectors have a cosine similarity above --max_similarity, and none of them has one to a vector of --avoid:
a last pass over all pairs makes sure of it, and identities.json reports what it found. After an interruption the same
command continues. Existing files are replaced only with --overwrite.
"""

import json
import os
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

from utils.cli.command import command

import numpy as np
import torch
from tqdm.auto import tqdm

from models.errors import UserError
from models.weight_files import sha256
from utils.cli.flags import finite, make_parser, not_negative, positive
from utils.cli.outputs import output_file, refuse_existing
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


def sampling_parser() -> ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--method",
        choices=["pca", "gaussian"],
        default="pca",
        help="distribution to sample from: the published one, a normal distribution in the PCA space of --features, or "
        "a normal distribution with independent dimensions",
    )
    parser.add_argument(
        "--features", help=".npy (N, 512) of class centroids to imitate; required by pca, optional for gaussian"
    )
    parser.add_argument("--count", type=positive, required=True, help="number of vectors")
    parser.add_argument("--max_similarity", type=finite, default=0.3, help="highest cosine similarity of two vectors")
    parser.add_argument(
        "--avoid", help=".npy of vectors, for example of real identities, that no vector may resemble either"
    )
    parser.add_argument(
        "--average_similarity", type=finite, help="mean cosine similarity to pull all vectors to, toward their mean"
    )
    parser.add_argument(
        "--mixup", type=positive, metavar="N", help="number of mixtures of two vectors to write into OUTPUT_mixup.npy"
    )
    parser.add_argument(
        "--mixup_range", type=finite, nargs=2, default=[0.5, 1.0], metavar=("LOW", "HIGH"),
        help="range of the first vector's fraction of a mixture",
    )  # fmt: skip
    parser.add_argument("--seed", type=not_negative, default=0, help="seed of all random draws")
    parser.add_argument("--device", default="auto", help="device to compute on: auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--output", default="identity_vectors.npy", help=".npy file to write, with a .json of the same name beside it"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replacement of OUTPUT, and removal of the files that belong to it (.json, .txt, _mixup.npy, "
        "_mixup_labels.npy)",
    )
    return parser


@dataclass(frozen=True)
class Sampling:
    """What to sample; the fields are the flags of the same names. Raises UserError for values that do not fit."""

    count: int
    method: str = "pca"
    features: Path | str | None = None
    max_similarity: float = 0.3
    avoid: Path | str | None = None
    average_similarity: float | None = None
    mixup: int | None = None
    mixup_range: tuple[float, float] = (0.5, 1.0)
    seed: int = 0

    def __post_init__(self):
        if self.method == "pca" and not self.features:
            raise UserError("--method pca needs --features, class centroids to imitate (or use --method gaussian).")
        if not -1 < self.max_similarity <= 1:
            raise UserError(f"--max_similarity {self.max_similarity}: a cosine lies between -1 and 1.")
        if self.count < 2:
            raise UserError("--count 1: similarity needs at least two vectors.")
        if not 0 <= self.mixup_range[0] <= self.mixup_range[1] <= 1:
            raise UserError("--mixup_range: two fractions between 0 and 1, the smaller first.")

    def settings(self) -> dict:
        """What determines the candidates, and the vectors that they must not resemble."""
        names = ("method", "max_similarity", "seed", "average_similarity")
        files = {"features": self.features, "avoid": self.avoid}
        hashes = {name: sha256(path) if path else None for name, path in files.items()}
        return {name: getattr(self, name) for name in names} | hashes

    def sampler(self) -> PCASampler | GaussianSampler:
        features = np.array(load_vectors(self.features, WIDTH)) if self.features else None  # (N, 512)
        if features is not None and len(features) < 2:
            raise UserError(f"{self.features}: one person only; how identities differ takes at least two.")
        return PCASampler(features) if self.method == "pca" else GaussianSampler(features)


@command
def main(argv=None):
    args = sampling_parser().parse_args(argv)
    sampling = Sampling(
        args.count, method=args.method, features=args.features, max_similarity=args.max_similarity, avoid=args.avoid,
        average_similarity=args.average_similarity, mixup=args.mixup, mixup_range=tuple(args.mixup_range),
        seed=args.seed,
    )  # fmt: skip
    check_output(args.output, args.overwrite)
    device = resolve_device(args.device)
    Precision().apply()
    write_identities(sampling, args.output, device, args.overwrite)


def check_output(output: Path | str, overwrite: bool) -> None:
    """Raise UserError when the output is no .npy, or it or a file that belongs to it exists without --overwrite."""
    if Path(output).suffix != ".npy":
        raise UserError(f"--output {output}: name a .npy file.")
    unfinished = Partial.begun(output)  # an unfinished run may have written some of the companions
    refuse_existing(output, *([] if unfinished else companions_of(Path(output))), overwrite=overwrite)


def write_identities(sampling: Sampling, output: Path | str, device: torch.device, overwrite: bool = False) -> None:
    """Sample the vectors and write them with their report and mixtures, replacing what is there.

    An interrupted run with the same settings goes on; ``overwrite``: one with other settings is discarded.

    Raises UserError when the vectors do not fit, the input is damaged, or the files cannot be written.
    """
    sampler = sampling.sampler()
    avoid = np.array(load_vectors(sampling.avoid, WIDTH)) if sampling.avoid else ()
    settings = sampling.settings()
    with output_file(output) as target, Partial(target, settings, overwrite) as partial:
        vectors = collect(sampler, sampling, avoid, partial, device)
        if sampling.average_similarity is not None:
            vectors = with_mean_similarity(vectors, sampling.average_similarity)
        report = verify(vectors, avoid, sampling, device)
        companions = companions_of(target)
        stale = set(companions) - {target.with_suffix(".json")}
        if sampling.mixup:
            mixed, labels = mix_pairs(vectors, sampling.mixup, *sampling.mixup_range, sampling.seed)
            for path, array in zip(companions[-2:], (mixed, labels), strict=True):
                save(path, array)
                stale.remove(path)
            print(f"{target.stem}_mixup.npy: {sampling.mixup} mixtures; who is in them: {target.stem}_mixup_labels.npy")
        target.with_suffix(".json").write_text(json.dumps(settings | report, indent=2) + "\n")
        save(target, vectors)  # last: once it exists, so do the files that belong to it
        for path in stale:
            path.unlink(missing_ok=True)
        partial.remove()
    print(f"{target}: {len(vectors)} vectors; similarity {report['largest_similarity']:.4f} at most, "
          f"{report['mean_similarity']:.4f} on average")  # fmt: skip


def companions_of(target: Path) -> list[Path]:
    """The files that belong to an .npy of vectors, by their names."""
    mixtures = (target.with_name(f"{target.stem}_{name}.npy") for name in ("mixup", "mixup_labels"))
    return [target.with_suffix(".json"), target.with_suffix(".txt"), *mixtures]


def collect(sampler, sampling: Sampling, avoid: np.ndarray, partial: "Partial", device: torch.device) -> np.ndarray:
    """``count`` vectors (count, 512), those of an interrupted run first. Raises UserError when the space is full."""
    accepted = partial.vectors()
    count = sampling.count
    blocks = sample_apart(
        sampler, count, sampling.max_similarity, sampling.seed, avoid, accepted[:count], partial.block, device
    )
    with tqdm(total=count, initial=min(len(accepted), count), unit="id") as bar:
        for block, vectors in blocks:
            partial.add(block, vectors)
            bar.update(len(vectors))
    vectors = partial.vectors()
    if not len(vectors):
        raise UserError(
            f"no vector fits below --max_similarity {sampling.max_similarity}. --method {sampling.method} needs the "
            "features of many more identities, or a higher --max_similarity."
        )
    if len(vectors) < count:
        raise UserError(
            f"only {len(vectors)} vectors fit below --max_similarity {sampling.max_similarity}: the space of --method "
            f"{sampling.method} is full. Give --count {len(vectors)}, or a higher --max_similarity."
        )
    return vectors[:count]


def verify(vectors: np.ndarray, avoid: np.ndarray, sampling: Sampling, device: torch.device) -> dict:
    """The last pass over all pairs: {largest_similarity, mean_similarity, ...}. Raises UserError if two are close."""
    largest, mean = similarity_of_pairs(vectors, device, lambda blocks: tqdm(blocks, desc="check", leave=False))
    report = {"count": len(vectors), "largest_similarity": largest, "mean_similarity": mean}
    if len(avoid):
        nearest = highest_similarity(directions(vectors, device), directions(avoid, device))
        report["largest_similarity_to_avoided"] = float(nearest.max())
    worst = max(largest, report.get("largest_similarity_to_avoided", -1))
    if sampling.average_similarity is None and worst > sampling.max_similarity:
        raise UserError(f"two vectors have similarity {worst:.6f}; nothing was written. Please report this.")
    return report


def save(path: Path, array: np.ndarray) -> None:
    """Write an .npy in one step: a reader finds the old file or the whole new one."""
    temporary = path.with_name(path.name + ".next")
    with open(temporary, "wb") as file:
        np.save(file, array)
    os.replace(temporary, path)


class Partial:
    """The vectors that an unfinished run has accepted, as raw float32 rows beside the output, and how far it came.

    Raises UserError when the run was begun with other settings, unless ``overwrite``.
    """

    def __init__(self, target: Path, settings: dict, overwrite: bool = False):
        self.rows, self.state = self.files(target)
        self.settings, self.block, self.count = settings, 0, 0
        if self.begun(target):
            state = json.loads(self.state.read_text())
            if state["settings"] == settings:
                self.block, self.count = state["block"], state["count"]
            elif not overwrite:
                raise UserError(
                    f"{self.rows}: an unfinished run with other settings; give --overwrite to start anew, or another "
                    "--output."
                )

    @staticmethod
    def files(target: Path | str) -> list[Path]:
        """Paths of the rows, and of the state of the run."""
        return [Path(f"{target}{ending}") for ending in (".partial", ".partial.json")]

    @staticmethod
    def begun(target: Path | str) -> bool:
        """Whether an unfinished run left something."""
        return all(path.exists() for path in Partial.files(target))

    def __enter__(self) -> "Partial":
        self.file = open(self.rows, "r+b" if self.block else "w+b")
        self.file.truncate(4 * WIDTH * self.count)
        return self

    def __exit__(self, *error):
        self.file.close()

    def vectors(self) -> np.ndarray:
        """All vectors accepted so far, (n, 512) float32."""
        self.file.seek(0)
        return np.frombuffer(bytearray(self.file.read()), np.float32).reshape(-1, WIDTH)  # (n * 512,) -> (n, 512)

    def add(self, block: int, vectors: np.ndarray) -> None:
        """Keep newly accepted rows. ``block``: number of the next block to draw."""
        self.file.seek(0, os.SEEK_END)
        self.file.write(vectors.tobytes())
        self.file.flush()
        self.block, self.count = block, self.count + len(vectors)
        temporary = self.state.with_name(self.state.name + ".next")
        temporary.write_text(json.dumps({"settings": self.settings, "block": self.block, "count": self.count}))
        os.replace(temporary, self.state)

    def remove(self) -> None:
        self.rows.unlink()
        self.state.unlink()


if __name__ == "__main__":
    main()
