"""Make a training LMDB, from photos with features at hand or from photos alone.

    python scripts/prepare_training_set.py -im images.txt -f features.txt -l labels.txt -d lmdb_dataset -n faces
    python scripts/prepare_training_set.py --data PHOTOS --id_weights weights/demo/face_encoder.pth \\
        -d lmdb_dataset -n faces

The first form reads three lists: paths of images and of .npy features, both of which are sorted, and one label per line
in that order. The second reads PHOTOS/identity/photo, an LMDB for FR training or an MXNet .rec, and extracts the
features itself. After an interruption the same
command continues.
"""

import hashlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from utils.cli.command import command

import numpy as np
from tqdm.auto import tqdm

from models.errors import UserError
from models.iresnet import IResNet, load_face_encoder
from models.weight_files import sha256
from utils.cli.demo_weights import use_demo_weights
from utils.cli.flags import folder_name, make_parser, positive
from utils.cli.model_flags import add_device_flags, add_workers_flag, set_up_inference
from utils.cli.outputs import output_file
from utils.data.alignment import FaceAligner
from utils.data.face_set import FaceSet
from utils.data.images import SIDE, decode_image, encode_jpeg, list_images, name_in, resize
from utils.data.photo_loader import Unreadable, read_ahead, reason_of
from utils.data.training_lmdb import TrainingLmdbWriter
from utils.generation.photo_source import Crop, CropReader, PhotoSource, feature_rows, features_of

JPEG_QUALITY = 95
PACKED = (".lmdb", ".rec", ".mdb")  # files of many photos


class Records(NamedTuple):
    """The records of a training LMDB, before they are read."""

    names: list  # of all photos: an interrupted run is recognised by them
    classes: int
    read: Callable[[int], Iterator[tuple]]  # yields (source number, name, image, feature, label) from a photo on
    skipped: list[str]  # photos that could not be used, once they have been read


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--image_list", "-im", help="text file of image paths")
    parser.add_argument("--feature_list", "-f", help="text file of paths of features, .npy")
    parser.add_argument("--label_file", "-l", help="text file of labels, in the sorted order of the images")
    parser.add_argument(
        "--data",
        "--images",
        help="folder of identity/photo, LMDB or .rec, in place of lists; features are extracted by --id_weights",
    )
    parser.add_argument("--id_weights", "--encoder", help="weights of the face encoder for --data")
    parser.add_argument(
        "--align", action="store_true", help="detection and alignment of the face, for photos that are no aligned crops"
    )
    parser.add_argument("--batch_size", type=positive, default=64, help="number of photos in a batch of the encoder")
    add_workers_flag(parser, "-w")
    parser.add_argument("--dest", "-d", required=True, help="folder to write into")
    parser.add_argument(
        "--file_name", "-n", type=folder_name, required=True, help="name of the LMDB, without its ending .lmdb"
    )
    add_device_flags(parser)
    args = parser.parse_args(argv)
    if bool(args.data) == bool(args.image_list):
        raise UserError("give either --image_list, --feature_list and --label_file, or --data and --id_weights.")
    encoder_hash = None
    if args.image_list:
        records = records_of_lists(args.image_list, args.feature_list, args.label_file, args.workers)
    else:
        if not args.id_weights:
            raise UserError("--data needs --id_weights, the weights of a face encoder.")
        use_demo_weights(args)
        device, precision = set_up_inference(args)
        encoder = load_face_encoder(args.id_weights, device, precision.dtype)
        of_data = records_of_set if is_packed(args.data) else records_of_folder
        records = of_data(args.data, encoder, args.batch_size, args.align, args.workers)
        encoder_hash = sha256(args.id_weights)
    with output_file(Path(args.dest) / f"{args.file_name}.lmdb") as path:
        write(path, records, encoder_hash)


def write(path: Path, records: Records, encoder: str | None = None) -> None:
    """Write the LMDB, from where an interrupted run stopped, and print what was left out. ``encoder``: its SHA-256."""
    names = records.names
    writer = TrainingLmdbWriter(path, hashlib.sha256("\n".join(map(str, names)).encode()).digest(), encoder)
    for record in tqdm(records.read(writer.next_source), total=len(names), initial=writer.next_source, unit="im"):
        writer.add(*record)
    writer.close(records.classes)
    for line in records.skipped:
        print(f"skipped {line}")
    print(f"{path}: {writer.count} images of {records.classes} identities")
    if left_out := len(names) - writer.count:
        print(
            f"{left_out} of {len(names)} photos were left out, so record numbers are not positions in the list of "
            f"photos: make masks with scripts/small_portion_training_mask.py --data {path}"
        )


