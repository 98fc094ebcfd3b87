"""Reproduce a table of the paper at your scale: make datasets that differ in one thing, train a recogniser on each.

    python world/run_ablation.py noise --photos PHOTOS --unseen UNSEEN --output ablations

Tables: noise (sigma of the noise), attrop (AttrOP for quality on and off), similarity (average similarity of the
identity vectors), people (how many), real (against photos of as many people), mixup (SynFace's two). A seventh trains
nothing: separability (are the people different, is each one person, do they resemble known people). --photos are the
known people: identity vectors are sampled like their centres, and real and mixup train on them; --unseen are others,
for the test. Writes OUTPUT/TABLE.md and .png. Killed: run it again; what is finished is not done again.
"""

import json
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # no window system needed
from utils.cli.command import INTERRUPTED, command

import matplotlib.pyplot as plt

import image_generation
from models.errors import UserError
from scripts import (
    center_features,
    compare_datasets,
    compare_fr,
    extract_features,
    measure_dataset,
    sample_identities,
    test_fr,
    train_fr,
)
from utils.cli.flags import make_parser, positive
from utils.cli.outputs import writing
from utils.data.face_set import FaceSet
from utils.data.masks import save_mask

BASE = {
    "sigma": (0.3, 0.3, 0.5, 0.5, 0.7),
    "attrop": True,
    "similarity": None,
    "share": 1.0,
    "mixed": 0.0,
    "blended": False,
}
REAL = "photos of the known people"  # in the place of a recipe
OTHERS = "photos of the others"
TABLES = {  # name of a row: in what it differs from BASE
    "noise": {
        "noise .3": {"sigma": (0.3,)},
        "noise .3 .5 .7": {},
        "noise .3 .5 .9": {"sigma": (0.3, 0.3, 0.5, 0.5, 0.9)},
    },
    "attrop": {"AttrOP for quality": {}, "no AttrOP": {"attrop": False}},
    "similarity": {"as sampled": {}, "mean .2": {"similarity": 0.2}, "mean .4": {"similarity": 0.4}},
    "people": {"a quarter": {"share": 0.25}, "half": {"share": 0.5}, "all": {}},
    "real": {"real": REAL, "synthetic": {}},
    "mixup": {  # as many images in each row, but for the real ones blended in
        "synthetic": {},
        "half of them of two people each": {"mixed": 0.5},
        "blended with real photos": {"blended": True},
    },
    "separability": {
        "photos of others": OTHERS,
        "synthetic": {},
        "no AttrOP": {"attrop": False},
        "noise .3": {"sigma": (0.3,)},
    },
}


def ablation_parser():
    parser = make_parser(__doc__)
    parser.add_argument("table", choices=TABLES, help="which comparison")
    parser.add_argument("--photos", required=True, help="folder of person/photo, or LMDB")
    parser.add_argument("--unseen", required=True, help="photos of other people, for the test")
    size = parser.add_argument_group("size")
    size.add_argument("--people", type=positive, default=200, help="people of a dataset")
    size.add_argument("--images", type=positive, default=10, help="images of each")
    size.add_argument("--seeds", type=positive, default=1, help="repetitions, for mean ± standard deviation")
    size.add_argument("--pairs", type=positive, default=6000, help="test pairs")
    size.add_argument("--max_similarity", default="0.5", help="of two identity vectors")
    models = parser.add_argument_group("models")
    models.add_argument("--generator", default="weights/demo/vec2face_generator.pth", help="makes the images")
    models.add_argument("--encoder", default="weights/demo/face_encoder.pth", help="its face encoder")
    models.add_argument("--quality", default="weights/demo/face_encoder.pth", help="quality model of AttrOP")
    models.add_argument("--batch_size", type=positive, default=32, help="images the generator draws at a time")
    models.add_argument("--image_quality", help="quality AttrOP goes for (default: what image_generation.py takes)")
    models.add_argument(
        "--judge", default="weights/demo/face_encoder.pth", help="measures the table separability; best another encoder"
    )
    models.add_argument(
        "--recogniser",
        default="--network 18 --width 16 --no-se --batch_size 32 --epochs 10 --milestones 7 10 --random_erasing 0",
        help="flags of train_fr.py",
    )
    parser.add_argument("--output", default="ablations", help="folder of everything")
    return parser


@command
def main(argv=None):
    args = ablation_parser().parse_args(argv)
    output = Path(args.output)
    with writing(output / f"{args.table}.md") as target:
        remember_settings(args, output)
        prepare(args, output)
        figures = measure if args.table == "separability" else evaluate
        files = {
            name: [figures(args, output, changes, seed) for seed in range(1 if changes == OTHERS else args.seeds)]
            for name, changes in TABLES[args.table].items()
        }
        if args.table == "separability":
            text = compare_datasets.table({name: [compare_datasets.read(f) for f in files[name]] for name in files})
        else:
            results = {name: [compare_fr.read(file) for file in files[name]] for name in files}
            text = compare_fr.table(results, "real" if args.table == "real" else None)
            draw(results, target.with_suffix(".png"))
        target.write_text(text + "\n")
    print(text)
    print(f"table: {target}")


def remember_settings(args, output):
    """Rows are made once: settings.json says of what. Raises UserError where this run asks for something else."""
    without = {"table", "seeds", "output"} | ({"judge"} if args.table != "separability" else set())
    settings = {key: value for key, value in vars(args).items() if key not in without}
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


def prepare(args, output):
    """The centres of the known people, and the test pairs of the unseen ones."""
    if not (output / "known_center_feature.npy").exists():
        run(extract_features, "--images", args.photos, "--encoder", args.encoder, "-d", output / "features")
        run(center_features, "-feat", output / "features", "-dataset", "known", "-dest", output)
    if not (output / "unseen.npz").exists():
        run(test_fr, "--pairs", args.unseen, "--pair_count", args.pairs, "--save_pairs", output / "unseen.npz")


