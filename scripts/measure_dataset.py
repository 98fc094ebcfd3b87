"""Measure a dataset: are its identities different, is each consistent, do they vary, do they leak real identities?

    python scripts/measure_dataset.py generated_images/test --id_weights weights/arcface-r100-glint360k.pth
    python scripts/measure_dataset.py generated_images/demo --id_weights weights/demo/face_encoder.pth \\
        --quality_weights weights/demo/face_encoder.pth --reference tests/photos

The dataset is a folder of identity/photo or an LMDB, and so are those of --reference, whose (real) identities it must
not resemble. Writes report.html, for a browser, and report.json into the folder NAME.report beside the dataset.
Features are kept there, so an interrupted run continues where it stopped. scripts/compare.py compares reports.
"""

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.cli.command import command

import torch

from models.errors import UserError
from models.iresnet import load_face_encoder
from models.weight_files import sha256
from utils.cli.demo_weights import use_demo_weights
from utils.cli.flags import make_parser, not_negative, positive
from utils.cli.model_flags import add_device_flags, add_workers_flag, set_up_inference
from utils.cli.outputs import output_file, report_folder
from utils.data.face_set import FaceSet
from utils.evaluation.groups import grouping_values, measure_groups
from utils.evaluation.identity_statistics import measure_consistency, measure_leakage, measure_separability
from utils.evaluation.image_features import EXTRACTORS, Extractor, load_extractor
from utils.evaluation.image_statistics import measure_fidelity, measure_variety
from utils.evaluation.measured_set import MeasuredSet
from utils.evaluation.measured_values import Reader, load_readers
from utils.evaluation.measurement import Measurement
from utils.evaluation.metrics import NEIGHBOURS
from utils.runtime.precision import Precision

OWN_FILES = ("report.json", "features.npy")  # either one marks the folder of a report, the second while it is made


def measure_parser() -> ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument("data", help="folder of identity/photo, LMDB or .rec")
    parser.add_argument("--mask", help=".npy of the positions of the images to measure (default: all)")
    parser.add_argument("--reference", nargs="*", default=[], help="datasets whose identities it must not resemble")
    models = parser.add_argument_group("models")
    models.add_argument(
        "--id_weights", default="weights/arcface-r100-glint360k.pth",
        help="weights of the FR model that measures identity, best one that took no part in making the dataset",
    )  # fmt: skip
    models.add_argument("--quality_weights", help="weights of a quality model, for a histogram of quality")
    models.add_argument("--pose_weights", help="weights of a head pose model, for histograms of yaw and pitch")
    models.add_argument(
        "--attribute_weights",
        help="weights of an estimator of attributes, for histograms of them, their entropies, and figures of groups",
    )
    models.add_argument(
        "--attribute_encoder", help="face encoder that the estimator was trained with (default: --id_weights)"
    )
    models.add_argument(
        "--group_by", nargs="+", metavar="NAME",
        help="attributes whose low, middle and high third are measured apart (default: age and skin, as far as "
        "--attribute_weights knows them)",
    )  # fmt: skip
    models.add_argument("--lpips_weights", help="torchvision's VGG16, for LPIPS between images of an identity")
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
        help="number of neighbours of improved precision and recall: 3 in the paper that defines them (Kynkaanniemi et "
        "al.), 10 in UIFace's evaluation",
    )
    work.add_argument(
        "--fidelity_images",
        type=positive,
        default=5000,
        help="highest number of images of either set for precision, recall and the Fréchet distance",
    )
    work.add_argument("--batch_size", type=positive, default=64, help="number of images in a batch")
    add_workers_flag(work)
    work.add_argument(
        "--sample", type=positive, default=20_000, help="highest number of images or centroids in a random sample"
    )
    work.add_argument(
        "--pair_count", "--pairs", type=positive, default=100_000, help="number of genuine and of impostor pairs"
    )
    work.add_argument("--seed", type=not_negative, default=0, help="seed of the random samples")
    work.add_argument(
        "--output", help="folder for the report, outside the dataset (default: NAME.report beside the dataset)"
    )
    work.add_argument("--reference_features", help="folder to keep the references' features in (default: OUTPUT)")
    add_device_flags(parser)
    return parser


