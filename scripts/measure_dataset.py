"""Measure a dataset of people: are they different, is each one person, does it vary, does it leak? One report.

    python scripts/measure_dataset.py generated_images/test --id_weights weights/arcface-r100-glint360k.pth
    python scripts/measure_dataset.py generated_images/demo --id_weights weights/demo/face_encoder.pth \\
        --quality_weights weights/demo/face_encoder.pth --reference tests/photos

The dataset is a folder of person/photo or an LMDB; --reference, datasets of (real) people it must not resemble. Writes
report.html, for a browser, and report.json into a folder NAME.report beside the dataset. Features are kept there:
killed, it goes on where it was.
"""

import json
from pathlib import Path

from utils.cli.command import command

from models.errors import UserError
from models.iresnet import load_face_encoder
from models.weight_files import sha256
from utils.cli.demo_weights import use_demo_weights
from utils.cli.flags import make_parser, not_negative, positive
from utils.cli.model_flags import add_device_flags, add_workers_flag, set_up_inference
from utils.cli.outputs import report_folder, writing
from utils.data.face_set import FaceSet
from utils.evaluation.image_features import EXTRACTORS, load_extractor
from utils.evaluation.measured_set import MeasuredSet
from utils.evaluation.measurement import Measurement, dataset_name
from utils.evaluation.metrics import NEIGHBOURS

OURS = ("report.json", "features.npy")  # files that tell a report's folder, the second already while it is made


def measure_parser():
    parser = make_parser(__doc__)
    parser.add_argument("data", help="folder of person/photo, or LMDB")
    parser.add_argument("--mask", help=".npy of positions to use (default: all)")
    parser.add_argument("--reference", nargs="*", default=[], help="datasets of people that must not be in it")
    models = parser.add_argument_group("models")
    models.add_argument("--id_weights", default="weights/arcface-r100-glint360k.pth", help="face encoder that judges")
    models.add_argument("--quality_weights", help="quality model: adds a histogram of quality")
    models.add_argument("--pose_weights", help="head pose model: adds histograms of yaw and pitch")
    models.add_argument("--lpips_weights", help="torchvision's VGG16: adds LPIPS between images of a person")
    models.add_argument(
        "--extractor",
        choices=EXTRACTORS,
        default="fr",
        help="features for precision, recall and the Fréchet distance to the first reference: of --id_weights (fr), of "
        "torchvision's VGG16 or Inception v3, or of the network that the FID is defined by (fid, by torch-fidelity); "
        "only with the last one is the distance the FID",
    )
    models.add_argument("--extractor_weights", help="weight file of --extractor vgg16, inception or fid")
    work = parser.add_argument_group("work")
    work.add_argument(
        "--neighbours",
        type=positive,
        default=NEIGHBOURS,
        help="neighbours of improved precision and recall: 3 in the paper that defines them (Kynkaanniemi et al.), "
        "10 in UIFace's evaluation",
    )
    work.add_argument(
        "--fidelity_images",
        type=positive,
        default=5000,
        help="images of either set, at most, for precision, recall and the Fréchet distance",
    )
    work.add_argument("--batch_size", type=positive, default=64, help="images at a time")
    add_workers_flag(work)
    work.add_argument("--sample", type=positive, default=20_000, help="images or centres for what is sampled")
    work.add_argument("--pairs", type=positive, default=100_000, help="pairs for genuine and impostor curves")
    work.add_argument("--seed", type=not_negative, default=0, help="seed of the samples")
    work.add_argument("--output", help="folder to write, outside the dataset (default: NAME.report beside the dataset)")
    work.add_argument("--reference_features", help="folder to keep the references' features in (default: OUTPUT)")
    add_device_flags(parser)
    return parser


@command
def main(argv=None):
    args = measure_parser().parse_args(argv)
    use_demo_weights(args)
    output = report_folder(args.data, args.output)
    faces, references = FaceSet(args.data, args.mask), [FaceSet(path) for path in args.reference]
    check_output(output, dataset_name(args), by_default=not args.output)
    device, precision = set_up_inference(args)
    for path in (args.quality_weights, args.pose_weights, args.lpips_weights):
        if path and not Path(path).is_file():  # they are loaded after hours of work, perhaps
            raise UserError(f"{path}: no such weight file.")
    extractor = None if args.extractor == "fr" else load_extractor(args.extractor, args.extractor_weights, device)
    encoder, judge_hash = load_face_encoder(args.id_weights, device, precision.dtype), sha256(args.id_weights)
    with writing(output / "report.html") as page:

        def measured(faces, path):
            return MeasuredSet(faces, path, encoder, judge_hash, precision.name, args.batch_size, args.workers)

        kept = Path(args.reference_features or output)
        data = measured(faces, output / "features")
        references = [measured(reference, kept / f"reference{n}") for n, reference in enumerate(references)]
        measure = Measurement(args, data, Path(args.id_weights).name, device, precision.dtype)
        measure.overview(judge_hash, precision)
        measure.people_differ()
        measure.people_differ_as_in(references)
        measure.each_is_one_person()
        for reference in references:
            measure.leaks(reference)
        measure.varies()
        if references:
            measure.fidelity(references[0], extractor)
        (page.parent / "report.json").write_text(json.dumps(measure.results, indent=2, ensure_ascii=False) + "\n")
        page.write_text(measure.report.html())
    print("\n".join(measure.lines))
    print(f"report: {page}, {page.with_suffix('.json')}")


def check_output(folder, dataset, by_default):
    """UserError when a folder holds something else than a report on this dataset, finished or not.

    ``by_default``: it was not named by the user, so other scripts may have written their reports into it.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir() or not (by_default or any((folder / name).exists() for name in OURS)):
        raise UserError(f"--output {folder}: is there and no report of this script; name another folder.")
    try:
        found = json.loads((folder / "report.json").read_text())["overview"].get("dataset", dataset)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    if found != dataset:
        raise UserError(f"--output {folder}: holds the report on {found}; name another folder, or delete it.")


if __name__ == "__main__":
    main()
