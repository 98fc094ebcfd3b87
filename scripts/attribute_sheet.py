"""How well AttrOP reaches an attribute: people in rows, wanted values in columns.

    python scripts/attribute_sheet.py --attribute yaw --values -60 -30 0 30 60 --count 6 --output sheet
    python scripts/attribute_sheet.py --attribute quality --values 20 22 24 26 --output sheet

Yaw and pitch are wanted as close to a value as 5 degrees, quality is wanted to be *at least* the value (less 1).

Writes OUTPUT.jpg, the images with labels, and OUTPUT.json: for every value, the share of vectors that reached it while
the image was still the same person by the face encoder, the values reached, and id similarity.
"""

import json

from utils.cli.command import command

import numpy as np
from tqdm import tqdm

from models.attrop import AttrOP, Row, pitch_target, quality_target, yaw_target
from models.errors import UserError
from models.iresnet import load_face_encoder
from models.masking import MaskRates
from models.pixels import to_pixels
from models.sixdrepnet import load_pose_estimator
from models.vec2face import load_vec2face
from utils.cli.demo_weights import use_demo_weights
from utils.cli.flags import finite, make_parser, not_negative, positive
from utils.cli.generation_flags import QUALITY_WEIGHTS
from utils.cli.model_flags import add_device_flags, add_model_flags, set_up_inference
from utils.cli.outputs import output_file, refuse_existing
from utils.data.images import encode_jpeg
from utils.evaluation.labelled_sheet import labelled_sheet
from utils.generation.attrop_progress import AttrOPProgress
from utils.generation.batch_rows import attrop_rows
from utils.generation.streams import identity_stream
from utils.generation.vector_source import VectorSource

SHOWN = 12  # people of the sheet
WANTED = {"yaw": "yaw", "pitch": "pitch", "quality": "quality at least"}
TOLERATED = {"yaw": "within {:g} degrees", "pitch": "within {:g} degrees", "quality": "at most {:g} too low"}
LABELS = WANTED | {"quality": "quality >="}  # 112 pixels are narrow


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--center_feature", default="center_feature_examples.npy", help=".npy of identity vectors")
    parser.add_argument("--count", type=positive, default=6, help="vectors to use, the first ones")
    parser.add_argument("--attribute", choices=["yaw", "pitch", "quality"], default="yaw", help="what to change")
    parser.add_argument(
        "--values", type=finite, nargs="+", default=[-60, -30, 0, 30, 60],
        help="wanted degrees of yaw or pitch, or lowest quality (norm of the quality model's feature)",
    )  # fmt: skip
    parser.add_argument("--min_quality", type=finite, help="with yaw or pitch: also a quality of at least this")
    parser.add_argument("--max_iters", type=positive, default=100, help="iterations an image has")
    parser.add_argument("--seed", type=not_negative, default=0, help="of the masks")
    parser.add_argument(
        "--batch_size", type=positive, default=32,
        help="images at a time on a GPU; a CPU works on the same small number whatever is given",
    )  # fmt: skip
    parser.add_argument(
        "--output",
        default="attribute_sheet",
        help="start of the names of the files to write, OUTPUT.jpg and OUTPUT.json",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT.jpg and OUTPUT.json where they exist")
    add_model_flags(parser)
    parser.add_argument("--quality_weights", default=QUALITY_WEIGHTS, help="quality model")
    parser.add_argument("--pose_weights", default="weights/6DRepNet_300W_LP_AFLW2000.pth", help="head pose model")
    add_device_flags(parser, precision="auto")
    args = parser.parse_args(argv)
    refuse_existing(f"{args.output}.jpg", f"{args.output}.json", overwrite=args.overwrite)
    use_demo_weights(args, unused=["pose_weights"] if args.attribute == "quality" else [])
    device, precision = set_up_inference(args)
    generator = load_vec2face(args.model_weights, device, precision.dtype, args.model)
    encoder = load_face_encoder(args.id_weights, device, precision.dtype)
    source = VectorSource(args.center_feature, f"0:{args.count}", 0)
    people = list(source.identities(source.slice))
    targets_for = target_maker(args, device, precision.dtype)
    progress = AttrOPProgress(args.min_quality, "--min_quality")
    options = {
        "batch_size": attrop_rows(args.batch_size, device), "max_iters": args.max_iters, "on_iteration": progress,
    }  # fmt: skip
    sheet, figures = [[] for _ in people], {}
    with tqdm(total=len(args.values) * len(people), unit="im", desc=args.attribute) as progress.bar:
        for value in args.values:
            attrop = AttrOP(generator, encoder, targets_for(value), **options)
            results = []
            for result in attrop.run(rows(people, args.seed)):
                results.append(result)
                progress.bar.update()
            results.sort(key=lambda result: result.key)
            figures[f"{value:g}"] = summary(results, args.attribute)
            for line, result in zip(sheet, results, strict=True):
                if result.image is None:
                    raise UserError(f"{args.center_feature}: vector {result.key}: {result.reason}.")
                line.append(to_pixels(result.image[None])[0].numpy())
    names, wanted = [person.name for person in people], [f"{LABELS[args.attribute]} {value:g}" for value in args.values]
    with output_file(f"{args.output}.jpg") as target:
        target.write_bytes(encode_jpeg(labelled_sheet(sheet[:SHOWN], names[:SHOWN], wanted), 92))
    with output_file(f"{args.output}.json") as target:
        content = {"vectors": len(people)} | precision.in_report() | tolerances(attrop) | figures
        target.write_text(json.dumps(content, indent=2) + "\n")
    for value, figure in figures.items():
        print(
            f"{WANTED[args.attribute]} {value}: {figure['accepted']:.0%} of {len(people)} accepted, reached "
            f"{figure['mean']:.1f} ± {figure['std']:.1f}, id similarity {figure['id_similarity']:.2f}"
        )
    print(meaning_of_accepted(attrop))
    print(f"sheet: {args.output}.jpg")


def tolerances(attrop):
    """{"tolerance": how far each target may be missed, by its name, "lowest_id_similarity": number}."""
    missed_by = {target.name: target.tolerance for target in attrop.targets}
    return {"tolerance": missed_by, "lowest_id_similarity": round(1 - attrop.id_tolerance, 4)}


def meaning_of_accepted(attrop):
    """A line that says which images count as accepted."""
    allowed = tolerances(attrop)
    units = [f"{name} {TOLERATED[name].format(number)}" for name, number in allowed["tolerance"].items()]
    return f"accepted: {', '.join(units)}, id similarity of at least {allowed['lowest_id_similarity']:g}"


def target_maker(args, device, dtype):
    """A function from a wanted value to AttrOP's targets."""
    if args.attribute == "quality":
        quality = load_face_encoder(args.quality_weights, device, dtype)
        return lambda value: [quality_target(quality, value)]
    pose = load_pose_estimator(args.pose_weights, device, dtype)
    others = []
    if args.min_quality is not None:
        others = [quality_target(load_face_encoder(args.quality_weights, device, dtype), args.min_quality)]
    if args.attribute == "yaw":
        return lambda value: [yaw_target(pose, value, signed=True), *others]
    return lambda value: [pitch_target(pose, value), *others]


def rows(people, seed):
    masks = MaskRates()
    for person in people:
        stream = identity_stream(seed, person.number)
        yield Row(person.number, person.vector, person.vector, lambda stream=stream: masks.draw(stream))


def summary(results, attribute):
    """{"accepted": share, "mean", "std" of the values reached, "id_similarity", "iterations": means}."""
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
