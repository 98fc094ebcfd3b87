"""Make a training LMDB, from photos with features at hand or from photos alone.

    python scripts/prepare_training_set.py -im images.txt -f features.txt -l labels.txt -d lmdb_dataset -n faces
    python scripts/prepare_training_set.py --images PHOTOS --encoder weights/demo/face_encoder.pth \\
        -d lmdb_dataset -n faces

The first form takes three lists: image paths, .npy feature paths (both are sorted) and one label a line in that
order. The second takes PHOTOS/person/photo and extracts the features itself. Killed: run the same command again.
"""

import hashlib
from pathlib import Path

from utils.cli.command import command

import numpy as np
from tqdm import tqdm

from models.errors import UserError
from models.iresnet import load_face_encoder
from utils.cli.demo_weights import use_demo_weights
from utils.cli.flags import folder_name, make_parser, positive
from utils.cli.model_flags import add_device_flags, add_workers_flag, set_up_inference
from utils.cli.outputs import output_file
from utils.data.images import SIDE, decode_image, encode_jpeg, list_images, name_in, resize
from utils.data.photo_loader import Unreadable, read_ahead, reason_of
from utils.data.training_lmdb import TrainingLmdbWriter
from utils.generation.photo_source import PhotoSource

JPEG_QUALITY = 95


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--image_list", "-im", help="text file of image paths")
    parser.add_argument("--feature_list", "-f", help="text file of .npy feature paths")
    parser.add_argument("--label_file", "-l", help="text file of labels, in the sorted order of the images")
    parser.add_argument("--images", help="folder/person/photo: features are extracted with --encoder")
    parser.add_argument("--encoder", help="face encoder for --images")
    parser.add_argument(
        "--align", action="store_true", help="raw photos: find the face and warp it to the template first"
    )
    parser.add_argument("--batch_size", type=positive, default=64, help="photos at a time when features are extracted")
    add_workers_flag(parser, "-w")
    parser.add_argument("--dest", "-d", required=True, help="folder to write into")
    parser.add_argument("--file_name", "-n", type=folder_name, required=True, help="name of the LMDB, without ending")
    add_device_flags(parser)
    args = parser.parse_args(argv)
    if bool(args.images) == bool(args.image_list):
        raise UserError("give either --image_list, --feature_list and --label_file, or --images and --encoder.")
    records = records_of_folder(args) if args.images else records_of_lists(args)
    with output_file(Path(args.dest) / f"{args.file_name}.lmdb") as path:
        write(path, *records)


def write(path, names, classes, records, skipped):
    """Write ``records(start)``, which yields (source number, name, image, feature, label) from photo ``start`` on.

    ``names``: of all photos, what an interrupted run is known by.
    """
    writer = TrainingLmdbWriter(path, hashlib.sha256("\n".join(map(str, names)).encode()).digest())
    for record in tqdm(records(writer.next_source), total=len(names), initial=writer.next_source, unit="im"):
        writer.add(*record)
    writer.close(classes)
    for line in skipped:
        print(f"skipped {line}")
    print(f"{path}: {writer.count} images of {classes} identities")
    if left_out := len(names) - writer.count:
        print(
            f"{left_out} of {len(names)} photos were left out, so record numbers are not positions in the list of "
            f"photos: make masks with scripts/small_portion_training_mask.py --data {path}"
        )


def records_of_lists(args):
    if not args.feature_list or not args.label_file:
        raise UserError("--image_list needs --feature_list and --label_file too.")
    images, features, labels = (read_lines(p) for p in (args.image_list, args.feature_list, args.label_file))
    images, features = sorted(images), sorted(features)
    if not len(images) == len(features) == len(labels):
        raise UserError(
            f"{len(images)} images, {len(features)} features and {len(labels)} labels: the lists must be equally long."
        )
    try:
        labels = [int(label) for label in labels]
    except ValueError as error:
        raise UserError(f"{args.label_file}: labels are whole numbers ({error}).") from error

    def records(start):
        pairs = list(zip(images, features, strict=True))
        for number, ((name, _), record) in enumerate(read_ahead(read_record, pairs[start:], args.workers), start):
            if isinstance(record, Unreadable):
                raise UserError(record.reason)
            yield number, name, *record, labels[number]

    return images, len(set(labels)), records, []


def read_lines(path):
    try:
        return [line.strip() for line in Path(path).read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read this list: {error}") from error


def read_record(paths):
    """(encoded photo, feature (D,)) of the paths of both. Raises ValueError that names the file that is broken."""
    photo, feature = paths
    return read(photo, lambda path: stored(path.read_bytes())), read(feature, load_feature)


def read(path, how):
    try:
        return how(Path(path))
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read: {reason_of(error)}") from error


def load_feature(path):
    return np.load(path, allow_pickle=False).reshape(-1)


def stored(data):
    """Encoded bytes as the LMDB keeps them: unchanged when 112x112, else resized and encoded again."""
    image = decode_image(data)
    return data if image.shape == (SIDE, SIDE, 3) else encode_jpeg(resize(image), JPEG_QUALITY)


def records_of_folder(args):
    if not args.encoder:
        raise UserError("--images needs --encoder, the weights of a face encoder.")
    use_demo_weights(args)
    device, precision = set_up_inference(args)
    encoder = load_face_encoder(args.encoder, device, precision.dtype)
    photos = list_images(args.images)
    people = {name: label for label, name in enumerate(sorted({path.parent.name for path in photos}))}
    source = PhotoSource(args.images, encoder, None, args.batch_size, args.align, args.workers)
    for warning in source.warnings:
        print(f"warning: {warning}")

    def records(start):
        for identity, crop in source.with_crops(range(start, len(photos))):
            path = photos[identity.number]
            image = crop.encoded or encode_jpeg(crop.image, JPEG_QUALITY)
            yield identity.number, name_in(args.images, path), image, identity.vector, people[path.parent.name]

    return photos, len(people), records, source.skipped


if __name__ == "__main__":
    main()
