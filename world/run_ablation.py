"""Reproduce a table of the paper at your scale: datasets that differ in one thing, and an FR model trained on each.

    python world/run_ablation.py noise --data PHOTOS --unseen UNSEEN --output ablations

The tables are noise (standard deviation of the noise), attrop (with and without AttrOP for quality), similarity (mean
similarity of the identity vectors), people (number of identities), real (against photos of as many identities) and
mixup (two kinds of it). synface has SynFace's experiments: identity mixup with a fixed and with random shares, domain
mixup with several numbers of real people, and both; beside the accuracies it measures how much the images of an
identity vary. separability trains nothing: it measures whether the identities differ, whether each is consistent, and
whether they resemble known people.

--data are photos of known people, whose class centroids the identity vectors imitate, and which real, mixup and
synface train on; --unseen are photos of other people, for the evaluation. Writes OUTPUT/TABLE.md and OUTPUT/TABLE.png.
After an interruption the same command continues: what is finished is not repeated.
"""

import json
from argparse import ArgumentParser
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # no window system needed
from utils.cli.command import INTERRUPTED, command

import matplotlib.pyplot as plt
import torch

import image_generation
from models.errors import UserError
from models.iresnet import load_face_encoder
from scripts import train_fr
from scripts.center_features import write_centroids
from scripts.evaluate_fr import evaluate, write_pairs, write_results
from scripts.extract_features import extract
from scripts.measure_dataset import measure
from scripts.sample_identities import Sampling, write_identities
from utils.cli.flags import finite, make_parser, positive
from utils.cli.outputs import output_file
from utils.data.face_set import FaceSet
from utils.data.fr_sources import choose_photos
from utils.data.masks import save_mask
from utils.evaluation.comparison import accuracy_table, dataset_table, read_results
from utils.evaluation.verification_sets import draw_pairs, load_pairs
from utils.generation.photo_source import PhotoSource
from utils.runtime.device import keep_freed_memory, resolve_device
from utils.runtime.precision import Precision
from world.ablation_tables import MEASURED, TABLES, Photos, SyntheticSet

# Flags of train_fr.py: shares 0, .05, ..., 1 of the synthetic image, one for all of a batch; the logits are mixed.
SYNFACE = ["--mixup_loss", "logits", "--domain_mixup", "linspace:0:1:21", "--domain_mixup_per", "batch"]


def ablation_parser() -> ArgumentParser:
    """The flags. Their ``dest`` are the keys of OUTPUT/settings.json, which earlier versions wrote."""
    parser = make_parser(__doc__)
    parser.add_argument("table", choices=TABLES, help="name of the comparison")
    parser.add_argument(
        "--data", "--photos", dest="photos", required=True, help="photos of known people: folder or LMDB"
    )
    parser.add_argument("--unseen", required=True, help="photos of other people, for the evaluation: folder or LMDB")
    size = parser.add_argument_group("size")
    size.add_argument(
        "--identities", "--people", dest="people", type=positive, default=200, help="number of identities of a dataset"
    )
    size.add_argument(
        "--example", "--images", dest="images", type=positive, default=10, help="number of images of an identity"
    )
    size.add_argument("--seeds", type=positive, default=1, help="number of repetitions, for mean ± standard deviation")
    size.add_argument(
        "--pair_count", "--pairs", dest="pairs", type=positive, default=6000, help="number of pairs of the evaluation"
    )
    size.add_argument(
        "--max_similarity", type=number, default="0.5", help="highest cosine similarity of two identity vectors"
    )
    models = parser.add_argument_group("models")
    models.add_argument(
        "--model_weights", "--generator", dest="generator", default="weights/demo/vec2face_generator.pth",
        help="weights of the generator",
    )  # fmt: skip
    models.add_argument(
        "--id_weights", "--encoder", dest="encoder", default="weights/demo/face_encoder.pth",
        help="weights of the face encoder whose vectors the generator reads",
    )  # fmt: skip
    models.add_argument(
        "--quality_weights", "--quality", dest="quality", default="weights/demo/face_encoder.pth",
        help="weights of the quality model of AttrOP",
    )  # fmt: skip
    models.add_argument("--batch_size", type=positive, default=32, help="number of images generated in a batch")
    models.add_argument(
        "--image_quality", type=number, help="target quality of AttrOP (default: that of image_generation.py)"
    )
    models.add_argument(
        "--evaluator_weights", "--judge", dest="judge", default="weights/demo/face_encoder.pth",
        help="weights of the FR model that measures the table separability, best a held-out one",
    )  # fmt: skip
    models.add_argument(
        "--recogniser",
        default="--network 18 --width 16 --no-se --batch_size 32 --epochs 10 --milestones 7 10 --random_erasing 0",
        help="flags of train_fr.py for the FR models",
    )
    parser.add_argument("--output", default="ablations", help="folder for datasets, FR models and tables")
    return parser