@command
def main(argv=None):
    args = measure_parser().parse_args(argv)
    use_demo_weights(args)
    output = report_folder(args.data, args.output)
    faces, references = FaceSet(args.data, args.mask, mixtures="first"), [FaceSet(path) for path in args.reference]
    if faces.store.soft is not None:
        print("note: its images are mixtures of two identities; here each counts for the first of them.")
    name = dataset_name(args.data, args.mask)
    check_output(output, name, by_default=not args.output)
    device, precision = set_up_inference(args)
    if args.lpips_weights and not Path(args.lpips_weights).is_file():  # it is loaded late, perhaps after hours of work
        raise UserError(f"{args.lpips_weights}: no such weight file.")
    readers = load_readers(
        device, precision.dtype, args.quality_weights, args.pose_weights, args.attribute_weights,
        args.attribute_encoder or args.id_weights,
    )  # fmt: skip
    groups = grouping_values(readers, args.group_by)
    extractor = None if args.extractor == "fr" else load_extractor(args.extractor, args.extractor_weights, device)
    measure(
        faces, references, output, args.id_weights, device, precision,
        name=name, reference_features=args.reference_features, readers=readers, groups=groups,
        lpips_weights=args.lpips_weights, extractor=extractor,
        neighbours=args.neighbours, fidelity_images=args.fidelity_images, sample=args.sample, pairs=args.pair_count,
        batch_size=args.batch_size, workers=args.workers, seed=args.seed,
    )  # fmt: skip


def measure(
    faces: FaceSet,
    references: list[FaceSet],
    output: Path,
    id_weights: Path | str,
    device: torch.device,
    precision: Precision,
    *,
    name: str | None = None,
    reference_features: Path | str | None = None,
    readers: Sequence[Reader] = (),
    groups: dict[str, tuple[float, float]] | None = None,
    lpips_weights: Path | str | None = None,
    extractor: Extractor | None = None,
    neighbours: int = NEIGHBOURS,
    fidelity_images: int = 5000,
    sample: int = 20_000,
    pairs: int = 100_000,
    batch_size: int = 64,
    workers: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Write report.html and report.json on a dataset into ``output``, print the summary and return the report's values.

    ``readers``: the models of quality, pose and attributes; ``groups``: the values to group identities by, with their
    ranges. The other optional values are the flags of the same names. Raises UserError when images cannot be read.
    """
    encoder, encoder_hash = load_face_encoder(id_weights, device, precision.dtype), sha256(id_weights)

    def with_features(faces: FaceSet, cache_path: Path) -> MeasuredSet:
        return MeasuredSet(faces, cache_path, encoder, encoder_hash, precision.name, batch_size, workers)

    with output_file(output / "report.html") as page:
        data = with_features(faces, output / "features")
        kept = Path(reference_features or output)
        measured = [with_features(reference, kept / f"reference{n}") for n, reference in enumerate(references)]
        measurement = Measurement(
            data, name or dataset_name(faces.path), Path(id_weights).name, device, precision, sample, pairs, batch_size,
            seed,
        )  # fmt: skip
        measurement.overview(encoder_hash)
        measure_separability(measurement, measured)
        measure_consistency(measurement, measured)
        for reference in measured:
            measure_leakage(measurement, reference)
        values = measure_variety(measurement, readers, lpips_weights, measured[0] if measured else None)
        measure_groups(measurement, values, groups or {})
        if measured:
            measure_fidelity(measurement, measured[0], extractor, neighbours, fidelity_images)
        content = json.dumps(measurement.results, indent=2, ensure_ascii=False) + "\n"
        (page.parent / "report.json").write_text(content)
        page.write_text(measurement.report.html())
    print("\n".join(measurement.lines))
    print(f"report: {page}, {page.with_suffix('.json')}")
    return measurement.results


def dataset_name(data: Path | str, mask: Path | str | None = None) -> str:
    """The name of a dataset in its report."""
    name = Path(data).resolve().name
    return f"{name} with mask {Path(mask).name}" if mask else name


def check_output(folder: Path, dataset: str, by_default: bool) -> None:
    """Raise UserError when a folder holds something else than a report on this dataset, finished or not.

    ``by_default``: the user did not name the folder, so other scripts may have written their reports into it.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir() or not (by_default or any((folder / name).exists() for name in OWN_FILES)):
        raise UserError(f"--output {folder}: is there and no report of this script; name another folder.")
    try:
        reported = json.loads((folder / "report.json").read_text())["overview"].get("dataset", dataset)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    if reported != dataset:
        raise UserError(f"--output {folder}: holds the report on {reported}; name another folder, or delete it.")


if __name__ == "__main__":
    main()