def evaluate(args, output, changes, seed):
    """Dataset, recogniser and test of one row and seed, where they are not there yet; the file of the figures."""
    recipe = None if changes == REAL else BASE | changes
    folder = output / "fr" / (f"real_{seed}" if recipe is None else training_name(recipe, seed))
    figures = folder / "test.json"
    if not figures.exists():
        mask = output / f"{folder.name}.npy"
        if recipe is None:
            source = ["--data", args.photos, "--mask", write_mask(mask, args.photos, args.people, args.images, seed)]
        else:
            source = make_images(args, output, recipe, seed)
            source += ["--real_data", args.photos] if recipe["blended"] else []
            if recipe["share"] < 1:
                people = max(2, round(args.people * recipe["share"]))
                source += ["--mask", write_mask(mask, dataset_of(output, recipe, seed), people, args.images, seed)]
        run(train_fr, *source, *args.recogniser.split(), "--seed", seed, "--output_dir", folder, "--resume", folder)
        if not (folder / train_fr.MODEL).exists():
            raise UserError(f"{folder}: the training was stopped; run the same command again to go on.")
        run(test_fr, "--weights", folder / train_fr.MODEL, "--sets", output / "unseen.npz", "--output", figures)
    return figures


def measure(args, output, changes, seed):
    """What measure_dataset.py finds in the dataset of one row and seed, made where it is not there yet; the file."""
    data = args.unseen if changes == OTHERS else dataset_of(output, BASE | changes, seed)
    folder = output / "measured" / ("others" if changes == OTHERS else data.name)
    if not (folder / "report.json").exists():
        if changes != OTHERS:
            make_images(args, output, BASE | changes, seed)
        run(
            measure_dataset, data, "--id_weights", args.judge, "--reference", args.photos, "--reference_features",
            output / "measured" / "known", "--output", folder,
        )  # fmt: skip
    return folder / "report.json"


def dataset_of(output, recipe, seed):
    """Folder of a row's images."""
    sigma = "-".join(f"{s:g}" for s in recipe["sigma"])
    mixed = f"mixed{recipe['mixed']:g}_" if recipe["mixed"] else ""
    attrop, similarity = int(recipe["attrop"]), recipe["similarity"]
    return output / "datasets" / f"{mixed}sigma{sigma}_attrop{attrop}_similarity{similarity}_{seed}"


def training_name(recipe, seed):
    """Of a row's recogniser: rows may train on the same images."""
    share = f"_{recipe['share']:g}" if recipe["share"] < 1 else ""
    return dataset_of(Path(), recipe, seed).name + share + ("_blended" if recipe["blended"] else "")


def make_images(args, output, recipe, seed):
    """The dataset of a row, and of mixtures of its people, where they are not there yet; train_fr.py's flags for it."""
    name = dataset_of(output, recipe, seed).name
    vectors = output / "vectors" / f"{recipe['similarity']}_{seed}.npy"
    if not vectors.exists():
        pull = ["--average_similarity", recipe["similarity"]] if recipe["similarity"] is not None else []
        run(
            sample_identities, "--features", output / "known_center_feature.npy", "--count", args.people, "--mixup",
            args.people, "--max_similarity", args.max_similarity, "--seed", seed, "--output", vectors, *pull,
        )  # fmt: skip
    quality = ["--image_quality", args.image_quality] if args.image_quality else []
    attrop = quality if recipe["attrop"] else ["--skip_attrop"]
    mixed = round(args.images * recipe["mixed"])
    parts = {name: (vectors, args.images - mixed)}
    flags = ["--data", output / "datasets" / name]
    if mixed:
        parts[f"{name}_mixup"] = (with_ending(vectors, "_mixup"), mixed)
        flags += ["--mixed_data", output / "datasets" / f"{name}_mixup"]
        flags += ["--mixed_labels", with_ending(vectors, "_mixup_labels")]
    for part, (people, images) in parts.items():
        run(
            image_generation, "--center_feature", people, "--model_weights", args.generator, "--id_weights",
            args.encoder, "--quality_weights", args.quality, "--example", images, "--sigma", *recipe["sigma"],
            "--name", part, "--output_dir", output / "datasets", "--seed", seed, "--batch_size", args.batch_size,
            *attrop,
        )  # fmt: skip
    return flags


def draw(results, path):
    """A picture of the average accuracies: a dot a seed, a bar at their mean. ``results``: as compare_fr.table."""
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


def with_ending(path, ending):
    return path.with_name(path.stem + ending + path.suffix)


def write_mask(path, data, people, images, seed):
    """``path``, for train_fr.py's --mask: so many ``images`` of so many ``people``, chosen from a dataset at random."""
    faces, rng = FaceSet(data), np.random.default_rng(seed)
    labels = faces.labels
    chosen_people = rng.permutation(labels.max() + 1)[:people]
    chosen = [rng.permutation(np.flatnonzero(labels == person))[:images] for person in chosen_people]
    save_mask(path, np.sort(np.concatenate(chosen)), len(faces))
    return path


def run(script, *words):
    """Run one of our scripts with a user's command line. Raises UserError when it fails."""
    words = [str(word) for word in words]
    print(f"$ python {script.__name__.replace('.', '/')}.py {' '.join(words)}", flush=True)
    try:
        script.main(words)
    except SystemExit as error:
        if error.code == INTERRUPTED:
            raise KeyboardInterrupt from error
        raise UserError(f"{script.__name__} failed, see above; mend it and run this again.") from error


if __name__ == "__main__":
    main()