def number(text: str) -> str:
    """argparse type: a number, kept as it was written, as settings.json has it."""
    finite(text)
    return text


@command
def main(argv=None):
    args = ablation_parser().parse_args(argv)
    ablation = Ablation(
        output=Path(args.output), photos=args.photos, unseen=args.unseen, identities=args.people, example=args.images,
        pair_count=args.pairs, max_similarity=float(args.max_similarity), model_weights=args.generator,
        id_weights=args.encoder, quality_weights=args.quality, evaluator_weights=args.judge,
        batch_size=args.batch_size, image_quality=args.image_quality, recogniser=args.recogniser,
    )  # fmt: skip
    with output_file(ablation.output / f"{args.table}.md") as target:
        remember_settings(vars(args), ablation.output, args.table)
        ablation.prepare()
        rows = TABLES[args.table]

        def results_of(
            make: Callable[[SyntheticSet | Photos, int], Path], names: Iterable[str]
        ) -> dict[str, list[dict]]:
            seeds = {name: range(1 if rows[name] == Photos(known=False) else args.seeds) for name in names}
            return {name: [read_results(make(rows[name], seed)) for seed in seeds[name]] for name in seeds}

        tables = []
        if args.table != "separability":
            results = results_of(ablation.evaluated, rows)
            tables.append(accuracy_table(results, "real" if args.table == "real" else None))
            draw(results, target.with_suffix(".png"))
        if args.table in MEASURED:
            tables.append(dataset_table(results_of(ablation.measured, MEASURED[args.table])))
        text = "\n\n".join(tables)
        target.write_text(text + "\n")
    print(text)
    print(f"table: {target}")


def remember_settings(flags: dict, output: Path, table: str) -> None:
    """Compare the flags with OUTPUT/settings.json, which holds those of the finished rows, and write them there.

    Raises UserError where this run asks for something else.
    """
    without = {"table", "seeds", "output"} | ({"judge"} if table not in MEASURED else set())
    settings = {key: value for key, value in flags.items() if key not in without}
    path = output / "settings.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    for key, value in settings.items():
        if before.get(key, value) != value:
            raise UserError(
                f"{output}: its rows were made with --{key} {before[key]}, not {value}; name another --output."
            )
    temporary = path.with_suffix(".next")
    temporary.write_text(json.dumps(before | settings, indent=2) + "\n")
    temporary.replace(path)