def records_of_lists(image_list: str, feature_list: str | None, label_file: str | None, workers: int | None) -> Records:
    """The records of three lists. Raises UserError when one is missing, damaged, or of another length."""
    if not feature_list or not label_file:
        raise UserError("--image_list needs --feature_list and --label_file too.")
    images, features, labels = (read_lines(path) for path in (image_list, feature_list, label_file))
    images, features = sorted(images), sorted(features)
    if not len(images) == len(features) == len(labels):
        raise UserError(
            f"{len(images)} images, {len(features)} features and {len(labels)} labels: the lists must be equally long."
        )
    try:
        labels = [int(label) for label in labels]
    except ValueError as error:
        raise UserError(f"{label_file}: labels are whole numbers ({error}).") from error

    def read(start: int) -> Iterator[tuple]:
        pairs = list(zip(images, features, strict=True))
        for number, ((name, _), record) in enumerate(read_ahead(read_record, pairs[start:], workers), start):
            if isinstance(record, Unreadable):
                raise UserError(record.reason)
            yield number, name, *record, labels[number]

    return Records(images, len(set(labels)), read, [])


def records_of_folder(data: str, encoder: IResNet, batch_size: int, align: bool, workers: int | None) -> Records:
    """The records of a folder of identity/photo, whose features are extracted. Prints warnings about the photos."""
    photos = list_images(data)
    labels = {name: label for label, name in enumerate(sorted({path.parent.name for path in photos}))}
    source = PhotoSource(data, encoder, None, batch_size, align, workers)
    for warning in source.warnings:
        print(f"warning: {warning}")

    def read(start: int) -> Iterator[tuple]:
        for identity, crop in source.with_crops(range(start, len(photos))):
            path = photos[identity.number]
            image = crop.encoded or encode_jpeg(crop.image, JPEG_QUALITY)
            yield identity.number, name_in(data, path), image, identity.vector, labels[path.parent.name]

    return Records(photos, len(labels), read, source.skipped)


def records_of_set(data: str, encoder: IResNet, batch_size: int, align: bool, workers: int | None) -> Records:
    """The records of an LMDB or a .rec, whose features are extracted."""
    faces, skipped = FaceSet(data), []
    read_crop = CropOfSet(faces, CropReader(FaceAligner() if align else None))
    names = [faces.name(index) for index in range(len(faces))]

    def read(start: int) -> Iterator[tuple]:
        size = feature_rows(encoder, batch_size)
        crops = read_ahead(read_crop, range(start, len(faces)), workers, size)
        while batch := list(islice(crops, size)):
            readable = [(index, crop) for index, crop in batch if not isinstance(crop, Unreadable)]
            skipped.extend(f"{names[index]}: {crop.reason}" for index, crop in batch if isinstance(crop, Unreadable))
            features = features_of([crop.image for _, crop in readable], encoder, size) if readable else []
            for (index, crop), feature in zip(readable, features, strict=False):
                image = crop.encoded or encode_jpeg(crop.image, JPEG_QUALITY)
                yield index, names[index], image, feature, int(faces.labels[index])

    return Records(names, len(faces.identities), read, skipped)


class CropOfSet(NamedTuple):
    """Reads a photo of a FaceSet as a Crop."""

    faces: FaceSet
    reader: CropReader

    def __call__(self, index: int) -> Crop:
        """Raises ValueError or OSError when the photo cannot be used."""
        return self.reader.crop(self.faces.read(index))


def is_packed(data: str) -> bool:
    """Whether this is an LMDB or a .rec, or a folder that holds one and no other folders."""
    path = Path(data)
    if not path.is_dir():
        return path.suffix in PACKED
    return not any(entry.is_dir() for entry in path.iterdir()) and any(f.suffix in PACKED for f in path.iterdir())


def read_lines(path: str) -> list[str]:
    """The lines of a text file that are not empty. Raises UserError when it cannot be read."""
    try:
        return [line.strip() for line in Path(path).read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read this list: {error}") from error


def read_record(paths: tuple[str, str]) -> tuple[bytes, np.ndarray]:
    """(encoded photo, feature (D,)) from their paths. Raises ValueError that names a file that cannot be read."""
    photo, feature = paths
    return read(photo, lambda path: encoded_crop(path.read_bytes())), read(feature, load_feature)


def read(path: str, loader: Callable) -> bytes | np.ndarray:
    try:
        return loader(Path(path))
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read: {reason_of(error)}") from error


def load_feature(path: Path) -> np.ndarray:
    return np.load(path, allow_pickle=False).reshape(-1)


def encoded_crop(data: bytes) -> bytes:
    """The bytes of a photo of 112 x 112 pixels; of another size, those of the photo resized and encoded again."""
    image = decode_image(data)
    return data if image.shape == (SIDE, SIDE, 3) else encode_jpeg(resize(image), JPEG_QUALITY)


if __name__ == "__main__":
    main()
