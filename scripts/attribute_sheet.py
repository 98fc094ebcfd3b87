"""Measure how well AttrOP reaches target values of an attribute; the picture has identities in rows, values in columns.

    python scripts/attribute_sheet.py --attribute yaw --values -60 -30 0 30 60 --count 6 --output sheet
    python scripts/attribute_sheet.py --attribute quality --values 20 22 24 26 --output sheet
    python scripts/attribute_sheet.py --attribute smile --values 0 0.4 0.8 --output sheet
    python scripts/attribute_sheet.py --attribute yaw --values -45 45 --attribute light_azimuth --values -80 80

A target of yaw or pitch has to be reached within 5 degrees; a target of quality is a lower bound, of which an image may
fall short by 1. Other attributes are those of an estimator (--attribute_weights), which have to be reached within its
error on held-out photos.

Writes OUTPUT.jpg, the labelled images, and OUTPUT.json: for every target, the fraction of vectors that reached it
while the face encoder still saw the same identity, the values reached, and the id similarity.
"""

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from utils.cli.command import command

import numpy as np
from tqdm.auto import tqdm

from models.attribute_estimator import AttributeEstimator, attribute_target, load_attribute_estimator
from models.attrop import AttrOP, Result, Target, pitch_target, quality_target, yaw_target
from models.errors import UserError
from models.iresnet import IResNet, load_face_encoder
from models.masking import MaskRates
from models.pixels import to_pixels
from models.sixdrepnet import SixDRepNet, load_pose_estimator
from models.vec2face import load_vec2face
from utils.cli.attribute_flags import add_attribute_weights_flag, attribute_file_of
from utils.cli.demo_weights import use_demo_weights
from utils.cli.flags import finite, make_parser, not_negative, positive
from utils.cli.generation_flags import QUALITY_WEIGHTS
from utils.cli.model_flags import add_device_flags, add_model_flags, set_up_inference
from utils.cli.outputs import output_file, refuse_existing
from utils.data.images import encode_jpeg
from utils.evaluation.labelled_sheet import labelled_sheet
from utils.generation.attrop_progress import AttrOPProgress
from utils.generation.batch_rows import attrop_rows
from utils.generation.pipeline import identity_rows
from utils.generation.vector_source import VectorSource

SHOWN = 12  # identities of the picture
POSE = ("yaw", "pitch")
TARGETS = {"yaw": "yaw", "pitch": "pitch", "quality": "quality at least"}
TOLERANCES = {"yaw": "within {:g} degrees", "pitch": "within {:g} degrees", "quality": "at most {:g} too low"}
LABELS = TARGETS | {"quality": "quality >=", "light_azimuth": "light"}  # short enough for 112 pixels
DEGREES = [-60, -30, 0, 30, 60]