@dataclass(frozen=True)
class Ablation:
    """Makes the rows of tables in a folder; what is there already is used. The fields are the flags of the script."""

    output: Path
    photos: str
    unseen: str
    identities: int
    example: int
    pair_count: int
    max_similarity: float
    model_weights: str
    id_weights: str
    quality_weights: str
    evaluator_weights: str
    batch_size: int
    image_quality: str | None
    recogniser: str

    @property
    def centroids(self) -> Path:
        return self.output / "known_center_feature.npy"

    @property
    def pairs(self) -> Path:
        return self.output / "unseen.npz"

    def prepare(self) -> None:
        """Make the class centroids of the known people, and the evaluation pairs of the unseen ones."""
        if not self.centroids.exists():
            say("features and class centroids of the known people")
            device, precision = in_float32()
            encoder = load_face_encoder(self.id_weights, device, precision.dtype)
            extract(PhotoSource(self.photos, encoder, batch_size=64), self.output / "features")
            write_centroids(self.output / "features", self.centroids)
        if not self.pairs.exists():
            say("evaluation pairs of the unseen people")
            faces = FaceSet(self.unseen)
            write_pairs(self.pairs, faces, *draw_pairs(faces, self.pair_count, 0))

    def evaluated(self, row: SyntheticSet | Photos, seed: int) -> Path:
        """Dataset, FR model and evaluation of a row; the file of the accuracies."""
        folder = self.output / "fr" / row.training_name(seed)
        results = folder / "test.json"
        if results.exists():
            return results
        mask = self.output / f"{folder.name}.npy"
        if isinstance(row, Photos):
            data = ["--data", self.photos, "--mask", self.photo_mask(mask, row, seed)]
        else:
            data = self.make_images(row, seed)
            data += ["--real_data", self.photos] if row.blended or row.real else []
            data += SYNFACE if row.as_synface else []
            if row.real:
                people, images = row.real.of(self.identities, self.example)
                data += ["--real_people", people, "--real_images", images]
            if row.fraction < 1:
                identities = max(2, round(self.identities * row.fraction))
                data += ["--mask", write_mask(mask, self.dataset(row, seed), identities, self.example, seed)]
        words = [*data, *self.recogniser.split(), "--seed", seed, "--output_dir", folder, "--resume", folder]
        run("scripts/train_fr.py", train_fr.main, *words)
        model = folder / train_fr.MODEL
        if not model.exists():
            raise UserError(f"{folder}: the training was stopped; run the same command again to go on.")
        say(f"evaluation of {model}")
        device, precision = in_float32()
        encoder = load_face_encoder(model, device, precision.dtype)
        write_results(results, evaluate(encoder, [load_pairs(self.pairs)], 64, precision))
        return results

    def photo_mask(self, path: Path, row: Photos, seed: int) -> Path:
        """Write the --mask of the photos of a row: of a part the same ones that domain mixup blends in; its path."""
        if row.part is None:
            return write_mask(path, self.photos, self.identities, self.example, seed)
        faces = FaceSet(self.photos)
        save_mask(path, choose_photos(faces, *row.part.of(self.identities, self.example), seed).positions, len(faces))
        return path

    def measured(self, row: SyntheticSet | Photos, seed: int) -> Path:
        """Dataset and report of a row; the file of the report."""
        data = Path(self.unseen) if isinstance(row, Photos) else self.dataset(row, seed)
        folder = self.output / "measured" / ("others" if isinstance(row, Photos) else data.name)
        report = folder / "report.json"
        if report.exists():
            return report
        if isinstance(row, SyntheticSet):
            self.make_images(row, seed)
        say(f"report on {data}")
        known = self.output / "measured" / "known"
        measure(
            FaceSet(data, mixtures="first"), [FaceSet(self.photos)], folder, self.evaluator_weights, *in_float32(),
            reference_features=known,
        )  # fmt: skip
        return report

    def dataset(self, synthetic: SyntheticSet, seed: int) -> Path:
        """The folder of a row's images."""
        return self.output / "datasets" / synthetic.dataset_name(seed)

    def make_images(self, synthetic: SyntheticSet, seed: int) -> list:
        """Make the dataset of a row, and that of mixtures of its identities; the flags of train_fr.py that use them."""
        vectors = self.output / "vectors" / f"{synthetic.similarity}_{seed}.npy"
        if not vectors.exists():
            say(f"identity vectors {vectors}")
            device, _ = in_float32()
            sampling = Sampling(
                self.identities, features=self.centroids, max_similarity=self.max_similarity, seed=seed,
                average_similarity=synthetic.similarity, mixup=self.identities,
            )  # fmt: skip
            write_identities(sampling, vectors, device)
        folder = self.dataset(synthetic, seed)
        mixed = round(self.example * synthetic.mixed)
        self.generate(folder, vectors, self.example - mixed, synthetic, seed, synthetic.mixup)
        flags = ["--data", folder]
        if mixed:
            mixtures = folder.with_name(f"{folder.name}_mixup")
            self.generate(mixtures, with_ending(vectors, "_mixup"), mixed, synthetic, seed)
            flags += ["--mixed_data", mixtures, "--mixed_labels", with_ending(vectors, "_mixup_labels")]
        return flags

    def generate(
        self, folder: Path, vectors: Path, example: int, synthetic: SyntheticSet, seed: int, mixup: str | None = None
    ) -> None:
        """Make what is missing of a dataset of ``example`` images of each of the identity vectors."""
        target = ["--image_quality", self.image_quality] if self.image_quality else []
        run(
            "image_generation.py", image_generation.main, "--center_feature", vectors, "--model_weights",
            self.model_weights, "--id_weights", self.id_weights, "--quality_weights", self.quality_weights, "--example",
            example, "--sigma", *synthetic.sigma, "--name", folder.name, "--output_dir", folder.parent, "--seed", seed,
            "--batch_size", self.batch_size, *(target if synthetic.attrop else ["--skip_attrop"]),
            *(["--identity_mixup", mixup] if mixup else []),
        )  # fmt: skip


