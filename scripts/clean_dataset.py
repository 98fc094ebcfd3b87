"""Clean a dataset: strangers among a person's images, one person under two names, leaked people, the same image twice.

    python scripts/clean_dataset.py tests/photos --max_identity_similarity 0.7
    python scripts/clean_dataset.py generated_images/test --avoid photos_center_feature.npy --cleaned test-clean.lmdb

The dataset is a folder of identity/photo or an LMDB. By the FR features of its images, best of an encoder that took no
part in making it, it leaves out

1. images outside the largest consistent cluster of their identity (--same_similarity, --cluster),
2. images that resemble a row of --avoid, and identities most of whose images do (--max_avoid_similarity),
3. identities that are one person: they are united with the one that has the most images (--max_identity_similarity),
4. images that are the same as an earlier one of their identity, by feature and to the eye (--max_image_similarity),
5. identities with fewer than --min_images images.

Writes into the folder NAME.cleaning beside the dataset: mask.npy, the positions to use (for --mask of other scripts);
left_out.jsonl, each image that is left out, with the reason; left_out.jpg, examples. A mask cannot change labels, so of
united identities it has the largest one only; --cleaned writes a dataset in which they are united. Features are kept
there, so an interrupted run continues where it stopped.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from utils.cli.command import command

import cv2
import numpy as np

from models.errors import UserError
from models.iresnet import load_face_encoder
from models.weight_files import sha256
from scripts.convert_dataset import remove, write
from utils.cli.demo_weights import use_demo_weights
from utils.cli.flags import cosine, make_parser, positive
from utils.cli.model_flags import add_device_flags, add_workers_flag, set_up_inference
from utils.cli.outputs import output_file, refuse_existing, report_folder
from utils.data.face_set import FaceSet
from utils.data.images import SIDE, encode_jpeg
from utils.data.masks import save_mask
from utils.dataset.export import Photo
from utils.dataset.layout import CLEANING_SUFFIX
from utils.evaluation.cleaning import DUPLICATE, KEPT, LEAK, NEAR_DUPLICATE, REASONS, UNREADABLE, Cleaning, Limits
from utils.evaluation.feature_cache import FeatureCache
from utils.evaluation.labelled_sheet import labelled_sheet
from utils.generation.vector_source import load_vectors
from utils.runtime.durable import atomic_write

THUMBNAIL, GREY_LEVELS = 16, 4.0  # two images are the same to the eye if their thumbnails differ by less on average
ROWS_PER_REASON, BESIDE, LEFT_OUT = 8, 3, 4  # of the picture: rows, images that stay, and images that are left out


def clean_parser():
    parser = make_parser(__doc__)
    parser.add_argument("data", help="folder of identity/photo, LMDB or .rec")
    parser.add_argument("--mask", help=".npy of the positions of the images to look at (default: all)")
    parser.add_argument(
        "--id_weights", default="weights/arcface-r100-glint360k.pth", help="weights of the face encoder"
    )
    limits, group = Limits(), parser.add_argument_group("what is left out")
    group.add_argument(
        "--cluster", choices=["neighbours", "dbscan"], default=limits.method,
        help="largest cluster of an identity: the images that resemble one of them, or DBSCAN's, of chains of images",
    )  # fmt: skip
    group.add_argument(
        "--same_similarity",
        type=cosine,
        default=limits.same,
        help="lowest cosine similarity of two images of a cluster",
    )
    group.add_argument("--avoid", help=".npy of features by the same encoder, (M, 512), of people who must not appear")
    group.add_argument(
        "--max_avoid_similarity", type=cosine, default=limits.leak,
        help="highest cosine similarity of an image to a row of --avoid",
    )  # fmt: skip
    group.add_argument(
        "--max_identity_similarity", type=cosine, default=limits.identity,
        help="highest cosine similarity of the class centroids of two identities",
    )  # fmt: skip
    group.add_argument(
        "--max_image_similarity", type=cosine, default=limits.image,
        help="highest cosine similarity of two images that look the same",
    )  # fmt: skip
    group.add_argument(
        "--min_images", type=positive, default=limits.least, help="lowest number of images of an identity"
    )
    work = parser.add_argument_group("work")
    work.add_argument("--batch_size", type=positive, default=64, help="number of images in a batch")
    add_workers_flag(work)
    work.add_argument("--output", help="folder to write into (default: NAME.cleaning beside the dataset)")
    work.add_argument("--cleaned", help="dataset to write: a folder, or an LMDB for a name that ends in .lmdb")
    work.add_argument("--overwrite", action="store_true", help="replacement of an earlier mask, list and picture")
    add_device_flags(parser)
    return parser


@command
def main(argv=None):
    args = clean_parser().parse_args(argv)
    output = report_folder(args.data, args.output, CLEANING_SUFFIX)
    written = [output / name for name in ("left_out.jpg", "left_out.jsonl", "mask.npy")]
    refuse_existing(*written, overwrite=args.overwrite)
    if args.cleaned:
        refuse_existing(args.cleaned)
    use_demo_weights(args)
    faces = FaceSet(args.data, args.mask)
    reference = np.array(load_vectors(args.avoid, 512)) if args.avoid else None
    limits = Limits(
        args.same_similarity, args.cluster, args.max_identity_similarity, args.max_avoid_similarity,
        args.max_image_similarity, args.min_images,
    )  # fmt: skip
    device, precision = set_up_inference(args)
    encoder = load_face_encoder(args.id_weights, device, precision.dtype)
    with output_file(output / "features.npy") as features:
        cache = FeatureCache(features.with_suffix(""), faces, encoder, sha256(args.id_weights), precision.name)
        readable = cache.extract(args.batch_size, args.workers)
        if not len(readable):
            raise UserError(f"{args.data}: not one image could be read.")
    cleaning = clean(faces, cache.array, readable, limits, reference, device)
    kept = np.flatnonzero(cleaning.reasons == KEPT)
    if not len(kept):
        raise UserError(f"{args.data}: nothing is left of it; the similarities do not fit {args.id_weights}.")
    with output_file(written[0]) as picture:
        for path in written:
            path.unlink(missing_ok=True)
        draw(picture, faces, cleaning)
        write_list(written[1], faces, cleaning)
        save_mask(written[2], np.sort(faces.positions[kept]), len(faces.store.labels))
    print("\n".join(summary(faces, cleaning)))
    print(f"mask: {written[2]}; list: {written[1]}")
    if args.cleaned:
        write_cleaned(args.cleaned, faces, cleaning)


def clean(
    faces: FaceSet, features: np.ndarray, readable: np.ndarray, limits: Limits, reference: np.ndarray | None, device
) -> Cleaning:
    """The verdict on all N images. ``features``: (N, 512); ``readable``: positions of the images that have one."""
    cleaning = Cleaning(features, faces.labels, len(faces.identities))
    cleaning.leave_out(np.setdiff1d(np.arange(len(faces)), readable), UNREADABLE, np.nan)
    cleaning.keep_clusters(limits)
    if reference is not None:
        cleaning.leave_out_leaks(reference, limits, device)
    cleaning.unite_duplicates(limits, device)
    cleaning.leave_out_near_duplicates(limits, looks_the_same(faces))
    cleaning.leave_out_small(limits)
    return cleaning


def looks_the_same(faces: FaceSet) -> Callable[[int, int], bool]:
    """A function that compares two images of a dataset by their thumbnails."""

    def thumbnail(index: int) -> np.ndarray:
        grey = cv2.cvtColor(faces.image(int(index)), cv2.COLOR_RGB2GRAY)
        return cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32)

    return lambda one, other: float(np.abs(thumbnail(one) - thumbnail(other)).mean()) < GREY_LEVELS


def write_list(path: Path, faces: FaceSet, cleaning: Cleaning) -> None:
    """A line of JSON for each image that is left out of the mask, in order of the dataset."""

    def lines() -> Iterator[str]:
        for row in np.flatnonzero(cleaning.reasons != KEPT).tolist():
            line = {
                "position": int(faces.positions[row]), "image": faces.location(row),
                "identity": faces.identities[faces.labels[row]], "reason": REASONS[cleaning.reasons[row]],
            }  # fmt: skip
            if np.isfinite(cleaning.similarities[row]):
                line["similarity"] = round(float(cleaning.similarities[row]), 4)
            other = int(cleaning.others[row])
            if cleaning.reasons[row] == LEAK:
                line["row_of_avoid"] = other
            elif cleaning.reasons[row] == DUPLICATE:
                line["united_with"] = faces.identities[other]
            elif cleaning.reasons[row] == NEAR_DUPLICATE:
                line["same_as"] = faces.location(other)
            yield json.dumps(line) + "\n"

    atomic_write(path, lambda file: file.writelines(line.encode() for line in lines()))


def draw(path: Path, faces: FaceSet, cleaning: Cleaning) -> None:
    """Examples of each reason: on the left images that stay, beside them those of one identity that are left out."""
    rows, labels, blank = [], [], np.full((SIDE, SIDE, 3), 255, np.uint8)
    for reason in range(UNREADABLE + 1, len(REASONS)):
        chosen = np.flatnonzero(cleaning.reasons == reason)
        for group in list(cleaning.groups(chosen, cleaning.labels[chosen]))[:ROWS_PER_REASON]:
            label = cleaning.labels[group[0]]
            own = cleaning.merged[label] if reason == DUPLICATE else label
            stay = np.flatnonzero((cleaning.labels == own) & (cleaning.reasons == KEPT))[:BESIDE]
            stay = [faces.image(int(row)) for row in stay]
            rows.append(stay + [blank] * (BESIDE - len(stay)) + [faces.image(int(row)) for row in group[:LEFT_OUT]])
            labels.append(f"{REASONS[reason]}: {faces.identities[label]}")
    if rows:
        sheet = labelled_sheet(rows, labels, ["stays"] * BESIDE + ["left out"] * (max(map(len, rows)) - BESIDE))
        atomic_write(path, encode_jpeg(sheet, 90))


def summary(faces: FaceSet, cleaning: Cleaning) -> Iterator[str]:
    """Lines for the user."""
    counts = np.bincount(cleaning.reasons, minlength=len(REASONS))
    people = len(np.unique(cleaning.labels[cleaning.reasons == KEPT]))
    yield f"{counts[KEPT]} of {len(faces)} images of {people} of {len(faces.identities)} identities stay"
    for reason, count in zip(REASONS[1:], counts[1:], strict=True):
        if count:
            yield f"  {reason}: {count} images"


def write_cleaned(target: Path | str, faces: FaceSet, cleaning: Cleaning) -> None:
    """Write the images that stay as a dataset, folder or LMDB, in which duplicate identities are united."""
    rows = np.flatnonzero(cleaning.united)
    main = cleaning.merged[cleaning.labels[rows]]
    people = len(np.unique(main))

    def photos() -> Iterator[Photo]:
        for label, group in enumerate(cleaning.groups(rows, main)):
            name = faces.identities[cleaning.merged[cleaning.labels[group[0]]]]
            yield from (Photo(label, name, faces.read(int(row)), {}) for row in group)

    with output_file(target) as path:
        unfinished = path.with_name(path.name + ".unfinished")
        remove(unfinished)
        count = write("lmdb" if path.suffix == ".lmdb" else "folder", unfinished, photos(), people)
        unfinished.rename(path)
    united = count - int((cleaning.reasons == KEPT).sum())
    print(f"{path}: {count} images of {people} identities" + (f", {united} of them of united ones" if united else ""))


if __name__ == "__main__":
    main()