class Column(NamedTuple):
    """A column of the sheet: a value that an attribute should have."""

    name: str
    value: float


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument(
        "--center_feature", default="center_feature_examples.npy", help=".npy of identity vectors (K, 512)"
    )
    parser.add_argument("--count", type=positive, default=6, help="number of vectors to use, from the first one on")
    parser.add_argument(
        "--attribute", action="append",
        help="attribute to change: yaw, pitch, quality, or one that the estimator knows; repeatable, each with its "
        "--values (default: yaw)",
    )  # fmt: skip
    add_attribute_weights_flag(parser)
    parser.add_argument(
        "--values", type=finite, nargs="+", action="append",
        help="targets: degrees of yaw or pitch, lowest quality (the norm of the quality model's feature), or values of "
        "another attribute in its unit (default: -60 -30 0 30 60)",
    )  # fmt: skip
    parser.add_argument(
        "--min_quality", type=finite, help="lowest quality, as a second target beside another attribute"
    )
    parser.add_argument("--max_iters", type=positive, default=100, help="highest number of iterations for an image")
    parser.add_argument("--seed", type=not_negative, default=0, help="seed of the masks")
    parser.add_argument(
        "--batch_size", type=positive, default=32,
        help="number of images in a batch on a GPU; a CPU works on the same small number whatever is given",
    )  # fmt: skip
    parser.add_argument(
        "--output",
        default="attribute_sheet",
        help="common part of the names of the output files, OUTPUT.jpg and OUTPUT.json",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replacement of OUTPUT.jpg and OUTPUT.json where they exist"
    )
    add_model_flags(parser)
    parser.add_argument("--quality_weights", default=QUALITY_WEIGHTS, help="weights of the quality model")
    parser.add_argument(
        "--pose_weights", default="weights/6DRepNet_300W_LP_AFLW2000.pth", help="weights of the head pose model"
    )
    add_device_flags(parser, precision="auto")
    args = parser.parse_args(argv)
    refuse_existing(f"{args.output}.jpg", f"{args.output}.json", overwrite=args.overwrite)
    columns = columns_of(args.attribute or ["yaw"], args.values or [DEGREES])
    names = {name for name, _ in columns}
    use_demo_weights(args, unused=[] if names & {*POSE} else ["pose_weights"])
    device, precision = set_up_inference(args)
    generator = load_vec2face(args.model_weights, device, precision.dtype, args.model)
    encoder = load_face_encoder(args.id_weights, device, precision.dtype)
    source = VectorSource(args.center_feature, f"0:{args.count}", 0)
    identities = list(source.identities(source.slice))
    quality = pose = estimator = None
    if "quality" in names or args.min_quality is not None:
        quality = load_face_encoder(args.quality_weights, device, precision.dtype)
    if names & {*POSE}:
        pose = load_pose_estimator(args.pose_weights, device, precision.dtype)
    if names - {*TARGETS}:
        estimator = load_attribute_estimator(attribute_file_of(args), encoder, args.id_weights)
    all_targets = [make_targets(*column, args.min_quality, quality, pose, estimator) for column in columns]
    progress = AttrOPProgress(args.min_quality, "--min_quality")
    rows_at_a_time = attrop_rows(args.batch_size, device)
    sheet, figures, runs = [[] for _ in identities], [], {}
    with tqdm(total=len(columns) * len(identities), unit="im", desc=", ".join(names)) as progress.bar:
        for column, targets in zip(columns, all_targets, strict=True):
            attrop = runs[column.name] = AttrOP(
                generator, encoder, targets, batch_size=rows_at_a_time, max_iters=args.max_iters, on_iteration=progress
            )
            results = []
            for result in attrop.run(identity_rows(identities, args.seed, MaskRates())):
                results.append(result)
                progress.bar.update()
            results.sort(key=lambda result: result.key.number)
            figures.append(summary(results, column.name))
            for images, result in zip(sheet, results, strict=True):
                if result.image is None:
                    raise UserError(f"{args.center_feature}: vector {result.key.number}: {result.reason}.")
                images.append(to_pixels(result.image[None])[0].numpy())
    labels = [f"{LABELS.get(column.name, column.name)} {column.value:g}" for column in columns]
    with output_file(f"{args.output}.jpg") as target:
        picture = labelled_sheet(sheet[:SHOWN], [identity.name for identity in identities[:SHOWN]], labels)
        target.write_bytes(encode_jpeg(picture, 92))
    with output_file(f"{args.output}.json") as target:
        keys = [f"{value:g}" if len(names) == 1 else f"{name} {value:g}" for name, value in columns]
        content = {"vectors": len(identities)} | precision.in_report() | tolerances(runs.values())
        target.write_text(json.dumps(content | dict(zip(keys, figures, strict=True)), indent=2) + "\n")
    for (name, value), figure in zip(columns, figures, strict=True):
        digits = 1 if name in TARGETS else 2
        print(
            f"{TARGETS.get(name, name)} {value:g}: {figure['accepted']:.0%} of {len(identities)} accepted, reached "
            f"{figure['mean']:.{digits}f} ± {figure['std']:.{digits}f}, id similarity {figure['id_similarity']:.2f}"
        )
    print(meaning_of_accepted(runs.values()))
    print(f"sheet: {args.output}.jpg")


def columns_of(names: Sequence[str], values: Sequence[Sequence[float]]) -> list[Column]:
    """The columns of the sheet. Raises UserError unless each attribute has its values, and has them once."""
    if len(names) != len(values):
        raise UserError(
            f"--attribute is given {len(names)} times and --values {len(values)} times; each needs the other."
        )
    columns = [Column(name, value) for name, targets in zip(names, values, strict=True) for value in targets]
    if twice := next((column for column in columns if columns.count(column) > 1), None):
        raise UserError(f"--attribute {twice.name} --values {twice.value:g}: given twice.")
    return columns


def tolerances(runs: Iterable[AttrOP]) -> dict:
    """{"tolerance": {name of a target: how far it may be missed}, "lowest_id_similarity": number}."""
    runs = list(runs)
    missed_by = {target.name: target.tolerance for attrop in runs for target in attrop.targets}
    return {"tolerance": missed_by, "lowest_id_similarity": round(1 - runs[0].id_tolerance, 4)}


def meaning_of_accepted(runs: Iterable[AttrOP]) -> str:
    """A line that says which images count as accepted."""
    allowed = tolerances(runs)
    parts = [
        f"{name} {TOLERANCES.get(name, 'within {:.3g}').format(number)}"
        for name, number in allowed["tolerance"].items()
    ]
    return f"accepted: {', '.join(parts)}, id similarity of at least {allowed['lowest_id_similarity']:g}"


def make_targets(
    attribute: str, value: float, min_quality: float | None, quality: IResNet | None, pose: SixDRepNet | None,
    estimator: AttributeEstimator | None,
) -> list[Target]:  # fmt: skip
    """AttrOP's targets for one value of an attribute: that value, and the lowest quality where there is one."""
    if attribute == "quality":
        return [quality_target(quality, value)]
    others = [] if min_quality is None else [quality_target(quality, min_quality)]
    if attribute == "yaw":
        return [yaw_target(pose, value, signed=True), *others]
    if attribute == "pitch":
        return [pitch_target(pose, value), *others]
    return [attribute_target(estimator, attribute, value), *others]


def summary(results: list[Result], attribute: str) -> dict[str, float]:
    """{"accepted": fraction, "mean", "std" of the values reached, "id_similarity", "iterations": means}."""
    reached = [result.values[attribute] for result in results]
    return {
        "accepted": round(float(np.mean([result.accepted for result in results])), 4),
        "mean": round(float(np.mean(reached)), 2),
        "std": round(float(np.std(reached)), 2),
        "id_similarity": round(float(np.mean([result.id_similarity for result in results])), 4),
        "iterations": round(float(np.mean([result.iterations for result in results])), 1),
    }


if __name__ == "__main__":
    main()