def in_float32() -> tuple[torch.device, Precision]:
    """The device and float32, in which everything is measured, with this process's backend flags set to it."""
    device, precision = resolve_device("auto"), Precision()
    keep_freed_memory(device)
    precision.apply()
    return device, precision


def draw(results: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Draw the average accuracies: a dot per seed, a bar at their mean. ``results``: as for ``accuracy_table``."""
    figure, axis = plt.subplots(figsize=(6, 0.9 + 0.4 * len(results)), layout="constrained")
    for row, runs in enumerate(results.values()):
        accuracies = [100 * np.mean(list(run.values())) for run in runs]
        axis.plot(accuracies, [row] * len(runs), "o", color="tab:blue", alpha=0.6)
        axis.plot([np.mean(accuracies)], [row], "|", color="black", markersize=16)
    axis.set(yticks=range(len(results)), yticklabels=results, xlabel="accuracy on unseen people, %")
    axis.set_ylim(len(results) - 0.5, -0.5)
    axis.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def with_ending(path: Path, ending: str) -> Path:
    return path.with_name(path.stem + ending + path.suffix)


def write_mask(path: Path, data: Path | str, identities: int, images: int, seed: int) -> Path:
    """Write a --mask of ``images`` random images of each of ``identities`` random identities of a dataset; its path."""
    faces, rng = FaceSet(data), np.random.default_rng(seed)
    labels = faces.labels
    chosen = rng.permutation(labels.max() + 1)[:identities]
    positions = [rng.permutation(np.flatnonzero(labels == label))[:images] for label in chosen]
    save_mask(path, np.sort(np.concatenate(positions)), len(faces))
    return path


def say(stage: str) -> None:
    """Print which stage begins."""
    print(f"== {stage}", flush=True)


def run(script: str, main: Callable, *words) -> None:
    """Run a script that is a whole run of its own, with its command line. Raises UserError when it fails."""
    words = [str(word) for word in words]
    print(f"$ python {script} {' '.join(words)}", flush=True)
    try:
        main(words)
    except SystemExit as error:
        if error.code == INTERRUPTED:
            raise KeyboardInterrupt from error
        raise UserError(f"{script} failed, see above; mend it and run this again.") from error


if __name__ == "__main__":
    main()
